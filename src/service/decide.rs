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
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::answers::{Basis, Decision};
use super::{ServiceError, Services};
use crate::evaluation::Tail;
use crate::gallery::{Gallery, Policy};
use crate::index::Query;
use crate::registry::Calibration;
use crate::types::{GalleryId, Threshold};

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

/// What was measured of galleries.
#[derive(Default)]
pub(super) struct Tails(Mutex<HashMap<GalleryId, Measured>>);

#[derive(Clone)]
struct Measured {
    subjects: u64,
    at: Instant,
    tail: Option<Arc<Tail>>,
}

impl Measured {
    fn holds(&self, subjects: u64) -> bool {
        let (then, now) = (self.subjects.max(1) as f64, subjects.max(1) as f64);
        self.at.elapsed() < MEASURED_FOR && then <= now * GROWTH && now <= then * GROWTH
    }
}

impl Services {
    /// The decision for one photo: what the request asked for, else the gallery's policy, else the server's threshold.
    pub(super) async fn decide(&self, gallery: &Gallery, asked: Option<Policy>) -> Result<Decision, ServiceError> {
        let policy = match asked.or(gallery.policy) {
            Some(policy) => policy.checked()?,
            None => Policy::Threshold(self.0.threshold.get()),
        };
        let subjects = self.count_subjects(gallery.id).await?;
        match policy {
            Policy::Threshold(threshold) => Ok(self.by_model(policy, subjects, threshold, None)),
            Policy::Fmr(rate) => self.by_fmr(policy, subjects, rate),
            Policy::Fpir(rate) => match self.tail(gallery.id, subjects).await? {
                Some(tail) => {
                    let threshold = cosine(tail.threshold_at(rate));
                    let interval = tail.interval(rate, DRAWS, 1);
                    Ok(Decision {
                        policy,
                        threshold,
                        threshold_interval: Some([cosine(interval.0), cosine(interval.1)]),
                        basis: Basis::Gallery,
                        subjects,
                        estimated_fmr: self.0.calibration.fmr_at(threshold),
                        estimated_fpir: Some(tail.rate_at(f64::from(threshold))),
                    })
                }
                // The rate that each of the comparisons may have.
                None => self.by_fmr(policy, subjects, -f64::exp_m1(f64::ln_1p(-rate) / subjects.max(1) as f64)),
            },
        }
    }

    /// The decision for a pair of photos.
    pub(super) fn decide_pair(&self, asked: Option<Policy>) -> Result<Decision, ServiceError> {
        match asked.map(Policy::checked).transpose()? {
            None => {
                let threshold = self.0.threshold.get();
                Ok(self.by_model(Policy::Threshold(threshold), 1, threshold, None))
            }
            Some(policy @ Policy::Threshold(threshold)) => Ok(self.by_model(policy, 1, threshold, None)),
            Some(policy @ (Policy::Fmr(rate) | Policy::Fpir(rate))) => self.by_fmr(policy, 1, rate),
        }
    }

    fn by_fmr(&self, policy: Policy, subjects: u64, rate: f64) -> Result<Decision, ServiceError> {
        let point = self
            .0
            .calibration
            .threshold_at_fmr(rate)
            .ok_or_else(|| ServiceError::Uncalibrated { model: self.model_name().to_owned() })?;
        Ok(self.by_model(policy, subjects, point.threshold, Some([point.low, point.high])))
    }

    fn by_model(&self, policy: Policy, subjects: u64, threshold: f32, interval: Option<[f32; 2]>) -> Decision {
        let calibration: &Calibration = &self.0.calibration;
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

    /// Subjects with faces.
    async fn count_subjects(&self, gallery: GalleryId) -> Result<u64, ServiceError> {
        match self.0.resident.current() {
            Some(view) => Ok(view.index.len_of(gallery) as u64),
            None => Ok(self.0.galleries.review_progress(gallery, self.0.model.id).await?.subjects),
        }
    }

    /// What strangers meet in a gallery, if it is large enough to tell.
    async fn tail(&self, gallery: GalleryId, subjects: u64) -> Result<Option<Arc<Tail>>, ServiceError> {
        if subjects < LEAST_SUBJECTS {
            return Ok(None);
        }
        let known = || self.0.tails.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(measured) = known().get(&gallery).filter(|measured| measured.holds(subjects)) {
            return Ok(measured.tail.clone());
        }
        let tail = self.measure_tail(gallery).await?.map(Arc::new);
        let measured = Measured { subjects, at: Instant::now(), tail: tail.clone() };
        known().insert(gallery, measured);
        Ok(tail)
    }

    async fn measure_tail(&self, gallery: GalleryId) -> Result<Option<Tail>, ServiceError> {
        let strangers = self.0.galleries.sample_faces(gallery, self.0.model.id, STRANGERS).await?;
        let mut largest = Vec::with_capacity(strangers.len());
        for batch in strangers.chunks(BATCH) {
            let query = |(subject, probe): &(_, _)| Query {
                probe: Clone::clone(probe),
                top_k: 1,
                min_similarity: None,
                except: Some(*subject),
            };
            let found = self.search(gallery, batch.iter().map(query).collect()).await?;
            largest.extend(found.iter().filter_map(|hits| hits.first()).map(|hit| hit.similarity as f32));
        }
        if let Some(same) = self.0.calibration.threshold_at_fmr(SAME_PERSON_FMR) {
            largest.retain(|similarity| *similarity < same.threshold);
        }
        Ok(Tail::fit(&largest))
    }
}

fn cosine(value: f64) -> f32 {
    let value = value.clamp(-1.0, 1.0) as f32;
    Threshold::try_from(value).map_or(1.0, Threshold::get)
}
