mod chips;
mod curves;
mod results;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use indicatif::ProgressBar;

use self::chips::LeftOut;
use super::{CliError, print_json, progress_bar, say};
use crate::config::ConfigArgs;
use crate::service::ServiceError;
use crate::training::{Event, Split, TrainConfig, Trainer, TrainingError};

/// Train an embedder on photos of yours
///
/// DIR has one folder for each person, best with several photos each; people with one photo are those whom the others are
/// told apart from. The largest face of each photo is used. Neither a server nor a database is needed.
///
/// Beside FILE, an ONNX network, there will be its manifest (.toml), a model card (.card.json, .card.md) and the curves of
/// the training (.curves.svg). Some people are held out to measure the result and to calibrate it: see --test-share.
///
/// Example: faceid train --data ./people --output my-net.onnx
#[derive(clap::Args)]
pub struct Train {
    /// Folders with one folder for each person; folders of one name, in several DIRs, are one person
    #[arg(long, required_unless_present = "print_recipe", num_args = 1.., value_name = "DIR")]
    data: Vec<PathBuf>,
    /// The network to write
    #[arg(long, required_unless_present = "print_recipe", value_parser = parse_output, value_name = "FILE.onnx")]
    output: Option<PathBuf>,
    /// Settings to begin with
    #[arg(long, value_enum, default_value_t, conflicts_with = "recipe")]
    preset: Preset,
    /// Settings of the run as TOML; what it leaves out is as in the preset `cnn`
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
    /// Print the settings as TOML and exit
    #[arg(long)]
    print_recipe: bool,
    /// Batches to train on
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// From which all that looks random follows
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// People to test with, by the names of their folders, separated by commas
    #[arg(long, value_delimiter = ',', conflicts_with = "test_share", value_name = "NAME")]
    test: Vec<String>,
    /// Share of the people to test with, 0 to 1; with none, the calibration is that of people who were trained on
    #[arg(long, value_name = "SHARE")]
    test_share: Option<f64>,
    /// Share of the other people that decides when to stop, 0 to 1; with none, all steps are made
    #[arg(long, value_name = "SHARE")]
    validation_share: Option<f64>,
    /// Save the run to this file from time to time, and when it is interrupted
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// Steps from one time to the next
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..), value_name = "N")]
    checkpoint_every: u64,
    /// Go on with the run of this file, with its settings; it is saved there unless --checkpoint says otherwise
    #[arg(
        long,
        conflicts_with_all = ["recipe", "preset", "steps", "seed", "test", "test_share", "validation_share"],
        value_name = "FILE"
    )]
    resume: Option<PathBuf>,
    /// Print the model card as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Settings that come with the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum Preset {
    /// A small network on small grey faces: for tens to hundreds of people, in about a minute
    #[default]
    Cnn,
    /// A MobileFaceNet on chips in colour: for thousands of people, in hours
    Mobilefacenet,
    /// A perceptron with random triplets, to compare with
    Plain,
}

impl Preset {
    fn settings(self) -> TrainConfig {
        match self {
            Self::Cnn => TrainConfig::default(),
            Self::Mobilefacenet => TrainConfig::mobile_face_net(),
            Self::Plain => TrainConfig::plain(),
        }
    }
}

/// For clap: a network that is loaded as ONNX.
fn parse_output(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    let is_onnx = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("onnx"));
    if is_onnx && path.file_stem().is_some() {
        Ok(path)
    } else {
        Err("a name that ends in .onnx is expected".to_owned())
    }
}

impl Train {
    pub async fn run(self) -> Result<ExitCode, CliError> {
        let settings = self.settings()?;
        let Some(output) = self.output.clone().filter(|_| !self.print_recipe) else {
            say(format_args!("{}", settings.to_toml()?.trim_end()));
            return Ok(ExitCode::SUCCESS);
        };
        let mut args = self.config.clone();
        args.settings.log.get_or_insert_with(|| "warn".to_owned());
        let config = super::configure(args)?;
        let (dataset, left_out) = chips::read(&config, &self.data).await?;
        let split = dataset.split(&settings.held_out, settings.seed)?;
        let interrupted = interruption();
        let saved = self.checkpoint.clone().or_else(|| self.resume.clone());
        let run = Run { split, left_out, output, resume: self.resume, checkpoint: saved, every: self.checkpoint_every };
        let json = self.json;
        let done = tokio::task::spawn_blocking(move || run.work(settings, &interrupted)).await;
        let Some(card) = done.map_err(|error| ServiceError::Internal(error.to_string()))?? else {
            return Ok(ExitCode::FAILURE);
        };
        if json {
            print_json(&card)?
        } else {
            results::print(&card)
        }
        Ok(ExitCode::SUCCESS)
    }

    /// What the run does: as the checkpoint says, or as the preset or the recipe with what other flags change.
    fn settings(&self) -> Result<TrainConfig, CliError> {
        if let Some(checkpoint) = &self.resume {
            return Ok(Trainer::settings_of(checkpoint)?);
        }
        let mut settings = match &self.recipe {
            Some(file) => {
                let text = std::fs::read_to_string(file);
                TrainConfig::parse(&text.map_err(CliError::io(format!("cannot read {}", file.display())))?)?
            }
            None => self.preset.settings(),
        };
        settings.steps = self.steps.unwrap_or(settings.steps);
        settings.seed = self.seed.unwrap_or(settings.seed);
        let held_out = &mut settings.held_out;
        held_out.test_share = self.test_share.unwrap_or(held_out.test_share);
        held_out.validation_share = self.validation_share.unwrap_or(held_out.validation_share);
        if !self.test.is_empty() {
            held_out.test.clone_from(&self.test);
        } else if self.test_share.is_some() {
            held_out.test.clear();
        }
        settings.check()?;
        Ok(settings)
    }
}

/// Becomes true when the user asks the program to end.
fn interruption() -> Arc<AtomicBool> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            flag.store(true, Ordering::Relaxed);
        }
    });
    interrupted
}

/// What a training needs beside its settings.
struct Run {
    split: Split,
    left_out: LeftOut,
    output: PathBuf,
    resume: Option<PathBuf>,
    checkpoint: Option<PathBuf>,
    every: u64,
}

impl Run {
    /// Trains and writes the results; `None` if it was interrupted.
    fn work(self, settings: TrainConfig, interrupted: &AtomicBool) -> Result<Option<crate::training::Card>, CliError> {
        let digest = self.split.train.digest() + &self.split.validation.digest();
        let mut trainer = match &self.resume {
            Some(path) => Trainer::resume(path, &digest)?,
            None => Trainer::new(settings)?,
        };
        let bar =
            progress_bar(Some(trainer.config().steps), "{bar:30} {pos}/{len} steps  {per_sec}  {eta} left  {msg}");
        // So that the rate is that of this process.
        bar.set_position(trainer.steps_made());
        bar.reset_eta();
        let began = Instant::now();
        let Split { train, validation, .. } = &self.split;
        let trained = trainer.run(train, validation, |trainer, event| {
            self.observe(&bar, trainer, event, &digest, interrupted.load(Ordering::Relaxed))
        });
        bar.finish_and_clear();
        trained?;
        if let Some(path) = &self.checkpoint {
            trainer.save(path, &digest)?;
        }
        if !trainer.is_done() {
            self.explain(trainer.steps_made());
            return Ok(None);
        }
        results::write(&trainer, &self.split, &self.left_out, &self.output, began.elapsed()).map(Some)
    }

    fn observe(
        &self,
        bar: &ProgressBar,
        trainer: &Trainer,
        event: Event,
        digest: &str,
        interrupted: bool,
    ) -> Result<ControlFlow<()>, TrainingError> {
        match event {
            Event::Step(record) => {
                bar.set_position(record.step);
                let auc = trainer.validations().last().map(|look| format!("  validation AUC {:.3}", look.auc));
                let (loss, active) = (record.loss, record.active * 100.0);
                bar.set_message(format!("loss {loss:.4}  active {active:.0} %{}", auc.unwrap_or_default()));
            }
            Event::Collapsed(record) => bar.suspend(|| {
                eprintln!(
                    "warning: at step {} all faces of a batch have nearly the same embedding (mean squared distance {:.4}); \
                     a lower learning rate or another loss may help",
                    record.step, record.distance
                );
            }),
            Event::StoppedEarly => bar.suspend(|| {
                eprintln!("stopped at step {}: no better result on the validation people", trainer.steps_made());
            }),
            Event::Validation(_) => {}
        }
        // After all that a step brings, and the last step is saved in any case.
        if let (Event::Step(record), Some(path)) = (event, &self.checkpoint)
            && record.step.is_multiple_of(self.every)
        {
            trainer.save(path, digest)?;
        }
        Ok(if interrupted { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }

    fn explain(&self, step: u64) {
        match &self.checkpoint {
            Some(path) => eprintln!("interrupted after step {step}; go on with --resume {}", path.display()),
            None => eprintln!("interrupted after step {step}; nothing was saved, for --checkpoint was not given"),
        }
    }
}

/// The file beside `output` with another ending.
fn beside(output: &Path, ending: &str) -> PathBuf {
    output.with_extension(ending)
}
