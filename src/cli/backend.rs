//! Where a command does its work: at a running server, or in this process.

use std::path::Path;

use bytes::Bytes;

use super::client::{Client, Patience, Trust};
use super::{CliError, configure};
use crate::app::{App, AppError};
use crate::config::{ConfigArgs, Secret, Settings};
use crate::db::DbError;
use crate::gallery::{GalleryError, OnDoubt};
use crate::http::Code;
use crate::service::answers::{Duplicate, Enrolled, Gallery, Identified, Verified};
use crate::service::requests::{EnrollRequest, Expiry, FaceChoice, FileBytes, IdentifyRequest, VerifyRequest};
use crate::service::{ServiceError, StartProgress};
use crate::types::Name;

/// Flags of every command that recognises faces.
#[derive(clap::Args)]
pub struct BackendArgs {
    /// Let a running server do the work; without it, this process opens database and networks itself
    #[arg(long, env = "FACEID_SERVER", value_name = "URL")]
    server: Option<String>,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    trust: Trust,
    #[command(flatten)]
    config: ConfigArgs,
}

/// What came of a photo to enroll.
pub enum EnrolledPhoto {
    New(Box<Enrolled>),
    AlreadyThere,
}

pub enum Backend {
    Server(Client),
    Direct(Box<App>),
}

impl BackendArgs {
    pub async fn open(self) -> Result<Backend, CliError> {
        self.open_with(|settings| settings.client_key).await
    }

    /// As [`Self::open`], for what only the admin key opens.
    pub async fn open_as_admin(self) -> Result<Backend, CliError> {
        self.open_with(|settings| settings.admin_key).await
    }

    async fn open_with(self, key: fn(Settings) -> Option<Secret>) -> Result<Backend, CliError> {
        if let Some(server) = self.server {
            return Client::new(&server, self.patience, &self.trust, key(self.config.said()?)).map(Backend::Server);
        }
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

/// What is said of all photos of a folder.
#[derive(Clone)]
pub struct Usual {
    pub gallery: Name,
    /// Of the people.
    pub expires_at: Option<Expiry>,
    pub face_expires_at: Option<Expiry>,
}

impl Backend {
    /// Fails, once and clearly, when there is no such gallery or nobody to ask.
    pub async fn check_gallery(&self, gallery: &Name) -> Result<(), CliError> {
        match self {
            Self::Server(client) => client.get::<Gallery>(&["galleries", gallery.as_str()], &()).await.map(drop),
            Self::Direct(app) => Ok(app.for_command().enrolment.get_gallery(gallery.as_str()).await.map(drop)?),
        }
    }

    /// Enrolls the largest face of a photo, unless the very same photo was enrolled for this subject before.
    pub async fn enroll(&self, usual: &Usual, subject: &Name, photo: Bytes) -> Result<EnrolledPhoto, CliError> {
        let request = |on_duplicate| EnrollRequest {
            face: FaceChoice::Largest,
            on_duplicate,
            expires_at: usual.expires_at,
            face_expires_at: usual.face_expires_at,
            ..EnrollRequest::new(FileBytes(photo.clone()), subject.clone(), usual.gallery.clone())
        };
        let is_own = |other: &Duplicate| {
            other.subject == subject.as_str() || other.subject_id.to_string() == subject.as_str().to_lowercase()
        };
        // What is refused for a duplicate is looked at: only its own face is a reason to leave a photo out.
        match self.enroll_face(request(OnDoubt::Reject)).await {
            Ok(enrolled) => return Ok(EnrolledPhoto::New(Box::new(enrolled))),
            Err(error) => {
                let duplicates = refused_for(error)?;
                if duplicates.iter().any(|other| other.same_image && is_own(other)) {
                    return Ok(EnrolledPhoto::AlreadyThere);
                }
            }
        }
        Ok(EnrolledPhoto::New(Box::new(self.enroll_face(request(OnDoubt::Warn)).await?)))
    }

    async fn enroll_face(&self, request: EnrollRequest) -> Result<Enrolled, CliError> {
        match self {
            Self::Server(client) => client.send(&["enroll"], &request, vec![("image", request.image.0.clone())]).await,
            Self::Direct(app) => Ok(app.for_command().enrolment.enroll(request, None).await?.answer),
        }
    }

    pub async fn identify(&self, request: IdentifyRequest) -> Result<Identified, CliError> {
        match self {
            Self::Server(client) => {
                client.send(&["identify"], &request, vec![("image", request.image.0.clone())]).await
            }
            Self::Direct(app) => Ok(app.for_command().recognition.identify(request).await?),
        }
    }

    pub async fn verify(&self, request: VerifyRequest) -> Result<Verified, CliError> {
        match self {
            Self::Server(client) => {
                let files = vec![("image_a", request.image_a.0.clone()), ("image_b", request.image_b.0.clone())];
                client.send(&["verify"], &request, files).await
            }
            Self::Direct(app) => Ok(app.for_command().recognition.verify(request).await?),
        }
    }

    /// Ends what [`BackendArgs::open`] started.
    pub async fn close(self) {
        if let Self::Direct(app) = self {
            app.stop().await;
        }
    }
}

/// The subjects whose faces a photo matches, if it was refused for that.
fn refused_for(error: CliError) -> Result<Vec<Duplicate>, CliError> {
    match error {
        CliError::Service(ServiceError::Gallery(GalleryError::DuplicateFace { matches })) => {
            Ok(matches.into_iter().map(Duplicate::from).collect())
        }
        CliError::Problem(problem) if problem.code == Code::DuplicateFace => Ok(problem.duplicates),
        error => Err(error),
    }
}

/// Reads a photo from disk.
pub async fn read_photo(path: &Path) -> Result<Bytes, CliError> {
    let bytes = tokio::fs::read(path).await.map_err(CliError::io(format!("cannot read {}", path.display())))?;
    Ok(bytes.into())
}
