//! Whether enrolled people show a model to be worthless, before it answers.

use serde_json::Value;
use tracing::warn;

use super::enrolled::EnrolledSample;
use super::promote::GateState;
use super::{ServiceError, Services};
use crate::evaluation::{Claim, EvaluationError, Resampling, Worth};
use crate::registry::Model;

const RESAMPLING: Resampling = Resampling { draws: 200, seed: 1 };

impl Services {
    /// Measures a model on enrolled people, whose faces must be embedded by it. Fails if they show it to be worthless, unless
    /// that is to be overruled. With the figures, which are null with too few people.
    pub(super) async fn require_worth(&self, model: &Model, force: bool) -> Result<(GateState, Value), ServiceError> {
        let Some(manifest) = &model.manifest else { return Ok((GateState::NotEvaluated, Value::Null)) };
        let calibration = manifest.calibration();
        let threshold = calibration.threshold.get();
        let claim = Claim { threshold, fmr: calibration.curve().map(|curve| curve.rate(f64::from(threshold))) };
        let sample = self.sample_of_enrolled(model.id).await?;
        let measured = tokio::task::spawn_blocking(move || measure(sample, claim)).await;
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

fn measure(sample: EnrolledSample, claim: Claim) -> Result<Option<Worth>, EvaluationError> {
    let mated = sample.mated();
    Ok(Worth::of(&sample.comparisons(RESAMPLING.seed)?, mated, claim, RESAMPLING))
}
