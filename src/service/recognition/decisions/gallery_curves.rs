//! What is known of galleries on this server: how they were measured, and how large they are.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tracing::warn;

use crate::evaluation::FmrCurve;
use crate::gallery::{GalleryError, MeasuredRates};
use crate::service::ServiceError;
use crate::service::recognition::{Recognition, Serving};
use crate::types::{GalleryId, ModelId};

/// How often other servers' measurements are looked for, and all are read anew.
const INTERVAL: Duration = Duration::from_secs(2);
const ANEW: Duration = Duration::from_secs(600);

/// How long a number of subjects holds that PostgreSQL had to count.
const COUNTED_FOR: Duration = Duration::from_secs(10);

/// How far a request counts that is the first of a gallery; the whole is counted beside it.
const COUNTED_AT_ONCE: u64 = 10_000;

/// What a gallery showed.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::service) struct GalleryCurve {
    /// False match rates of one comparison.
    pub curve: FmrCurve,
    /// Subjects, and faces that played the stranger, when it was measured.
    pub subjects: u64,
    pub probes: u64,
    /// Share of the subjects who seem to be enrolled twice.
    pub twice: f64,
    pub measured_at: DateTime<Utc>,
}

/// Of all galleries, by the models that are loaded.
#[derive(Default)]
pub(in crate::service) struct GalleryCurves {
    curves: RwLock<HashMap<(ModelId, GalleryId), Arc<GalleryCurve>>>,
    counts: Mutex<HashMap<(ModelId, GalleryId), Counted>>,
}

#[derive(Clone, Copy)]
struct Counted {
    at: Instant,
    subjects: u64,
    /// Whether it is being counted anew.
    renewed: bool,
}

impl GalleryCurves {
    pub fn curve(&self, model: ModelId, gallery: GalleryId) -> Option<Arc<GalleryCurve>> {
        self.curves.read().unwrap_or_else(PoisonError::into_inner).get(&(model, gallery)).cloned()
    }

    /// Takes over what was measured; `anew` in place of all that was known.
    pub fn take(&self, rates: Vec<MeasuredRates>, anew: bool) {
        let mut curves = self.curves.write().unwrap_or_else(PoisonError::into_inner);
        if anew {
            curves.clear();
        }
        for rates in rates {
            let key = (rates.model, rates.gallery);
            let MeasuredRates { subjects, probes, twice, measured_at, .. } = rates;
            match FmrCurve::new(rates.curve) {
                Some(curve) => {
                    let known = GalleryCurve { curve, subjects, probes, twice, measured_at };
                    curves.insert(key, Arc::new(known));
                }
                None => _ = curves.remove(&key),
            }
        }
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<(ModelId, GalleryId), Counted>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recognition {
    /// Keeps in memory what was measured, by whichever server, for as long as the service lives.
    pub(in crate::service) async fn keep_curves(self) {
        let (mut models, mut since, mut began) = (Vec::new(), None, Instant::now());
        loop {
            let loaded = self.parts.served.models();
            let anew = loaded != models || began.elapsed() > ANEW;
            if anew {
                (since, began) = (None, Instant::now());
                // Of galleries that are gone, or that nobody asks for.
                self.parts.curves.counts().retain(|_, counted| counted.at.elapsed() < ANEW);
            }
            match self.galleries().rates_since(&loaded, since).await {
                Ok(rates) => {
                    since = rates.iter().map(|rates| rates.measured_at).max().or(since);
                    self.parts.curves.take(rates, anew);
                    models = loaded;
                }
                Err(error) => warn!(%error, "cannot read how galleries were measured"),
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// Subjects with faces. Where PostgreSQL has to count them, as they were some seconds ago.
    pub(super) async fn count_subjects(&self, serving: &Serving, gallery: GalleryId) -> Result<u64, ServiceError> {
        if let Some(held) = serving.resident.current() {
            return Ok(held.view.index.len_of(gallery) as u64);
        }
        let key = (serving.id(), gallery);
        let counted = self.parts.curves.counts().get(&key).copied();
        let subjects = match counted {
            Some(counted) => counted.subjects,
            None => self.galleries().count_templates_up_to(gallery, serving.id(), COUNTED_AT_ONCE).await?,
        };
        let is_old = |counted: Counted| counted.at.elapsed() >= COUNTED_FOR && !counted.renewed;
        let is_part = counted.is_none() && subjects == COUNTED_AT_ONCE;
        let renewed = is_part || counted.is_some_and(is_old);
        if counted.is_none() || renewed {
            let at = counted.map_or_else(Instant::now, |counted| counted.at);
            self.parts.curves.counts().insert(key, Counted { at, subjects, renewed });
        }
        if renewed {
            let (recognition, model) = (self.clone(), serving.id());
            tokio::spawn(async move { recognition.count_anew(model, gallery).await });
        }
        Ok(subjects)
    }

    async fn count_anew(&self, model: ModelId, gallery: GalleryId) {
        let counted = self.galleries().count_templates_in(gallery, model).await;
        if let Err(error) = &counted {
            warn!(%error, "cannot count the subjects of a gallery");
        }
        let mut counts = self.parts.curves.counts();
        match counted {
            Ok(subjects) => {
                _ = counts.insert((model, gallery), Counted { at: Instant::now(), subjects, renewed: false })
            }
            Err(GalleryError::GalleryNotFound(_)) => _ = counts.remove(&(model, gallery)),
            Err(_) => _ = counts.get_mut(&(model, gallery)).map(|counted| counted.renewed = false),
        }
    }
}
