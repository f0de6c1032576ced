//! A candidate that answers in the shadow, from the command line.

use std::process::ExitCode;

use clap::Subcommand;

use super::{One, finished, print_json, say};
use crate::cli::CliError;
use crate::service::answers::{Disagreement, ShadowOpinion, ShadowTally};
use crate::service::requests::{ListRequest, ShadowRequest};

#[derive(Subcommand)]
pub enum Shadow {
    /// Embed all faces by a model, then ask it about a share of the live photos as well
    ///
    /// Example: faceid models shadow begin staff-2 --share 0.2
    Begin(Begin),
    /// Show how often it agreed with the active model, and the latest disagreements
    Show(Show),
    /// Ask it no more
    End(One),
}

#[derive(clap::Args)]
pub struct Begin {
    #[command(flatten)]
    one: One,
    /// Share of the photos, more than 0 to 1
    #[arg(long, default_value_t = 0.1, value_name = "SHARE")]
    share: f64,
    /// Begin even if faces have no chip, so that it cannot know them
    #[arg(long)]
    force: bool,
}

#[derive(clap::Args)]
pub struct Show {
    #[command(flatten)]
    one: One,
    /// Disagreements at most
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=200), value_name = "N")]
    limit: u32,
}

impl Shadow {
    pub async fn run(self) -> Result<ExitCode, CliError> {
        match self {
            Self::Begin(begin) => begin.run().await,
            Self::Show(show) => show.run().await,
            Self::End(one) => end(one).await,
        }
    }
}

impl Begin {
    async fn run(self) -> Result<ExitCode, CliError> {
        let One { model, plain } = self.one;
        let mut backend = plain.backend.open_as_admin().await?;
        let request = ShadowRequest { share: self.share, force: self.force };
        let done = match backend.begin_shadow(&model, request).await {
            Ok(job) => finished(&backend, job, plain.json).await,
            Err(error) => Err(error),
        };
        backend.close().await;
        if let Some(result) = done? {
            let embedded = &result["embedded"];
            say(format_args!("{model} answers in the shadow now; {embedded} faces were embedded"));
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Show {
    async fn run(self) -> Result<ExitCode, CliError> {
        let One { model, plain } = self.one;
        let backend = plain.backend.open_as_admin().await?;
        let report = backend.shadow_report(&model).await;
        let found = backend.disagreements(&model, &ListRequest::first(self.limit)?).await;
        backend.close().await;
        let (report, found) = (report?, found?);
        if plain.json {
            print_json(&serde_json::json!({"report": report, "disagreements": found.items}))?;
            return Ok(ExitCode::SUCCESS);
        }
        match report.share {
            Some(share) => say(format_args!("{} is asked about {} % of the photos", report.model, share * 100.0)),
            None => say(format_args!("{} is asked no more", report.model)),
        }
        report.against.iter().for_each(show_tally);
        found.items.iter().for_each(show_disagreement);
        Ok(ExitCode::SUCCESS)
    }
}

async fn end(One { model, plain }: One) -> Result<ExitCode, CliError> {
    let backend = plain.backend.open_as_admin().await?;
    let ended = backend.end_shadow(&model).await;
    backend.close().await;
    ended?;
    Ok(ExitCode::SUCCESS)
}

fn show_tally(tally: &ShadowTally) {
    let ShadowTally { model, faces, agreed, other_subject, only_active, only_candidate, .. } = tally;
    let share = *agreed as f64 / (*faces).max(1) as f64 * 100.0;
    say(format_args!("  with {model}: {agreed} of {faces} faces alike ({share:.1} %)"));
    say(format_args!(
        "    {other_subject} known as somebody else, {only_active} known to {model} alone, {only_candidate} to the candidate alone"
    ));
}

fn show_disagreement(found: &Disagreement) {
    let at = found.at.format("%F %T");
    let (active, candidate) = (described(&found.by_active), described(&found.by_candidate));
    say(format_args!("{at}  {:<14}  {}: {active}; candidate: {candidate}", found.kind.name(), found.gallery));
}

fn described(opinion: &ShadowOpinion) -> String {
    match (&opinion.subject, opinion.similarity) {
        (Some(subject), Some(similarity)) => format!("{subject} {similarity:.3} (threshold {:.3})", opinion.threshold),
        _ => "nobody".to_owned(),
    }
}
