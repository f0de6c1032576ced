//! The job that deletes the embeddings of a retired model, and its file.

use serde_json::json;

use super::Upkeep;
use super::scheduler::{Progress, Step};
use crate::gallery::{Retirement, RetirementPlace};
use crate::jobs::Lease;
use crate::service::answers::Retired;
use crate::service::models::RetirementSettings;
use crate::service::work::{Failure, settings_of};

/// A job that retires.
pub(super) struct Retiring {
    settings: RetirementSettings,
    place: RetirementPlace,
    /// What there was when the first attempt began.
    totals: Option<Retirement>,
    /// Embeddings that are left, once they have been counted.
    left: Option<u64>,
}

impl Retiring {
    pub fn begin(lease: &Lease) -> Result<Self, Failure> {
        let (settings, totals) = (settings_of(lease)?, Progress::totals_of(lease));
        Ok(Self { settings, place: RetirementPlace::default(), totals, left: None })
    }

    pub async fn step(&mut self, upkeep: &Upkeep) -> Result<Step, Failure> {
        let (galleries, id) = (&upkeep.galleries(), self.settings.model);
        let (Some(left), Some(totals)) = (&mut self.left, &mut self.totals) else {
            let left = galleries.count_retired(id).await?;
            self.left = Some(left.embeddings);
            self.totals.get_or_insert(left);
            return Ok(Step::More(self.progress()));
        };
        if let Some(deleted) = galleries.erase_model_piece(id, &mut self.place).await? {
            // What came while the model was being retired was not counted before.
            totals.embeddings += deleted.saturating_sub(*left);
            *left = left.saturating_sub(deleted);
            return Ok(Step::More(self.progress()));
        }
        let Retirement { embeddings, lost_faces } = *totals;
        let model = upkeep.models().registry().model(id).await?;
        upkeep.models().files().delete_unneeded(&model.sha256).await?;
        Ok(Step::Done(json!(Retired { model: model.name, embeddings, lost_faces })))
    }

    fn progress(&self) -> Progress {
        let totals = self.totals.unwrap_or_default();
        let done = totals.embeddings.saturating_sub(self.left.unwrap_or_default());
        Progress { totals: Some(json!(totals)), ..Progress::new("deleting", done, Some(totals.embeddings)) }
    }
}
