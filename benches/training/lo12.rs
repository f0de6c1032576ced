//! Fine-tuning the bundled embedder to a camera whose faces are 12 pixels wide: `cargo bench --bench training -- lo12
//! [NAME...]`. Each photo of orl is made 12/80 of its size and large again; faces are then found, aligned and embedded as
//! always. 30 people are trained on, the other 10 tested, in two ways of choosing them; lfw100, as it is, says what was
//! forgotten. Training takes one thread; its seconds are without detection and measuring.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use faceid::evaluation::{Gate, GateSet, Verdict};
use faceid::nn::{Detector, Embedder, InputNormalisation, Precision, Target};
use faceid::training::{BaseFile, Dataset, HeldOut, Sets, Setup, Split, TrainConfig, Trainer};
use faceid::types::Chip;
use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};

use super::{SPLITS, Told, detector, found, told, weights};

/// Width of the faces over that of the photos, in which a face is about 80 pixels wide.
const SMALLER: f64 = 12.0 / 80.0;

/// The share of strangers at which a server decides.
const FPIR: f64 = 0.01;

pub fn run(root: &Path, wanted: &[String]) {
    let detector = detector();
    let shifted = chips(&root.join("orl"), &detector, degrade);
    let sharp = chips(&root.join("orl"), &detector, |image| image.clone());
    let clean = Dataset::new(chips(&root.join("lfw100"), &detector, |image| image.clone()));
    let base = Base::load();
    let before = base.embed(clean.chips());
    println!("{:<22} {:>3} {}  {}   {:>8}", "method", "set", Told::HEAD, Told::HEAD, "seconds");
    for (name, settings) in methods() {
        if !wanted.is_empty() && !wanted.iter().any(|wanted| wanted == name) {
            continue;
        }
        for (set, people) in SPLITS.iter().enumerate() {
            let test = people.iter().map(|number| format!("s{number}")).collect();
            let held_out = HeldOut { test, test_share: 0.0, validation_share: 0.0 };
            let split = Dataset::new(shifted.clone()).split(&held_out, 1).expect("all of them are there");
            // The same people as another camera sees them.
            let is_trained = |(name, _): &&(String, Chip)| split.train.names().contains(name);
            let replay = Dataset::new(sharp.iter().filter(is_trained).cloned().collect());
            let target = base.embed(split.test.chips());
            let (seconds, after, kept) = match &settings {
                None => (0.0, target.clone(), before.clone()),
                Some(settings) => base.train(settings, &split, &replay, clean.chips()),
            };
            let (now, elsewhere) = (told(&after, split.test.subjects()), told(&kept, clean.subjects()));
            println!("{name:<22} {:>3} {now}  {elsewhere}   {seconds:>8.1}", format!("S{set}"));
            let gate = |name, split: &Dataset, active: &[Vec<f32>], candidate: Vec<Vec<f32>>| {
                GateSet::of_subjects((name, FPIR), split.subjects(), active.to_vec(), candidate).expect("the faces fit")
            };
            let protected = gate("lfw100", &clean, &before, kept);
            say(&Gate::default()
                .decide(&gate("orl", &split.test, &target, after), &[protected])
                .expect("the vectors are numbers"));
        }
    }
}

/// What is measured; without settings, the embedder as it is.
fn methods() -> Vec<(&'static str, Option<TrainConfig>)> {
    let preset = TrainConfig::fine_tune;
    let mut forgetful = preset(false);
    forgetful.optimiser.learning_rate = 1e-3;
    forgetful.fine_tuning.blend = 1.0;
    vec![
        ("as it is", None),
        ("finetune", Some(preset(false))),
        ("finetune, replay", Some(preset(true))),
        ("1e-3, no replay", Some(forgetful)),
    ]
}

fn say(verdict: &Verdict) {
    if let Some(change) = &verdict.target.change {
        let (at, change) = (change.fmr.at, change.tar_change);
        println!("    gate: TAR@FMR={at:.1e} {:+.4} ({:+.4} to {:+.4})", change.value, change.low, change.high);
    }
    println!("    gate: {:?}", verdict.outcome);
    verdict.reasons.iter().for_each(|reason| println!("      {reason}"));
}

struct Base {
    file: BaseFile,
    embedder: Embedder,
}

impl Base {
    fn load() -> Self {
        let path = weights("mobilefacenet-512.onnx");
        let input = InputNormalisation::default();
        let content = std::fs::read(&path).expect("make setup");
        let embedder = Embedder::load(&path, &Target::cpu(Precision::Fp32), input).expect("make setup");
        Self { file: BaseFile { content, input }, embedder }
    }

    /// Embeddings of length 1.
    fn embed(&self, chips: &[Chip]) -> Vec<Vec<f32>> {
        let rows = self.embedder.forward(chips).expect("it embeds");
        let normalised = |row: Vec<f32>| {
            let length = row.iter().map(|value| value * value).sum::<f32>().sqrt();
            row.into_iter().map(|value| value / length).collect()
        };
        rows.into_iter().map(normalised).collect()
    }

    /// Seconds of training, and what it makes of the test's faces and of others.
    fn train(
        &self,
        settings: &TrainConfig,
        split: &Split,
        replay: &Dataset,
        others: &[Chip],
    ) -> (f64, Vec<Vec<f32>>, Vec<Vec<f32>>) {
        let began = Instant::now();
        let setup = Setup { base: Some(&self.file), ..Setup::default() };
        let mut trainer = Trainer::begin(settings.clone(), &setup).expect("the settings are usable");
        let sets = Sets { train: &split.train, validation: &split.validation, replay: Some(replay) };
        trainer.run(&sets, |_, _| Ok(ControlFlow::Continue(()))).expect("training ends well");
        let seconds = began.elapsed().as_secs_f64();
        let embed = |chips| trainer.embed(chips).expect("it embeds");
        (seconds, embed(split.test.chips()), embed(others))
    }
}

/// The largest face of each photo as `change` leaves it, and whose it is.
fn chips(folder: &Path, detector: &Detector, change: fn(&RgbImage) -> RgbImage) -> Vec<(String, Chip)> {
    super::photos(folder, |image| found(&change(image), detector))
}

/// The photo of another camera, large enough and with enough around it for the detector.
fn degrade(image: &RgbImage) -> RgbImage {
    let (width, height) = image.dimensions();
    let smaller = |side: u32| (f64::from(side) * SMALLER).round() as u32;
    let small = imageops::thumbnail(image, smaller(width), smaller(height));
    let blurred = imageops::resize(&small, width, height, FilterType::Triangle);
    let twice = imageops::resize(&blurred, 2 * width, 2 * height, FilterType::CatmullRom);
    let [across, down] = [2 * width, 2 * height].map(|side| (f64::from(side) * 0.3).round() as u32);
    let mut padded = RgbImage::from_pixel(2 * (width + across), 2 * (height + down), Rgb([128; 3]));
    imageops::replace(&mut padded, &twice, across.into(), down.into());
    padded
}
