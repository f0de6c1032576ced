//! Can the service serve? A state that a task in the background keeps: each part is asked to do a little real work, again and
//! again. Probes only read it, so that nobody can make the server work by asking. Before there is a service, probes read at what
//! its start is.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;
use utoipa::ToSchema;

use super::Upkeep;
use crate::resident::Resident;
use crate::service::ServiceError;

/// How long a part rests between two looks at it.
const INTERVAL: Duration = Duration::from_secs(2);

/// How often is looked whether the memory is filled, until it is.
const FILL_INTERVAL: Duration = Duration::from_millis(100);

/// How long a part may take before it counts as down.
const PATIENCE: Duration = Duration::from_secs(5);

/// A part that was last seen longer ago counts as down: whoever looks is stuck as well.
const STALE: Duration = Duration::from_secs(15);

/// The state of the service, part by part.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Readiness {
    pub ready: bool,
    /// Embeds a fixed chip.
    pub engine: PartState,
    /// Asks the database.
    pub gallery: PartState,
    /// Whether searches are done in memory; not ready while that is filled.
    pub memory: MemoryState,
    /// The model that answers.
    pub model: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PartState {
    Ok,
    Down,
}

/// Whether what is searched is in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MemoryState {
    /// It is, and is kept true.
    Ok,
    /// It is being read from the database.
    Filling,
    /// It is not and will not be, by the configuration or for want of room: searches are done in PostgreSQL.
    Off,
}

impl MemoryState {
    fn of(resident: &Resident) -> Self {
        match (resident.is_on(), resident.is_filled()) {
            (false, _) => Self::Off,
            (true, false) => Self::Filling,
            (true, true) => Self::Ok,
        }
    }
}

/// The state of a server that starts.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Starting {
    /// Always false.
    pub ready: bool,
    /// Always true.
    pub starting: bool,
    pub stage: StartStage,
}

/// What a server that starts is at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StartStage {
    /// Waits for PostgreSQL, which may be recovering, and brings the schema up to date.
    #[default]
    Database,
    /// Loads the detector.
    Networks,
    /// Loads the active model.
    Model,
    /// Tries the whole way of a photo.
    SelfTest,
}

impl StartStage {
    /// For people: "it ...".
    pub fn describe(self) -> &'static str {
        match self {
            Self::Database => "waits for its database",
            Self::Networks => "loads the detector",
            Self::Model => "loads the active model",
            Self::SelfTest => "tries the way of a photo",
        }
    }
}

/// How far a start is: the start writes it down, probes read it. Clones share it.
#[derive(Clone, Default)]
pub struct StartProgress(watch::Sender<StartStage>);

impl StartProgress {
    /// The start is at `stage` from now on.
    pub fn reach(&self, stage: StartStage) {
        self.0.send_replace(stage);
    }

    pub fn stage(&self) -> StartStage {
        *self.0.borrow()
    }

    pub fn state(&self) -> Starting {
        Starting { ready: false, starting: true, stage: self.stage() }
    }
}

/// When each part was last seen to work or not.
#[derive(Default)]
pub(in crate::service) struct Health {
    engine: Mutex<Option<LastLook>>,
    gallery: Mutex<Option<LastLook>>,
    /// `None`: nobody has looked yet.
    memory: Mutex<Option<MemoryState>>,
}

#[derive(Clone, Copy)]
struct LastLook {
    at: Instant,
    works: bool,
}

impl LastLook {
    fn state(seen: &Mutex<Option<Self>>) -> PartState {
        let seen = *seen.lock().unwrap_or_else(PoisonError::into_inner);
        match seen {
            Some(Self { at, works: true }) if at.elapsed() < STALE => PartState::Ok,
            _ => PartState::Down,
        }
    }
}

impl Upkeep {
    /// What was seen last.
    pub fn readiness(&self) -> Readiness {
        let engine = LastLook::state(&self.parts.health.engine);
        let gallery = LastLook::state(&self.parts.health.gallery);
        let memory = *self.parts.health.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let memory = memory.unwrap_or(MemoryState::Filling);
        let ready = engine == PartState::Ok && gallery == PartState::Ok && memory != MemoryState::Filling;
        Readiness { ready, engine, gallery, memory, model: self.recognition().serving().name().to_owned() }
    }

    /// Looks at the parts for ever, at each by itself: one that hangs does not hide what becomes of the other.
    pub(in crate::service) async fn keep_looking(self) {
        let engine = look_again("engine", &self.parts.health.engine, || async {
            self.recognition().try_embedder(&self.recognition().serving().loaded).await.is_ok()
        });
        let gallery =
            look_again("gallery", &self.parts.health.gallery, || async { self.galleries().ping().await.is_ok() });
        tokio::join!(engine, gallery, self.look_at_memory());
    }

    /// Writes down how far the memory of the model that answers is. One that another model fills does not count before that
    /// model answers.
    async fn look_at_memory(&self) {
        loop {
            let state = MemoryState::of(&self.recognition().serving().resident);
            *self.parts.health.memory.lock().unwrap_or_else(PoisonError::into_inner) = Some(state);
            sleep(if state == MemoryState::Filling { FILL_INTERVAL } else { INTERVAL }).await;
        }
    }

    /// Tries the way of a photo up to the embedding and asks the database, as the first look. The error is of the detector if the
    /// photo does not get further.
    pub async fn try_chain(&self) -> Result<(), ChainError> {
        self.recognition().photos().try_detector().await.map_err(ChainError::Detector)?;
        self.recognition().try_embedder(&self.recognition().serving().loaded).await.map_err(ChainError::Other)?;
        self.galleries().ping().await.map_err(|error| ChainError::Other(error.into()))?;
        let seen = Some(LastLook { at: Instant::now(), works: true });
        for part in [&self.parts.health.engine, &self.parts.health.gallery] {
            *part.lock().unwrap_or_else(PoisonError::into_inner) = seen;
        }
        Ok(())
    }
}

/// Where the way of a photo ends too early.
#[derive(Debug)]
pub enum ChainError {
    Detector(ServiceError),
    Other(ServiceError),
}

/// Writes down, again and again, whether a part works. There is never more than one look at a time.
async fn look_again<F: Future<Output = bool>>(
    part: &'static str,
    seen: &Mutex<Option<LastLook>>,
    look: impl Fn() -> F,
) {
    loop {
        let works = timeout(PATIENCE, look()).await.unwrap_or(false);
        let now = LastLook { at: Instant::now(), works };
        let before = seen.lock().unwrap_or_else(PoisonError::into_inner).replace(now);
        if !works && before.is_none_or(|before| before.works) {
            warn!(part, "not ready: a part does not work");
        }
        sleep(INTERVAL).await;
    }
}
