use std::ops::ControlFlow;

use super::super::config::{Architecture, BatchShape, Input, Stopping};
use super::super::dataset::{Dataset, made};
use super::super::feed::Sets;
use super::*;

/// A few steps of a small network, with looks at validation subjects.
fn config() -> TrainConfig {
    TrainConfig {
        steps: 8,
        network: Architecture::MobileFaceNet { input: Input::Grey56, dimension: 8, width: 0.125 },
        batch: BatchShape { subjects: 3, photos: 2, singles: 1 },
        stopping: Stopping { every: 2, patience: 100 },
        optimiser: super::super::config::Optimiser { warm_up: 0.25, ..Default::default() },
        ..TrainConfig::default()
    }
}

fn sets() -> (Dataset, Dataset) {
    (made::stripes(&[3, 3, 3, 1, 4], 1), made::stripes(&[2, 2, 2], 2))
}

fn resume(path: &Path, data: &str) -> Result<Trainer, TrainingError> {
    Trainer::resume(path, data, &Setup::default())
}

/// Runs until the end or until a step was made.
fn run(trainer: &mut Trainer, until: Option<u64>) {
    let (train, validation) = sets();
    let observe = |trainer: &Trainer, _| match until {
        Some(step) if trainer.steps_made() == step => Ok(ControlFlow::Break(())),
        _ => Ok(ControlFlow::Continue(())),
    };
    trainer.run(&Sets { train: &train, validation: &validation, replay: None }, observe).unwrap();
}

fn bits(trainer: &Trainer) -> Vec<u32> {
    let of = |params: &Params| params.iter().flat_map(|param| numbers(&param.tensor)).collect::<Vec<f32>>();
    let all = [of(&trainer.params), of(&trainer.averages), trainer.weights()].concat();
    all.into_iter().map(f32::to_bits).collect()
}

#[test]
fn a_resumed_run_ends_in_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.safetensors");
    let mut whole = Trainer::new(config()).unwrap();
    run(&mut whole, None);
    for stop in [3, 6] {
        let mut first = Trainer::new(config()).unwrap();
        run(&mut first, Some(stop));
        first.save(&path, "photos").unwrap();
        drop(first);
        let mut second = resume(&path, "photos").unwrap();
        assert_eq!((second.steps_made(), second.config()), (stop, &config()));
        run(&mut second, None);
        assert_eq!(second.history(), whole.history());
        assert_eq!(second.validations(), whole.validations());
        assert_eq!(second.result_step(), whole.result_step());
        assert!(bits(&second) == bits(&whole), "stopped after {stop} steps");
    }
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["run.safetensors"], "nothing else is left");
}

/// What `resume` says of a file.
fn refusal(path: &Path) -> String {
    resume(path, "photos").err().expect("it is refused").to_string()
}

#[test]
fn other_photos_and_damaged_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.safetensors");
    assert!(matches!(resume(&path, "photos"), Err(TrainingError::Io { .. })));
    let mut trainer = Trainer::new(config()).unwrap();
    run(&mut trainer, Some(2));
    trainer.save(&path, "photos").unwrap();
    assert!(matches!(resume(&path, "others"), Err(TrainingError::Checkpoint { .. })));
    let whole = std::fs::read(&path).unwrap();
    for part in [&whole[..0], &whole[..7], &whole[..100], &whole[..whole.len() - 4], b"nonsense and more of it"] {
        std::fs::write(&path, part).unwrap();
        assert!(matches!(resume(&path, "photos"), Err(TrainingError::Checkpoint { .. })), "{}", part.len());
    }
}

/// Writes the tensors of `trainer` after a change.
fn changed(trainer: &Trainer, path: &Path, change: impl FnOnce(&mut BTreeMap<String, Stored>)) {
    trainer.save(path, "photos").unwrap();
    let content = std::fs::read(path).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&content).unwrap();
    let mut stored = trainer.stored();
    change(&mut stored);
    let views = stored.iter().map(|(name, stored)| {
        (name.as_str(), TensorView::new(stored.kind, stored.shape.clone(), &stored.bytes).unwrap())
    });
    std::fs::write(path, serialize(views.collect::<Vec<_>>(), metadata.metadata()).unwrap()).unwrap();
}

#[test]
fn names_shapes_types_and_numbers_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.safetensors");
    let mut trainer = Trainer::new(config()).unwrap();
    run(&mut trainer, Some(2));
    let vector = "weights/conv0.norm.scale";
    changed(&trainer, &path, |_| {});
    assert!(resume(&path, "photos").is_ok());
    changed(&trainer, &path, |stored| drop(stored.remove("second/conv0.weight")));
    assert!(refusal(&path).contains("second/conv0.weight is missing"), "{}", refusal(&path));
    changed(&trainer, &path, |stored| {
        let copy = Stored { kind: Dtype::F32, shape: vec![1], bytes: vec![0; 4] };
        stored.insert("weights/other".to_owned(), copy);
    });
    assert!(refusal(&path).contains("belongs to no part"), "{}", refusal(&path));
    changed(&trainer, &path, |stored| stored.get_mut(vector).unwrap().shape.insert(0, 1));
    assert!(refusal(&path).contains("has the shape [1, 8]"), "{}", refusal(&path));
    changed(&trainer, &path, |stored| stored.get_mut(vector).unwrap().kind = Dtype::I32);
    assert!(refusal(&path).contains("the type I32"), "{}", refusal(&path));
    changed(&trainer, &path, |stored| stored.get_mut(vector).unwrap().bytes[..4].copy_from_slice(&[255; 4]));
    assert!(refusal(&path).contains("not finite"), "{}", refusal(&path));
    changed(&trainer, &path, |stored| {
        drop(stored.insert("history".to_owned(), Stored::rows::<RECORD>([].into_iter())))
    });
    assert!(refusal(&path).contains("history has 0 steps of 2"), "{}", refusal(&path));
}
