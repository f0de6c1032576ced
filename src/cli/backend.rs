//! Where a command does its work: at a running server, or in this process.

use std::path::Path;

use bytes::Bytes;

use reqwest::multipart::{Form, Part};
use reqwest::{RequestBuilder, Response};
use serde::de::DeserializeOwned;

use super::client::{Patience, Progress};
use super::{CliError, configure};
use crate::app::{App, AppError};
use crate::config::{ConfigArgs, Secret, Settings};
use crate::db::DbError;
use crate::gallery::{GalleryError, Metadata, OnDoubt, Policy};
use crate::http::{Code, Problem};
use crate::service::answers::{Duplicate, Enrolled, Identified, Verified};
use crate::service::{
    EnrollRequest, FaceChoice, IdentifyRequest, PhotoBytes, QualityDemand, ServiceError, StartProgress, VerifyRequest,
};
use crate::types::{Name, Threshold};
use crate::vision::Wanted;

/// Flags of every command that recognises faces.
#[derive(clap::Args)]
pub struct BackendArgs {
    /// Let a running server do the work; without it, this process opens database and networks itself
    #[arg(long, env = "FACEID_SERVER", value_name = "URL")]
    server: Option<String>,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    config: ConfigArgs,
}

/// What came of a photo to enroll.
pub enum EnrolledPhoto {
    New(Box<Enrolled>),
    AlreadyThere,
}

pub enum Backend {
    Server { client: reqwest::Client, patience: Patience, url: String, key: Option<Secret> },
    Direct(Box<App>),
}

impl BackendArgs {
    /// The threshold that was asked for with `--threshold` or the like.
    pub fn threshold(&self) -> Result<Option<Threshold>, CliError> {
        let asked = self.config.settings.threshold;
        asked.map(|value| Threshold::try_from(value).map_err(|error| CliError::Usage(error.to_string()))).transpose()
    }

    pub async fn open(self) -> Result<Backend, CliError> {
        self.open_with(|settings| settings.client_key).await
    }

    /// As [`Self::open`], for what only the admin key opens.
    pub async fn open_as_admin(self) -> Result<Backend, CliError> {
        self.open_with(|settings| settings.admin_key).await
    }

    async fn open_with(self, key: fn(Settings) -> Option<Secret>) -> Result<Backend, CliError> {
        match self.server {
            Some(url) => Ok(Backend::Server {
                client: self.patience.client()?,
                patience: self.patience,
                url: url.trim_end_matches('/').to_owned(),
                key: key(self.config.said()?),
            }),
            None => {
                let mut args = self.config;
                // A progress bar and a log do not go well together, unless the log was asked for.
                args.settings.log.get_or_insert_with(|| "warn".to_owned());
                let config = configure(args)?;
                match App::open(&config, &StartProgress::default()).await {
                    Ok(app) => Ok(Backend::Direct(Box::new(app))),
                    Err(AppError::Db(error @ DbError::DataDirInUse { .. })) => {
                        Err(CliError::Usage(format!("{error}; or let the server do the work: --server URL")))
                    }
                    Err(error) => Err(error.into()),
                }
            }
        }
    }
}

impl Backend {
    /// Fails, once and clearly, when there is no such gallery or nobody to ask.
    pub async fn check_gallery(&self, gallery: &Name) -> Result<(), CliError> {
        match self {
            Self::Server { client, url, key, .. } => {
                let mut route = reqwest::Url::parse(&format!("{url}/galleries/")).map_err(|error| {
                    CliError::Usage(format!("{url} is not an address such as http://127.0.0.1:8080: {error}"))
                })?;
                if [".", ".."].contains(&gallery.as_str()) {
                    let why =
                        "no path can hold the name of this gallery; GET /galleries tells its id, which serves as well";
                    return Err(CliError::Usage(why.to_owned()));
                }
                if let Ok(mut path) = route.path_segments_mut() {
                    path.pop_if_empty().push(gallery.as_str());
                }
                self.answer::<serde_json::Value>(client.get(route), url, key.as_ref()).await?;
            }
            Self::Direct(app) => {
                app.services.enrolment.get_gallery(gallery.as_str()).await?;
            }
        }
        Ok(())
    }

    /// Enrolls the largest face of a photo, unless the very same photo was enrolled for this subject before.
    pub async fn enroll(&self, gallery: &Name, subject: &Name, photo: Bytes) -> Result<EnrolledPhoto, CliError> {
        // What is refused for a duplicate is looked at: only its own face is a reason to leave a photo out.
        let refused = match self.enroll_with(OnDoubt::Reject, gallery, subject, photo.clone()).await? {
            Ok(enrolled) => return Ok(EnrolledPhoto::New(Box::new(enrolled))),
            Err(duplicates) => duplicates,
        };
        let is_own = |other: &Duplicate| {
            other.subject == subject.as_str() || other.subject_id.to_string() == subject.as_str().to_lowercase()
        };
        if refused.iter().any(|other| other.same_image && is_own(other)) {
            return Ok(EnrolledPhoto::AlreadyThere);
        }
        match self.enroll_with(OnDoubt::Warn, gallery, subject, photo).await? {
            Ok(enrolled) => Ok(EnrolledPhoto::New(Box::new(enrolled))),
            Err(_) => Err(CliError::Refused("the photo was refused as a duplicate, which nobody asked for".to_owned())),
        }
    }

    /// The subjects whose faces it matches, if the face is refused for that.
    async fn enroll_with(
        &self,
        on_duplicate: OnDoubt,
        gallery: &Name,
        subject: &Name,
        photo: Bytes,
    ) -> Result<Result<Enrolled, Vec<Duplicate>>, CliError> {
        match self {
            Self::Server { client, url, key, .. } => {
                let form = Form::new()
                    .text("gallery", gallery.to_string())
                    .text("subject", subject.to_string())
                    .text("face", "largest")
                    .text("on_duplicate", if on_duplicate == OnDoubt::Reject { "reject" } else { "warn" })
                    .part("image", part(photo));
                let request = with_key(client.post(format!("{url}/enroll")).multipart(form), key.as_ref());
                let response = request.send().await.map_err(|error| CliError::unreachable(url, &error))?;
                match checked(response, url).await? {
                    Ok(response) => Ok(Ok(read_body(response, url).await?)),
                    Err(Problem { code: Code::DuplicateFace, duplicates, .. }) => Ok(Err(duplicates)),
                    Err(problem) => Err(CliError::Refused(problem.detail)),
                }
            }
            Self::Direct(app) => {
                let request = EnrollRequest {
                    image: PhotoBytes { field: "image", bytes: photo },
                    subject: subject.clone(),
                    gallery: gallery.clone(),
                    metadata: Metadata::default(),
                    on_duplicate,
                    on_mismatch: OnDoubt::Warn,
                    face: FaceChoice::Largest,
                    quality: QualityDemand::Usable,
                    wanted: Wanted::one(),
                };
                match app.services.enrolment.enroll(request).await {
                    Ok(enrolled) => Ok(Ok(enrolled)),
                    Err(ServiceError::Gallery(GalleryError::DuplicateFace { matches })) => {
                        Ok(Err(matches.into_iter().map(Duplicate::from).collect()))
                    }
                    Err(error) => Err(error.into()),
                }
            }
        }
    }

    pub async fn identify(
        &self,
        gallery: &Name,
        top_k: u32,
        threshold: Option<Threshold>,
        photo: Bytes,
    ) -> Result<Identified, CliError> {
        match self {
            Self::Server { .. } => {
                let form = Form::new()
                    .text("gallery", gallery.to_string())
                    .text("top_k", top_k.to_string())
                    .part("image", part(photo));
                self.post("/identify", with_threshold(form, threshold)).await
            }
            Self::Direct(app) => {
                let image = PhotoBytes { field: "image", bytes: photo };
                let gallery = gallery.clone();
                Ok(app
                    .services
                    .recognition
                    .identify(IdentifyRequest {
                        image,
                        gallery,
                        top_k,
                        wanted: Wanted::default(),
                        policy: threshold.map(by_threshold),
                        unique_subjects: true,
                    })
                    .await?)
            }
        }
    }

    pub async fn verify(&self, a: Bytes, b: Bytes, threshold: Option<Threshold>) -> Result<Verified, CliError> {
        match self {
            Self::Server { .. } => {
                let form = Form::new().part("image_a", part(a)).part("image_b", part(b));
                self.post("/verify", with_threshold(form, threshold)).await
            }
            Self::Direct(app) => {
                let image_a = PhotoBytes { field: "image_a", bytes: a };
                let image_b = PhotoBytes { field: "image_b", bytes: b };
                Ok(app
                    .services
                    .recognition
                    .verify(VerifyRequest {
                        image_a,
                        image_b,
                        policy: threshold.map(by_threshold),
                        wanted: Wanted::one(),
                    })
                    .await?)
            }
        }
    }

    /// Ends what [`BackendArgs::open`] started.
    pub async fn close(self) {
        if let Self::Direct(app) = self {
            app.stop().await;
        }
    }

    pub(super) async fn post<T: DeserializeOwned>(&self, route: &str, form: Form) -> Result<T, CliError> {
        let Self::Server { client, url, key, .. } = self else {
            return Err(CliError::Usage("no server to send this to".to_owned()));
        };
        self.answer(client.post(format!("{url}{route}")).multipart(form), url, key.as_ref()).await
    }

    /// Posts a form with a large file, which may take as long as it gets on.
    pub(super) async fn upload<T: DeserializeOwned>(
        &self,
        route: &str,
        form: Form,
        progress: &Progress,
    ) -> Result<T, CliError> {
        let Self::Server { patience, url, key, .. } = self else {
            return Err(CliError::Usage("no server to send this to".to_owned()));
        };
        let mut request = patience.uploader()?.post(format!("{url}{route}")).multipart(form);
        request = with_key(request, key.as_ref());
        progress.send(request, url, *patience).await
    }

    /// Sends a request with the key, and reads the answer or the problem.
    pub(super) async fn answer<T: DeserializeOwned>(
        &self,
        request: RequestBuilder,
        url: &str,
        key: Option<&Secret>,
    ) -> Result<T, CliError> {
        read_answer(with_key(request, key), url).await
    }
}

fn with_key(request: RequestBuilder, key: Option<&Secret>) -> RequestBuilder {
    match key {
        Some(key) => request.header("x-api-key", key.expose()),
        None => request,
    }
}

/// Sends a request to the server at `url`, and reads the answer or the problem.
pub async fn read_answer<T: DeserializeOwned>(request: RequestBuilder, url: &str) -> Result<T, CliError> {
    let response = request.send().await.map_err(|error| CliError::unreachable(url, &error))?;
    read_body(check(response, url).await?, url).await
}

async fn read_body<T: DeserializeOwned>(response: Response, url: &str) -> Result<T, CliError> {
    let body = response.bytes().await.map_err(|error| CliError::unreachable(url, &error))?;
    // An answer without a body is `()`.
    let body: &[u8] = if body.is_empty() { b"null" } else { &body };
    serde_json::from_slice(body)
        .map_err(|error| CliError::Refused(format!("{url} answered something else than faceid does: {error}")))
}

/// An answer that is a success, or what the problem is.
pub async fn check(response: Response, url: &str) -> Result<Response, CliError> {
    checked(response, url).await?.map_err(|problem| CliError::Refused(problem.detail))
}

async fn checked(response: Response, url: &str) -> Result<Result<Response, Problem>, CliError> {
    let status = response.status();
    if status.is_success() {
        return Ok(Ok(response));
    }
    let body = response.bytes().await.map_err(|error| CliError::unreachable(url, &error))?;
    let problem = serde_json::from_slice(&body);
    problem.map(Err).map_err(|_| CliError::Refused(format!("{url} answered {status}")))
}

fn part(photo: Bytes) -> Part {
    let length = photo.len() as u64;
    Part::stream_with_length(photo, length).file_name("photo")
}

fn by_threshold(threshold: Threshold) -> Policy {
    Policy::Threshold(threshold.get())
}

fn with_threshold(form: Form, threshold: Option<Threshold>) -> Form {
    match threshold {
        Some(threshold) => form.text("threshold", threshold.get().to_string()),
        None => form,
    }
}

/// Reads a photo from disk.
pub async fn read_photo(path: &Path) -> Result<Bytes, CliError> {
    let bytes = tokio::fs::read(path).await.map_err(CliError::io(format!("cannot read {}", path.display())))?;
    Ok(bytes.into())
}
