//! Galleries are measured in the background: some of their faces play the stranger, and the fit is kept in the database.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use tracing::{debug, warn};

use super::Upkeep;
use super::scheduler::{Progress, Step};
use crate::engine::{EngineError, Step as EngineStep};
use crate::evaluation::{LEAST_OBSERVATIONS, Strangers};
use crate::gallery::{GallerySize, MeasuredRates, SetAsideFrom, SetAsideItem};
use crate::index::Query;
use crate::service::ServiceError;
use crate::service::recognition::{STRANGERS, Serving};
use crate::service::work::patiently;
use crate::types::{ModelId, StoredEmbedding, SubjectId};

/// How long to wait when nothing is due, and how many times as long as the look for what is due took, up to the longest.
const PAUSE: Duration = Duration::from_secs(3);
const RARELY: u32 = 50;
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// By which factor a gallery may change before it is measured again, and how long a measurement holds if it changed at all.
const GROWTH: f64 = 1.25;
const OLD: TimeDelta = TimeDelta::days(1);

/// How long nothing is due while no template changes.
const QUIET: Duration = Duration::from_secs(3600);

/// Comparisons that a measurement in PostgreSQL may cost, and the fewest faces that play the stranger there.
const COMPARISONS: u64 = 200_000_000;
const FEWEST: u64 = 500;

/// Searches in one step: few where each is a query of its own.
const BATCH: usize = 32;
const BATCH_IN_POSTGRES: usize = 4;

/// The job that measures galleries.
#[derive(Default)]
pub(in crate::service) struct Measuring {
    /// The model and the last change when all that was due had been measured, and when that was.
    seen: Option<((ModelId, i64), Instant)>,
    due: VecDeque<GallerySize>,
    current: Option<Measurement>,
    /// Galleries that were measured, and that were due.
    done: u64,
    total: u64,
}

/// A gallery that is being measured.
struct Measurement {
    serving: Arc<Serving>,
    size: GallerySize,
    began_at: DateTime<Utc>,
    /// Those that play the stranger, with their subject.
    faces: Vec<(SubjectId, StoredEmbedding)>,
    searched: usize,
    /// Of each, the similarity of the most similar subject that is not its own.
    largest: Vec<f32>,
}

impl Measuring {
    /// Looks for what is due, begins to measure a gallery, or goes on with one.
    pub async fn step(&mut self, upkeep: &Upkeep) -> Result<Step, ServiceError> {
        let serving = upkeep.recognition().serving();
        if let Some(mut current) = self.current.take_if(|current| current.serving.id() == serving.id()) {
            match upkeep.go_on_measuring(&mut current).await {
                Ok(true) => self.done += 1,
                Ok(false) => self.current = Some(current),
                Err(error) => self.set_aside(upkeep, &current, error).await?,
            }
        } else if let Some(size) = self.due.pop_front() {
            // Of a model that answers no more nothing goes on.
            self.current = Some(upkeep.begin_measuring(serving, size).await?);
        } else {
            return self.look(upkeep, &serving).await;
        }
        Ok(Step::More(Progress::new("measuring", self.done, Some(self.total))))
    }

    async fn look(&mut self, upkeep: &Upkeep, serving: &Serving) -> Result<Step, ServiceError> {
        let began = Instant::now();
        let now = (serving.id(), upkeep.galleries().review_tickets().await?);
        let is_quiet = self.seen.is_some_and(|(then, at)| then == now && at.elapsed() < QUIET);
        if !is_quiet && serving.calibration().curve().is_some() {
            let sizes = upkeep.galleries().gallery_sizes(serving.id(), LEAST_OBSERVATIONS as u64 + 1).await?;
            let mut due: Vec<GallerySize> = sizes.into_iter().filter(is_due).collect();
            // What was never measured first, then what changed most.
            due.sort_by(|a, b| change(b).total_cmp(&change(a)));
            (self.due, self.done) = (due.into(), 0);
            self.total = self.due.len() as u64;
            self.seen = Some((now, Instant::now()));
            if !self.due.is_empty() {
                return Ok(Step::More(Progress::new("measuring", 0, Some(self.total))));
            }
        }
        Ok(Step::Idle(PAUSE.max(began.elapsed() * RARELY).min(LONGEST_PAUSE)))
    }

    /// One that cannot be measured holds up no other.
    async fn set_aside(
        &mut self,
        upkeep: &Upkeep,
        current: &Measurement,
        error: ServiceError,
    ) -> Result<(), ServiceError> {
        let gallery = current.size.gallery;
        match &error {
            ServiceError::Engine(EngineError::Panicked) | ServiceError::Internal(_) => {
                warn!(%error, %gallery, "cannot measure how often strangers are taken for somebody here; set aside");
                let item = SetAsideItem::Gallery(gallery);
                let model = current.serving.id();
                Ok(upkeep.galleries().set_aside(SetAsideFrom::Measure, model, item, &error.to_string()).await?)
            }
            _ => {
                self.due.push_back(current.size);
                Err(error)
            }
        }
    }
}

impl Upkeep {
    async fn begin_measuring(&self, serving: Arc<Serving>, size: GallerySize) -> Result<Measurement, ServiceError> {
        let probes = match serving.resident.is_on() {
            true => STRANGERS,
            false => (COMPARISONS / size.subjects.max(1)).clamp(FEWEST, STRANGERS),
        };
        let began_at = Utc::now();
        let faces = self.galleries().sample_faces(size.gallery, serving.id(), probes as u32).await?;
        let largest = Vec::with_capacity(faces.len());
        Ok(Measurement { serving, size, began_at, faces, searched: 0, largest })
    }

    /// Searches for some of the faces, or keeps what came of all; whether it did that.
    async fn go_on_measuring(&self, current: &mut Measurement) -> Result<bool, ServiceError> {
        let batch = if current.serving.resident.is_on() { BATCH } else { BATCH_IN_POSTGRES };
        let faces: Vec<_> = current.faces.iter().skip(current.searched).take(batch).collect();
        if faces.is_empty() {
            self.keep_measurement(current).await?;
            return Ok(true);
        }
        let query = |(subject, probe): &&(SubjectId, StoredEmbedding)| Query {
            probe: probe.clone(),
            top_k: 1,
            min_similarity: None,
            except: Some(*subject),
        };
        let queries: Vec<Query> = faces.iter().map(query).collect();
        let searched = queries.len();
        let recognition = self.recognition();
        let found =
            patiently(|| recognition.search_fresh(&current.serving, current.size.gallery, queries.clone())).await?;
        current.largest.extend(found.iter().filter_map(|hits| hits.first()).map(|hit| hit.similarity as f32));
        current.searched += searched;
        Ok(false)
    }

    async fn keep_measurement(&self, current: &Measurement) -> Result<(), ServiceError> {
        let Measurement { serving, size, began_at, largest, .. } = current;
        let (curve, genuine) = (serving.calibration().curve().cloned(), serving.calibration().genuine().cloned());
        let (probes, subjects) = (largest.len() as u64, size.subjects);
        let largest = largest.clone();
        let fit = move || {
            let strangers = Strangers::fit(&curve?, genuine.as_ref(), &largest, subjects)?;
            Some((strangers.twice(), strangers.curve()?))
        };
        let fitted = patiently(|| {
            let fit = fit.clone();
            async { Ok(self.parts.engine.on_cpu(EngineStep::Statistics, fit).await?) }
        })
        .await?;
        let (twice, curve) = fitted.map_or((0.0, Vec::new()), |(twice, curve)| (twice, curve.points().to_vec()));
        let (model, gallery, measured_at) = (serving.id(), size.gallery, *began_at);
        let rates = MeasuredRates { model, gallery, subjects, probes, twice, curve, measured_at };
        self.galleries().save_rates(&rates).await?;
        debug!(%gallery, subjects, probes, twice, "measured how often strangers are taken for somebody");
        self.recognition().curves().take(vec![rates], false);
        Ok(())
    }
}

/// The logarithm of how much a gallery changed since it was measured.
fn change(size: &GallerySize) -> f64 {
    let ratio = |then: u64| (size.subjects.max(1) as f64 / then.max(1) as f64).ln().abs();
    size.measured.map_or(f64::INFINITY, |(then, _)| ratio(then))
}

fn is_due(size: &GallerySize) -> bool {
    let is_old = |at: DateTime<Utc>| Utc::now() - at > OLD;
    change(size) > GROWTH.ln() || size.measured.is_some_and(|(then, at)| then != size.subjects && is_old(at))
}
