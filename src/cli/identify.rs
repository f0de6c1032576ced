use std::path::PathBuf;
use std::process::ExitCode;

use super::backend::{BackendArgs, read_photo};
use super::{CliError, print_json};
use crate::service::DEFAULT_GALLERY_NAME;
use crate::service::answers::Identified;
use crate::types::Name;

/// Say whom the faces of a photo resemble
///
/// Example: faceid identify group.jpg --server http://127.0.0.1:8080
#[derive(clap::Args)]
pub struct Identify {
    /// The photo
    file: PathBuf,
    /// Gallery to search
    #[arg(long, default_value = DEFAULT_GALLERY_NAME, value_parser = super::parse_name)]
    gallery: Name,
    /// Subjects per face
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100), value_name = "N")]
    top_k: u32,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    backend: BackendArgs,
}

impl Identify {
    pub async fn run(self) -> Result<ExitCode, CliError> {
        let photo = read_photo(&self.file).await?;
        let threshold = self.backend.threshold()?;
        let backend = self.backend.open().await?;
        let answer = backend.identify(&self.gallery, self.top_k, threshold, photo).await;
        backend.close().await;
        let answer = answer?;
        if self.json {
            print_json(&answer)?
        } else {
            print_table(&answer)
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn print_table(answer: &Identified) {
    if answer.faces.is_empty() {
        super::say(format_args!("no face was found"));
    }
    for (number, face) in (1..).zip(&answer.faces) {
        let area = face.face.bounding_box;
        let verdict = match (face.known, face.ambiguous) {
            (true, _) => "known",
            (_, true) => "one of the first, and nobody can say which",
            _ => "unknown",
        };
        super::say(format_args!(
            "face {number} at {:.0},{:.0} ({:.0}x{:.0}): {verdict}",
            area.x, area.y, area.width, area.height
        ));
        for found in &face.matches {
            let probability = found.probability.map(|p| format!("  {:6.2} %", p * 100.0)).unwrap_or_default();
            super::say(format_args!("  {:.3}{probability}  {}", found.similarity, found.subject));
        }
    }
}
