use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{CliError, progress_bar, reach_galleries};
use crate::config::ConfigArgs;
use crate::gallery::Galleries;
use crate::registry::Registry;
use crate::service::DEFAULT_GALLERY_NAME;
use crate::transfer::{ExportRequest, Exported, export};
use crate::types::Name;

/// Bytes that are written at once.
const BUFFER: usize = 1 << 20;

/// Write a gallery to a file: a line of JSON for each face
///
/// It is the gallery as it is at one moment; a server may run and write to it meanwhile. The file holds biometric data:
/// only its owner may read it.
///
/// Example: faceid export staff.jsonl --gallery staff
#[derive(clap::Args)]
pub struct Export {
    /// File to write, or - for standard output
    file: PathBuf,
    /// Gallery to write
    #[arg(long, default_value = DEFAULT_GALLERY_NAME, value_parser = super::parse_name)]
    gallery: Name,
    /// Model whose embeddings to write, by name or sha256 [default: the active one]
    #[arg(long)]
    model: Option<String>,
    /// Leave out the chips, which another model would need to embed the faces anew
    #[arg(long)]
    no_chips: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

impl Export {
    pub async fn run(self) -> Result<ExitCode, CliError> {
        let (database, galleries) = reach_galleries(self.config).await?;
        let registry = Registry::new(database.pools());
        let request = ExportRequest { gallery: self.gallery, model: self.model, chips: !self.no_chips };
        let exported = write_to(&self.file, &galleries, &registry, &request).await;
        database.close().await;
        let exported = exported?;
        let text = match self.json {
            true => serde_json::to_string_pretty(&exported).map_err(|error| CliError::Render(error.to_string()))?,
            false => describe(&exported),
        };
        if is_standard(&self.file) {
            eprintln!("{text}");
        } else {
            super::say(format_args!("{text}"));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Whether a path means standard input or output.
pub fn is_standard(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Writes to a file of another name first, so that a file under the right name is whole.
async fn write_to(
    path: &Path,
    galleries: &Galleries,
    registry: &Registry,
    request: &ExportRequest,
) -> Result<Exported, CliError> {
    if is_standard(path) {
        return run_export(galleries, registry, request, std::io::stdout()).await;
    }
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let file = create(&part).map_err(CliError::io(format!("cannot write {}", part.display())))?;
    let exported = match run_export(galleries, registry, request, file).await {
        Ok(exported) => std::fs::rename(&part, path).map(|()| exported).map_err(CliError::io(format!(
            "cannot rename {} to {}",
            part.display(),
            path.display()
        ))),
        Err(error) => Err(error),
    };
    if exported.is_err() {
        // What is left of it is of no use; the error that is reported matters more than one here.
        let _ = std::fs::remove_file(&part);
    }
    exported
}

pub(super) fn create(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

async fn run_export(
    galleries: &Galleries,
    registry: &Registry,
    request: &ExportRequest,
    out: impl Write + Send + 'static,
) -> Result<Exported, CliError> {
    let bar = progress_bar(Some(0), "{bar:30} {human_pos}/{human_len} faces  {per_sec}  {eta} left");
    let exported = export(galleries, registry, request, BufWriter::with_capacity(BUFFER, out), |faces, total| {
        bar.set_length(total);
        bar.set_position(faces);
    })
    .await;
    bar.finish();
    Ok(exported?)
}

fn describe(exported: &Exported) -> String {
    let Exported { gallery, subjects, faces, left_out, unreadable_chips, .. } = exported;
    let mut text = format!("exported {faces} faces of {subjects} subjects of the gallery {gallery}");
    if *left_out > 0 {
        text += &format!("\n  left out {left_out} faces that have neither an embedding of this model nor a chip here");
    }
    if *unreadable_chips > 0 {
        text +=
            &format!("\n  {unreadable_chips} chips cannot be read and are not in it: they or their keys are damaged");
    }
    text
}
