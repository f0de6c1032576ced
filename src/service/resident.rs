//! Galleries in memory: filled from the database, kept true by its change log.
//!
//! The database is the truth. What is in memory is used only while it is known to be at most [`FRESH`] old and to hold
//! every write of this server; otherwise, and while it is filled, searches go to the database.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tracing::{info, warn};

use crate::config::{SearchChoice, SearchConfig};
use crate::engine::Device;
use crate::gallery::{CHANGES_KEPT, Changes, Feed, Galleries, Gallery, GalleryError};
use crate::index::{DeviceSearch, Index};
use crate::registry::Model;
use crate::types::GalleryId;

/// How old the state in memory may be.
const FRESH: Duration = Duration::from_secs(2);

/// How often the change log is read without being told to.
const INTERVAL: Duration = Duration::from_millis(250);

/// How often is looked whether the memory is filled.
const FILL_POLL: Duration = Duration::from_millis(20);

/// How long to wait after the database failed.
const RETRY: Duration = Duration::from_secs(1);

/// How often old changes are deleted.
const PRUNE_INTERVAL: Duration = Duration::from_secs(600);

/// What is in memory.
pub struct View {
    pub index: Arc<Index>,
    directory: RwLock<Directory>,
}

#[derive(Default)]
struct Directory {
    galleries: HashMap<GalleryId, Gallery>,
    names: HashMap<String, GalleryId>,
}

impl Directory {
    fn put(&mut self, gallery: Gallery) {
        self.remove(gallery.id);
        self.names.insert(gallery.name.clone(), gallery.id);
        self.galleries.insert(gallery.id, gallery);
    }

    fn remove(&mut self, id: GalleryId) {
        if let Some(former) = self.galleries.remove(&id) {
            self.names.remove(&former.name);
        }
    }
}

impl View {
    fn new(dimension: usize, device: Option<Device>) -> Self {
        Self { index: Arc::new(Index::new(dimension, device.map(DeviceSearch::new))), directory: RwLock::default() }
    }

    /// A gallery given by id or name; the id wins.
    pub fn gallery(&self, gallery: &str) -> Option<Gallery> {
        let directory = self.directory.read().unwrap_or_else(PoisonError::into_inner);
        let id = uuid::Uuid::try_parse(gallery).ok().map(GalleryId).filter(|id| directory.galleries.contains_key(id));
        directory.galleries.get(&id.or_else(|| directory.names.get(gallery).copied())?).cloned()
    }

    fn apply(&self, changes: Changes) {
        {
            let mut directory = self.directory.write().unwrap_or_else(PoisonError::into_inner);
            changes.galleries_gone.iter().for_each(|id| directory.remove(*id));
            changes.galleries.into_iter().for_each(|gallery| directory.put(gallery));
        }
        changes.galleries_gone.into_iter().for_each(|id| self.index.remove_gallery(id));
        changes.gone.into_iter().for_each(|(gallery, subject)| self.index.remove(gallery, subject));
        for template in changes.templates {
            self.index.put(template.gallery, template.about, &template.embedding);
        }
    }
}

/// A handle to what is in memory. Cloning is cheap; the last one ends the task that keeps it true.
#[derive(Clone)]
pub struct Resident(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    task: Option<AbortHandle>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.task.iter().for_each(AbortHandle::abort);
    }
}

struct Shared {
    view: RwLock<Option<Arc<View>>>,
    started: Instant,
    /// When the log was last read to its end, in milliseconds after `started`, plus 1; 0: never, or it failed since.
    synced: AtomicU64,
    /// Counts who asked for the log to be read.
    asked: AtomicU64,
    wake: Notify,
    /// Up to which of them it was read.
    answered: watch::Sender<u64>,
}

impl Resident {
    /// Starts to fill the memory with the templates of `model`, unless the configuration says otherwise.
    /// Large galleries are then searched by `device`, if there is one.
    pub fn start(galleries: &Galleries, model: &Model, config: &SearchConfig, device: Option<Device>) -> Self {
        let shared = Arc::new(Shared {
            view: RwLock::default(),
            started: Instant::now(),
            synced: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            wake: Notify::new(),
            answered: watch::Sender::new(0),
        });
        let task = (config.place != SearchChoice::Pgvector).then(|| {
            let dimension = model.dimension as usize;
            let budget = (config.place == SearchChoice::Auto).then_some(config.resident_memory);
            let keeper = Keeper {
                shared: Arc::clone(&shared),
                galleries: galleries.clone(),
                feed: galleries.feed(model.id),
                model: model.id,
                dimension,
                device,
                most: budget.map(|bytes| bytes / Index::bytes_per_subject(dimension)),
                pruned: Instant::now(),
            };
            tokio::spawn(keeper.run()).abort_handle()
        });
        Self(Arc::new(Handle { shared, task }))
    }

    /// What is in memory, if it can be relied upon now.
    pub fn current(&self) -> Option<Arc<View>> {
        let shared = &self.0.shared;
        let synced = shared.synced.load(Ordering::Acquire).checked_sub(1)?;
        let age = shared.started.elapsed().saturating_sub(Duration::from_millis(synced));
        (age <= FRESH).then(|| shared.view())?
    }

    /// Whether galleries are in memory at all, or will be.
    pub fn is_on(&self) -> bool {
        self.0.task.as_ref().is_some_and(|task| !task.is_finished())
    }

    /// Whether everything is in memory, be it late.
    pub fn is_filled(&self) -> bool {
        self.0.shared.view().is_some()
    }

    /// Waits until everything is in memory, or will not be.
    pub async fn filled(&self) {
        while self.is_on() && self.0.shared.view().is_none() {
            tokio::time::sleep(FILL_POLL).await;
        }
    }

    /// Waits until everything that was committed before this call is in memory, or the memory is not relied upon.
    pub async fn settle(&self) {
        let shared = &self.0.shared;
        // Even if nothing is in memory yet: what is being filled must not be used before this write is in it.
        let ticket = shared.asked.fetch_add(1, Ordering::AcqRel) + 1;
        if shared.view().is_none() || !self.is_on() {
            return;
        }
        shared.wake.notify_one();
        let mut answered = shared.answered.subscribe();
        let heard = tokio::time::timeout(FRESH, answered.wait_for(|answered| *answered >= ticket)).await;
        if !matches!(heard, Ok(Ok(_))) {
            // Rather the database than an answer without what was just written.
            shared.synced.store(0, Ordering::Release);
        }
    }
}

impl Shared {
    fn view(&self) -> Option<Arc<View>> {
        self.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_view(&self, view: Option<Arc<View>>) {
        let former = std::mem::replace(&mut *self.view.write().unwrap_or_else(PoisonError::into_inner), view);
        // Gigabytes may be freed here, and not while others wait.
        drop(former);
    }
}

/// The task that keeps the memory true.
struct Keeper {
    shared: Arc<Shared>,
    galleries: Galleries,
    feed: Feed,
    model: crate::types::ModelId,
    dimension: usize,
    device: Option<Device>,
    /// Subjects beyond which the memory is given up.
    most: Option<u64>,
    pruned: Instant,
}

impl Keeper {
    async fn run(mut self) {
        loop {
            match self.fill().await {
                Ok(Some(view)) => match self.follow(&view).await {
                    Ended::Outgrown => return self.give_up(),
                    Ended::Lost => self.give_up(),
                },
                Ok(None) => return,
                Err(error) => {
                    warn!(%error, "cannot fill the memory with galleries; searches go to the database");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    fn give_up(&self) {
        self.shared.synced.store(0, Ordering::Release);
        self.shared.set_view(None);
    }

    /// Reads everything, if there is room for it.
    async fn fill(&mut self) -> Result<Option<Arc<View>>, GalleryError> {
        let began = Instant::now();
        let count = self.galleries.count_templates(self.model).await?;
        if self.is_too_much(count) {
            warn!(subjects = count, "the galleries do not fit resident_memory; searches go to the database");
            return Ok(None);
        }
        let view = View::new(self.dimension, self.device);
        let put_gallery = |gallery| view.directory.write().unwrap_or_else(PoisonError::into_inner).put(gallery);
        let put_template = |template: crate::gallery::Template| {
            view.index.put(template.gallery, template.about, &template.embedding);
        };
        self.feed.load(put_gallery, put_template).await?;
        let seconds = began.elapsed().as_secs_f64();
        info!(subjects = view.index.len(), seconds, "the galleries are in memory");
        Ok(Some(Arc::new(view)))
    }

    fn is_too_much(&self, subjects: u64) -> bool {
        self.most.is_some_and(|most| subjects > most)
    }

    /// Applies changes as they come, until the memory is no longer of use.
    async fn follow(&mut self, view: &Arc<View>) -> Ended {
        let mut announcements = None;
        let mut read_last = Instant::now();
        loop {
            // Whoever asks from here on gets the next round.
            let asked = self.shared.asked.load(Ordering::Acquire);
            let own_writes = asked > *self.shared.answered.borrow();
            match self.round(view, own_writes).await {
                Ok(()) => {
                    read_last = Instant::now();
                    let now = self.shared.started.elapsed().as_millis();
                    if self.shared.view().is_none() {
                        if self.shared.asked.load(Ordering::Acquire) > asked {
                            continue;
                        }
                        self.shared.set_view(Some(Arc::clone(view)));
                    }
                    self.shared
                        .synced
                        .store(u64::try_from(now).unwrap_or(u64::MAX).saturating_add(1), Ordering::Release);
                    self.shared.answered.send_replace(asked);
                }
                Err(error) => {
                    self.shared.synced.store(0, Ordering::Release);
                    self.shared.answered.send_replace(asked);
                    warn!(%error, "cannot read what changed; searches go to the database");
                    tokio::time::sleep(RETRY).await;
                    announcements = None;
                    // Half of the time that changes are kept, to be on the safe side.
                    if self.feed.is_lost() || read_last.elapsed() > CHANGES_KEPT / 2 {
                        return Ended::Lost;
                    }
                    continue;
                }
            }
            if self.is_too_much(view.index.len() as u64) {
                warn!("the galleries have outgrown resident_memory; searches go to the database from now on");
                return Ended::Outgrown;
            }
            if announcements.is_none() {
                announcements = self.feed.listen().await.ok();
            }
            let announced = async {
                match announcements.as_mut() {
                    Some(announcements) => announcements.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.shared.wake.notified() => {}
                heard = announced => if heard.is_err() { announcements = None },
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    }

    /// Reads the log once; tells other servers if a write of this one is in it.
    async fn round(&mut self, view: &View, own_writes: bool) -> Result<(), GalleryError> {
        let changes = self.feed.next().await?;
        let changed = !changes.is_empty();
        view.apply(changes);
        if changed && own_writes {
            self.feed.announce().await?;
        }
        if self.pruned.elapsed() > PRUNE_INTERVAL {
            self.pruned = Instant::now();
            self.feed.prune().await?;
        }
        Ok(())
    }
}

/// Why changes are no longer followed.
enum Ended {
    /// There is too much.
    Outgrown,
    /// The database was away for longer than it keeps changes, or is another one.
    Lost,
}
