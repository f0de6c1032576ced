//! The lanes, and the engine with real networks: what is batched, refused, dropped.

mod search;

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use super::lanes::{Answer, DetectEntry, DetectInput, EmbedEntry, EmbedInput, Entry, Lanes, Limits, Role, Task, Work};
use super::{DetectorInput, Engine, EngineError, EngineThreads, InputNormalisation, LoadedEmbedder, Step};
use crate::config::{DeviceChoice, EngineConfig, PrecisionChoice, Settings};
use crate::types::{Chip, DetectorOutput, Embedding};

const LIMITS: Limits =
    Limits { max_batch: 8, max_wait: Duration::from_millis(5), max_age: Duration::from_secs(10), max_entries: 100 };

/// An image that nobody looks at.
fn image(width: u32) -> (DetectEntry, Answer<Vec<DetectorOutput>>) {
    images(width, 1)
}

fn images(width: u32, count: usize) -> (DetectEntry, Answer<Vec<DetectorOutput>>) {
    let image = || DetectorInput { rgb: Vec::new(), width, height: 10, _held: None };
    Entry::new(DetectInput { size: (width, 10), images: (0..count).map(|_| image()).collect() })
}

/// Chips for the one embedder that the tests of lanes have.
fn chips(count: usize) -> (EmbedEntry, Answer<Vec<Embedding>>) {
    static EMBEDDER: LazyLock<LoadedEmbedder> = LazyLock::new(|| LoadedEmbedder::new(Vec::new()));
    chips_for(&EMBEDDER, count)
}

fn chips_for(embedder: &LoadedEmbedder, count: usize) -> (EmbedEntry, Answer<Vec<Embedding>>) {
    let chip = Chip::try_from(image::RgbImage::new(Chip::SIDE, Chip::SIDE)).unwrap();
    Entry::new(EmbedInput { embedder: embedder.clone(), chips: vec![chip; count] })
}

/// What would be taken: the stage and its number of entries, and the threads for it.
fn take(lanes: &mut Lanes, role: Role, idle: usize, now: Instant) -> Option<(&'static str, usize, usize)> {
    let (work, threads) = lanes.take(role, idle, &LIMITS, now)?;
    Some(match work {
        Work::Pixels(task) => {
            task.run();
            ("pixels", 1, threads)
        }
        Work::Detect(entries) => ("detect", entries.len(), threads),
        Work::Embed(entries) => ("embed", entries.len(), threads),
        Work::Search(entries) => ("search", entries.len(), threads),
    })
}

#[test]
fn batches_wait_for_more_only_while_there_is_other_work() {
    let (mut lanes, mut answers) = (Lanes::default(), Vec::new());
    let now = Instant::now();
    let (entry, answer) = chips(1);
    lanes.push_embed(entry, &LIMITS).unwrap();
    answers.push(answer);
    lanes.push_task(Step::Decode, Task::new(|_| true), &LIMITS).unwrap();
    // Decoding may bring more chips, so it goes first; then nothing is worth waiting for.
    assert_eq!(take(&mut lanes, Role::Everything, 1, now), Some(("pixels", 1, 1)));
    assert_eq!(take(&mut lanes, Role::Everything, 1, now), Some(("embed", 1, 1)));
    assert_eq!(take(&mut lanes, Role::Everything, 1, now), None);
    // A batch that has waited long enough, or is full, goes before all else.
    for (count, when) in [(1, now + LIMITS.max_wait * 2), (LIMITS.max_batch, now)] {
        let (entry, _answer) = chips(count);
        lanes.push_embed(entry, &LIMITS).unwrap();
        lanes.push_task(Step::Decode, Task::new(|_| true), &LIMITS).unwrap();
        assert_eq!(take(&mut lanes, Role::Everything, 1, when), Some(("embed", 1, 1)));
        assert_eq!(take(&mut lanes, Role::Everything, 1, when), Some(("pixels", 1, 1)));
    }
}

#[test]
fn later_stages_go_first() {
    let mut lanes = Lanes::default();
    let now = Instant::now() + LIMITS.max_wait * 2;
    lanes.push_task(Step::Decode, Task::new(|_| panic!("the first step came first")), &LIMITS).unwrap();
    lanes.push_task(Step::Align, Task::new(|_| true), &LIMITS).unwrap();
    let ((face, _a), (photo, _b)) = (chips(1), image(10));
    lanes.push_detect(photo, &LIMITS).unwrap();
    lanes.push_embed(face, &LIMITS).unwrap();
    for expected in ["embed", "detect", "pixels"] {
        assert_eq!(take(&mut lanes, Role::Everything, 1, now).unwrap().0, expected);
    }
    assert_eq!(lanes.depth().first, 1);
}

#[test]
fn only_images_of_one_size_share_a_pass_and_the_oldest_is_in_it() {
    let (mut lanes, mut answers) = (Lanes::default(), Vec::new());
    for width in [30, 20, 30, 30, 20] {
        let (entry, answer) = image(width);
        lanes.push_detect(entry, &LIMITS).unwrap();
        answers.push(answer);
    }
    let now = Instant::now();
    assert_eq!(take(&mut lanes, Role::Everything, 1, now), Some(("detect", 3, 1)));
    assert_eq!(take(&mut lanes, Role::Everything, 1, now), Some(("detect", 2, 1)));
}

#[test]
fn the_looks_at_a_photo_stay_together_and_count_as_one() {
    let (mut lanes, mut answers) = (Lanes::default(), Vec::new());
    let most = LIMITS.max_batch;
    for count in [most + 10, most - 1, 1, 2] {
        let (entry, answer) = images(30, count);
        lanes.push_detect(entry, &LIMITS).unwrap();
        answers.push(answer);
    }
    assert_eq!(lanes.depth().detect, 2 * most + 12);
    let now = Instant::now();
    for expected in [1, 2, 1] {
        assert_eq!(take(&mut lanes, Role::Everything, 1, now), Some(("detect", expected, 1)));
    }
}

#[test]
fn the_faces_of_a_photo_stay_together_and_a_batch_keeps_its_limit() {
    let (mut lanes, mut answers) = (Lanes::default(), Vec::new());
    for count in [3, 5, 1, 40, 2] {
        let (entry, answer) = chips(count);
        lanes.push_embed(entry, &LIMITS).unwrap();
        answers.push(answer);
    }
    assert_eq!(lanes.depth().embed, 51);
    let now = Instant::now();
    for expected in [2, 1, 1, 1] {
        assert_eq!(take(&mut lanes, Role::Everything, 1, now), Some(("embed", expected, 1)));
    }
    assert_eq!(take(&mut lanes, Role::Everything, 1, now), None);
}

#[test]
fn a_batch_is_for_one_embedder_and_keeps_the_order_of_each() {
    let (mut lanes, mut answers) = (Lanes::default(), Vec::new());
    let [a, b] = [(); 2].map(|()| LoadedEmbedder::new(Vec::new()));
    for (embedder, count) in [(&a, 3), (&b, 1), (&a, 4), (&a, 2), (&b, 2), (&a, 1)] {
        let (entry, answer) = chips_for(embedder, count);
        lanes.push_embed(entry, &LIMITS).unwrap();
        answers.push(answer);
    }
    let mut next = || match lanes.take(Role::Everything, 1, &LIMITS, Instant::now()) {
        Some((Work::Embed(entries), _)) => {
            assert!(entries.iter().all(|entry| entry.input.embedder.is(&entries[0].input.embedder)));
            entries.iter().map(|entry| entry.input.chips.len()).collect()
        }
        _ => Vec::new(),
    };
    assert_eq!([next(), next(), next(), next()], [vec![3, 4], vec![1, 2], vec![2, 1], vec![]]);
}

#[test]
fn idle_threads_share_what_waits() {
    let (mut lanes, mut answers) = (Lanes::default(), Vec::new());
    let mut push = |lanes: &mut Lanes, count: usize| {
        for _ in 0..count {
            let (entry, answer) = chips(1);
            lanes.push_embed(entry, &LIMITS).unwrap();
            answers.push(answer);
        }
    };
    let now = Instant::now();
    // More entries than threads: a part each. Fewer: several threads for one.
    push(&mut lanes, 7);
    assert_eq!(take(&mut lanes, Role::Everything, 4, now), Some(("embed", 2, 1)));
    assert_eq!(take(&mut lanes, Role::Everything, 3, now), Some(("embed", 2, 1)));
    assert_eq!(take(&mut lanes, Role::Everything, 1, now), Some(("embed", 3, 1)));
    push(&mut lanes, 1);
    assert_eq!(take(&mut lanes, Role::Everything, 2, now), Some(("embed", 1, 2)));
}

#[test]
fn threads_take_only_what_is_theirs() {
    let mut lanes = Lanes::default();
    let (entry, _answer) = chips(1);
    lanes.push_embed(entry, &LIMITS).unwrap();
    let now = Instant::now();
    assert_eq!(take(&mut lanes, Role::Pixels, 1, now), None);
    lanes.push_task(Step::Decode, Task::new(|_| true), &LIMITS).unwrap();
    assert_eq!(take(&mut lanes, Role::Networks, 1, now), Some(("embed", 1, 1)));
    assert_eq!(take(&mut lanes, Role::Networks, 1, now), None);
    assert_eq!(take(&mut lanes, Role::Pixels, 1, now), Some(("pixels", 1, 1)));
}

#[test]
fn lanes_are_bounded_in_entries_and_in_age() {
    let (mut lanes, mut answers) = (Lanes::default(), Vec::new());
    for n in 0..=LIMITS.max_entries {
        let (entry, answer) = image(10);
        assert_eq!(lanes.push_detect(entry, &LIMITS).is_err(), n == LIMITS.max_entries);
        answers.push(answer);
    }
    drop(answers.remove(1));
    let now = Instant::now();
    assert_eq!(lanes.sweep(&LIMITS, now), (1, 0));
    assert_eq!(lanes.sweep(&LIMITS, now + LIMITS.max_age * 2), (0, LIMITS.max_entries - 1));
    assert!(matches!(answers[0].try_recv(), Ok(Err(EngineError::Overloaded))));
    assert_eq!(lanes.depth().detect, 0);
}

/// An engine with the real networks.
async fn engine(change: impl FnOnce(&mut EngineConfig)) -> (Engine, EngineThreads, LoadedEmbedder) {
    let folder = crate::nn::testing::weights("mobilefacenet-512.onnx").parent().unwrap().to_owned();
    let settings =
        Settings { weights_dir: Some(folder), embedder: Some("fast".into()), threads: Some(1), ..Settings::default() };
    let mut config = settings.into_config().unwrap().engine;
    change(&mut config);
    let (engine, threads) = Engine::start(config.clone()).await.unwrap_or_else(|error| panic!("{error}"));
    let embedder = engine.load_embedder_file(&config.embedder, InputNormalisation::default()).await.unwrap();
    (engine, threads, embedder)
}

fn chip(n: u32) -> Chip {
    let image = image::RgbImage::from_fn(Chip::SIDE, Chip::SIDE, |x, y| {
        image::Rgb([(x * n) as u8, (y * (n + 1)) as u8, (x + y) as u8])
    });
    Chip::try_from(image).unwrap()
}

#[tokio::test]
async fn everyone_gets_the_embeddings_of_their_own_chips() {
    for threads in [1, 3] {
        let (engine, _threads, embedder) = engine(|config| config.threads = threads).await;
        let mut alone = Vec::new();
        for n in 0..12 {
            alone.extend(engine.embed(&embedder, vec![chip(n)]).await.unwrap());
        }
        let together = (0..4).map(|n| engine.embed(&embedder, vec![chip(3 * n), chip(3 * n + 1), chip(3 * n + 2)]));
        let together = futures_util::future::try_join_all(together).await.unwrap().concat();
        for (a, b) in alone.iter().zip(&together) {
            assert!(a.similarity(b) > 0.9999, "{}", a.similarity(b));
        }
        assert!(alone[0].similarity(&together[7]) < 0.99);
    }
}

#[tokio::test]
async fn embedders_come_and_go_beside_one_another() {
    let (engine, _threads, rgb) = engine(|_| ()).await;
    let file = crate::nn::testing::weights("mobilefacenet-512.onnx");
    let content: bytes::Bytes = std::fs::read(file).unwrap().into();
    let normalisation = InputNormalisation { channels: super::Channels::Bgr, ..InputNormalisation::default() };
    let bgr = engine.load_embedder(content, super::Format::Onnx, normalisation).await.unwrap();
    let refused = engine.load_embedder("no network".into(), super::Format::Onnx, normalisation).await;
    assert!(matches!(refused, Err(EngineError::Embedder(_))));
    let colourful = chip(3);
    let both = futures_util::future::try_join_all([
        engine.embed(&rgb, vec![colourful.clone()]),
        engine.embed(&bgr, vec![colourful.clone()]),
    ]);
    let both = both.await.unwrap().concat();
    assert!(both[0].similarity(&both[1]) < 0.99, "{}", both[0].similarity(&both[1]));
    drop(bgr);
    assert_eq!(engine.embed(&rgb, vec![colourful]).await.unwrap()[0].as_slice(), both[0].as_slice());
}

/// Keeps a thread busy until what it returns is dropped: with one thread, everything else waits.
async fn hold_up(engine: &Engine) -> std::sync::mpsc::Sender<()> {
    let (release, released) = std::sync::mpsc::channel();
    let (began, held) = tokio::sync::oneshot::channel();
    let engine = engine.clone();
    tokio::spawn(async move {
        let wait = move || began.send(()).is_ok() && released.recv().is_err();
        engine.on_cpu(Step::Align, wait).await
    });
    held.await.unwrap();
    release
}

#[tokio::test]
async fn work_of_callers_who_left_is_never_begun() {
    let (engine, threads, embedder) = engine(|_| ()).await;
    let release = hold_up(&engine).await;
    let begun = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let abandoned = {
        let (engine, embedder, begun) = (engine.clone(), embedder.clone(), begun.clone());
        tokio::spawn(async move {
            let decode = engine.on_cpu(Step::Decode, move || begun.store(true, std::sync::atomic::Ordering::SeqCst));
            let embed = engine.embed(&embedder, vec![chip(1)]);
            let _ = tokio::join!(decode, embed);
        })
    };
    while engine.depth().first == 0 || engine.depth().embed == 0 {
        tokio::task::yield_now().await;
    }
    abandoned.abort();
    assert!(abandoned.await.unwrap_err().is_cancelled());
    drop(release);
    assert_eq!(engine.embed(&embedder, vec![chip(2)]).await.unwrap().len(), 1);
    drop(engine);
    tokio::task::spawn_blocking(|| threads.join()).await.unwrap();
    assert!(!begun.load(std::sync::atomic::Ordering::SeqCst));
}

#[tokio::test]
async fn a_panic_costs_only_its_caller() {
    let (engine, _threads, _embedder) = engine(|_| ()).await;
    let failed = engine.on_cpu(Step::Align, || panic!("a broken image")).await;
    assert!(matches!(failed, Err::<(), _>(EngineError::Panicked)));
    assert_eq!(engine.on_cpu(Step::Align, || 7).await.unwrap(), 7);
}

#[tokio::test]
async fn a_device_that_is_not_there_is_a_clear_error() {
    let asked = |device, precision| {
        let mut config = Settings::default().into_config().unwrap().engine;
        (config.device, config.precision) = (device, precision);
        config.cuda_libraries = Some("/no/such/folder".into());
        super::targets(&config)
    };
    for device in [DeviceChoice::Cuda(None), DeviceChoice::Cuda(Some(7))] {
        let error = asked(device, PrecisionChoice::Auto).unwrap_err().to_string();
        assert!(error.contains("--device cuda") && error.contains("libtorch_cuda.so"), "{error}");
    }
    let error = asked(DeviceChoice::Cpu, PrecisionChoice::Fp16).unwrap_err().to_string();
    assert!(error.contains("needs a GPU"), "{error}");
    let targets = asked(DeviceChoice::Auto, PrecisionChoice::Auto).unwrap();
    assert_eq!(targets.iter().map(|target| target.name()).collect::<Vec<_>>(), ["cpu"]);
}
