//! Retiring models.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::super::answers::{Job, Retired};
use super::super::{ServiceError, Services};
use super::steps::{Progress, Step};
use super::{Failure, settings_of};
use crate::gallery::GalleryError;
use crate::jobs::{JobKind, Lease, NewJob};
use crate::registry::{Actor, Model, Retirement, RetirementPlace};
use crate::types::ModelId;

/// The settings of a job, as the database keeps them.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Settings {
    model: ModelId,
    /// For people.
    name: String,
}

impl Services {
    /// Retires a model, given by id, sha256 or name, and submits the job that deletes its embeddings and its file. `force` takes
    /// even the one that a rollback would make active. `false`: there is such a job already.
    pub async fn retire_model(&self, model: &str, force: bool, actor: Actor) -> Result<(Job, bool), ServiceError> {
        let model = self.find_model(model).await?;
        let new = new_job(&model, actor)?;
        let mut transaction = self.0.galleries.begin().await?;
        self.0.registry.retire(&mut transaction, model.id, force, actor).await?;
        let submitted = self.0.jobs.submit_within(&mut transaction, &new).await?;
        transaction.commit().await.map_err(GalleryError::from)?;
        match submitted {
            Some(job) => Ok((job.into(), true)),
            None => {
                let (job, is_new) = self.0.jobs.submit(&new).await?;
                Ok((job.into(), is_new))
            }
        }
    }
}

impl Services {
    /// Submits jobs for models that an earlier version began to retire, which knew no such jobs.
    pub(super) async fn finish_retirements(&self) -> Result<(), ServiceError> {
        for model in self.0.registry.half_retired().await? {
            self.0.jobs.submit(&new_job(&model, Actor::Server)?).await?;
        }
        Ok(())
    }
}

fn new_job(model: &Model, actor: Actor) -> Result<NewJob, ServiceError> {
    let settings = Settings { model: model.id, name: model.name.clone() };
    Ok(NewJob {
        kind: JobKind::Retire,
        key: model.id.to_string(),
        settings: serde_json::to_value(settings).map_err(|error| ServiceError::Internal(error.to_string()))?,
        requested_by: actor.as_str().to_owned(),
    })
}

/// A job that retires.
pub(super) struct Retiring {
    settings: Settings,
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

    pub async fn step(&mut self, services: &Services) -> Result<Step, Failure> {
        let (registry, id) = (&services.0.registry, self.settings.model);
        let (Some(left), Some(totals)) = (&mut self.left, &mut self.totals) else {
            let left = registry.count_left(id).await?;
            self.left = Some(left.embeddings);
            self.totals.get_or_insert(left);
            return Ok(Step::More(self.progress()));
        };
        if let Some(deleted) = registry.delete_piece(id, &mut self.place).await? {
            // What came while the model was being retired was not counted before.
            totals.embeddings += deleted.saturating_sub(*left);
            *left = left.saturating_sub(deleted);
            return Ok(Step::More(self.progress()));
        }
        let Retirement { embeddings, lost_faces } = *totals;
        let model = registry.model(id).await?;
        services.0.models.delete_unneeded(&model.sha256).await?;
        Ok(Step::Done(json!(Retired { model: model.name, embeddings, lost_faces })))
    }

    fn progress(&self) -> Progress {
        let totals = self.totals.unwrap_or_default();
        let done = totals.embeddings.saturating_sub(self.left.unwrap_or_default());
        Progress { totals: Some(json!(totals)), ..Progress::new("deleting", done, Some(totals.embeddings)) }
    }
}
