//! Adapting to a camera whose faces are 12 pixels wide, through HTTP alone: enroll, retrain, promote, identify. Takes minutes,
//! so it is only done when asked for: `cargo test --release --test it camera -- --ignored --nocapture`.

use std::io::Cursor;
use std::time::Duration;

use faceid::jobs::JobState;
use faceid::service::answers::{Identified, Job};
use image::imageops::{self, FilterType};
use image::{ImageFormat, Rgb, RgbImage};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::process::{Server, data_dir};
use crate::support::{TestApp, eventually, photos};

/// How long a training may take.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Width of the faces over that of the photos, in which a face is about 80 pixels wide.
const SMALLER: f64 = 12.0 / 80.0;

/// The people to test with, in two ways of choosing them.
const TESTED: [[usize; 10]; 2] = [[5, 11, 12, 16, 19, 21, 23, 26, 29, 30], [3, 4, 20, 22, 23, 27, 28, 30, 32, 40]];

/// The photo of such a camera, as PNG, with enough around it for the detector.
fn degrade(photo: &[u8]) -> Vec<u8> {
    let image = image::load_from_memory(photo).unwrap().to_rgb8();
    let (width, height) = image.dimensions();
    let smaller = |side: u32| (f64::from(side) * SMALLER).round() as u32;
    let small = imageops::thumbnail(&image, smaller(width), smaller(height));
    let blurred = imageops::resize(&small, width, height, FilterType::Triangle);
    let twice = imageops::resize(&blurred, 2 * width, 2 * height, FilterType::CatmullRom);
    let [across, down] = [2 * width, 2 * height].map(|side| (f64::from(side) * 0.3).round() as u32);
    let mut padded = RgbImage::from_pixel(2 * (width + across), 2 * (height + down), Rgb([128; 3]));
    imageops::replace(&mut padded, &twice, across.into(), down.into());
    let mut png = Vec::new();
    padded.write_to(&mut Cursor::new(&mut png), ImageFormat::Png).unwrap();
    png
}

/// Enrolls the faces that the detector finds; the ids of the people, by name.
async fn enroll(app: &TestApp, set: &str, change: impl Fn(&[u8]) -> Vec<u8>) -> Vec<(String, Value)> {
    let mut ids = Vec::new();
    for (name, files) in photos::people(&photos::folder(set)) {
        for file in files {
            let photo = change(&photos::read(&file));
            let answer = app.post_form("/enroll", app.enroll_form(&name, &photo)).await;
            if answer.status == StatusCode::CREATED {
                ids.push((name.clone(), answer.value()["subject_id"].clone()));
            }
        }
    }
    ids
}

/// The figures that a training reached: of the people who were not trained on, before and after, and of the protected ones.
async fn adapted(embedder: &str, people: &[usize; 10]) -> (Value, Value, Value) {
    let data = data_dir();
    let server = Server::start(data.path(), &["--embedder", embedder, "--train-threads", "1"]).await;
    let clean = TestApp::at(server.url.clone()).await;
    enroll(&clean, "lfw100", <[u8]>::to_vec).await;
    let app = TestApp::at(server.url.clone()).await;
    let ids = enroll(&app, "orl", degrade).await;
    let is_tested = |name: &String| people.iter().any(|number| *name == format!("s{number}"));
    let mut tested: Vec<Value> = ids.into_iter().filter(|(name, _)| is_tested(name)).map(|(_, id)| id).collect();
    tested.dedup();
    assert_eq!(tested.len(), 10);
    let body = json!({
        "gallery": app.gallery, "promote": true, "name": "camera", "recipe": {"held_out": {"test": tested}},
    });
    let answer = app.post_json("/admin/retrain", body).await;
    answer.expect(StatusCode::ACCEPTED);
    let job: Job = answer.json();
    let job = eventually(PATIENCE, "the end of a training", async || {
        let job: Job = app.get(&format!("/admin/jobs/{}", job.id)).await.json();
        job.state.is_final().then_some(job)
    })
    .await;
    let result = job.result.clone().unwrap_or_else(|| panic!("{job:?}"));
    assert_eq!(result["gate"]["passed"], true, "{}", result["gate"]);
    let promotion: Job = app.get(&format!("/admin/jobs/{}", result["promotion"].as_str().unwrap())).await.json();
    assert_eq!(app.finished(promotion).await.state, JobState::Succeeded);
    app.until_answers("camera").await;

    let (name, files) = photos::people(&photos::folder("orl")).remove(1);
    let probe = app.post_photo("/identify", &degrade(&photos::read(&files[0]))).await;
    let probe: Identified = probe.json();
    assert_eq!((probe.model.as_str(), probe.faces[0].matches[0].subject.as_str()), ("camera", name.as_str()));
    let figures = &result["gate"]["figures"];
    (figures["target"].clone(), figures["protected"][0].clone(), result["card"].clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "trains for minutes"]
async fn a_camera_is_adapted_to_through_http_alone() {
    adapt("fast").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "trains for many minutes"]
async fn a_camera_is_adapted_to_from_the_larger_embedder() {
    adapt("accurate").await;
}

async fn adapt(embedder: &str) {
    let mut sums = [0.0; 4];
    for people in &TESTED {
        let (target, protected, card) = adapted(embedder, people).await;
        let figure = |of: &Value, which: &str, name: &str| of[which][name].as_f64().unwrap();
        let (before, after) = (figure(&target, "active", "auc"), figure(&target, "candidate", "auc"));
        let (tar_before, tar_after) = (figure(&target, "active", "tar"), figure(&target, "candidate", "tar"));
        let (kept, tar_kept) = (figure(&protected, "auc_change", "value"), figure(&protected, "tar_change", "value"));
        let rank = card["evaluation"]["identification"]["ranks"][0]["share"]["value"].as_f64().unwrap();
        let seconds = card["training"]["seconds"].as_f64().unwrap();
        println!("AUC {before:.3} -> {after:.3}, TAR {tar_before:.3} -> {tar_after:.3}, R1 {rank:.3}, {seconds:.0} s");
        println!("on lfw100: AUC {kept:+.4}, TAR {tar_kept:+.4}");
        // Half of what was missing.
        assert!(1.0 - after <= (1.0 - before) / 2.0 && kept >= -0.005 && tar_kept >= -0.02);
        for (sum, value) in sums.iter_mut().zip([after, tar_after, tar_after - tar_before, rank]) {
            *sum += value / TESTED.len() as f64;
        }
    }
    let [auc, tar, gain, rank] = sums;
    assert!(auc >= 0.97 && tar >= 0.7 && gain >= 0.2 && rank >= 0.9, "{sums:?}");
}
