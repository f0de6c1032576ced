//! Where a command does its work: at a running server, or in this process.

use std::path::Path;

use bytes::Bytes;

use super::client::{Client, Patience};
use super::{CliError, configure};
use crate::app::{App, AppError};
use crate::config::{ConfigArgs, Secret, Settings};
use crate::db::DbError;
use crate::service::StartProgress;
use crate::service::answers::{Enrolled, Gallery, Identified, Verified};
use crate::service::requests::{EnrollRequest, IdentifyRequest, VerifyRequest};
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
    config: ConfigArgs,
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
            return Client::new(&server, self.patience, key(self.config.said()?)).map(Backend::Server);
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

impl Backend {
    /// Fails, once and clearly, when there is no such gallery or nobody to ask.
    pub async fn check_gallery(&self, gallery: &Name) -> Result<(), CliError> {
        match self {
            Self::Server(client) => client.get::<Gallery>(&["galleries", gallery.as_str()], &()).await.map(drop),
            Self::Direct(app) => Ok(app.services.enrolment.get_gallery(gallery.as_str()).await.map(drop)?),
        }
    }

    pub async fn enroll(&self, request: EnrollRequest) -> Result<Enrolled, CliError> {
        match self {
            Self::Server(client) => client.send(&["enroll"], &request, vec![("image", request.image.0.clone())]).await,
            Self::Direct(app) => Ok(app.services.enrolment.enroll(request).await?),
        }
    }

    pub async fn identify(&self, request: IdentifyRequest) -> Result<Identified, CliError> {
        match self {
            Self::Server(client) => {
                client.send(&["identify"], &request, vec![("image", request.image.0.clone())]).await
            }
            Self::Direct(app) => Ok(app.services.recognition.identify(request).await?),
        }
    }

    pub async fn verify(&self, request: VerifyRequest) -> Result<Verified, CliError> {
        match self {
            Self::Server(client) => {
                let files = vec![("image_a", request.image_a.0.clone()), ("image_b", request.image_b.0.clone())];
                client.send(&["verify"], &request, files).await
            }
            Self::Direct(app) => Ok(app.services.recognition.verify(request).await?),
        }
    }

    /// Ends what [`BackendArgs::open`] started.
    pub async fn close(self) {
        if let Self::Direct(app) = self {
            app.stop().await;
        }
    }
}

/// Reads a photo from disk.
pub async fn read_photo(path: &Path) -> Result<Bytes, CliError> {
    let bytes = tokio::fs::read(path).await.map_err(CliError::io(format!("cannot read {}", path.display())))?;
    Ok(bytes.into())
}
