//! What the commands on models ask of a server, or do in this process.

use super::super::CliError;
use super::super::backend::Backend;
use crate::jobs::Lane;
use crate::service::answers::{Disagreement, Job, ModelDetails, ModelEntry, Page, ShadowReport};
use crate::service::requests::{ForceRequest, ListRequest, ModelUpload, ShadowRequest};
use crate::types::JobId;

impl Backend {
    pub async fn models(&self) -> Result<Vec<ModelEntry>, CliError> {
        match self {
            Self::Server(client) => client.get(&["admin", "models"], &()).await,
            Self::Direct(app) => Ok(app.for_command().models.list_models().await?),
        }
    }

    pub async fn model(&self, model: &str) -> Result<ModelDetails, CliError> {
        match self {
            Self::Server(client) => client.get(&["admin", "models", model], &()).await,
            Self::Direct(app) => Ok(app.for_command().models.get_model(model).await?),
        }
    }

    pub async fn import_model(&self, upload: ModelUpload) -> Result<ModelEntry, CliError> {
        match self {
            Self::Server(client) => {
                client.send(&["admin", "models"], &upload, vec![("file", upload.file.0.clone())]).await
            }
            Self::Direct(app) => Ok(app.for_command().models.add_model(upload).await?.0),
        }
    }

    /// Submits a promotion; in this process it is worked on as well.
    pub async fn promote(&mut self, model: &str, force: bool) -> Result<Job, CliError> {
        match self {
            Self::Server(client) => client.post(&["admin", "models", model, "promote"], &ForceRequest { force }).await,
            Self::Direct(app) => {
                let (job, _) = app.for_command().models.submit_promotion(model, force, None).await?.answer;
                app.work_on_jobs(&[Lane::Models]);
                Ok(job)
            }
        }
    }

    pub async fn roll_back(&mut self) -> Result<Job, CliError> {
        match self {
            Self::Server(client) => client.post(&["admin", "rollback"], &serde_json::json!({})).await,
            Self::Direct(app) => {
                let (job, _) = app.for_command().models.submit_rollback(None).await?.answer;
                app.work_on_jobs(&[Lane::Models]);
                Ok(job)
            }
        }
    }

    /// Submits that a model is to answer in the shadow; in this process it is worked on as well.
    pub async fn begin_shadow(&mut self, model: &str, request: ShadowRequest) -> Result<Job, CliError> {
        match self {
            Self::Server(client) => client.post(&["admin", "models", model, "shadow"], &request).await,
            Self::Direct(app) => {
                let (job, _) = app.for_command().models.submit_shadow(model, request, None).await?.answer;
                app.work_on_jobs(&[Lane::Models]);
                Ok(job)
            }
        }
    }

    pub async fn shadow_report(&self, model: &str) -> Result<ShadowReport, CliError> {
        match self {
            Self::Server(client) => client.get(&["admin", "models", model, "shadow"], &()).await,
            Self::Direct(app) => Ok(app.for_command().models.shadow_report(model).await?),
        }
    }

    pub async fn disagreements(&self, model: &str, list: &ListRequest) -> Result<Page<Disagreement>, CliError> {
        match self {
            Self::Server(client) => client.get(&["admin", "models", model, "disagreements"], list).await,
            Self::Direct(app) => Ok(app.for_command().models.disagreements(model, list.page("disagreements")?).await?),
        }
    }

    pub async fn end_shadow(&self, model: &str) -> Result<(), CliError> {
        match self {
            Self::Server(client) => client.delete(&["admin", "models", model, "shadow"]).await,
            Self::Direct(app) => Ok(app.for_command().models.end_shadow(model).await?),
        }
    }

    pub async fn job(&self, job: JobId) -> Result<Job, CliError> {
        match self {
            Self::Server(client) => client.get(&["admin", "jobs", &job.to_string()], &()).await,
            Self::Direct(app) => Ok(app.for_command().upkeep.get_job(job).await?),
        }
    }

    /// Retires a model and submits the job that deletes what belongs to it; in this process it is worked on as well.
    pub async fn retire(&mut self, model: &str, force: bool) -> Result<Job, CliError> {
        match self {
            Self::Server(client) => client.post(&["admin", "models", model, "retire"], &ForceRequest { force }).await,
            Self::Direct(app) => {
                let (job, _) = app.for_command().models.retire_model(model, force, None).await?.answer;
                app.work_on_jobs(&[Lane::Erasure]);
                Ok(job)
            }
        }
    }
}
