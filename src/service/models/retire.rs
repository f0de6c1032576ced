//! Retiring models.

use serde::{Deserialize, Serialize};

use super::Models;
use crate::gallery::GalleryError;
use crate::jobs::{JobKind, NewJob};
use crate::registry::Model;
use crate::service::ServiceError;
use crate::service::answers::Job;
use crate::service::once::{Once, keep, once};
use crate::service::work::{new_job, submit};
use crate::types::{ModelId, RequestKey};

/// The settings of a job, as the database keeps them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::service) struct RetirementSettings {
    pub model: ModelId,
    /// For people.
    name: String,
}

impl Models {
    /// Retires a model, given by id, sha256 or name, and submits the job that deletes its embeddings and its file. `force` takes
    /// even the one that a rollback would make active. `false`: there is such a job already.
    pub async fn retire_model(
        &self,
        model: &str,
        force: bool,
        key: Option<&RequestKey>,
    ) -> Result<Once<(Job, bool)>, ServiceError> {
        once(&self.parts.answers, key, self.retire(model, force, key)).await
    }

    async fn retire(&self, model: &str, force: bool, key: Option<&RequestKey>) -> Result<(Job, bool), ServiceError> {
        let model = self.find_model(model).await?;
        let new = retirement(&model, self.caller.name())?;
        let mut transaction = self.galleries().begin().await?;
        self.parts.registry.retire(&mut transaction, model.id, force, &self.caller.actor()).await?;
        let submitted = self.jobs().submit_within(&mut transaction, &new).await?.map(|job| (job.into(), true));
        if let Some(answer) = &submitted {
            keep(&mut transaction, key, answer, &[]).await?;
        }
        transaction.commit().await.map_err(GalleryError::from)?;
        match submitted {
            Some(answer) => Ok(answer),
            None => submit(&self.jobs(), &new, key).await,
        }
    }

    /// Submits jobs for models that an earlier version began to retire, which knew no such jobs.
    pub(in crate::service) async fn finish_retirements(&self) -> Result<(), ServiceError> {
        for model in self.parts.registry.retired().await? {
            if self.galleries().has_embeddings(model.id).await? {
                self.jobs().submit(&retirement(&model, self.caller.name())?).await?;
            }
        }
        Ok(())
    }
}

fn retirement(model: &Model, by: &str) -> Result<NewJob, ServiceError> {
    let settings = RetirementSettings { model: model.id, name: model.name.clone() };
    new_job(JobKind::Retire, model.id.to_string(), &settings, by)
}
