//! What enrolled people show of a model before it answers: whether it is of any use, and what its similarities mean.

use serde_json::{Value, json};
use tracing::{info, warn};

use super::{GateState, Models};
use crate::evaluation::{
    Claim, Comparisons, EvaluationError, Faces, ReportPlan, Resampling, Verification, Worth, verify,
};
use crate::gallery::PhotoId;
use crate::registry::Model;
use crate::service::ServiceError;
use crate::types::{Actor, ModelId};

/// Galleries that are looked at, as many of the largest and the rest by lot, and people with two photos that one has at least.
const MOST_GALLERIES: usize = 200;
const LARGEST: usize = 20;
const LEAST_MATED: u32 = 2;

/// Subjects that are looked at, of all galleries together, and faces of each.
const MOST_SUBJECTS: u32 = 400;
const MOST_OF_ONE: u32 = 5;

/// Impostor pairs that are looked at; of more, as many are chosen at random.
const MOST_IMPOSTORS: usize = 200_000;

/// Embeddings of some faces, by subject, one of each photo of a subject.
#[derive(Default)]
pub(in crate::service) struct EnrolledSample {
    vectors: Vec<Vec<f32>>,
    /// Whom each shows, numbered from 0.
    subjects: Vec<usize>,
    /// The faces of each gallery.
    galleries: Vec<Vec<usize>>,
    photos: Vec<PhotoId>,
    /// Subjects with two photos or more.
    mated: usize,
}

impl Models {
    /// Faces of some subjects that are embedded by a model.
    pub(in crate::service) async fn sample_of_enrolled(&self, model: ModelId) -> Result<EnrolledSample, ServiceError> {
        let galleries = self.galleries().some_with_mated(LEAST_MATED, LARGEST, MOST_GALLERIES).await?;
        let each = (MOST_SUBJECTS / galleries.len().max(1) as u32).max(2);
        let (mut sample, mut subject) = (EnrolledSample::default(), 0);
        for gallery in galleries {
            let first = sample.vectors.len();
            for faces in self.galleries().sample_of_embeddings(gallery.id, model, each, MOST_OF_ONE).await? {
                sample.mated += usize::from(faces.len() > 1);
                for (photo, embedding) in faces {
                    sample.vectors.push(embedding.as_slice().iter().map(|value| value.to_f32()).collect());
                    sample.subjects.push(subject);
                    sample.photos.push(photo);
                }
                subject += 1;
            }
            sample.galleries.push((first..sample.vectors.len()).collect());
        }
        Ok(sample)
    }
}

impl EnrolledSample {
    /// Subjects with two photos or more.
    pub(in crate::service) fn mated(&self) -> usize {
        self.mated
    }

    /// Pairs of both kinds. Only faces of one gallery are compared, for nobody knows whether subjects of different ones are one
    /// person, and none with itself, where one photo is enrolled under two names.
    pub(in crate::service) fn comparisons(self, seed: u64) -> Result<Comparisons, EvaluationError> {
        let Self { vectors, subjects, galleries, photos, .. } = self;
        let faces = Faces::new(vectors, subjects)?;
        Comparisons::within(&faces, &galleries, MOST_IMPOSTORS, seed, |a, b| photos[a] != photos[b])
    }
}

const RESAMPLING: Resampling = Resampling { draws: 200, seed: 1 };

impl Models {
    /// Measures a model on enrolled people, whose faces must be embedded by it. Fails if they show it to be worthless, unless
    /// that is to be overruled. With the figures, which are null with too few people.
    pub(in crate::service) async fn require_worth(
        &self,
        model: &Model,
        force: bool,
    ) -> Result<(GateState, Value), ServiceError> {
        let Some(manifest) = &model.manifest else { return Ok((GateState::NotEvaluated, Value::Null)) };
        let calibration = manifest.calibration();
        let threshold = calibration.threshold.get();
        let claim = Claim { threshold, fmr: calibration.curve().map(|curve| curve.rate(f64::from(threshold))) };
        let sample = self.sample_of_enrolled(model.id).await?;
        let measured = tokio::task::spawn_blocking(move || measure_worth(sample, claim)).await;
        let worth = match measured.map_err(|panic| ServiceError::Internal(panic.to_string()))? {
            Ok(Some(worth)) => worth,
            Ok(None) | Err(EvaluationError::NoGenuinePair | EvaluationError::NoImpostorPair) => {
                return Ok((GateState::NotEvaluated, Value::Null));
            }
            Err(error) => return Err(ServiceError::Internal(error.to_string())),
        };
        let figures = serde_json::to_value(&worth).map_err(|error| ServiceError::Internal(error.to_string()))?;
        match worth.reasons.is_empty() {
            true => Ok((GateState::Passed, figures)),
            false => refused(model, worth.reasons, force, figures),
        }
    }
}

fn refused(
    model: &Model,
    reasons: Vec<String>,
    force: bool,
    figures: Value,
) -> Result<(GateState, Value), ServiceError> {
    let why = reasons.join("; ");
    if force {
        warn!(model = %model.name, %why, "enrolled people show this model to be worthless; it is promoted all the same");
        return Ok((GateState::Overruled, figures));
    }
    warn!(model = %model.name, %why, "enrolled people show this model to be worthless; the active model goes on serving");
    Err(ServiceError::GateRefused { model: model.name.clone(), reasons })
}

fn measure_worth(sample: EnrolledSample, claim: Claim) -> Result<Option<Worth>, EvaluationError> {
    let mated = sample.mated();
    Ok(Worth::of(&sample.comparisons(RESAMPLING.seed)?, mated, claim, RESAMPLING))
}

/// Subjects with two photos from which on there is something to measure on.
const LEAST_SUBJECTS: usize = 10;

/// False match rates, as many of them as there are pairs for.
const RATES: [f64; 6] = [1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6];

impl Models {
    /// Gives a model that has no rates those that enrolled faces show, which must be embedded by it; its threshold stays.
    /// With too few people it stays as it is. Who is enrolled under two names makes thresholds too high rather than too low.
    pub(in crate::service) async fn calibrate(&self, id: ModelId, actor: &Actor) -> Result<(), ServiceError> {
        let model = self.parts.registry.model(id).await?;
        let Some(manifest) = model.manifest.as_ref().filter(|manifest| !manifest.has_rates()) else { return Ok(()) };
        let sample = self.sample_of_enrolled(model.id).await?;
        let threshold = manifest.calibration().threshold.get();
        let measured = tokio::task::spawn_blocking(move || measure_rates(sample, threshold)).await;
        let figures = match measured.map_err(|panic| ServiceError::Internal(panic.to_string()))? {
            Ok(Some(figures)) if !figures.thresholds.is_empty() => figures,
            Ok(_) => return Ok(()),
            Err(error) => {
                warn!(%error, model = %model.name, "enrolled faces do not tell what the model's similarities mean");
                return Ok(());
            }
        };
        let manifest = manifest.measured(threshold.into(), &figures);
        let manifest = manifest.map_err(|error| ServiceError::Internal(error.to_string()))?;
        let details = json!({"genuine_pairs": figures.genuine_pairs, "impostor_pairs": figures.impostor_pairs});
        info!(model = %model.name, %details, "measured what the model's similarities mean");
        Ok(self.parts.registry.calibrate(model.id, &manifest, actor, details).await?)
    }
}

/// `None` with too few people.
fn measure_rates(sample: EnrolledSample, threshold: f32) -> Result<Option<Verification>, EvaluationError> {
    if sample.mated() < LEAST_SUBJECTS {
        return Ok(None);
    }
    let comparisons = sample.comparisons(RESAMPLING.seed)?;
    let plan = ReportPlan {
        fars: Vec::new(),
        fmrs: RATES.to_vec(),
        fpirs: Vec::new(),
        ranks: Vec::new(),
        photos: 1,
        splits: 0,
        threshold,
        resampling: RESAMPLING,
    };
    Ok(Some(verify(&comparisons, &plan)))
}
