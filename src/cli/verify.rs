use std::path::PathBuf;
use std::process::ExitCode;

use super::backend::{BackendArgs, read_photo};
use super::{CliError, print_json};

/// Say whether two photos show one person: exit code 0 if so, 1 if not, 2 if it cannot be said
///
/// Example: faceid verify passport.jpg selfie.jpg
#[derive(clap::Args)]
pub struct Verify {
    /// One photo
    image_a: PathBuf,
    /// The other photo
    image_b: PathBuf,
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
        let threshold = self.backend.threshold()?;
        let backend = self.backend.open().await?;
        let answer = backend.verify(a, b, threshold).await;
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
