mod against;
mod copies;
mod embed;
pub(super) mod plots;
pub(super) mod sources;
mod table;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};

use self::sources::Source;
use super::photos::Outcome;
use super::{CliError, print_json};
use crate::config::ConfigArgs;
use crate::evaluation::{Comparisons, Faces, Pair, Plan, Report, Resampling, Verification};
use crate::registry::Manifest;
use crate::service::ServiceError;
use crate::types::Threshold;

/// Impostor pairs that are looked at; of more, as many are chosen at random.
const MOST_IMPOSTORS: usize = 1_000_000;

/// Figures do not change from run to run.
const SEED: u64 = 1;

/// Measure how well faces are told apart, on photos of yours
///
/// DIR has one folder for each person; folders of one name, in several DIRs, are one person. The largest face of each
/// photo is embedded by the configured networks and compared with those of all others. Neither a server nor a database
/// is needed, and nothing is stored. Intervals are of 95 %, over people.
///
/// Example: faceid evaluate ./people --plots ./plots --calibration my-net.toml
#[derive(clap::Args)]
pub struct Evaluate {
    /// Folders with one folder for each person
    #[arg(required_unless_present = "pairs", conflicts_with = "pairs", value_name = "DIR")]
    dirs: Vec<PathBuf>,
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
    /// Write det.svg and histogram.svg into this folder
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
        let mut args = self.config.clone();
        args.settings.log.get_or_insert_with(|| "warn".to_owned());
        let config = super::configure(args)?;
        let source = match &self.pairs {
            Some(file) => sources::of_pairs(file)?,
            None => sources::of_folders(&self.dirs)?,
        };
        if let Some(other) = &self.against {
            let verdict = against::decide(&config, other, &source, &self.protected).await?;
            against::print(&verdict, self.json)?;
            return Ok(ExitCode::from(u8::from(!verdict.promote)));
        }
        let manifest = crate::app::manifest(&config.engine.embedder).await?;
        let threshold = config.recognition.threshold.unwrap_or(manifest.calibration().threshold);
        let embedder = (config.engine.embedder.as_path(), &manifest);
        let outcomes = embed::embed(&config, [embedder], &source.photos).await?;
        let plan = self.plan(threshold);
        let bar = ProgressBar::new_spinner().with_message("measuring");
        bar.enable_steady_tick(Duration::from_millis(200));
        let measured = tokio::task::spawn_blocking(move || measure(source, outcomes, &plan)).await;
        bar.finish_and_clear();
        let (photos, comparisons, report) = measured.map_err(|error| ServiceError::Internal(error.to_string()))??;
        let evaluated = Evaluated { model: manifest.name.clone(), photos, report };
        if self.json {
            print_json(&evaluated)?
        } else {
            table::print(&evaluated)
        }
        let verification = &evaluated.report.verification;
        if let Some(folder) = &self.plots {
            plots::write(folder, &comparisons, verification)?;
        }
        if let Some(file) = &self.calibration {
            write_calibration(file, &manifest, verification, self.fmr, "faceid evaluate")?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn plan(&self, threshold: Threshold) -> Plan {
        let mut fmrs = vec![1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6];
        if !fmrs.contains(&self.fmr) {
            fmrs.push(self.fmr);
            fmrs.sort_by(|a, b| f64::total_cmp(b, a));
        }
        Plan {
            fars: vec![1e-4, 1e-3, 1e-2, 1e-1],
            fmrs,
            fpirs: vec![0.1, 0.01],
            ranks: vec![1, 5],
            photos: self.enrolled.into(),
            splits: self.splits.into(),
            threshold: threshold.get(),
            resampling: Resampling { draws: self.draws as usize, seed: SEED },
        }
    }
}

fn measure(
    source: Source,
    outcomes: Vec<Outcome<[Vec<f32>; 1]>>,
    plan: &Plan,
) -> Result<(Photos, Comparisons, Report), CliError> {
    let Source { photos, subjects, pairs, copies } = source;
    let (mut photos, faces, face_of) = faces(photos, subjects, outcomes)?;
    photos.total += copies.photos + copies.under_several_names;
    (photos.copies, photos.under_several_names) = (copies.photos, copies.under_several_names);
    let (comparisons, identification) = match pairs {
        Some(pairs) => {
            let both = |(a, b): &(usize, usize)| face_of[*a].zip(face_of[*b]);
            let compared: Vec<Pair> = pairs.iter().filter_map(both).map(|(a, b)| pair(&faces, a, b)).collect();
            photos.pairs_left_out = pairs.len() - compared.len() + copies.pairs;
            (Comparisons::new(compared)?, None)
        }
        None => {
            let comparisons = Comparisons::of_faces(&faces, MOST_IMPOSTORS, SEED)?;
            (comparisons, crate::evaluation::identify(&faces, plan))
        }
    };
    let verification = crate::evaluation::verify(&comparisons, plan);
    Ok((photos, comparisons, Report { subjects: faces.by_subject().len(), verification, identification }))
}

/// What came of the photos, the faces, and the number of the face of each photo.
fn faces(
    paths: Vec<PathBuf>,
    subjects: Vec<usize>,
    outcomes: Vec<Outcome<[Vec<f32>; 1]>>,
) -> Result<(Photos, Faces, Vec<Option<usize>>), CliError> {
    let mut photos = Photos { total: paths.len(), ..Photos::default() };
    let mut face_of = Vec::with_capacity(paths.len());
    let (mut vectors, mut shown) = (Vec::new(), Vec::new());
    // Numbered anew: people of whom no face was found do not count.
    let mut people = HashMap::new();
    for ((path, subject), outcome) in paths.into_iter().zip(subjects).zip(outcomes) {
        face_of.push(matches!(outcome, Outcome::Face(_)).then_some(vectors.len()));
        match outcome {
            Outcome::Face([vector]) => {
                let next = people.len();
                shown.push(*people.entry(subject).or_insert(next));
                vectors.push(vector);
            }
            Outcome::NoFace => photos.without_face.push(path),
            Outcome::Unreadable(reason) => photos.unreadable.push(Unreadable { path, reason }),
        }
    }
    photos.embedded = vectors.len();
    Ok((photos, Faces::new(vectors, shown)?, face_of))
}

fn pair(faces: &Faces, a: usize, b: usize) -> Pair {
    let subject = |face| faces.subject(face) as u32;
    Pair { similarity: faces.similarity(a, b), a: subject(a), b: subject(b) }
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
