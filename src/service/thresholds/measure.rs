//! Galleries are measured in the background: some of their faces play the stranger, and the fit is kept in the database.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use tracing::{debug, warn};

use super::super::background::{patiently, rest};
use super::super::serving::Serving;
use super::super::{ServiceError, Services};
use super::STRANGERS;
use crate::engine::Step;
use crate::evaluation::{LEAST_OBSERVATIONS, Strangers};
use crate::gallery::{GallerySize, MeasuredRates, Turn};
use crate::index::Query;
use crate::types::ModelId;

/// How long to wait when nothing is due, and how many times as long as the look for what is due took.
const PAUSE: Duration = Duration::from_secs(3);
const RARELY: u32 = 50;
const RETRY: Duration = Duration::from_secs(30);

/// Share of the time that a measurement searches.
const SHARE: f64 = 0.5;

/// By which factor a gallery may change before it is measured again, and how long a measurement holds if it changed at all.
const GROWTH: f64 = 1.25;
const OLD: TimeDelta = TimeDelta::days(1);

/// How long nothing is due while no template changes.
const QUIET: Duration = Duration::from_secs(3600);

/// Comparisons that a measurement in PostgreSQL may cost, and the fewest faces that play the stranger there.
const COMPARISONS: u64 = 200_000_000;
const FEWEST: u64 = 500;

/// Searches in one go: few where each is a query of its own.
const BATCH: usize = 32;
const BATCH_IN_POSTGRES: usize = 4;

impl Services {
    /// Measures the galleries that are due, for as long as the service lives.
    pub(in super::super) async fn keep_measuring(self) {
        let mut seen = None;
        loop {
            let began = Instant::now();
            match self.measure_if_changed(&mut seen).await {
                Ok(()) => tokio::time::sleep(PAUSE.max(began.elapsed() * RARELY).min(RETRY)).await,
                Err(error) => {
                    warn!(%error, "cannot measure how often strangers are taken for somebody of a gallery");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Nothing is looked for while no template has changed since `seen`, which holds the model and the last change.
    async fn measure_if_changed(&self, seen: &mut Option<((ModelId, i64), Instant)>) -> Result<(), ServiceError> {
        let (galleries, serving) = (&self.0.galleries, self.serving());
        let now = (serving.id(), galleries.review_tickets().await?);
        let is_quiet = seen.is_some_and(|(then, at)| then == now && at.elapsed() < QUIET);
        if is_quiet || serving.calibration().curve().is_none() {
            return Ok(());
        }
        let Some(_turn) = galleries.take_turn(Turn::Rates).await? else { return Ok(()) };
        let sizes = galleries.gallery_sizes(serving.id(), LEAST_OBSERVATIONS as u64 + 1).await?;
        let mut due: Vec<GallerySize> = sizes.into_iter().filter(is_due).collect();
        // What was never measured first, then what changed most.
        due.sort_by(|a, b| change(b).total_cmp(&change(a)));
        for gallery in due {
            if self.serving().id() != serving.id() {
                return Ok(());
            }
            // One that cannot be measured holds up no other; it is due again with the next change of any.
            if let Err(error) = self.measure(&serving, gallery).await {
                warn!(%error, gallery = %gallery.gallery.0, "cannot measure how often strangers are taken for somebody here");
            }
        }
        *seen = Some((now, Instant::now()));
        Ok(())
    }

    async fn measure(&self, serving: &Serving, size: GallerySize) -> Result<(), ServiceError> {
        let measured_at = Utc::now();
        let largest = self.largest_similarities(serving, size).await?;
        let (curve, genuine) = (serving.calibration().curve().cloned(), serving.calibration().genuine().cloned());
        let (probes, subjects) = (largest.len() as u64, size.subjects);
        let fit = move || {
            let strangers = Strangers::fit(&curve?, genuine.as_ref(), &largest, subjects)?;
            Some((strangers.twice(), strangers.curve()?))
        };
        let fitted = patiently(|| {
            let fit = fit.clone();
            async { Ok(self.0.engine.on_cpu(Step::Statistics, fit).await?) }
        })
        .await?;
        let (twice, curve) = fitted.map_or((0.0, Vec::new()), |(twice, curve)| (twice, curve.points().to_vec()));
        let (model, gallery) = (serving.id(), size.gallery);
        let rates = MeasuredRates { model, gallery, subjects, probes, twice, curve, measured_at };
        self.0.galleries.save_rates(&rates).await?;
        debug!(gallery = %gallery.0, subjects, probes, twice, "measured how often strangers are taken for somebody");
        self.0.known.take(vec![rates], false);
        Ok(())
    }

    /// Of each face that plays the stranger, the similarity of the most similar subject that is not its own.
    async fn largest_similarities(&self, serving: &Serving, size: GallerySize) -> Result<Vec<f32>, ServiceError> {
        let (probes, batch) = match serving.resident.is_on() {
            true => (STRANGERS, BATCH),
            false => ((COMPARISONS / size.subjects.max(1)).clamp(FEWEST, STRANGERS), BATCH_IN_POSTGRES),
        };
        let faces = self.0.galleries.sample_faces(size.gallery, serving.id(), probes as u32).await?;
        let mut largest = Vec::with_capacity(faces.len());
        for batch in faces.chunks(batch) {
            let began = Instant::now();
            let query = |(subject, probe): &(_, _)| Query {
                probe: Clone::clone(probe),
                top_k: 1,
                min_similarity: None,
                except: Some(*subject),
            };
            let queries: Vec<Query> = batch.iter().map(query).collect();
            let found = patiently(|| self.search_fresh(serving, size.gallery, queries.clone())).await?;
            largest.extend(found.iter().filter_map(|hits| hits.first()).map(|hit| hit.similarity as f32));
            rest(began, SHARE).await;
        }
        Ok(largest)
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
