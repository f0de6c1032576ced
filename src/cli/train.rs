mod chips;
mod curves;
mod report;
mod results;
mod run;
mod stop;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use self::chips::{BaseModel, LeftOut};
use self::report::{Reporter, TrainingStage};
use self::run::Run;
use self::stop::Stop;
use super::{CliError, print_json, say};
use crate::config::{Config, ConfigArgs, PrecisionChoice};
use crate::engine::targets;
use crate::nn::Precision;
use crate::service::{ServiceError, training_exit};
use crate::training::{Dataset, Split, TrainConfig, Trainer};
use crate::types::nfc;

/// What the program itself takes before it has read a chip, with room to say what is wrong.
const LEAST_MEMORY: u64 = 256 << 20;

/// Train an embedder on photos of yours
///
/// DIR has one folder for each person, best with several photos each; people with one photo are those whom the others are
/// told apart from. The largest face of each photo is used. Neither a server nor a database is needed.
///
/// With --base, an embedder that exists learns to do better on such photos, and is kept from forgetting what it could do.
///
/// Beside FILE, an ONNX network, there will be its manifest (.toml), a model card (.card.json, .card.md) and the curves of
/// the training (.curves.svg). Some people are held out to measure the result and to calibrate it: see --test-share.
///
/// Ctrl-C and SIGTERM end a run early, with exit code 3; it is saved if --checkpoint says where. Code 4 says that there was too
/// little memory, 5 that the device cannot be had.
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
    /// Images in DIR are chips already: faces that were aligned and cut out, 112x112
    #[arg(long)]
    chips: bool,
    /// Begin with the weights of this embedder, an ONNX file that can be served
    #[arg(long, value_name = "FILE.onnx")]
    base: Option<PathBuf>,
    /// Keep the base as it is on these photos, in folders of the same kind: such as it is good at, of people who are not tested.
    /// Then it may learn faster
    #[arg(long, requires = "base", num_args = 1.., value_name = "DIR")]
    replay: Vec<PathBuf>,
    /// Settings to begin with [default: cnn, or finetune with --base]
    #[arg(long, value_enum)]
    preset: Option<Preset>,
    /// Settings of the run as TOML; what it leaves out is as in the preset
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
    /// Share of the other people that decides when to stop, 0 to 1; with none, or fewer than eight people, all steps are
    /// made
    #[arg(long, value_name = "SHARE")]
    validation_share: Option<f64>,
    /// Save the run to this file from time to time, and when it is interrupted
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// Steps from one time to the next
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..), value_name = "N")]
    checkpoint_every: u64,
    /// Go on with the run of the checkpoint if it is there and is of these photos and settings; else begin anew
    #[arg(long = "continue", requires = "checkpoint", conflicts_with = "resume")]
    goes_on: bool,
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
    /// Tell how it goes on standard output, one JSON object in a line
    #[arg(long, conflicts_with = "json")]
    events: bool,
    /// Bytes of memory that this process may take, 256 MiB or more; what is beyond is refused to it
    #[arg(long, value_parser = clap::value_parser!(u64).range(LEAST_MEMORY..), value_name = "BYTES")]
    memory_limit: Option<u64>,
    /// Lower the priority by this much, 0 to 19
    #[arg(long, value_parser = clap::value_parser!(i32).range(0..=19), value_name = "N")]
    nice: Option<i32>,
    /// End as on SIGTERM when standard input ends, which it does with the process that holds its other end
    #[arg(long)]
    parent_stdin: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Settings that come with the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Preset {
    /// A small network on small grey faces: for tens to hundreds of people, in about a minute
    Cnn,
    /// A MobileFaceNet on chips in colour: for thousands of people, in hours
    Mobilefacenet,
    /// A perceptron with random triplets, to compare with
    Plain,
    /// The network of --base, a little closer to the photos: slowly, or faster with --replay
    Finetune,
}

impl Preset {
    /// `keeps` says whether there are photos on which a base is kept.
    fn settings(self, keeps: bool) -> TrainConfig {
        match self {
            Self::Cnn => TrainConfig::default(),
            Self::Mobilefacenet => TrainConfig::mobile_face_net(),
            Self::Plain => TrainConfig::plain(),
            Self::Finetune => TrainConfig::fine_tune(keeps),
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
    /// Limits what this process takes, as the flags say. To be called before it has other threads.
    pub fn confine(&self) -> Result<(), CliError> {
        // For the networks of a training, whose values are large and short-lived.
        crate::nn::keep_heap();
        super::confine::confine(self.nice, self.memory_limit)
    }

    pub async fn run(self) -> Result<ExitCode, CliError> {
        let mut settings = self.settings()?;
        let Some(output) = self.output.clone().filter(|_| !self.print_recipe) else {
            say(format_args!("{}", settings.to_toml()?.trim_end()));
            return Ok(ExitCode::SUCCESS);
        };
        let mut args = self.config.clone();
        args.settings.log.get_or_insert_with(|| "warn".to_owned());
        let config = super::configure(args)?;
        let targets = targets(&config.engine).map_err(CliError::TrainingDevice)?;
        if self.resume.is_none() {
            settings = self.as_configured(settings, &config)?;
        }
        let mut stop = Stop::listen(self.parent_stdin)?;
        let checkpoint = self.checkpoint.clone().or_else(|| self.resume.clone());
        let report = Reporter::new(self.events);
        report.stage(TrainingStage::Reading);
        let reading = stop.clone();
        let (split, left_out, base, replay) = tokio::select! {
            biased;
            () = stop.asked() => {
                report.interrupted(0, checkpoint.as_deref().filter(|path| path.exists()));
                return Ok(ExitCode::from(training_exit::INTERRUPTED));
            }
            read = self.read(&config, &settings, &reading) => read?,
        };
        let run = Run {
            split,
            left_out,
            base,
            replay,
            targets,
            output,
            checkpoint,
            resume: self.resume,
            every: self.checkpoint_every,
            goes_on: self.goes_on,
        };
        let done = tokio::task::spawn_blocking(move || run.work(settings, report, &stop)).await;
        let Some(card) = done.map_err(|error| ServiceError::Internal(error.to_string()))?? else {
            return Ok(ExitCode::from(training_exit::INTERRUPTED));
        };
        match (self.json, self.events) {
            (true, _) => print_json(&card)?,
            (false, true) => {}
            (false, false) => results::print(&card),
        }
        Ok(ExitCode::SUCCESS)
    }

    /// The chips by their use, and the network to begin with.
    async fn read(
        &self,
        config: &Config,
        settings: &TrainConfig,
        stop: &Stop,
    ) -> Result<(Split, LeftOut, Option<BaseModel>, Option<Dataset>), CliError> {
        let base = match &self.base {
            Some(path) => Some(BaseModel::read(path).await?),
            None => None,
        };
        let (dataset, left_out) = chips::read(config, &self.data, self.chips, stop).await?;
        let replay = match self.replay.is_empty() {
            false => Some(chips::read(config, &self.replay, self.chips, stop).await?.0),
            true => None,
        };
        Ok((dataset.split(&settings.held_out, settings.seed)?, left_out, base, replay))
    }

    /// What the run does: as the checkpoint says, or as the preset or the recipe with what other flags change.
    fn settings(&self) -> Result<TrainConfig, CliError> {
        if let Some(checkpoint) = &self.resume {
            return Ok(Trainer::settings_of(checkpoint)?);
        }
        let automatic = if self.base.is_some() { Preset::Finetune } else { Preset::Cnn };
        let mut settings = self.preset.unwrap_or(automatic).settings(!self.replay.is_empty());
        if let Some(file) = &self.recipe {
            let text = std::fs::read_to_string(file);
            settings = settings.changed_by(&text.map_err(CliError::io(format!("cannot read {}", file.display())))?)?;
        }
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
        settings.held_out.test.iter_mut().for_each(|name| *name = nfc(name).into_owned());
        settings.check()?;
        Ok(settings)
    }

    /// The settings with the threads and the precision that the configuration names.
    fn as_configured(&self, mut settings: TrainConfig, config: &Config) -> Result<TrainConfig, CliError> {
        if self.config.settings.threads.is_some() {
            settings.threads = u16::try_from(config.engine.threads).unwrap_or(u16::MAX);
        }
        settings.precision = match config.engine.precision {
            PrecisionChoice::Auto => settings.precision,
            PrecisionChoice::Fp32 => Precision::Fp32,
            PrecisionChoice::Bf16 => Precision::Bf16,
            PrecisionChoice::Fp16 => Precision::Fp16,
        };
        settings.check()?;
        Ok(settings)
    }
}

/// The file beside `output` with another ending.
fn beside(output: &Path, ending: &str) -> PathBuf {
    output.with_extension(ending)
}
