//! What an evaluation measured, in a model's manifest.

use serde_json::Value;
use sqlx::types::Json;

use super::noting::note;
use super::{Logistic, Manifest, ManifestError, Registry, RegistryError, announce};
use crate::audit::Action;
use crate::evaluation::{FmrPoint, GenuinePoint, LogisticFit, ThresholdPoint, Verification};
use crate::types::{Actor, ModelId, Threshold};

impl Manifest {
    /// The same network with the figures of an evaluation, and a threshold that somebody chose.
    pub fn measured(&self, threshold: f64, figures: &Verification) -> Result<Self, ManifestError> {
        let threshold =
            Threshold::try_from(round(threshold)).map_err(|error| ManifestError::Unusable(error.to_string()))?;
        let genuine = genuine(&figures.genuine);
        self.recalibrated(threshold, figures.logistic.map(logistic), points(&figures.thresholds), genuine)
    }
}

impl Registry {
    /// Keeps a manifest with the figures that a model lacked.
    pub async fn calibrate(
        &self,
        id: ModelId,
        manifest: &Manifest,
        actor: &Actor,
        details: Value,
    ) -> Result<(), RegistryError> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query("update models set manifest = $2 where id = $1 and state <> 'retired'")
            .bind(id.0)
            .bind(Json(manifest))
            .execute(&mut *transaction)
            .await?;
        note(&mut transaction, actor, Action::ModelCalibrate, id, details).await?;
        announce(&mut transaction).await?;
        Ok(transaction.commit().await?)
    }
}

fn logistic(fit: LogisticFit) -> Logistic {
    Logistic { slope: round_to(fit.slope, 100.0), intercept: round_to(fit.intercept, 100.0) }
}

/// Those thresholds that rise as the rates fall; a tail that ends has the same one for the smallest rates.
fn points(measured: &[ThresholdPoint]) -> Vec<FmrPoint> {
    let mut points: Vec<FmrPoint> = Vec::new();
    for ThresholdPoint { fmr, threshold, .. } in measured {
        let point = FmrPoint {
            rate: *fmr,
            threshold: round(threshold.value),
            low: round(threshold.low),
            high: round(threshold.high),
        };
        if points.last().is_none_or(|last| last.threshold < point.threshold) {
            points.push(point);
        }
    }
    points
}

/// Those similarities that rise.
fn genuine(measured: &[GenuinePoint]) -> Vec<GenuinePoint> {
    let mut points: Vec<GenuinePoint> = Vec::new();
    for GenuinePoint { share, similarity } in measured {
        let point = GenuinePoint { share: *share, similarity: round(f64::from(*similarity)) };
        if points.last().is_none_or(|last| last.similarity < point.similarity) {
            points.push(point);
        }
    }
    points
}

/// To the four decimals that mean anything.
fn round(value: f64) -> f32 {
    round_to(value, 1e4)
}

fn round_to(value: f64, parts: f64) -> f32 {
    ((value * parts).round() / parts) as f32
}
