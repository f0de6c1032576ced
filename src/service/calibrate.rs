//! What the similarities of a model mean that came without figures: measured on enrolled faces, before it answers.

use serde_json::json;
use tracing::{info, warn};

use super::enrolled::EnrolledSample;
use super::{ServiceError, Services};
use crate::evaluation::{EvaluationError, Plan, Resampling, Verification, verify};
use crate::registry::Actor;
use crate::types::ModelId;

/// Subjects with two photos from which on there is something to measure on.
const LEAST_SUBJECTS: usize = 10;

/// False match rates, as many of them as there are pairs for.
const RATES: [f64; 6] = [1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6];

const RESAMPLING: Resampling = Resampling { draws: 200, seed: 1 };

impl Services {
    /// Gives a model that has no rates those that enrolled faces show, which must be embedded by it; its threshold stays.
    /// With too few people it stays as it is. Who is enrolled under two names makes thresholds too high rather than too low.
    pub(super) async fn calibrate(&self, id: ModelId, actor: Actor) -> Result<(), ServiceError> {
        let model = self.0.registry.model(id).await?;
        let Some(manifest) = model.manifest.as_ref().filter(|manifest| !manifest.has_rates()) else { return Ok(()) };
        let sample = self.sample_of_enrolled(model.id).await?;
        let threshold = manifest.calibration().threshold.get();
        let measured = tokio::task::spawn_blocking(move || measure(sample, threshold)).await;
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
        Ok(self.0.registry.calibrate(model.id, &manifest, actor, details).await?)
    }
}

/// `None` with too few people.
fn measure(sample: EnrolledSample, threshold: f32) -> Result<Option<Verification>, EvaluationError> {
    if sample.mated() < LEAST_SUBJECTS {
        return Ok(None);
    }
    let comparisons = sample.comparisons(RESAMPLING.seed)?;
    let plan = Plan {
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
