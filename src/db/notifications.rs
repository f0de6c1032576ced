//! What servers announce to each other: one connection hears it for all parts of a server. Announcements only save waiting: what
//! they are about is in the tables, which are looked at as well.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgListener, PgPool};
use tokio::sync::watch;
use tracing::warn;

use super::scope::channel_names;

/// How long to wait after the connection was lost.
const RETRY: Duration = Duration::from_secs(1);

/// What an announcement is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    /// Something happened to a job.
    Jobs,
    /// Models changed, or faces came without an embedding.
    Models,
    /// Templates or galleries changed.
    Changes,
    /// Keys of callers changed; a trigger announces it.
    Keys,
}

impl Topic {
    const ALL: [Self; 4] = [Self::Jobs, Self::Models, Self::Changes, Self::Keys];

    pub(super) fn channel(self) -> &'static str {
        match self {
            Self::Jobs => "faceid_jobs",
            Self::Models => "faceid_models",
            Self::Changes => "faceid_changes",
            Self::Keys => "faceid_keys",
        }
    }
}

/// Wakes those who wait for an announcement. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Notifications(Arc<[watch::Sender<()>; Topic::ALL.len()]>);

impl Default for Notifications {
    fn default() -> Self {
        Self(Arc::new(Topic::ALL.map(|_| watch::Sender::new(()))))
    }
}

impl Notifications {
    /// Sees a change with every announcement from now on, while [`Pools::listen`](super::Pools::listen) runs, and when
    /// that begins to hear.
    pub fn subscribe(&self, topic: Topic) -> watch::Receiver<()> {
        self.0[topic as usize].subscribe()
    }

    fn tell(&self, topic: Topic) {
        self.0[topic as usize].send_replace(());
    }

    /// Hears what is announced; never returns.
    pub(super) async fn listen(&self, pool: &PgPool) {
        loop {
            if let Err(error) = self.listen_while_connected(pool).await {
                warn!(%error, "cannot hear of other servers; what they do is looked for at intervals");
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn listen_while_connected(&self, pool: &PgPool) -> Result<(), sqlx::Error> {
        let names = channel_names(pool, &Topic::ALL.map(Topic::channel)).await?;
        let mut listener = PgListener::connect_with(pool).await?;
        listener.listen_all(names.iter().map(String::as_str)).await?;
        // For what was announced before.
        Topic::ALL.into_iter().for_each(|topic| self.tell(topic));
        loop {
            // `None`: the connection was lost, and is made anew by the next call.
            match listener.try_recv().await? {
                Some(heard) => {
                    let topic = names.iter().zip(Topic::ALL).find(|(name, _)| *name == heard.channel());
                    topic.into_iter().for_each(|(_, topic)| self.tell(topic));
                }
                None => Topic::ALL.into_iter().for_each(|topic| self.tell(topic)),
            }
        }
    }
}
