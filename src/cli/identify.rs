use std::path::PathBuf;
use std::process::ExitCode;

use super::backend::{BackendArgs, read_photo};
use super::{CliError, print_json};
use crate::service::DEFAULT_GALLERY_NAME;
use crate::service::answers::Identified;
use crate::service::requests::{FileBytes, IdentifyRequest, TopK};
use crate::types::{Name, Threshold};

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
    #[arg(long, default_value = "5", value_parser = parse_top_k, value_name = "N")]
    top_k: TopK,
    /// Similarity from which on a face is known, -1..1 [default: what the gallery or the server says]
    #[arg(id = "own_threshold", long = "threshold", value_name = "SIMILARITY", allow_negative_numbers = true,
        value_parser = super::parse_threshold)]
    threshold: Option<Threshold>,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    backend: BackendArgs,
}

fn parse_top_k(text: &str) -> Result<TopK, String> {
    let count: u32 = text.parse().unwrap_or_default();
    TopK::try_from(count).map_err(|error| error.to_string())
}

impl Identify {
    pub async fn run(self) -> Result<ExitCode, CliError> {
        let photo = read_photo(&self.file).await?;
        let backend = self.backend.open().await?;
        let request = IdentifyRequest {
            top_k: self.top_k,
            threshold: self.threshold,
            ..IdentifyRequest::new(FileBytes(photo), self.gallery)
        };
        let answer = backend.identify(request).await;
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
