//! `faceid migrate-from`: a file for what the sources have in common, one for what is said at the end.

mod compreface;
mod outcome;
mod session;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;

use super::CliError;
use crate::config::Secret;
use crate::migration::{self, Layout, MigrationError, Source};
use crate::service::DEFAULT_GALLERY_NAME;
use crate::types::Name;
use session::{Common, Session};

/// Take over the people of another product: photos are found and embedded anew, so nobody is enrolled again by hand
///
/// It works on the database, whether or not a server runs on it. What is there already is passed over: a migration that was
/// stopped goes on when it is begun again. The exit code is 1 if something was refused.
///
/// Example: faceid migrate-from compreface --from postgres://postgres:postgres@localhost/frs
#[derive(clap::Args)]
pub struct MigrateFrom {
    #[command(subcommand)]
    source: Product,
}

#[derive(Subcommand)]
enum Product {
    Compreface(compreface::FromCompreface),
    Deepface(FromDeepFace),
    InsightfaceServer(FromInsightFace),
    Folder(FromFolder),
    Csv(FromCsv),
}

/// Take over what DeepFace keeps: its pickles with their photos, or its PostgreSQL with the crops in it
///
/// A pickle is read as data and never run. A photo is of the person whose folder it lies in, or after whom it is called.
///
/// Example: faceid migrate-from deepface --from db/ds_model_vggface_detector_opencv_aligned_normalization_base_expand_0.pkl --gallery staff
#[derive(clap::Args)]
struct FromDeepFace {
    /// A pickle (ds_model_*.pkl), or the URL of a PostgreSQL; as a flag its password shows in the list of processes, as a variable
    /// it does not
    #[arg(long, env = "FACEID_MIGRATE_FROM", hide_env_values = true, value_name = "FILE|URL")]
    from: Secret,
    /// Folder that the photos lie in, as they lay in that of DeepFace [default: where the pickle is]
    #[arg(long, value_name = "DIR")]
    photos: Option<PathBuf>,
    /// Take embeddings that are without photo or crop as those of this model of ours, by name or sha256
    #[arg(long)]
    model: Option<String>,
    #[command(flatten)]
    into: Into,
    #[command(flatten)]
    common: Common,
}

/// Take over answers of InsightFace-REST that were kept, or face samples of InsightFace Server, as JSON
///
/// Answers in a folder within --from are of whom it is named after, others of whom their file is, unless they have a member `subject`.
/// With `return_face_data`, answers have chips, which are used as they are. How to write the face samples of InsightFace Server is
/// in docs/migrate.md.
///
/// Example: faceid migrate-from insightface-server --from answers/ --gallery staff
#[derive(clap::Args)]
struct FromInsightFace {
    /// A file of JSON, one value or one on each line, or a folder of such files (*.json, *.jsonl)
    #[arg(long, value_name = "PATH")]
    from: PathBuf,
    /// Take embeddings that are without a crop as those of this model of ours, by name or sha256
    #[arg(long)]
    model: Option<String>,
    #[command(flatten)]
    into: Into,
    #[command(flatten)]
    common: Common,
}

/// Take over a folder of photos: one folder for each person
///
/// As `faceid enroll`, but on the database itself, and faster; it looks for no duplicates.
///
/// Example: faceid migrate-from folder --from people/ --gallery staff
#[derive(clap::Args)]
struct FromFolder {
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// All photos lie in the folder itself, and each is called as its person, with or without a number: NAME_0001.jpg
    #[arg(long)]
    flat: bool,
    #[command(flatten)]
    into: Into,
    #[command(flatten)]
    common: Common,
}

/// Take over a table of photos: CSV with the columns `subject` and `photo`, a path or a file:// URL
///
/// It may have the columns `gallery`, `metadata` (JSON), `created_at` and `id` (the UUID that the face shall have) as well.
///
/// Example: faceid migrate-from csv --from people.csv --gallery staff
#[derive(clap::Args)]
struct FromCsv {
    /// Paths in it are looked for from where it is
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    #[command(flatten)]
    into: Into,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
struct Into {
    /// Gallery for the faces, created if there is none
    #[arg(long, default_value = DEFAULT_GALLERY_NAME, value_parser = super::parse_name)]
    gallery: Name,
}

impl MigrateFrom {
    pub async fn run(self) -> Result<ExitCode, CliError> {
        match self.source {
            Product::Compreface(command) => command.run().await,
            Product::Deepface(command) => command.run().await,
            Product::InsightfaceServer(FromInsightFace { from, model, into, common }) => {
                let source = migration::answers(&from, common.face, &into.gallery)?;
                take_over(source, common, model.as_deref()).await
            }
            Product::Folder(FromFolder { from, flat, into, common }) => {
                let layout = if flat { Layout::Flat } else { Layout::Folders };
                take_over(read(move || migration::folder(&from, layout, &into.gallery)).await?, common, None).await
            }
            Product::Csv(FromCsv { from, into, common }) => {
                take_over(read(move || migration::table(&from, &into.gallery)).await?, common, None).await
            }
        }
    }
}

impl FromDeepFace {
    async fn run(self) -> Result<ExitCode, CliError> {
        let Self { from, photos, model, into, common } = self;
        let is_url = ["postgres://", "postgresql://"].iter().any(|scheme| from.expose().starts_with(scheme));
        let source = if is_url {
            migration::deepface_database(&from, photos.as_deref(), &into.gallery).await?
        } else {
            let path = PathBuf::from(from.expose());
            read(move || migration::deepface_pickle(&path, photos.as_deref(), &into.gallery)).await?
        };
        take_over(source, common, model.as_deref()).await
    }
}

/// Reads files on a thread that may wait for a disk.
async fn read(
    work: impl FnOnce() -> Result<Source, MigrationError> + Send + 'static,
) -> Result<Source, MigrationError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| MigrationError::Thread(error.to_string()))?
}

async fn take_over(source: Source, common: Common, embeddings_of: Option<&str>) -> Result<ExitCode, CliError> {
    let mut session = Session::open(common, embeddings_of).await?;
    let done = session.run(source).await;
    session.close(done).await
}
