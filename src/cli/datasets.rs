use std::path::PathBuf;
use std::process::ExitCode;

use super::client::ServerArgs;
use super::{CliError, jobs};
use crate::service::answers::Job;
use crate::service::requests::{DatasetRequest, Expiry};
use crate::types::Name;

/// Bring a server photos of many people at once
///
/// Example: faceid datasets upload people.zip --gallery gate-3 --server http://127.0.0.1:8080
#[derive(clap::Args)]
pub struct Datasets {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    Upload(Upload),
}

/// Upload a ZIP archive, and follow the job that enrolls its photos until it is finished
///
/// The archive has one folder for each person, named after the person. The largest face of each photo is taken; what is
/// enrolled already is left as it is. `faceid retrain` learns from the gallery.
#[derive(clap::Args)]
struct Upload {
    /// The archive
    file: PathBuf,
    /// Gallery to enroll into; created if there is none
    #[arg(long, value_parser = super::parse_name)]
    gallery: Name,
    /// When the people expire, and are erased with all their faces, such as 2030-01-31T12:00:00Z
    #[arg(long, value_parser = super::parse_expiry, value_name = "TIME")]
    expires_at: Option<Expiry>,
    /// When the faces that are enrolled expire, and are erased
    #[arg(long, value_parser = super::parse_expiry, value_name = "TIME")]
    face_expires_at: Option<Expiry>,
    /// Print the job as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

impl Datasets {
    pub async fn run(self) -> Result<ExitCode, CliError> {
        match self.action {
            Action::Upload(upload) => upload.run().await,
        }
    }
}

impl Upload {
    async fn run(self) -> Result<ExitCode, CliError> {
        let server = self.server.open()?;
        let (expires_at, face_expires_at) = (self.expires_at, self.face_expires_at);
        let query = DatasetRequest { gallery: self.gallery, expires_at, face_expires_at };
        let job: Job = server.upload(&["admin", "datasets"], &query, &self.file, "application/zip").await?;
        jobs::follow(&server, job.id, self.json).await
    }
}
