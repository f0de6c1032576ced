use std::process::ExitCode;

use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::client::{Client, ServerArgs, ServerEvent};
use super::{CliError, print_json, progress_bar, say};
use crate::http::Code;
use crate::jobs::{JobKind, JobState};
use crate::service::answers::{Job, Page};
use crate::service::requests::ListRequest;
use crate::types::JobId;

/// See what long tasks a server does, and stop them
///
/// Example: faceid jobs list --server http://127.0.0.1:8080
#[derive(clap::Args)]
pub struct Jobs {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// List jobs, newest first
    List(List),
    /// Show a job with its settings and result, as JSON
    Show(One),
    /// Show how a job goes on, until it is finished
    Follow(One),
    /// Stop a job
    Cancel(One),
}

#[derive(clap::Args)]
struct List {
    /// Jobs at most
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=200), value_name = "N")]
    limit: u32,
    /// Print the list as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(clap::Args)]
struct One {
    /// Id of the job
    #[arg(value_parser = parse_id)]
    job: JobId,
    /// Print the job as JSON, as show always does
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

fn parse_id(text: &str) -> Result<JobId, String> {
    text.parse().map(JobId).map_err(|_| "an id such as 0199b6a2-5d3e-7c61-9f0e-2f1f5a3c8d11 is expected".to_owned())
}

impl Jobs {
    pub async fn run(self) -> Result<ExitCode, CliError> {
        match self.action {
            Action::List(list) => list.run().await,
            Action::Show(One { job, server, .. }) => {
                let job: Job = server.open()?.get(&["admin", "jobs", &job.to_string()], &()).await?;
                print_json(&job)?;
                Ok(ExitCode::SUCCESS)
            }
            Action::Follow(One { job, json, server }) => follow(&server.open()?, job, json).await,
            Action::Cancel(One { job, json, server }) => {
                let job = cancel(&server.open()?, job).await?;
                match json {
                    true => print_json(&job)?,
                    false => say(format_args!("{}", if job.state.is_final() { "cancelled" } else { "asked to stop" })),
                }
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

/// Asks for a job to be stopped. An attempt whose answer was lost may have done it already.
async fn cancel(server: &Client, job: JobId) -> Result<Job, CliError> {
    let id = job.to_string();
    match server.post_and_tell(&["admin", "jobs", &id, "cancel"], &json!({})).await {
        (Err(CliError::Problem(problem)), true) if problem.code == Code::JobFinished => {
            let job: Job = server.get(&["admin", "jobs", &id], &()).await?;
            if job.state == JobState::Cancelled { Ok(job) } else { Err(CliError::Problem(problem)) }
        }
        (answer, _) => answer,
    }
}

impl List {
    async fn run(self) -> Result<ExitCode, CliError> {
        let list = ListRequest::first(self.limit)?;
        let page: Page<Job> = self.server.open()?.get(&["admin", "jobs"], &list).await?;
        if self.json {
            print_json(&page.items)?;
            return Ok(ExitCode::SUCCESS);
        }
        for job in &page.items {
            let created = job.created_at.format("%Y-%m-%d %H:%M:%S");
            let how = match (&job.error, &job.progress) {
                (Some(error), _) => error.lines().next().unwrap_or_default().to_owned(),
                (None, Some(progress)) if !job.state.is_final() => stage(progress),
                _ => String::new(),
            };
            say(format_args!("{}  {created}  {:<9} {:<9} {how}", job.id, job.kind.name(), job.state.name()));
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn stage(progress: &Value) -> String {
    let name = progress["stage"].as_str().unwrap_or_default();
    match (progress["done"].as_u64(), progress["total"].as_u64()) {
        (Some(done), Some(total)) => format!("{name} {done}/{total}"),
        _ => name.to_owned(),
    }
}

/// Shows how a job goes on and what comes of it; fails if the job does.
pub async fn follow(server: &Client, job: JobId, json: bool) -> Result<ExitCode, CliError> {
    let found: Job = server.get(&["admin", "jobs", &job.to_string()], &()).await?;
    if !found.state.is_final() {
        watch(server, job).await?;
    }
    let job: Job = server.get(&["admin", "jobs", &job.to_string()], &()).await?;
    match (job.state, json) {
        (JobState::Succeeded, true) => print_json(&job)?,
        (JobState::Succeeded, false) => say_result(&job),
        (JobState::Cancelled, _) => return Err(CliError::refused("the job was cancelled")),
        _ => return Err(CliError::refused(job.error.unwrap_or_else(|| "the job failed".to_owned()))),
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows how a job goes on until it ends. The events of one that ended long ago are forgotten.
async fn watch(server: &Client, job: JobId) -> Result<(), CliError> {
    let bar = progress_bar(Some(0), "{msg:12} {bar:30} {pos}/{len}  {prefix}");
    let job = job.to_string();
    let mut end = None;
    let path = ["admin", "jobs", job.as_str(), "events"];
    let followed = server.follow(&path, |event| {
        end = show(&bar, event);
        end.is_some()
    });
    let followed = followed.await;
    bar.finish_and_clear();
    followed.map(|_| ())
}

/// Shows an event; the state if it is the last one.
fn show(bar: &ProgressBar, event: &ServerEvent) -> Option<JobState> {
    let data = &event.data;
    match event.kind.as_str() {
        "progress" => {
            bar.set_message(data["stage"].as_str().unwrap_or_default().to_owned());
            bar.set_length(data["total"].as_u64().unwrap_or(1));
            bar.set_position(data["done"].as_u64().unwrap_or_default());
            let left = data["seconds_left"].as_f64().map(|seconds| format!("{seconds:.0} s left"));
            bar.set_prefix(left.unwrap_or_default());
            None
        }
        "note" => {
            bar.suspend(|| eprintln!("{data}"));
            None
        }
        "state" => {
            let state: Option<JobState> = serde_json::from_value(data["state"].clone()).ok();
            let error = data["error"].as_str().map(|error| format!(": {error}")).unwrap_or_default();
            bar.suspend(|| eprintln!("{}{error}", data["state"].as_str().unwrap_or_default()));
            state.filter(|state| state.is_final())
        }
        _ => None,
    }
}

/// What came of a job, for people.
fn say_result(job: &Job) {
    let Some(result) = &job.result else { return };
    if job.kind == JobKind::Import {
        return say_imported(result);
    }
    if let Some(name) = result["model"]["name"].as_str() {
        say(format_args!("candidate {name}"));
    }
    let gate = &result["gate"];
    match gate["outcome"].as_str().or(gate["passed"].as_bool().map(|passed| if passed { "passed" } else { "refused" }))
    {
        Some("passed") => say(format_args!("the gate allows to promote it")),
        Some("refused") => say(format_args!("the gate refuses it:")),
        Some(_) => say(format_args!("the gate has not enough evidence to decide:")),
        None => say(format_args!("{result:#}")),
    }
    for reason in gate["reasons"].as_array().into_iter().flatten().filter_map(|reason| reason.as_str()) {
        say(format_args!("  {reason}"));
    }
    say_change("target", &gate["figures"]["target"]);
    gate["figures"]["protected"].as_array().into_iter().flatten().for_each(|change| say_change("protected", change));
    if let Some(promotion) = result["promotion"].as_str() {
        say(format_args!("promotion: job {promotion}"));
    }
}

/// The figures of one gallery before and after, if there are any.
fn say_change(role: &str, change: &Value) {
    let figure = |rate: &str, name: &str| {
        let number = |path: [&str; 2]| change[path[0]][path[1]].as_f64();
        let (before, after) = (number(["active", name])?, number(["candidate", name])?);
        let at = number([rate, "at"]).map(|at| format!("@{at:.1e}")).unwrap_or_default();
        Some(format!("{}{at} {before:.4} -> {after:.4}", name.to_uppercase()))
    };
    let figures: Vec<String> = [("fmr", "tar"), ("fpir", "fnir"), ("", "auc")]
        .into_iter()
        .filter_map(|(rate, name)| figure(rate, name))
        .collect();
    if !figures.is_empty() {
        let name = change["name"].as_str().unwrap_or_default();
        say(format_args!("  {role} {name}: {}", figures.join(", ")));
    }
}

/// What came of a data set, for people.
fn say_imported(result: &Value) {
    let count = |name: &str| result[name].as_u64().unwrap_or_default();
    let (gallery, there) = (result["gallery"].as_str().unwrap_or_default(), count("already_there"));
    say(format_args!("enrolled {} photos of {} people into {gallery}", count("faces"), count("subjects")));
    if there > 0 {
        say(format_args!("  {there} photos were there already"));
    }
    let refusals = result["refusals"].as_array().map(Vec::as_slice).unwrap_or_default();
    for refusal in refusals {
        let text = |name: &str| refusal[name].as_str().unwrap_or_default();
        say(format_args!("  not enrolled: {}: {}", text("path"), text("code")));
    }
    let more = count("refused").saturating_sub(refusals.len() as u64);
    if more > 0 {
        say(format_args!("  not enrolled: {more} more"));
    }
}
