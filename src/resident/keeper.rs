//! The task that fills the memory and keeps it true.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::{debug, info, warn};

use super::View;
use super::state::{Round, Shared};
use crate::engine::Device;
use crate::gallery::{Feed, Galleries, GalleryError};
use crate::types::ModelId;

/// How often the change log is read without being told to.
const INTERVAL: Duration = Duration::from_millis(250);

/// How long to wait after the database failed.
const RETRY: Duration = Duration::from_secs(1);

/// How often old changes are deleted.
const PRUNE_INTERVAL: Duration = Duration::from_secs(600);

/// How long the end may take to tell the database of it.
const FAREWELL: Duration = Duration::from_secs(2);

pub(super) struct Keeper {
    pub shared: Arc<Shared>,
    pub galleries: Galleries,
    pub feed: Feed,
    pub model: ModelId,
    pub dimension: usize,
    pub device: Option<Device>,
    /// Subjects beyond which the memory is given up.
    pub most: Option<u64>,
    /// For how long the memory may answer after it was read last.
    pub answers_for: Duration,
    pub pruned: Instant,
}

/// Why changes are no longer followed.
enum Ended {
    /// There is too much.
    Outgrown,
    /// Changes may have been missed, or the database is another one.
    Lost,
}

impl Keeper {
    /// Goes on until the other end of `end` is dropped.
    pub async fn run(mut self, end: oneshot::Receiver<()>) {
        tokio::select! {
            () = self.keep() => {}
            _ = end => {}
        }
        self.give_up().await;
    }

    async fn keep(&mut self) {
        loop {
            match self.fill().await {
                Ok(Some(view)) => match self.follow(&view).await {
                    Ended::Outgrown => return,
                    Ended::Lost => self.give_up().await,
                },
                Ok(None) => return,
                Err(error) => {
                    warn!(%error, "cannot fill the memory with galleries; searches go to the database");
                    self.give_up().await;
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Lets go of what is in memory. Those who erase need not wait for it any more.
    async fn give_up(&mut self) {
        self.shared.replace(None);
        match tokio::time::timeout(FAREWELL, self.feed.leave()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%error, "cannot tell the database that nothing is in memory"),
            Err(_) => debug!("cannot tell the database in time that nothing is in memory"),
        }
    }

    /// Reads everything, if there is room for it.
    async fn fill(&mut self) -> Result<Option<Arc<View>>, GalleryError> {
        let began = Instant::now();
        let count = self.galleries.count_templates(self.model).await?;
        if self.is_too_much(count) {
            warn!(subjects = count, "the galleries do not fit resident_memory; searches go to the database");
            return Ok(None);
        }
        let view = Arc::new(View::new(self.dimension, self.device));
        // Not used yet, but what is deleted meanwhile is taken out.
        self.shared.replace(Some(Arc::clone(&view)));
        view.begin();
        self.feed.load(|gallery| view.put_gallery(gallery), |template| view.put_template(template)).await?;
        // Before the first round, without which nothing is used: who erases from then on waits for this server.
        self.feed.confirm(self.answers_for).await?;
        let seconds = began.elapsed().as_secs_f64();
        info!(subjects = view.index.len(), seconds, "the galleries are in memory");
        Ok(Some(view))
    }

    fn is_too_much(&self, subjects: u64) -> bool {
        self.most.is_some_and(|most| subjects > most)
    }

    /// Applies changes as they come, until the memory is no longer of use.
    async fn follow(&mut self, view: &View) -> Ended {
        let mut announced = self.feed.subscribe();
        loop {
            announced.mark_unchanged();
            let round = self.shared.begin_round();
            match self.read(view, round).await {
                Ok(true) => {}
                Ok(false) => continue,
                Err(error) => {
                    self.shared.fail_round(round);
                    if self.feed.is_lost() {
                        warn!(%error, "changes may have been missed; the memory is filled anew");
                        return Ended::Lost;
                    }
                    warn!(%error, "cannot read what changed; what is in memory grows old");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            }
            if self.is_too_much(view.index.len() as u64) {
                warn!("the galleries have outgrown resident_memory; searches go to the database from now on");
                return Ended::Outgrown;
            }
            tokio::select! {
                () = self.shared.wanted() => {}
                _ = announced.changed() => {}
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    }

    /// Reads the log once. `false`: it must be read again at once for the memory to be used.
    async fn read(&mut self, view: &View, round: Round) -> Result<bool, GalleryError> {
        view.begin();
        let changes = self.feed.next().await?;
        let changed = !changes.is_empty();
        view.apply(changes);
        // If those who erase did not know of this server, the next round makes up for it.
        let is_used = !self.feed.is_counted() || self.shared.end_round(round, self.feed.taken());
        self.feed.confirm(self.answers_for).await?;
        if changed && round.is_awaited {
            // Other servers need not wait until they look by themselves.
            self.feed.announce().await?;
        }
        if self.pruned.elapsed() > PRUNE_INTERVAL {
            self.pruned = Instant::now();
            self.feed.prune().await?;
        }
        Ok(is_used)
    }
}
