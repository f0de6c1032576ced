//! From which similarity on? Every question of a threshold is answered here.
//!
//! Who asks says for what: a pair, a probe among the subjects of a gallery, a new subject, a pair of subjects, a face among those of
//! its own subject. The answer rests on the curve of false match rates in force: that of the model, measured on thousands
//! of people, or, once the gallery has been measured, that of the gallery (`evaluation::Strangers`). Both tell how often one
//! comparison of different people matches; a probe is compared with all N subjects, so a rate of strangers is that of one
//! comparison taken to N: FPIR = 1 - (1 - f)^N (ISO/IEC 19795-1).

mod gallery_curves;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use gallery_curves::GalleryCurve;

use crate::evaluation::{FmrCurve, FmrPoint, RatesInUse, SPREAD, any_of, each_of};
use crate::gallery::{Gallery, Policy};
use crate::service::ServiceError;
use crate::service::answers::{Basis, Decision, FpirThreshold, Strangers};
use crate::service::recognition::{Recognition, Serving};
use crate::types::GalleryId;
pub(in crate::service) use gallery_curves::GalleryCurves;

/// Standard errors of 95 %.
const Z: f64 = 1.96;

/// What a rate may lie below the lowest that was measured.
const DECADE: f64 = 10.0;

/// The most faces of a gallery that play the stranger, and so the rate that is measured on a large one.
pub(in crate::service) const STRANGERS: u64 = 10_000;

/// How many false pairs of subjects may be listed as duplicates, of all of a gallery.
const LISTED_BY_CHANCE: f64 = 1.0;

/// How many pairs of subjects are kept by chance, for each subject; and how often one of a subject's faces resembles
/// somebody else by chance.
const BY_CHANCE: f64 = 0.01;

/// How often a face of somebody else is as near to a subject's other faces as its own have to be. Of the pairs of one person
/// one in 200 to one in 100 is less similar.
const OWN_FMR: f64 = 1e-2;

/// Rates of strangers whose thresholds a gallery shows.
const SHOWN: [f64; 6] = [0.1, 0.03, 0.01, 0.003, 0.001, 0.0001];

/// How sure it must be which of two subjects it is.
const CERTAINTY: f32 = 0.95;

/// A threshold and what it rests on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::service) struct Ruling {
    pub threshold: f32,
    /// 95 %, where the threshold is an estimate.
    pub interval: Option<[f32; 2]>,
    pub basis: Basis,
    pub measured_at: Option<DateTime<Utc>>,
}

/// Answers for one gallery, or for a pair of photos, and one model, at one moment.
pub(in crate::service) struct Authority<'a> {
    serving: &'a Serving,
    /// Subjects with faces.
    subjects: u64,
    /// What the gallery itself showed.
    gallery: Option<Arc<GalleryCurve>>,
    /// It is about two photos of anybody.
    pair: bool,
}

impl Recognition {
    /// Never measures and never waits for a measurement: until there is one, the model's own rates answer.
    pub(in crate::service) async fn authority<'a>(
        &self,
        serving: &'a Serving,
        gallery: GalleryId,
    ) -> Result<Authority<'a>, ServiceError> {
        let subjects = self.count_subjects(serving, gallery).await?;
        let gallery = self.parts.curves.curve(serving.id(), gallery);
        Ok(Authority { serving, subjects, gallery, pair: false })
    }

    /// The decision for one photo: what the request asked for, else the gallery's policy, else what the server says. If it is looked
    /// for in so many galleries, each may take their part of the strangers: rates of them add up.
    pub(in crate::service) async fn decide(
        &self,
        serving: &Serving,
        gallery: &Gallery,
        asked: Option<Policy>,
        galleries: usize,
    ) -> Result<Decision, ServiceError> {
        let policy = match asked.or(gallery.policy).unwrap_or_else(|| serving.policy()) {
            Policy::Fpir(rate) if galleries > 1 => Policy::Fpir(rate / galleries as f64),
            policy => policy,
        };
        self.authority(serving, gallery.id).await?.identify(policy)
    }
}

impl Authority<'_> {
    /// From which similarity on a probe is somebody of the gallery.
    pub fn identify(&self, policy: Policy) -> Result<Decision, ServiceError> {
        let policy = policy.checked()?;
        let ruling = match policy {
            Policy::Threshold(threshold) => given(threshold),
            Policy::Fmr(rate) => {
                self.refuse_beyond(rate, self.least_fmr())?;
                self.at(rate)?
            }
            Policy::Fpir(rate) => {
                self.refuse_beyond(rate, self.least_fpir())?;
                self.at(each_of(self.subjects.max(1) as f64, rate))?
            }
        };
        Ok(self.decision(policy, ruling))
    }

    /// From which similarity on a new subject counts as somebody who is enrolled: a share `rate` of those who are not do.
    pub fn new_subject(&self, rate: f64) -> Ruling {
        self.at_or_own(each_of(self.subjects.max(1) as f64, rate))
    }

    /// From which similarity on a pair of subjects is kept as possibly one person: as many by chance as there are hundreds of
    /// subjects.
    pub fn kept_pair(&self) -> Ruling {
        self.not_below_a_pair(self.new_subject(2.0 * BY_CHANCE))
    }

    /// From which similarity on a pair of subjects is listed as duplicates: about one by chance.
    pub fn listed_pair(&self) -> Ruling {
        let pairs = (self.subjects as f64 * (self.subjects.saturating_sub(1)) as f64 / 2.0).max(1.0);
        let listed = self.at_or_own(LISTED_BY_CHANCE / pairs);
        self.not_below(listed, self.kept_pair())
    }

    /// From which similarity on a face resembles a subject that it is not filed under.
    pub fn other_subject(&self) -> Ruling {
        self.new_subject(BY_CHANCE)
    }

    /// Below which similarity a face does not resemble the other faces of its own subject.
    pub fn own_subject(&self) -> Ruling {
        let own = self.serving.threshold.get();
        let curve = self.serving.calibration().curve();
        let ruling = curve.map(|curve| self.of_model(curve.at(OWN_FMR)));
        // A threshold that was chosen lower says that its people resemble themselves less.
        ruling.filter(|ruling| ruling.threshold < own).unwrap_or_else(|| given(own))
    }

    /// The thresholds at fixed rates, for whoever decides without asking.
    pub fn strangers(&self) -> Strangers {
        let at = |fpir: f64| {
            let Ruling { threshold, interval, .. } = self.at(each_of(self.subjects.max(1) as f64, fpir)).ok()?;
            let [low, high] = interval?;
            Some(FpirThreshold { fpir, threshold, low, high })
        };
        let gallery = self.gallery();
        Strangers {
            basis: if gallery.is_some() { Basis::Gallery } else { Basis::Model },
            measured_at: gallery.map(|gallery| gallery.measured_at),
            measured_subjects: gallery.map(|gallery| gallery.subjects),
            probes: gallery.map(|gallery| gallery.probes),
            twice: gallery.map(|gallery| gallery.twice),
            thresholds: SHOWN.into_iter().filter(|fpir| *fpir >= self.least_fpir()).filter_map(at).collect(),
        }
    }

    /// What the gallery itself showed, if it was measured.
    fn gallery(&self) -> Option<&GalleryCurve> {
        self.gallery.as_deref()
    }

    /// Probability that two subjects of this similarity are one person, the share of those who are enrolled twice being what
    /// the gallery shows, or one in a hundred.
    pub fn one_person(&self, similarity: f32) -> Option<f32> {
        let twice =
            self.gallery().map_or(BY_CHANCE, |gallery| gallery.twice).clamp(1.0 / self.subjects.max(2) as f64, 0.5);
        let candidates = self.subjects as f64 * (1.0 - twice) / twice;
        self.serving.calibration().probability(similarity, candidates as u64)
    }

    fn curve(&self) -> Option<&FmrCurve> {
        self.gallery().map(|gallery| &gallery.curve).or_else(|| self.serving.calibration().curve())
    }

    fn at(&self, fmr: f64) -> Result<Ruling, ServiceError> {
        if let Some(gallery) = self.gallery() {
            let FmrPoint { threshold, low, high, .. } = gallery.curve.at(fmr);
            let (basis, measured_at) = (Basis::Gallery, Some(gallery.measured_at));
            return Ok(Ruling { threshold, interval: Some([low, high]), basis, measured_at });
        }
        let curve = self.serving.calibration().curve().ok_or_else(|| self.uncalibrated())?;
        let mut ruling = self.of_model(curve.at(fmr));
        // People of a gallery may resemble others more or less than those do whom the model was measured on.
        if let (Some([low, high]), false) = (&mut ruling.interval, self.pair) {
            *low = low.min(curve.at((fmr * (Z * SPREAD).exp()).min(0.5)).threshold);
            *high = high.max(curve.at(fmr * (-Z * SPREAD).exp()).threshold);
        }
        Ok(ruling)
    }

    /// As [`Self::at`], of a model without rates by its threshold for pairs.
    fn at_or_own(&self, fmr: f64) -> Ruling {
        self.at(fmr).unwrap_or_else(|_| given(self.serving.threshold.get()))
    }

    fn of_model(&self, point: FmrPoint) -> Ruling {
        let FmrPoint { threshold, low, high, .. } = point;
        Ruling { threshold, interval: Some([low, high]), basis: Basis::Model, measured_at: None }
    }

    /// In a small gallery chance would allow pairs that no comparison of two photos takes for one person.
    fn not_below_a_pair(&self, ruling: Ruling) -> Ruling {
        self.not_below(ruling, given(self.serving.threshold.get()))
    }

    fn not_below(&self, ruling: Ruling, other: Ruling) -> Ruling {
        if ruling.threshold < other.threshold { other } else { ruling }
    }

    fn decision(&self, policy: Policy, ruling: Ruling) -> Decision {
        let at = |threshold: f64| self.curve().map(|curve| curve.rate(threshold));
        let strangers = |fmr: f64| any_of(self.subjects as f64, fmr);
        let threshold = f64::from(ruling.threshold);
        let fmr = at(threshold);
        // If the rate needs a threshold between these, then the threshold has a rate between those.
        let interval = ruling.interval.and_then(|[low, high]| {
            let least = at(2.0 * threshold - f64::from(low))?;
            let most = at(2.0 * threshold - f64::from(high))?;
            Some([strangers(least), strangers(most)])
        });
        Decision {
            policy,
            threshold: ruling.threshold,
            threshold_interval: ruling.interval.filter(|_| ruling.basis != Basis::Given),
            basis: ruling.basis,
            measured_at: ruling.measured_at,
            subjects: self.subjects,
            estimated_fmr: fmr,
            estimated_fpir: fmr.map(strangers),
            estimated_fpir_interval: interval,
        }
    }

    /// The lowest false match rate that is answered: one decade below what was measured.
    fn least_fmr(&self) -> f64 {
        self.serving.calibration().curve().map_or(0.0, |curve| curve.least_rate() / DECADE)
    }

    /// The lowest rate of strangers that is answered: a decade below what the model was measured at, taken to this size, or
    /// below what as many faces as are measured can show, whichever reaches further.
    fn least_fpir(&self) -> f64 {
        let subjects = self.subjects.max(1);
        let shown = 1.0 / (subjects.min(STRANGERS) as f64 * DECADE);
        any_of(subjects as f64, self.least_fmr()).min(shown)
    }

    fn refuse_beyond(&self, rate: f64, least: f64) -> Result<(), ServiceError> {
        if rate >= least {
            Ok(())
        } else {
            Err(ServiceError::RateBeyondMeasured { rate, least, subjects: self.subjects })
        }
    }

    fn uncalibrated(&self) -> ServiceError {
        ServiceError::Uncalibrated { model: self.serving.name().to_owned() }
    }
}

impl Serving {
    /// By what a face is called known, if nobody says otherwise.
    fn policy(&self) -> Policy {
        match self.calibration().curve() {
            Some(_) if !self.threshold_given => Policy::Fpir(self.fpir),
            _ => Policy::Threshold(self.threshold.get()),
        }
    }

    /// By how much a subject must be nearer than the next so that it is named.
    pub(in crate::service) fn margin(&self) -> f32 {
        self.calibration().margin(CERTAINTY).unwrap_or(0.0)
    }
}

/// The decision for a pair of photos.
pub(in crate::service) fn decide_pair(serving: &Serving, asked: Option<Policy>) -> Result<Decision, ServiceError> {
    let authority = Authority { serving, subjects: 1, gallery: None, pair: true };
    authority.identify(asked.unwrap_or(Policy::Threshold(serving.threshold.get())))
}

fn given(threshold: f32) -> Ruling {
    Ruling { threshold, interval: None, basis: Basis::Given, measured_at: None }
}

impl Recognition {
    /// The rates of strangers at which a gallery decides if a request says nothing.
    pub(in crate::service) async fn rates_in_use(
        &self,
        serving: &Serving,
        gallery: &Gallery,
    ) -> Result<RatesInUse, ServiceError> {
        let authority = self.authority(serving, gallery.id).await?;
        Ok(authority.rates(gallery.policy.unwrap_or_else(|| serving.policy())))
    }
}

impl Authority<'_> {
    /// Of a threshold nobody knows the rate if the model has none; the server's share of strangers stands in.
    fn rates(&self, policy: Policy) -> RatesInUse {
        let subjects = self.subjects.max(1) as f64;
        let fmr = match policy {
            Policy::Fmr(rate) => Some(rate),
            Policy::Threshold(threshold) => self.curve().map(|curve| curve.rate(f64::from(threshold))),
            Policy::Fpir(fpir) => return RatesInUse { fmr: each_of(subjects, fpir), fpir },
        };
        match fmr {
            Some(fmr) => RatesInUse { fmr, fpir: any_of(subjects, fmr) },
            None => self.rates(Policy::Fpir(self.serving.fpir)),
        }
    }
}
