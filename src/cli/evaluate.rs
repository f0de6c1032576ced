mod against;
mod breakdown;
mod copies;
mod embed;
mod gallery;
mod grouping;
mod material;
mod names;
pub(super) mod plots;
pub(super) mod sources;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};

use self::grouping::GroupArgs;
use self::material::{Material, Plans};
use self::names::{NameArgs, Names};
use super::photos::WhichFace;
use super::{CliError, print_json};
use crate::config::{Config, ConfigArgs};
use crate::evaluation::{GroupReport, Growth, GrowthPlan, Report, ReportPlan, Resampling, Verification};
use crate::registry::Manifest;
use crate::service::ServiceError;
use crate::types::{Name, Threshold};
use crate::walk::LeftOut;

/// Figures do not change from run to run.
const SEED: u64 = 1;

/// Measure how well faces are told apart, on photos of yours
///
/// DIR has one folder for each person; folders of one name, in several DIRs, are one person. The largest face of each
/// photo is embedded by the configured networks and compared with those of all others. Neither a server nor a database
/// is needed, and nothing is stored; --gallery takes what is enrolled instead. Intervals are of 95 %, over people.
///
/// Example: faceid evaluate ./people --plots ./plots --calibration my-net.toml
#[derive(clap::Args)]
pub struct Evaluate {
    /// Folders with one folder for each person
    #[arg(required_unless_present_any = ["pairs", "gallery"], conflicts_with_all = ["pairs", "gallery"], value_name = "DIR")]
    dirs: Vec<PathBuf>,
    /// Measure on the enrolled faces of this gallery, by their stored embeddings: needs the database, whether a server runs
    /// on it or not, and no networks
    #[arg(long, conflicts_with_all = ["pairs", "against"], value_parser = super::parse_name, value_name = "NAME")]
    gallery: Option<Name>,
    /// For --gallery: the model whose embeddings to take, by name or sha256 [default: the active one]
    #[arg(long, requires = "gallery")]
    model: Option<String>,
    /// Compare these pairs only: a file with lines of `path_a path_b same|different`, paths relative to its folder,
    /// separated by tabs or spaces
    #[arg(long, value_name = "FILE")]
    pairs: Option<PathBuf>,
    /// Say instead whether the embedder may take the place of this one, by the rules of a promotion; exit code 1 if not. Use
    /// people whom it was not trained on
    #[arg(long, conflicts_with_all = ["pairs", "plots", "calibration"], value_name = "FILE")]
    against: Option<PathBuf>,
    /// For --against: people for whom it must not be worse
    #[arg(long, requires = "against", num_args = 1.., value_name = "DIR")]
    protected: Vec<PathBuf>,
    /// Which face of a photo counts; central is the one nearest to the middle, for sets such as LFW
    #[arg(long, value_enum, default_value_t = WhichFace::Largest)]
    face: WhichFace,
    #[command(flatten)]
    names: NameArgs,
    #[command(flatten)]
    groups: GroupArgs,
    /// Sizes of the gallery for which errors are told, in people; all but the strangers are added
    #[arg(long, value_delimiter = ',', default_values_t = [50, 200, 1000], value_parser = clap::value_parser!(u32).range(1..), value_name = "N,...")]
    sizes: Vec<u32>,
    /// Photos that enroll a person in the open-set measurement
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000), value_name = "N")]
    enrolled: u16,
    /// Random halves of the people that are enrolled for it, one after the other
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000), value_name = "N")]
    splits: u16,
    /// Draws of people for the intervals
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(100..=100_000), value_name = "N")]
    draws: u32,
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
    /// Write det.svg, histogram.svg and, with people enough, growth.svg into this folder
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
    /// Write what was measured as a manifest, to lie beside the embedder's file under the same name with .toml
    #[arg(long, value_name = "FILE")]
    calibration: Option<PathBuf>,
    /// False match rate of the threshold in that manifest
    #[arg(long, default_value_t = 1e-3, value_name = "RATE")]
    fmr: f64,
    #[command(flatten)]
    config: ConfigArgs,
}

/// What `--json` prints.
#[derive(Debug, Serialize, Deserialize)]
pub struct Evaluated {
    /// The embedder.
    pub model: String,
    pub photos: Photos,
    #[serde(flatten)]
    pub report: Report,
    /// By the size of the gallery; `None` for pairs, and if no size fits.
    pub growth: Option<Growth>,
    /// By the fields that were asked for.
    #[serde(default)]
    pub groups: Vec<GroupReport>,
}

/// What came of the photos.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Photos {
    pub total: usize,
    pub embedded: usize,
    /// Those in which no face was found.
    pub without_face: Vec<PathBuf>,
    pub unreadable: Vec<Unreadable>,
    /// Left out, because the same file is there for the same person.
    pub copies: usize,
    /// Left out, because the same file is there for another person: nobody knows whom it shows.
    pub under_several_names: usize,
    /// People left out by `--alias`, as they are there under another name, and photos of theirs.
    pub second_names: usize,
    pub of_second_names: usize,
    /// Left out by `--exclude`.
    pub excluded: usize,
    /// Names of these two files that are not there.
    pub not_found: Vec<String>,
    /// Files in the folders that are no photos of anybody.
    #[serde(default)]
    pub files_left_out: Vec<LeftOut>,
    /// Enrolled faces that have no embedding of the model; only for `--gallery`.
    pub without_embedding: usize,
    /// Pairs that could not be compared, because of such photos, and those of a photo with itself or that were named before;
    /// only for `--pairs`.
    pub pairs_left_out: usize,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Unreadable {
    pub path: PathBuf,
    pub reason: String,
}

impl Evaluate {
    pub async fn run(self) -> Result<ExitCode, CliError> {
        if !(self.fmr > 0.0 && self.fmr < 1.0) {
            return Err(CliError::Usage("--fmr takes a rate above 0 and below 1".to_owned()));
        }
        self.groups.check(self.gallery.is_some())?;
        let names = self.names.read()?;
        let mut args = self.config.clone();
        args.settings.log.get_or_insert_with(|| "warn,sqlx=error".to_owned());
        let config = super::configure(args)?;
        if let Some(other) = &self.against {
            let source = sources::of_folders_without(&self.dirs, &names)?;
            let verdict = against::decide(&config, other, &source, &self.protected, (self.face, &names)).await?;
            against::print(&verdict, self.json)?;
            return Ok(ExitCode::from(u8::from(!verdict.promote)));
        }
        let (manifest, material) = match &self.gallery {
            Some(gallery) => self.enrolled(&config, gallery).await?,
            None => self.embedded(&config, &names).await?,
        };
        self.measure(&config, &manifest, material).await?;
        Ok(ExitCode::SUCCESS)
    }

    /// Faces of photos.
    async fn embedded(&self, config: &Config, names: &Names) -> Result<(Manifest, Material), CliError> {
        let source = match &self.pairs {
            Some(file) => sources::of_pairs(file)?,
            None => sources::of_folders_without(&self.dirs, names)?,
        };
        let manifest = crate::app::manifest(&config.engine.embedder).await?;
        let embedder = (config.engine.embedder.as_path(), &manifest);
        let outcomes = embed::embed(config, [embedder], &source.photos, self.face).await?;
        Ok((manifest, Material::of(source, outcomes)?))
    }

    /// Faces of a gallery.
    async fn enrolled(&self, config: &Config, gallery: &Name) -> Result<(Manifest, Material), CliError> {
        let (model, material) = gallery::read(config, gallery, self.model.as_deref()).await?;
        Ok((model.manifest.unwrap_or_else(|| Manifest::uncalibrated(model.name)), material))
    }

    async fn measure(&self, config: &Config, manifest: &Manifest, material: Material) -> Result<(), CliError> {
        let threshold = config.recognition.threshold.unwrap_or(manifest.calibration().threshold);
        let Material { photos, faces, pairs, people } = material;
        let plans = Plans {
            plan: self.plan(threshold),
            growth: self.growth_plan(),
            groupings: self.groups.groupings(&people)?,
        };
        let bar = ProgressBar::new_spinner().with_message("measuring");
        bar.enable_steady_tick(Duration::from_millis(200));
        let measured = tokio::task::spawn_blocking(move || plans.measure(&faces, pairs)).await;
        bar.finish_and_clear();
        let measured = measured.map_err(|error| ServiceError::Internal(error.to_string()))??;
        let (report, growth, groups) = (measured.report, measured.growth, measured.groups);
        let evaluated = Evaluated { model: manifest.name.clone(), photos, report, growth, groups };
        if self.json {
            print_json(&evaluated)?
        } else {
            table::print(&evaluated)
        }
        let verification = &evaluated.report.verification;
        if let Some(folder) = &self.plots {
            plots::write(folder, &measured.comparisons, verification, evaluated.growth.as_ref())?;
        }
        if let Some(file) = &self.calibration {
            write_calibration(file, manifest, verification, self.fmr, "faceid evaluate")?;
        }
        Ok(())
    }

    fn plan(&self, threshold: Threshold) -> ReportPlan {
        let mut fmrs = vec![1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6];
        if !fmrs.contains(&self.fmr) {
            fmrs.push(self.fmr);
            fmrs.sort_by(|a, b| f64::total_cmp(b, a));
        }
        ReportPlan {
            fars: vec![1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1],
            fmrs,
            fpirs: vec![0.1, 0.01],
            ranks: vec![1, 5],
            photos: self.enrolled.into(),
            splits: self.splits.into(),
            threshold: threshold.get(),
            resampling: self.resampling(),
        }
    }

    fn growth_plan(&self) -> GrowthPlan {
        let mut sizes: Vec<usize> = self.sizes.iter().map(|size| *size as usize).collect();
        sizes.sort_unstable();
        sizes.dedup();
        GrowthPlan {
            sizes,
            fpirs: vec![0.1, 0.01, 0.003, 0.001],
            splits: self.splits.into(),
            resampling: self.resampling(),
        }
    }

    fn resampling(&self) -> Resampling {
        Resampling { draws: self.draws as usize, seed: SEED }
    }
}

/// Writes the manifest of the same network with what was measured; `by` says which command did.
pub(super) fn write_calibration(
    file: &Path,
    manifest: &Manifest,
    measured: &Verification,
    fmr: f64,
    by: &str,
) -> Result<(), CliError> {
    let Some(at) = measured.thresholds.iter().find(|point| point.fmr == fmr) else {
        return Err(CliError::Usage(format!(
            "{} impostor pairs do not tell a threshold at a false match rate of {fmr}: no calibration was written",
            measured.impostor_pairs
        )));
    };
    let calibrated = manifest.measured(at.threshold.value, measured).map_err(crate::app::AppError::from)?;
    let head = format!(
        "# Measured by `{by}` on {} genuine and {} impostor pairs.\n",
        measured.genuine_pairs, measured.impostor_pairs
    );
    let text = head + &calibrated.to_toml().map_err(crate::app::AppError::from)?;
    Ok(crate::training::write_atomically(file, text.as_bytes())?)
}
