//! `faceid train`, from the command line: small runs. What longer ones reach, `cargo bench --bench training` measures.

use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::support::photos;
use crate::support::process::{data_dir, faceid};

fn train(arguments: &[&str]) -> Output {
    faceid().arg("train").args(arguments).output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Trains successfully; the model card.
fn card(arguments: &[&str]) -> Value {
    let output = train(&[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output)))
}

/// The first `people` of the set with `each` photos, copied, and one with a single photo.
fn few(people: usize, each: usize, folder: &Path) {
    let all = photos::people(&photos::folder("orl"));
    for (number, (name, files)) in all.iter().take(people + 1).enumerate() {
        std::fs::create_dir_all(folder.join(name)).unwrap();
        for file in files.iter().take(if number == people { 1 } else { each }) {
            std::fs::copy(file, folder.join(name).join(file.file_name().unwrap())).unwrap();
        }
    }
}

#[test]
#[ignore = "needs the test photos"]
fn a_trained_network_is_whole_served_and_repeatable() {
    let out = data_dir();
    let data = out.path().join("people");
    few(6, 4, &data);
    let path = |name: &str| out.path().join(name).to_str().unwrap().to_owned();
    let (data, net, again, run) = (path("people"), path("net.onnx"), path("again.onnx"), path("run.safetensors"));
    let small = ["--steps", "40", "--test-share", "0.34", "--validation-share", "0", "--checkpoint-every", "15"];
    let card = card(&[&["--data", &data, "--output", &net, "--checkpoint", &run][..], &small].concat());

    let counts = |set: &str| card["data"][set]["subjects"].as_u64().unwrap();
    assert_eq!((counts("train"), counts("validation"), counts("test")), (5, 0, 2), "{card}");
    assert_eq!(card["data"]["train"]["with_one_photo"], 1);
    assert_eq!((&card["evaluation"]["basis"], &card["training"]["steps"]), (&"test".into(), &40.into()));
    assert!(card["base"].is_null() && card["settings"]["seed"] == 1);
    for ending in ["toml", "card.json", "card.md", "curves.svg"] {
        assert!(Path::new(&net).with_extension(ending).is_file(), "{ending}");
    }
    let curves = std::fs::read_to_string(path("net.curves.svg")).unwrap();
    assert!(curves.starts_with("<svg") && !curves.contains("NaN"));

    let evaluated =
        faceid().args(["evaluate", &data, "--embedder", &net, "--draws", "100", "--json"]).output().unwrap();
    let figures: Value = serde_json::from_slice(&evaluated.stdout).unwrap_or_else(|_| panic!("{}", text(&evaluated)));
    assert_eq!((&figures["model"], &figures["photos"]["embedded"]), (&"net".into(), &25.into()), "{figures}");
    assert!(figures["verification"]["auc"]["value"].as_f64().unwrap() > 0.8, "{figures}");

    // A run that was done gives the same network again, and so does a new one of the same seed.
    let resumed = train(&["--data", &data, "--output", &again, "--resume", &run]);
    assert!(resumed.status.success(), "{}", text(&resumed));
    let network = std::fs::read(&net).unwrap();
    assert!(network == std::fs::read(&again).unwrap());
    let repeated = train(&[&["--data", &data, "--output", &again][..], &small].concat());
    assert!(repeated.status.success(), "{}", text(&repeated));
    assert!(network == std::fs::read(&again).unwrap());
}

#[test]
fn what_cannot_be_trained_says_why() {
    let out = data_dir();
    let path = |name: &str| out.path().join(name).to_str().unwrap().to_owned();
    assert_eq!(train(&["--data", "x", "--output", "net.pt"]).status.code(), Some(2));
    std::fs::write(path("recipe.toml"), "stepps = 4\n").unwrap();
    let typo = train(&["--data", &path(""), "--output", &path("net.onnx"), "--recipe", &path("recipe.toml")]);
    assert!(typo.status.code() == Some(1) && text(&typo).contains("stepps"), "{}", text(&typo));
    let nobody = train(&["--data", &path(""), "--output", &path("net.onnx")]);
    assert!(text(&nobody).contains("one folder for each person"), "{}", text(&nobody));
    std::fs::write(path("run.safetensors"), "no checkpoint").unwrap();
    let damaged = train(&["--data", &path(""), "--output", &path("net.onnx"), "--resume", &path("run.safetensors")]);
    assert!(text(&damaged).contains("is no checkpoint that can be resumed"), "{}", text(&damaged));
}

#[test]
fn the_printed_recipe_is_one() {
    let out = data_dir();
    let file = out.path().join("recipe.toml");
    for preset in ["cnn", "mobilefacenet", "plain", "finetune"] {
        let printed = train(&["--print-recipe", "--preset", preset]);
        assert!(printed.status.success(), "{}", text(&printed));
        std::fs::write(&file, &printed.stdout).unwrap();
        let again = train(&["--print-recipe", "--recipe", file.to_str().unwrap()]);
        assert_eq!(text(&again), text(&printed));
    }
}
