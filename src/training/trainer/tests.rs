use super::super::config::{Architecture, Augmentation, BatchShape, HeldOut, Input, Loss, Optimiser, Stopping};
use super::super::dataset::made;
use super::super::model::BaseFile;
use super::*;
use crate::nn::InputNormalisation;

/// A network that takes milliseconds a step.
fn config(steps: u64) -> TrainConfig {
    TrainConfig {
        steps,
        network: Architecture::MobileFaceNet { input: Input::Grey56, dimension: 16, width: 0.125 },
        batch: BatchShape { subjects: 4, photos: 3, singles: 0 },
        optimiser: Optimiser { warm_up: 0.05, learning_rate: 3e-3, ..Optimiser::default() },
        augmentation: Augmentation::NONE,
        ..TrainConfig::default()
    }
}

/// Without subjects for validation.
fn alone(train: &Dataset) -> Sets<'_> {
    static NOBODY: Dataset = Dataset::NOBODY;
    Sets { train, validation: &NOBODY, replay: None }
}

/// Trains to the end; comes with what was told.
fn run(config: TrainConfig, train: &Dataset, validation: &Dataset) -> (Trainer, Vec<Event>) {
    let mut trainer = Trainer::new(config).unwrap();
    let mut events = Vec::new();
    let observe = |_: &Trainer, event| {
        events.push(event);
        Ok(ControlFlow::Continue(()))
    };
    trainer.run(&Sets { train, validation, replay: None }, observe).unwrap();
    (trainer, events)
}

#[test]
fn every_loss_falls_on_made_subjects() {
    let train = made::stripes(&[4, 4, 4, 4], 1);
    for loss in [
        Loss::SemiHard { margin: 0.5 },
        Loss::BatchHard { margin: 0.5 },
        Loss::BatchHardSoft,
        Loss::RandomMeanSquare { margin: 0.05 },
    ] {
        let (trainer, _) = run(TrainConfig { loss: loss.clone(), ..config(40) }, &train, &Dataset::default());
        let mean = |records: &[Record]| records.iter().map(|record| record.loss).sum::<f64>() / records.len() as f64;
        let (first, last) = (mean(&trainer.history()[..5]), mean(&trainer.history()[35..]));
        // A soft margin has no end; the others may reach 0.
        let aim = if loss == Loss::BatchHardSoft { 0.8 } else { 0.5 };
        assert!(last < aim * first, "{loss:?}: from {first} to {last}");
    }
}

#[test]
fn the_same_seed_gives_the_same_bits() {
    let train = made::stripes(&[3, 3, 3, 3, 1], 1);
    let of = |seed| {
        let changed = TrainConfig { seed, augmentation: Augmentation::default(), ..config(4) };
        let (trainer, _) = run(changed, &train, &Dataset::default());
        trainer.weights().into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    let first = of(5);
    assert!(first == of(5) && first != of(6));
}

#[test]
fn a_run_without_progress_stops_early_with_its_best_weights() {
    let train = made::stripes(&[3, 3, 3, 3], 1);
    let validation = made::stripes(&[2, 2], 9);
    let mut settings = TrainConfig { stopping: Stopping { every: 2, patience: 2 }, ..config(60) };
    // Nothing is learned, so that looks differ by running statistics only.
    settings.optimiser.learning_rate = 1e-12;
    let (trainer, events) = run(settings, &train, &validation);
    let best = trainer.validations().iter().fold(0.0, |best: f64, look| best.max(look.auc));
    let result = trainer.validations().iter().rfind(|look| look.auc == best).unwrap();
    assert_eq!(trainer.result_step(), result.step);
    if trainer.stopped_early() {
        assert!(matches!(events[events.len() - 1], Event::StoppedEarly));
        assert_eq!(trainer.steps_made(), result.step + 4);
    }
}

#[test]
fn a_collapse_is_known_by_the_distance_of_embeddings_of_length_1() {
    let trainer = Trainer::new(config(4)).unwrap();
    let record =
        |distance| Record { step: 1, loss: 0.3, active: 1.0, gradient: 0.0, distance, drift: 0.0, learning_rate: 1e-3 };
    assert!(trainer.has_collapsed(&record(0.01)) && !trainer.has_collapsed(&record(1.0)));
    assert!(!Trainer::new(TrainConfig::plain()).unwrap().has_collapsed(&record(0.01)));
}

#[test]
fn divergence_is_an_error() {
    let train = made::stripes(&[3, 3, 3, 3], 1);
    let mut settings = TrainConfig { loss: Loss::RandomMeanSquare { margin: 1.0 }, ..config(20) };
    settings.optimiser = Optimiser { warm_up: 0.0, learning_rate: 1e38, gradient_clip: 1e9, ..settings.optimiser };
    let mut trainer = Trainer::new(settings).unwrap();
    let ended = trainer.run(&alone(&train), |_, _| Ok(ControlFlow::Continue(())));
    assert!(matches!(ended, Err(TrainingError::Diverged { .. })), "{:?}", trainer.history().last());
}

#[test]
fn too_little_is_refused_before_anything_is_trained() {
    let mut trainer = Trainer::new(config(4)).unwrap();
    let ended = trainer.run(&alone(&made::stripes(&[1, 1], 1)), |_, _| Ok(ControlFlow::Continue(())));
    assert!(matches!(ended, Err(TrainingError::Data(_))));
    assert_eq!(trainer.steps_made(), 0);
    assert!(
        Trainer::new(TrainConfig { held_out: HeldOut { test_share: 2.0, ..Default::default() }, ..config(4) }).is_err()
    );
}

/// The history and the weights of a run on so many devices.
fn on_devices(count: usize, settings: &TrainConfig, base: Option<&BaseFile>) -> (Vec<Record>, Vec<f32>) {
    let train = made::stripes(&[4, 4, 4, 4], 1);
    let devices = vec![Device::Cpu; count];
    let mut trainer = Trainer::begin(settings.clone(), &Setup { base, devices: &devices }).unwrap();
    trainer.run(&alone(&train), |_, _| Ok(ControlFlow::Continue(()))).unwrap();
    (trainer.history.clone(), trainer.weights())
}

fn assert_alike((history, weights): &(Vec<Record>, Vec<f32>), other: &(Vec<Record>, Vec<f32>), what: &str) {
    for (a, b) in history.iter().zip(&other.0) {
        let near = |a: f64, b: f64| (a - b).abs() <= 1e-3 * a.abs().max(0.1);
        assert!(near(a.loss, b.loss) && near(a.gradient, b.gradient) && near(a.drift, b.drift), "{what}: {a:?} {b:?}");
    }
    let largest = weights.iter().zip(&other.1).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(largest < 2e-3, "{what}: weights differ by {largest}");
}

#[test]
fn several_devices_train_as_one_does() {
    // Without batch normalisation, whose statistics are those of each part.
    let network = Architecture::Mlp { input: Input::Grey56, hidden: 32, dimension: 16 };
    let built = TrainConfig { network, loss: Loss::BatchHardSoft, ..config(6) };
    let one = on_devices(1, &built, None);
    for count in [2, 3, 40] {
        assert_alike(&one, &on_devices(count, &built, None), &format!("{count} devices"));
    }
    // A network of a file, with chips that are replayed.
    let network = Architecture::MobileFaceNet { input: Input::Rgb112, dimension: 16, width: 0.125 };
    let content = Trainer::new(TrainConfig { network, ..config(1) }).unwrap().to_onnx();
    let base = BaseFile { content, input: InputNormalisation::default() };
    let tuned = TrainConfig { network: Architecture::Base, ..config(4) };
    let one = on_devices(1, &tuned, Some(&base));
    assert!(one.0[3].drift > 0.0, "{:?}", one.0);
    assert_alike(&one, &on_devices(3, &tuned, Some(&base)), "a network of a file");
}

#[test]
fn several_devices_share_their_statistics() {
    let train = made::stripes(&[4, 4, 4, 4], 1);
    let devices = [Device::Cpu; 2];
    let mut trainer = Trainer::begin(config(40), &Setup { base: None, devices: &devices }).unwrap();
    trainer.run(&alone(&train), |_, _| Ok(ControlFlow::Continue(()))).unwrap();
    assert!(trainer.replicas.differ_by(&trainer.params) == 0.0);
    let mean = |records: &[Record]| records.iter().map(|record| record.loss).sum::<f64>() / records.len() as f64;
    let history = trainer.history();
    assert!(mean(&history[35..]) < 0.7 * mean(&history[..5]), "{history:?}");
}
