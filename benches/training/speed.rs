//! Images a second of training, on made chips: `cargo bench --bench training -- speed [--device cpu|cuda|cuda:N] [--batch N]
//! [--precision fp32|bf16] [--threads N] [--steps N] [--network mobilefacenet|cnn|base]`.
//!
//! `base` is the bundled embedder, with eight chips of each step beside the batch that are to be embedded as before.
//!
//! A step is all that a run does: choosing chips, changing them, bringing them to the device, forward, loss, backward,
//! AdamW, averages, and the figures of the step. Floating-point operations are counted as twice the multiplications of the
//! network's convolutions and products, three times: forward, and backward to values and to weights.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::time::Instant;

use faceid::evaluation::Random;
use faceid::nn::{InputNormalisation, Precision, Target, load_cuda};
use faceid::training::{Augmentation, BaseFile, BatchShape, Dataset, Event, Sets, Setup, TrainConfig, Trainer};
use faceid::types::Chip;
use image::RgbImage;

/// Steps before the clock starts: libraries choose their kernels in the first ones.
const WARM_UP: u64 = 5;

pub fn run(flags: &[String]) {
    let said: HashMap<&str, &str> =
        flags.chunks(2).map(|pair| (pair[0].as_str(), pair.get(1).expect("every flag has a value").as_str())).collect();
    let number = |flag: &str, default: u64| said.get(flag).map_or(default, |text| text.parse().expect("a number"));
    let targets = targets(said.get("--device").copied().unwrap_or("cpu"));
    let photos = 4;
    let batch = number("--batch", 256);
    let (mut config, base) = match said.get("--network").copied().unwrap_or("mobilefacenet") {
        "cnn" => (TrainConfig::default(), None),
        "base" => (TrainConfig::fine_tune(true), Some(bundled())),
        _ => (TrainConfig::mobile_face_net(), None),
    };
    config.precision = match said.get("--precision").copied().unwrap_or("bf16") {
        "fp32" => Precision::Fp32,
        _ => Precision::Bf16,
    };
    config.steps = WARM_UP + number("--steps", 30);
    config.threads = number("--threads", 1) as u16;
    config.batch = BatchShape { subjects: (batch / photos) as u16, photos: photos as u16, singles: 0 };
    let dataset = made(batch as usize, 8);
    let names = targets.iter().map(Target::name).collect::<Vec<_>>().join(", ");
    let devices: Vec<_> = targets.iter().map(|target| target.device).collect();
    let (precision, threads) = (config.precision, config.threads);
    println!("{names}, {precision}, batch {batch}, {threads} CPU threads, {} steps", config.steps - WARM_UP);
    println!("{:<22} {:>10} {:>12} {:>10}", "chips are", "images/s", "ms a step", "TFLOP/s");
    for (what, augmentation) in [("as they are", Augmentation::NONE), ("varied", Augmentation::default())] {
        let config = TrainConfig { augmentation, ..config.clone() };
        let setup = Setup { base: base.as_ref(), devices: &devices };
        let (seconds, multiply_adds) = seconds_a_step(&config, &setup, &dataset);
        let rate = batch as f64 / seconds;
        let flops = |each: u64| format!("{:.3}", rate * each as f64 * 2.0 * 3.0 / 1e12);
        let flops = multiply_adds.map_or_else(String::new, flops);
        println!("{what:<22} {rate:>10.1} {:>12.2} {flops:>10}", seconds * 1e3);
    }
}

/// `cuda` is all GPUs, `cuda:N` one of them.
fn targets(device: &str) -> Vec<Target> {
    let Some(number) = device.strip_prefix("cuda") else { return vec![Target::CPU] };
    let count = load_cuda(None).expect("libtorch's CUDA part is on the library path");
    let numbers = number.trim_start_matches(':').parse().map_or(0..count, |number| number..number + 1);
    numbers.map(|number| Target::cuda(number, Precision::Fp32)).collect()
}

fn bundled() -> BaseFile {
    let content = std::fs::read(super::weights("mobilefacenet-512.onnx")).expect("make setup");
    BaseFile { content, input: InputNormalisation::default() }
}

/// Of the steps after the warm-up; and the network's multiplications for a chip, if they are known.
fn seconds_a_step(config: &TrainConfig, setup: &Setup, dataset: &Dataset) -> (f64, Option<u64>) {
    let mut trainer = Trainer::begin(config.clone(), setup).expect("the settings are usable");
    let multiply_adds = trainer.multiply_adds();
    let (nobody, mut began) = (Dataset::default(), Instant::now());
    let sets = Sets { train: dataset, validation: &nobody, replay: None };
    let trained = trainer.run(&sets, |_, event| {
        // A step ends when its figures are read, so all of its work is done.
        if let Event::Step(record) = event
            && record.step == WARM_UP
        {
            began = Instant::now();
        }
        Ok(ControlFlow::Continue(()))
    });
    trained.expect("training ends well");
    (began.elapsed().as_secs_f64() / (config.steps - WARM_UP) as f64, multiply_adds)
}

/// Noise of `subjects` people, `photos` of each.
fn made(subjects: usize, photos: usize) -> Dataset {
    let mut random = Random::new(1, 0);
    let mut chip = || {
        let mut image = RgbImage::new(Chip::SIDE, Chip::SIDE);
        image.iter_mut().for_each(|value| *value = random.below(256) as u8);
        Chip::try_from(image).expect("it has a chip's size")
    };
    let chips = (0..subjects * photos).map(|number| (format!("{:05}", number / photos), chip()));
    Dataset::new(chips.collect())
}
