//! When is a face known? From a policy to a threshold, with what it can be expected to get wrong.
//!
//! A stranger is taken for somebody of a gallery when the most similar of its N subjects reaches the threshold. If the
//! N comparisons were independent, with a false match rate f each, FPIR = 1 - (1 - f)^N (ISO/IEC 19795-1 gives the first
//! order, N·f). They are not: some faces resemble many others. So, for galleries that are large enough, the
//! rate is read off the gallery itself: each of a sample of its faces plays the stranger, its own subject left out, and
//! the largest similarity that it meets is one observation of the maximum. Rates smaller than one in the number of
//! observations need a model of the tail; of maxima and of what exceeds a high level there is only one
//! family each that they can tend to (Fisher and Tippett 1928; Pickands 1975), which `evaluation::Tail` fits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::answers::{Basis, Decision};
use super::serving::Serving;
use super::{ServiceError, Services};
use crate::engine::Step;
use crate::evaluation::Tail;
use crate::gallery::{Gallery, Policy};
use crate::index::Query;
use crate::types::GalleryId;

/// Subjects from which on a gallery says itself what strangers meet there.
const LEAST_SUBJECTS: u64 = 30;

/// Faces that play the stranger.
const STRANGERS: u32 = 1000;

/// Searches in one go.
const BATCH: usize = 32;

/// Two faces of a gallery that a comparison takes for one person more surely than this are no stranger to one another:
/// more likely somebody was enrolled under two names.
const SAME_PERSON_FMR: f64 = 1e-6;

/// How long a measurement holds at most, and by which factor the gallery may change meanwhile.
const MEASURED_FOR: Duration = Duration::from_secs(3600);
const GROWTH: f64 = 1.1;

/// Draws of a bootstrap.
const DRAWS: usize = 200;

/// Rates that are remembered of a gallery.
const RATES: usize = 16;

/// How long a number of subjects holds that Postgres had to count.
const COUNTED_FOR: Duration = Duration::from_secs(10);

/// What was measured of galleries.
#[derive(Default)]
pub(super) struct Tails {
    known: Mutex<HashMap<GalleryId, Measured>>,
    counts: Mutex<HashMap<GalleryId, (Instant, u64)>>,
    /// Held while something is measured: whoever needs it as well waits rather than measures it again.
    measuring: tokio::sync::Mutex<()>,
}

struct Measured {
    subjects: u64,
    at: Instant,
    /// `None`: there is too little to tell.
    tail: Option<Arc<Tail>>,
    /// By the bits of the rate.
    thresholds: HashMap<u64, FpirThreshold>,
}

/// The threshold that a gallery needs for a rate of strangers.
#[derive(Clone, Copy)]
struct FpirThreshold {
    threshold: f32,
    interval: [f32; 2],
    /// What is expected at it.
    fpir: f64,
}

impl FpirThreshold {
    /// Some milliseconds of work: the interval is that of a bootstrap.
    fn of(tail: &Tail, rate: f64) -> Self {
        let cosine = |value: f64| value.clamp(-1.0, 1.0) as f32;
        let (low, high) = tail.interval(rate, DRAWS, 1);
        let threshold = cosine(tail.threshold_at(rate));
        Self { threshold, interval: [cosine(low), cosine(high)], fpir: tail.rate_at(f64::from(threshold)) }
    }
}

impl Measured {
    fn holds(&self, subjects: u64) -> bool {
        let (then, now) = (self.subjects.max(1) as f64, subjects.max(1) as f64);
        self.at.elapsed() < MEASURED_FOR && then <= now * GROWTH && now <= then * GROWTH
    }
}

impl Tails {
    fn known(&self) -> MutexGuard<'_, HashMap<GalleryId, Measured>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<GalleryId, (Instant, u64)>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of a gallery of this size, if anything.
    fn tail(&self, gallery: GalleryId, subjects: u64) -> Option<Option<Arc<Tail>>> {
        self.known().get(&gallery).filter(|measured| measured.holds(subjects)).map(|measured| measured.tail.clone())
    }

    /// The threshold for a rate, if it is known; `Some(None)` if the gallery cannot tell.
    fn threshold(&self, gallery: GalleryId, subjects: u64, rate: f64) -> Option<Option<FpirThreshold>> {
        let known = self.known();
        let measured = known.get(&gallery).filter(|measured| measured.holds(subjects))?;
        match &measured.tail {
            None => Some(None),
            Some(_) => measured.thresholds.get(&rate.to_bits()).map(|found| Some(*found)),
        }
    }

    fn remember_tail(&self, gallery: GalleryId, subjects: u64, tail: Option<Arc<Tail>>) {
        let measured = Measured { subjects, at: Instant::now(), tail, thresholds: HashMap::new() };
        self.known().insert(gallery, measured);
    }

    fn remember_threshold(&self, gallery: GalleryId, rate: f64, found: FpirThreshold) {
        if let Some(measured) = self.known().get_mut(&gallery) {
            if measured.thresholds.len() >= RATES {
                measured.thresholds.clear();
            }
            measured.thresholds.insert(rate.to_bits(), found);
        }
    }
}

impl Services {
    /// The decision for one photo: what the request asked for, else the gallery's policy, else the server's threshold.
    pub(super) async fn decide(
        &self,
        serving: &Serving,
        gallery: &Gallery,
        asked: Option<Policy>,
    ) -> Result<Decision, ServiceError> {
        let policy = match asked.or(gallery.policy) {
            Some(policy) => policy.checked()?,
            None => Policy::Threshold(serving.threshold.get()),
        };
        let subjects = self.count_subjects(serving, gallery.id).await?;
        match policy {
            Policy::Threshold(threshold) => Ok(by_model(serving, policy, subjects, threshold, None)),
            Policy::Fmr(rate) => by_fmr(serving, policy, subjects, rate),
            Policy::Fpir(rate) => match self.by_gallery(serving, gallery.id, subjects, rate).await? {
                Some(found) => Ok(Decision {
                    policy,
                    threshold: found.threshold,
                    threshold_interval: Some(found.interval),
                    basis: Basis::Gallery,
                    subjects,
                    estimated_fmr: serving.calibration().fmr_at(found.threshold),
                    estimated_fpir: Some(found.fpir),
                }),
                // The rate that each of the comparisons may have.
                None => by_fmr(serving, policy, subjects, -f64::exp_m1(f64::ln_1p(-rate) / subjects.max(1) as f64)),
            },
        }
    }

    /// Subjects with faces; where Postgres is asked, as they were within the last seconds.
    async fn count_subjects(&self, serving: &Serving, gallery: GalleryId) -> Result<u64, ServiceError> {
        if let Some(view) = serving.resident.current() {
            return Ok(view.index.len_of(gallery) as u64);
        }
        let counted = serving.tails.counts().get(&gallery).copied();
        if let Some((_, count)) = counted.filter(|(at, _)| at.elapsed() < COUNTED_FOR) {
            return Ok(count);
        }
        let count = self.0.galleries.count_templates_in(gallery, serving.id()).await?;
        serving.tails.counts().insert(gallery, (Instant::now(), count));
        Ok(count)
    }

    /// The threshold that a gallery itself says strangers need, if it is large enough to tell.
    async fn by_gallery(
        &self,
        serving: &Serving,
        gallery: GalleryId,
        subjects: u64,
        rate: f64,
    ) -> Result<Option<FpirThreshold>, ServiceError> {
        let tails = &serving.tails;
        if subjects < LEAST_SUBJECTS {
            return Ok(None);
        }
        if let Some(known) = tails.threshold(gallery, subjects, rate) {
            return Ok(known);
        }
        let _only_one = tails.measuring.lock().await;
        if let Some(known) = tails.threshold(gallery, subjects, rate) {
            return Ok(known);
        }
        let tail = match tails.tail(gallery, subjects) {
            Some(tail) => tail,
            None => {
                let tail = self.measure_tail(serving, gallery).await?.map(Arc::new);
                tails.remember_tail(gallery, subjects, tail.clone());
                tail
            }
        };
        let Some(tail) = tail else { return Ok(None) };
        let found = self.0.engine.on_cpu(Step::Statistics, move || FpirThreshold::of(&tail, rate)).await?;
        tails.remember_threshold(gallery, rate, found);
        Ok(Some(found))
    }

    async fn measure_tail(&self, serving: &Serving, gallery: GalleryId) -> Result<Option<Tail>, ServiceError> {
        let strangers = self.0.galleries.sample_faces(gallery, serving.id(), STRANGERS).await?;
        let mut largest = Vec::with_capacity(strangers.len());
        for batch in strangers.chunks(BATCH) {
            let query = |(subject, probe): &(_, _)| Query {
                probe: Clone::clone(probe),
                top_k: 1,
                min_similarity: None,
                except: Some(*subject),
            };
            let found = self.search(serving, gallery, batch.iter().map(query).collect()).await?;
            largest.extend(found.iter().filter_map(|hits| hits.first()).map(|hit| hit.similarity as f32));
        }
        if let Some(same) = serving.calibration().threshold_at_fmr(SAME_PERSON_FMR) {
            largest.retain(|similarity| *similarity < same.threshold);
        }
        Ok(Tail::fit(&largest))
    }
}

/// The decision for a pair of photos.
pub(super) fn decide_pair(serving: &Serving, asked: Option<Policy>) -> Result<Decision, ServiceError> {
    match asked.map(Policy::checked).transpose()? {
        None => {
            let threshold = serving.threshold.get();
            Ok(by_model(serving, Policy::Threshold(threshold), 1, threshold, None))
        }
        Some(policy @ Policy::Threshold(threshold)) => Ok(by_model(serving, policy, 1, threshold, None)),
        Some(policy @ (Policy::Fmr(rate) | Policy::Fpir(rate))) => by_fmr(serving, policy, 1, rate),
    }
}

fn by_fmr(serving: &Serving, policy: Policy, subjects: u64, rate: f64) -> Result<Decision, ServiceError> {
    let point = serving
        .calibration()
        .threshold_at_fmr(rate)
        .ok_or_else(|| ServiceError::Uncalibrated { model: serving.name().to_owned() })?;
    Ok(by_model(serving, policy, subjects, point.threshold, Some([point.low, point.high])))
}

fn by_model(serving: &Serving, policy: Policy, subjects: u64, threshold: f32, interval: Option<[f32; 2]>) -> Decision {
    let calibration = serving.calibration();
    let fmr = calibration.fmr_at(threshold);
    Decision {
        policy,
        threshold,
        threshold_interval: interval,
        basis: if matches!(policy, Policy::Threshold(_)) { Basis::Given } else { Basis::Model },
        subjects,
        estimated_fmr: fmr,
        estimated_fpir: fmr.map(|fmr| -f64::exp_m1(f64::ln_1p(-fmr) * subjects as f64)),
    }
}
