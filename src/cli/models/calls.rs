//! What the commands on models ask of a server, or do in this process.

use bytes::Bytes;
use reqwest::Method;
use reqwest::multipart::{Form, Part};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::super::CliError;
use super::super::backend::Backend;
use super::super::client::Progress;
use crate::db::PageRequest;
use crate::jobs::Lane;
use crate::registry::Actor;
use crate::service::answers::{AuditEntry, Disagreement, Job, ModelDetails, ModelEntry, Page, ShadowReport};
use crate::service::{ManifestFields, ShadowRequest};
use crate::types::JobId;

impl Backend {
    pub async fn models(&self) -> Result<Vec<ModelEntry>, CliError> {
        match self {
            Self::Server { .. } => self.ask(Method::GET, &["admin", "models"], None).await,
            Self::Direct(app) => Ok(app.services.models.list_models().await?),
        }
    }

    pub async fn model(&self, model: &str) -> Result<ModelDetails, CliError> {
        match self {
            Self::Server { .. } => self.ask(Method::GET, &["admin", "models", model], None).await,
            Self::Direct(app) => Ok(app.services.models.get_model(model).await?),
        }
    }

    pub async fn import_model(
        &self,
        content: Bytes,
        fields: ManifestFields,
        allow_code: bool,
    ) -> Result<ModelEntry, CliError> {
        match self {
            Self::Server { .. } => {
                let (length, progress) = (content.len() as u64, Progress::begin());
                let file = Part::stream_with_length(progress.body(content), length).file_name("model");
                let mut form = Form::new().part("file", file).text("allow_code", allow_code.to_string());
                for (name, value) in [
                    ("manifest", fields.manifest),
                    ("name", fields.name),
                    ("threshold", fields.threshold.map(|threshold| threshold.get().to_string())),
                    ("mean", fields.mean.map(|mean| mean.to_string())),
                    ("scale", fields.scale.map(|scale| scale.to_string())),
                    ("channels", fields.channels.map(|channels| channels.as_str().to_owned())),
                ] {
                    form = value.into_iter().fold(form, |form, value| form.text(name, value));
                }
                self.upload("/admin/models", form, &progress).await
            }
            Self::Direct(app) => {
                Ok(app.services.models.add_model(content, fields, allow_code, Actor::Command).await?.0)
            }
        }
    }

    /// Submits a promotion; in this process it is worked on as well.
    pub async fn promote(&mut self, model: &str, force: bool) -> Result<Job, CliError> {
        match self {
            Self::Server { .. } => {
                let path = ["admin", "models", model, "promote"];
                self.ask(Method::POST, &path, Some(json!({"force": force}))).await
            }
            Self::Direct(app) => {
                let (job, _) = app.services.models.submit_promotion(model, force, Actor::Command).await?;
                app.work_on_jobs(&[Lane::Models]);
                Ok(job)
            }
        }
    }

    pub async fn roll_back(&mut self) -> Result<Job, CliError> {
        match self {
            Self::Server { .. } => self.ask(Method::POST, &["admin", "rollback"], Some(json!({}))).await,
            Self::Direct(app) => {
                let (job, _) = app.services.models.submit_rollback(Actor::Command).await?;
                app.work_on_jobs(&[Lane::Models]);
                Ok(job)
            }
        }
    }

    /// Submits that a model is to answer in the shadow; in this process it is worked on as well.
    pub async fn begin_shadow(&mut self, request: ShadowRequest) -> Result<Job, CliError> {
        match self {
            Self::Server { .. } => {
                let path = ["admin", "models", &request.model, "shadow"];
                let body = json!({"share": request.share, "force": request.force});
                self.ask(Method::POST, &path, Some(body)).await
            }
            Self::Direct(app) => {
                let (job, _) = app.services.models.submit_shadow(request, Actor::Command).await?;
                app.work_on_jobs(&[Lane::Models]);
                Ok(job)
            }
        }
    }

    pub async fn shadow_report(&self, model: &str) -> Result<ShadowReport, CliError> {
        match self {
            Self::Server { .. } => self.ask(Method::GET, &["admin", "models", model, "shadow"], None).await,
            Self::Direct(app) => Ok(app.services.models.shadow_report(model).await?),
        }
    }

    pub async fn disagreements(&self, model: &str, limit: u32) -> Result<Page<Disagreement>, CliError> {
        let page = PageRequest::new(Some(limit), None).map_err(|error| CliError::Usage(error.to_string()))?;
        match self {
            Self::Server { url, .. } => {
                let mut route = route(url, &["admin", "models", model, "disagreements"])?;
                route.query_pairs_mut().append_pair("limit", &limit.to_string());
                self.ask_at(Method::GET, route, None).await
            }
            Self::Direct(app) => Ok(app.services.models.disagreements(model, page).await?),
        }
    }

    pub async fn end_shadow(&self, model: &str) -> Result<(), CliError> {
        match self {
            Self::Server { .. } => self.ask(Method::DELETE, &["admin", "models", model, "shadow"], None).await,
            Self::Direct(app) => Ok(app.services.models.end_shadow(model, Actor::Command).await?),
        }
    }

    pub async fn job(&self, job: JobId) -> Result<Job, CliError> {
        match self {
            Self::Server { .. } => self.ask(Method::GET, &["admin", "jobs", &job.to_string()], None).await,
            Self::Direct(app) => Ok(app.services.upkeep.get_job(job).await?),
        }
    }

    /// Retires a model and submits the job that deletes what belongs to it; in this process it is worked on as well.
    pub async fn retire(&mut self, model: &str, force: bool) -> Result<Job, CliError> {
        match self {
            Self::Server { .. } => {
                let path = ["admin", "models", model, "retire"];
                self.ask(Method::POST, &path, Some(json!({"force": force}))).await
            }
            Self::Direct(app) => {
                let (job, _) = app.services.models.retire_model(model, force, Actor::Command).await?;
                app.work_on_jobs(&[Lane::Erasure]);
                Ok(job)
            }
        }
    }

    pub async fn audit(&self, limit: u32) -> Result<Page<AuditEntry>, CliError> {
        let page = PageRequest::new(Some(limit), None).map_err(|error| CliError::Usage(error.to_string()))?;
        match self {
            Self::Server { url, .. } => {
                let route = format!("{url}/admin/audit?limit={limit}");
                self.ask_at(Method::GET, reqwest::Url::parse(&route).map_err(|_| no_address(url))?, None).await
            }
            Self::Direct(app) => Ok(app.services.models.audit(page).await?),
        }
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &[&str],
        body: Option<Value>,
    ) -> Result<T, CliError> {
        let Self::Server { url, .. } = self else {
            return Err(CliError::Usage("no server to send this to".to_owned()));
        };
        self.ask_at(method, route(url, path)?, body).await
    }

    async fn ask_at<T: DeserializeOwned>(
        &self,
        method: Method,
        route: reqwest::Url,
        body: Option<Value>,
    ) -> Result<T, CliError> {
        let Self::Server { client, url, key, .. } = self else {
            return Err(CliError::Usage("no server to send this to".to_owned()));
        };
        let request = client.request(method, route);
        let request = match &body {
            Some(body) => request.json(body),
            None => request,
        };
        self.answer(request, url, key.as_ref()).await
    }
}

/// The address of what a server has at a path.
fn route(url: &str, path: &[&str]) -> Result<reqwest::Url, CliError> {
    let mut route = reqwest::Url::parse(url).map_err(|_| no_address(url))?;
    if let Ok(mut segments) = route.path_segments_mut() {
        segments.pop_if_empty().extend(path);
    }
    Ok(route)
}

fn no_address(url: &str) -> CliError {
    CliError::Usage(format!("{url} is not an address such as http://127.0.0.1:8080"))
}
