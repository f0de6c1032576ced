use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::CliError;
use super::backend::{Backend, BackendArgs};
use super::export::is_standard;
use crate::service::DEFAULT_GALLERY_NAME;
use crate::service::requests::InGallery;
use crate::types::Name;

/// Answer people who ask what is held about them
#[derive(clap::Args)]
pub struct Persons {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Export(Export),
}

/// Write everything held about a person to a file, as one JSON document
///
/// The subject, its faces with chips and embeddings, templates, and whatever names it. Photos are never stored, so there are none.
///
/// Example: faceid people export Ada ada.json --gallery staff --server http://127.0.0.1:8080
#[derive(clap::Args)]
struct Export {
    /// Name or id of the subject
    #[arg(value_parser = super::parse_name)]
    subject: Name,
    /// The file to write; `-` for standard output
    #[arg(default_value = "-")]
    file: PathBuf,
    /// The gallery that the person is in
    #[arg(long, default_value = DEFAULT_GALLERY_NAME, value_parser = super::parse_name)]
    gallery: Name,
    #[command(flatten)]
    backend: BackendArgs,
}

impl Persons {
    pub async fn run(self) -> Result<ExitCode, CliError> {
        match self.command {
            Command::Export(export) => export.run().await,
        }
    }
}

impl Export {
    async fn run(self) -> Result<ExitCode, CliError> {
        let backend = self.backend.open().await?;
        let written = write_person(&backend, &self.gallery, &self.subject, &self.file).await;
        backend.close().await;
        written.map(|()| ExitCode::SUCCESS)
    }
}

/// Writes to a file of another name first, so that a file under the right name is whole.
async fn write_person(backend: &Backend, gallery: &Name, subject: &Name, path: &Path) -> Result<(), CliError> {
    let failed = |path: &Path| CliError::io(format!("cannot write {}", path.display()));
    if is_standard(path) {
        return read_person(backend, gallery, subject, |piece| {
            std::io::stdout().lock().write_all(piece).map_err(failed(path))
        })
        .await;
    }
    let part = PathBuf::from([path.as_os_str(), ".part".as_ref()].join("".as_ref()));
    let mut file = create(&part).map_err(failed(&part))?;
    let read = read_person(backend, gallery, subject, |piece| file.write_all(piece).map_err(failed(&part))).await;
    let written = read.and_then(|()| std::fs::rename(&part, path).map_err(failed(path)));
    if written.is_err() {
        // What is left of it is of no use; the error that is reported matters more than one here.
        let _ = std::fs::remove_file(&part);
    }
    written
}

/// For nobody else on this machine.
fn create(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

async fn read_person(
    backend: &Backend,
    gallery: &Name,
    subject: &Name,
    mut write: impl FnMut(&[u8]) -> Result<(), CliError>,
) -> Result<(), CliError> {
    match backend {
        Backend::Server(client) => {
            let query = InGallery { gallery: gallery.clone() };
            client.download(&["subjects", subject.as_str(), "export"], &query, write).await
        }
        Backend::Direct(app) => {
            let mut export = app.for_command().enrolment.export_person(gallery, subject.as_str()).await?;
            while let Some(piece) = export.next().await? {
                write(&piece)?;
            }
            Ok(())
        }
    }
}
