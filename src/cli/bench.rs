use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use indicatif::ProgressBar;

use super::{CliError, print_json};
use crate::bench::{BenchReport, BenchStage, Workload};
use crate::config::ConfigArgs;

/// Measure how fast this machine decodes, detects, aligns and embeds
///
/// Needs neither a server nor a database. Networks run on made images; the other stages need photos.
///
/// Example: faceid bench --threads 2 --photos ./people
#[derive(clap::Args)]
pub struct Bench {
    /// What to measure [default: detect and embed; all, if there are photos]
    #[arg(long, value_delimiter = ',', value_name = "STAGE,...")]
    stages: Vec<BenchStage>,
    /// Chips or images in a pass of a network
    #[arg(long, value_delimiter = ',', default_value = "1,8,32", value_name = "N,...")]
    batches: Vec<usize>,
    /// Size of the image for the detector
    #[arg(long, default_value = "640x480", value_parser = parse_size, value_name = "WxH")]
    size: (u32, u32),
    /// Photos: files, or folders with photos at any depth
    #[arg(long, num_args = 1.., value_name = "PATH")]
    photos: Vec<PathBuf>,
    /// Photos in work at once in the pipeline
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1024), value_name = "N")]
    concurrency: u16,
    /// Faces of a photo that go through the pipeline, the largest [default: all]
    #[arg(long, value_name = "N")]
    max_faces: Option<usize>,
    /// Seconds for each figure
    #[arg(long, default_value_t = 2.0, value_name = "SECONDS")]
    seconds: f64,
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

impl Bench {
    pub async fn run(self) -> Result<ExitCode, CliError> {
        let mut args = self.config;
        args.settings.log.get_or_insert_with(|| "warn".to_owned());
        let config = super::configure(args)?;
        let usable = self.batches.iter().all(|batch| (1..=1024).contains(batch));
        let Some(time) = Duration::try_from_secs_f64(self.seconds).ok().filter(|time| !time.is_zero() && usable) else {
            return Err(CliError::Usage("--batches takes 1 to 1024, --seconds more than 0".to_owned()));
        };
        let mut photos = Vec::new();
        self.photos.iter().try_for_each(|path| collect(path, &mut photos))?;
        let stages = match (self.stages.is_empty(), photos.is_empty()) {
            (false, _) => self.stages,
            (true, true) => vec![BenchStage::Detect, BenchStage::Embed],
            (true, false) => {
                vec![BenchStage::Decode, BenchStage::Detect, BenchStage::Align, BenchStage::Embed, BenchStage::Pipeline]
            }
        };
        let concurrency = self.concurrency.into();
        let most_faces = self.max_faces.unwrap_or(usize::MAX);
        let plan = Workload { stages, batches: self.batches, size: self.size, photos, concurrency, most_faces, time };
        let normalisation = crate::app::input_normalisation(&config).await?;
        let bar = ProgressBar::new_spinner();
        bar.enable_steady_tick(Duration::from_millis(200));
        let progress = |stage: BenchStage| bar.set_message(format!("measuring {stage:?}"));
        let report = crate::bench::run(&config, normalisation, plan, progress).await;
        bar.finish_and_clear();
        let report = report?;
        if self.json {
            print_json(&report)?
        } else {
            print_table(&report)
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn parse_size(text: &str) -> Result<(u32, u32), String> {
    let sides = text.split_once('x').and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
    let in_range = |side: &u32| (16..=8192).contains(side);
    sides
        .filter(|(width, height)| in_range(width) && in_range(height))
        .ok_or_else(|| "a size such as 640x480 is expected, sides from 16 to 8192".to_owned())
}

/// A file, or the image files of a folder, sorted.
fn collect(path: &Path, photos: &mut Vec<PathBuf>) -> Result<(), CliError> {
    if !path.is_dir() {
        photos.push(path.to_owned());
        return Ok(());
    }
    let failed = || CliError::io(format!("cannot read {}", path.display()));
    let mut inside = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed())? {
        inside.push(entry.map_err(failed())?.path());
    }
    inside.sort();
    for path in inside {
        if path.is_dir() || image::ImageFormat::from_path(&path).is_ok() {
            collect(&path, photos)?;
        }
    }
    Ok(())
}

fn print_table(report: &BenchReport) {
    let BenchReport { threads, device, precision, kernels, results } = report;
    super::say(format_args!("{device}, {precision}, kernels {kernels}, {threads} threads\n"));
    super::say(format_args!("{:<10} {:>16} {:>12} {:>12}", "stage", "of", "a second", "median ms"));
    for result in results {
        let of = match (result.batch, &result.size, result.photos) {
            (Some(batch), Some(size), _) => format!("{batch} x {size}"),
            (_, _, Some(photos)) => format!("{photos} photos"),
            _ => String::new(),
        };
        let stage = format!("{:?}", result.stage).to_lowercase();
        super::say(format_args!("{stage:<10} {of:>16} {:>12.1} {:>12.2}", result.items_per_second, result.median_ms));
    }
}
