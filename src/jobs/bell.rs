//! Wakes those who wait for something to happen to a job.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::warn;

use super::{JobError, Jobs};
use crate::db::listen;

/// Channel of the notifications.
pub(super) const CHANNEL: &str = "faceid_jobs";

/// How long to wait after the database failed.
const RETRY: Duration = Duration::from_secs(1);

/// Rings whenever a job changed. Whoever waits must look at intervals as well: the line to the database may be down.
#[derive(Debug, Clone)]
pub struct Bell(Arc<watch::Sender<()>>);

impl Default for Bell {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(())))
    }
}

impl Bell {
    /// Hears every ring from now on.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.0.subscribe()
    }

    pub(super) fn ring(&self) {
        self.0.send_replace(());
    }
}

impl Jobs {
    /// Rings the bell for what happens at this and other servers; never returns.
    pub async fn listen(&self) {
        loop {
            if let Err(error) = self.ring_while_connected().await {
                warn!(%error, "cannot hear of jobs; they are polled meanwhile");
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn ring_while_connected(&self) -> Result<(), JobError> {
        let mut listener = listen(&self.beside, CHANNEL).await?;
        // For what was announced before.
        self.bell.ring();
        loop {
            listener.recv().await?;
            self.bell.ring();
        }
    }
}
