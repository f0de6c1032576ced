//! `faceid train --base`, from the command line, as a server runs it: on chips that are made, in few steps. What longer
//! runs reach, `cargo bench --bench training -- lo12` measures.

use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use image::{Rgb, RgbImage};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::made_by_setup;
use crate::support::process::{data_dir, faceid};

/// Few chips a step, and half of the network as it was.
const RECIPE: &str = "[batch]\nsubjects = 3\nphotos = 2\n[fine_tuning]\nreplay = 2\nfrozen_share = 0.5\n";

/// What an interrupted run ends with.
const INTERRUPTED: Option<i32> = Some(3);

/// Chips of six subjects, each in stripes of their own, and a recipe.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = data_dir();
        for subject in 0..6_u32 {
            let person = folder.path().join(format!("people/s{subject}"));
            std::fs::create_dir_all(&person).unwrap();
            for number in 0..3_u32 {
                let wave = |x: u32, y: u32| ((x * (subject + 1) + y * (6 - subject) + number * 9) % 200) as u8;
                let chip = RgbImage::from_fn(112, 112, |x, y| Rgb([wave(x, y), wave(y, x), 90 + wave(x, x) / 2]));
                chip.save(person.join(format!("{number}.png"))).unwrap();
            }
        }
        std::fs::write(folder.path().join("recipe.toml"), RECIPE).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    /// A run from the bundled embedder that writes `output`, in steps.
    fn train(&self, output: &str, steps: &str, more: &[&str]) -> Command {
        self.train_from(&bundled(), output, steps, more)
    }

    fn train_from(&self, base: &Path, output: &str, steps: &str, more: &[&str]) -> Command {
        let mut command = faceid();
        command.args(["train", "--chips", "--threads", "1", "--test", "s0,s3", "--validation-share", "0"]);
        command.arg("--base").arg(base).args(["--data", &self.path("people"), "--recipe", &self.path("recipe.toml")]);
        command.args(["--output", &self.path(output), "--steps", steps]).args(more);
        command
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }
}

fn bundled() -> PathBuf {
    made_by_setup("FACEID_WEIGHTS_DIR", "weights").join("mobilefacenet-512.onnx")
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn done(mut command: Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    output
}

/// A run that tells its events.
struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command.arg("--events").stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The next event of a kind.
    fn until(&mut self, kind: &str) -> Value {
        let events = self.lines.by_ref().map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
        events.into_iter().find(|event| event["event"] == kind).unwrap_or_else(|| panic!("no event {kind:?}"))
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    fn exit_code(mut self) -> Option<i32> {
        // So that the program is not held up by lines that nobody reads.
        self.lines.by_ref().for_each(drop);
        self.child.wait().unwrap().code()
    }

    /// The priority of each thread.
    fn niceness(&self) -> Vec<i64> {
        niceness(self.child.id())
    }
}

/// The priority of each thread of a process, as `nice` counts it.
fn niceness(process: u32) -> Vec<i64> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let stat = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
    // The 19th field; the second, in brackets, may hold spaces.
    let nice = |stat: String| stat.rsplit(')').next()?.split_whitespace().nth(16)?.parse().ok();
    tasks.filter_map(|task| nice(stat(task.unwrap()))).collect()
}

#[test]
fn a_fine_tuned_network_has_its_base_and_who_was_held_out_on_its_card() {
    let folder = Folder::new();
    let mut running = Running::start(folder.train("net.onnx", "3", &[]));
    let stages: Vec<Value> = (0..2).map(|_| running.until("stage")["stage"].clone()).collect();
    assert_eq!(stages, ["reading", "training"]);
    let steps: Vec<Value> = (0..3).map(|_| running.until("step")).collect();
    let (first, last) = (&steps[0], &steps[2]);
    assert_eq!((&first["step"], &first["steps"], &last["seconds_left"]), (&1.into(), &3.into(), &0.0.into()));
    assert!(first["drift"].as_f64().unwrap() < 1e-6, "nothing has changed before the first step: {first}");
    assert!(last["drift"].as_f64().unwrap() > 1e-6, "{last}");
    let card = running.until("done")["done"].as_str().unwrap().to_owned();
    assert_eq!(running.exit_code(), Some(0));
    assert_eq!(card, folder.path("net.card.json"));

    let card: Value = serde_json::from_slice(&std::fs::read(card).unwrap()).unwrap();
    assert_eq!((&card["base"]["name"], &card["base"]["licence"]), (&"mobilefacenet-512".into(), &"MIT".into()));
    assert!(card["base"]["sha256"].as_str().unwrap().starts_with("87aacdfe"), "{card}");
    assert_eq!(card["data"]["test_subjects"], serde_json::json!(["s0", "s3"]));
    assert_eq!((&card["data"]["train"]["photos"], &card["settings"]["network"]["kind"]), (&12.into(), &"base".into()));
    let manifest = String::from_utf8(folder.read("net.toml")).unwrap();
    assert!(manifest.contains("name = \"net\"") && manifest.contains("licence = \"MIT\""), "{manifest}");
    // The same operators, so that it is as fast as its base; other weights.
    let base = std::fs::read(bundled()).unwrap();
    let convolutions = |file: &[u8]| file.windows(6).filter(|bytes| bytes == b"\x22\x04Conv").count();
    let net = folder.read("net.onnx");
    assert!(net != base && net.len().abs_diff(base.len()) < base.len() / 20);
    assert_eq!(convolutions(&net), convolutions(&base));

    let again = done(folder.train("again.onnx", "3", &["--json"]));
    assert!(folder.read("again.onnx") == net, "a run is not repeatable: {}", text(&again));
    // A fine-tuned network is a base like any other.
    let next = done(folder.train_from(Path::new(&folder.path("net.onnx")), "next.onnx", "1", &["--json"]));
    let card: Value = serde_json::from_slice(&next.stdout).unwrap();
    assert_eq!((&card["base"]["name"], &card["base"]["licence"]), (&"net".into(), &"MIT".into()));
}

/// Its file has 8-bit numbers; what is written has floats, which can be trained again.
#[test]
fn a_network_of_packed_weights_becomes_one_of_plain_ones() {
    let folder = Folder::new();
    let base = made_by_setup("FACEID_WEIGHTS_DIR", "weights").join("sface-128.onnx");
    let output = done(folder.train_from(&base, "net.onnx", "2", &["--json"]));
    let card: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&card["base"]["name"], &card["base"]["licence"]), (&"sface-128".into(), &"Apache-2.0".into()));
    let manifest = String::from_utf8(folder.read("net.toml")).unwrap();
    assert!(manifest.contains("mean = 0.0") && manifest.contains("scale = 1.0"), "{manifest}");
    assert!(folder.read("net.onnx").len() > 3 * std::fs::read(&base).unwrap().len());
    done(folder.train_from(Path::new(&folder.path("net.onnx")), "next.onnx", "1", &[]));
}

#[test]
fn a_run_that_is_stopped_goes_on_to_the_same_bits() {
    let folder = Folder::new();
    let checkpoint = folder.path("run.safetensors");
    let goes_on = ["--checkpoint", checkpoint.as_str(), "--continue", "--nice", "7"];
    done(folder.train("whole.onnx", "8", &[]));
    for (signal, output) in [(Signal::SIGTERM, "a.onnx"), (Signal::SIGINT, "b.onnx")] {
        let mut running = Running::start(folder.train(output, "8", &goes_on));
        running.until("step");
        let expected = (niceness(std::process::id())[0] + 7).min(19);
        assert!(running.niceness().iter().all(|nice| *nice == expected), "{:?}", running.niceness());
        running.signal(signal);
        running.until("interrupted");
        assert_eq!(running.exit_code(), INTERRUPTED);
        assert!(!Path::new(&folder.path(output)).exists());
        let mut running = Running::start(folder.train(output, "8", &goes_on));
        assert!(running.until("step")["step"].as_u64().unwrap() > 1, "it began anew");
        assert_eq!(running.exit_code(), Some(0));
        assert!(folder.read(output) == folder.read("whole.onnx"), "{signal}");
        // Of a run that is done; the next one would have nothing left to do.
        std::fs::remove_file(&checkpoint).unwrap();
    }
}

#[test]
fn a_checkpoint_that_does_not_fit_is_not_gone_on_with() {
    let folder = Folder::new();
    let checkpoint = folder.path("run.safetensors");
    done(folder.train("net.onnx", "1", &["--checkpoint", &checkpoint]));
    let goes_on = ["--checkpoint", checkpoint.as_str(), "--continue"];
    let mut other = Running::start(folder.train("net.onnx", "2", &goes_on));
    assert!(other.until("restarted")["reason"].as_str().unwrap().contains("other settings"));
    assert_eq!((other.until("step")["step"].as_u64(), other.exit_code()), (Some(1), Some(0)));
    std::fs::write(&checkpoint, "no checkpoint").unwrap();
    let mut damaged = Running::start(folder.train("net.onnx", "1", &goes_on));
    assert!(damaged.until("restarted")["reason"].as_str().unwrap().contains("is no checkpoint"));
    assert_eq!(damaged.exit_code(), Some(0));
    // Without its base a run cannot go on.
    let mut resumed = faceid();
    resumed.args(["train", "--chips", "--data", &folder.path("people"), "--output", &folder.path("x.onnx")]);
    let refused = resumed.args(["--resume", &checkpoint]).output().unwrap();
    assert!(!refused.status.success() && text(&refused).contains("began with a network"), "{}", text(&refused));
}

#[test]
fn a_run_ends_with_whoever_holds_its_input_and_within_its_memory() {
    let folder = Folder::new();
    let mut command = folder.train("net.onnx", "1000", &["--parent-stdin"]);
    command.stdin(Stdio::piped());
    let mut running = Running::start(command);
    running.until("step");
    drop(running.child.stdin.take());
    running.until("interrupted");
    assert_eq!(running.exit_code(), INTERRUPTED);
    let large = "[batch]\nsubjects = 4\nphotos = 3\n[fine_tuning]\nreplay = 12\n";
    std::fs::write(folder.path("recipe.toml"), large).unwrap();
    let limited = folder.train("net.onnx", "1", &["--memory-limit", "270000000"]).output().unwrap();
    // Refused by libtorch and said so, which other failures that have to do with memory are not.
    let refused = text(&limited).contains("DefaultCPUAllocator: can't allocate memory");
    assert!(limited.status.code() == Some(4) && refused, "{}", text(&limited));
    let nothing = folder.train("net.onnx", "1", &["--memory-limit", "1000"]).output().unwrap();
    assert_eq!(nothing.status.code(), Some(2), "{}", text(&nothing));
}

#[test]
fn copies_of_a_chip_are_not_trained_on() {
    let folder = Folder::new();
    std::fs::copy(folder.path("people/s1/0.png"), folder.path("people/s1/copy.png")).unwrap();
    // The same pixels in another file.
    image::open(folder.path("people/s2/0.png")).unwrap().save(folder.path("people/s2/copy.bmp")).unwrap();
    std::fs::copy(folder.path("people/s4/0.png"), folder.path("people/s5/of-s4.png")).unwrap();
    let output = done(folder.train("net.onnx", "1", &["--json"]));
    let data = &serde_json::from_slice::<Value>(&output.stdout).unwrap()["data"];
    // Of the twelve photos of those who are not tested, the one under two names is left out.
    assert_eq!(
        (&data["copies"], &data["under_several_names"], &data["train"]["photos"]),
        (&2.into(), &2.into(), &11.into()),
        "{data}"
    );
    let card = String::from_utf8(folder.read("net.card.md")).unwrap();
    assert!(card.contains("2 copies of photos of the same person, 2 that are there under several names"), "{card}");
}

#[test]
fn a_run_in_few_bits_is_written_and_one_that_cannot_be_written_does_not_begin() {
    let folder = Folder::new();
    // Narrow, to be fast; without averaging, so that weights get as far in a few steps as they need to be apart in few bits.
    let recipe = "[network]\nkind = \"mobile-face-net\"\ninput = \"rgb112\"\ndimension = 128\nwidth = 0.25\n\
        [batch]\nsubjects = 3\nphotos = 2\nsingles = 0\n[optimiser]\nwarm_up = 0.0\naverage_decay = 0.0\n";
    std::fs::write(folder.path("recipe.toml"), recipe).unwrap();
    let train = |output: &str, more: &[&str]| {
        let mut command = faceid();
        command.args(["train", "--chips", "--threads", "1", "--test-share", "0", "--validation-share", "0"]);
        command.args(["--data", &folder.path("people"), "--recipe", &folder.path("recipe.toml"), "--steps", "8"]);
        command.args(["--output", &folder.path(output)]).args(more);
        command
    };
    done(train("net.onnx", &["--preset", "mobilefacenet", "--precision", "bf16"]));
    assert!(folder.read("net.onnx").len() > 100_000);
    std::fs::write(folder.path("recipe.toml"), RECIPE).unwrap();
    done(folder.train("tuned.onnx", "1", &["--precision", "bf16"]));

    let mut nowhere = Running::start(train("no-folder/net.onnx", &[]));
    let said: Vec<Value> = nowhere.lines.by_ref().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
    assert!(said.iter().all(|event| event["event"] != "step"), "{said:?}");
    assert_eq!(nowhere.exit_code(), Some(1));
}

#[test]
fn what_is_no_chip_is_left_out_and_what_is_no_base_is_refused() {
    let folder = Folder::new();
    RgbImage::new(100, 112).save(folder.path("people/s1/small.png")).unwrap();
    let output = done(folder.train("net.onnx", "1", &["--json"]));
    let card: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&card["data"]["unreadable"], &card["data"]["train"]["photos"]), (&1.into(), &12.into()));
    let mut none = faceid();
    none.args(["train", "--chips", "--data", &folder.path("people"), "--output", &folder.path("x.onnx")]);
    let none = none.args(["--preset", "finetune"]).output().unwrap();
    assert!(!none.status.success() && text(&none).contains("needs the file of a network"), "{}", text(&none));
}
