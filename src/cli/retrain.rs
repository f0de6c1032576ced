use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Map, Value};

use super::client::ServerArgs;
use super::{CliError, jobs, print_json, say};
use crate::service::DEFAULT_GALLERY_NAME;
use crate::service::answers::Job;
use crate::service::requests::{RetrainBase, RetrainRequest};
use crate::types::{Name, without_mark};

/// Let a server train an embedder on the faces of a gallery
///
/// The result becomes a candidate, and a gate says whether it is better than the active model.
///
/// Example: faceid retrain --server http://127.0.0.1:8080 --gallery staff --follow
#[derive(clap::Args)]
pub struct Retrain {
    /// Gallery to learn from
    #[arg(long, default_value = DEFAULT_GALLERY_NAME, value_parser = super::parse_name)]
    gallery: Name,
    /// Train a small network from nothing rather than adapt the active model
    #[arg(long)]
    from_scratch: bool,
    /// Galleries that must not suffer, separated by commas [default: others with enough people, 30 at most]
    #[arg(long, value_delimiter = ',', value_parser = super::parse_name, value_name = "NAME")]
    protected: Option<Vec<Name>>,
    /// Batches to train on
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// From which all that looks random follows
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Share of the people to test with, 0 to 1
    #[arg(long, value_name = "SHARE")]
    test_share: Option<f64>,
    /// Further settings as TOML; see `faceid train --print-recipe`
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
    /// Name of the candidate
    #[arg(long, value_parser = super::parse_name)]
    name: Option<Name>,
    /// Promote the candidate if it passes the gate
    #[arg(long)]
    promote: bool,
    /// Show how it goes on, until it is finished
    #[arg(long)]
    follow: bool,
    /// Print the job as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

impl Retrain {
    pub async fn run(self) -> Result<ExitCode, CliError> {
        let request = RetrainRequest {
            gallery: self.gallery,
            base: if self.from_scratch { RetrainBase::Scratch } else { RetrainBase::Active },
            protected: self.protected,
            steps: self.steps,
            seed: self.seed,
            test_share: self.test_share,
            recipe: self.recipe.as_deref().map(read_recipe).transpose()?,
            name: self.name,
            promote: self.promote,
        };
        let server = self.server.open()?;
        let job: Job = server.post(&["admin", "retrain"], &request).await?;
        if self.follow {
            return jobs::follow(&server, job.id, self.json).await;
        }
        if self.json {
            print_json(&job)?;
        } else {
            say(format_args!("job {} is {}", job.id, job.state.name()));
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn read_recipe(file: &Path) -> Result<Map<String, Value>, CliError> {
    let text = std::fs::read_to_string(file).map_err(CliError::io(format!("cannot read {}", file.display())))?;
    toml::from_str(without_mark(&text)).map_err(|error| CliError::Usage(error.to_string()))
}
