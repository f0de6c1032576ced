//! What training reaches on people who were not trained on, and how fast it is: `cargo bench --bench training`, with the
//! names of what to measure behind `--`, if not all that is of training from nothing. Photos: `orl` and `lfw100` in the
//! folder that FACEID_TEST_DATA names, by default ../shared/data.
//!
//! From nothing: of 40 people, 30 are trained on, and all pairs of the photos of the other 10 are compared, in two ways of
//! choosing them. Training takes one thread; its seconds are without detection and measuring.
//!
//! `lo12` and `speed` are other measurements: see their files.

mod lo12;
mod speed;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use faceid::evaluation::{Comparisons, Faces, Resampling, measure, one_shot};
use faceid::nn::{Detector, Precision, Target};
use faceid::training::augment::to_input;
use faceid::training::{Dataset, HeldOut, Input, Loss, Sets, Split, TrainConfig, Trainer};
use faceid::types::Chip;
use faceid::vision::{self, DecodeLimits, DetectOptions, Shrunk};
use image::RgbImage;

const LIMITS: DecodeLimits = DecodeLimits { max_bytes: 1 << 24, max_pixels: 1 << 24, max_memory: 1 << 30 };

/// Numbers of the people who are tested on.
const SPLITS: [[u8; 10]; 2] = [[5, 11, 12, 16, 19, 21, 23, 26, 29, 30], [3, 4, 20, 22, 23, 27, 28, 30, 32, 40]];

fn main() {
    // cargo says --bench.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let root = std::env::var_os("FACEID_TEST_DATA").map(PathBuf::from);
    let root = root.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"));
    match arguments.split_first() {
        Some((name, flags)) if name == "speed" => speed::run(flags),
        Some((name, wanted)) if name == "lo12" => lo12::run(&root, wanted),
        _ => from_nothing(&root, &arguments),
    }
}

fn from_nothing(root: &Path, wanted: &[String]) {
    let detector = detector();
    let chips = photos(&root.join("orl"), |image| found(image, &detector));
    println!("{:<22} {:>3} {} {:>8}", "method", "set", Told::HEAD, "seconds");
    for (name, settings) in methods() {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            compare(name, settings.as_ref(), &chips);
        }
    }
}

/// What is measured; without settings, pixels are compared.
fn methods() -> Vec<(&'static str, Option<TrainConfig>)> {
    let with = |loss| Some(TrainConfig { loss, ..TrainConfig::default() });
    vec![
        ("pixels", None),
        ("plain", Some(TrainConfig::plain())),
        ("cnn", Some(TrainConfig::default())),
        ("cnn-semi-hard", with(Loss::SemiHard { margin: 0.2 })),
        ("cnn-soft-margin", with(Loss::BatchHardSoft)),
    ]
}

/// Measures a method on both splits, and the mean.
fn compare(name: &str, settings: Option<&TrainConfig>, chips: &[(String, Chip)]) {
    let (mut sum, mut all) = (Told::default(), 0.0);
    let count = SPLITS.len() as f64;
    for (set, people) in SPLITS.iter().enumerate() {
        let test = people.iter().map(|number| format!("s{number}")).collect();
        let held_out = HeldOut { test, test_share: 0.0, validation_share: 0.0 };
        let split = Dataset::new(chips.to_vec()).split(&held_out, 1).expect("all of them are there");
        let (figures, seconds) = figures(settings, &split);
        println!("{name:<22} {:>3} {figures} {seconds:>8.1}", format!("S{set}"));
        for (sum, figure) in sum.0.iter_mut().zip(figures.0) {
            *sum += figure / count;
        }
        all += seconds / count;
    }
    println!("{name:<22} {:>3} {sum} {all:>8.1}", "-");
}

/// AUC, TAR at FAR 1e-2, and rank-1 with one enrolled photo.
#[derive(Default)]
struct Told([f64; 3]);

impl Told {
    const HEAD: &str = "    AUC      T2      R1";
}

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [auc, tar, rank] = self.0;
        write!(f, "{auc:>7.4} {tar:>7.3} {rank:>7.3}")
    }
}

/// How well vectors tell apart whom they show.
fn told(vectors: &[Vec<f32>], subjects: &[usize]) -> Told {
    let faces = Faces::new(vectors.to_vec(), subjects.to_vec()).expect("the faces fit");
    let comparisons = Comparisons::of_faces(&faces, usize::MAX, 0).expect("there are pairs of both kinds");
    let measured = measure(&comparisons, &vec![1.0; comparisons.subjects()], &[1e-2], 0.5).expect("all count");
    let ranks = one_shot(&faces, &[1], Resampling { draws: 1, seed: 1 }).expect("there are probes");
    Told([measured.auc, measured.tar[0], ranks.hits[0].value])
}

/// What a method reaches, and seconds of training.
fn figures(settings: Option<&TrainConfig>, split: &Split) -> (Told, f64) {
    let began = Instant::now();
    let trainer = settings.map(|settings| {
        let mut trainer = Trainer::new(settings.clone()).expect("the settings are usable");
        let sets = Sets { train: &split.train, validation: &split.validation, replay: None };
        let trained = trainer.run(&sets, |_, _| Ok(ControlFlow::Continue(())));
        trained.expect("training ends well");
        trainer
    });
    let seconds = began.elapsed().as_secs_f64();
    let test = split.test.chips();
    let vectors =
        trainer.map_or_else(|| test.iter().map(pixels).collect(), |trainer| trainer.embed(test).expect("it embeds"));
    (told(&vectors, split.test.subjects()), seconds)
}

/// The pixels of a chip as a vector of length 1.
fn pixels(chip: &Chip) -> Vec<f32> {
    let values = to_input(chip.as_rgb(), Input::Grey56);
    let length = values.iter().map(|value| value * value).sum::<f32>().sqrt();
    values.iter().map(|value| value / length).collect()
}

/// A file of `make setup`.
fn weights(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(".deps/weights").join(name)
}

fn detector() -> Detector {
    let weights = weights("retinaface-mobilenet0.25.onnx");
    Detector::load(&weights, &Target::cpu(Precision::Fp32)).expect("make setup")
}

/// What `chip` makes of each photo, and whom it shows.
fn photos(folder: &Path, chip: impl Fn(&RgbImage) -> Option<Chip>) -> Vec<(String, Chip)> {
    let mut chips = Vec::new();
    for person in entries(folder) {
        let name = person.file_name().expect("a folder has a name").to_string_lossy().into_owned();
        let read = |photo: &PathBuf| vision::decode(&std::fs::read(photo).ok()?, &LIMITS).ok();
        let found = entries(&person).iter().filter_map(read).filter_map(|image| chip(&image)).collect::<Vec<_>>();
        chips.extend(found.into_iter().map(|chip| (name.clone(), chip)));
    }
    chips
}

/// The largest face.
fn found(image: &RgbImage, detector: &Detector) -> Option<Chip> {
    let Shrunk { image: small, scale } = vision::shrink(image, 640);
    let (width, height) = small.dimensions();
    let output = detector.forward(&[small.as_raw()], width, height).ok()?.swap_remove(0);
    let found = vision::detections(&output, width, height, scale, &DetectOptions::default()).ok()?;
    vision::align(image, &found.first()?.landmarks).ok()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}
