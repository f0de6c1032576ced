use std::path::PathBuf;
use std::process::ExitCode;

use super::backend::{BackendArgs, read_photo};
use super::{CliError, print_json};
use crate::service::requests::{FileBytes, VerifyRequest};
use crate::types::Threshold;

/// Say whether two photos show one person: exit code 0 if so, 1 if not, 2 if it cannot be said
///
/// Example: faceid verify passport.jpg selfie.jpg
#[derive(clap::Args)]
pub struct Verify {
    /// One photo
    image_a: PathBuf,
    /// The other photo
    image_b: PathBuf,
    /// Similarity from which on both are one person, -1..1 [default: what the server says]
    #[arg(id = "own_threshold", long = "threshold", value_name = "SIMILARITY", allow_negative_numbers = true,
        value_parser = super::parse_threshold)]
    threshold: Option<Threshold>,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    backend: BackendArgs,
}

impl Verify {
    pub async fn run(self) -> Result<ExitCode, CliError> {
        match self.compare().await {
            Ok(true) => Ok(ExitCode::SUCCESS),
            Ok(false) => Ok(ExitCode::FAILURE),
            // "No" and "cannot say" must differ for a script.
            Err(error) => {
                eprintln!("faceid: {error}");
                Ok(ExitCode::from(2))
            }
        }
    }

    async fn compare(self) -> Result<bool, CliError> {
        let (a, b) = (read_photo(&self.image_a).await?, read_photo(&self.image_b).await?);
        let backend = self.backend.open().await?;
        let request = VerifyRequest { threshold: self.threshold, ..VerifyRequest::new(FileBytes(a), FileBytes(b)) };
        let answer = backend.verify(request).await;
        backend.close().await;
        let answer = answer?;
        if self.json {
            print_json(&answer)?;
        } else {
            let verdict = if answer.same_person { "the same person" } else { "not the same person" };
            super::say(format_args!(
                "{verdict}: similarity {:.3}, threshold {:.3}",
                answer.similarity, answer.threshold
            ));
        }
        Ok(answer.same_person)
    }
}
