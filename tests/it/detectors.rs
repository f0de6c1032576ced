//! Detectors of other kinds on real photos, beside the one that `make setup` brings. Their weights are not part of the
//! project either: `FACEID_TEST_WEIGHTS` says where they are, `weights` beside the folder of photos by default.

use std::path::{Path, PathBuf};
use std::time::Instant;

use faceid::nn::{Detector, Embedder, InputNormalisation, Target, use_threads};
use faceid::types::{Detection, DetectorKind};
use faceid::vision::{self, DecodeLimits, DetectOptions};

use crate::support::{made_by_setup, photos};

const LIMITS: DecodeLimits = DecodeLimits { max_bytes: 32 << 20, max_pixels: 64_000_000, max_memory: 768 << 20 };

/// As a server shrinks photos for the detector.
const LONGER_SIDE: u32 = 640;

fn yunet() -> PathBuf {
    let beside = || photos::folder("lfw100").join("../../weights");
    let folder = std::env::var_os("FACEID_TEST_WEIGHTS").map_or_else(beside, PathBuf::from);
    let path = folder.join("face_detection_yunet_2026may.onnx");
    assert!(path.is_file(), "there is no {}; FACEID_TEST_WEIGHTS says where these weights are", path.display());
    path
}

/// Weights that `make setup` brings.
fn of_setup(name: &str) -> PathBuf {
    made_by_setup("FACEID_WEIGHTS_DIR", "weights").join(name)
}

fn load(path: &Path) -> Detector {
    Detector::load(path, &Target::CPU).unwrap()
}

/// The faces of a photo at a least score, and the photo.
fn faces(detector: &Detector, photo: &Path, min_score: f32) -> (image::RgbImage, Vec<Detection>) {
    let image = vision::decode(&photos::read(photo), &LIMITS).unwrap();
    let small = vision::shrink(&image, LONGER_SIDE);
    let (width, height) = small.image.dimensions();
    let output = detector.forward(&[small.image.as_raw()], width, height).unwrap().remove(0);
    let options = DetectOptions { min_score, ..DetectOptions::default() };
    let faces = vision::detections(&output, width, height, small.scale, &options).unwrap();
    (image, faces)
}

/// Noses of the scenes that are inside boxes, all noses, and boxes beyond one for each nose.
fn scenes(detector: &Detector, min_score: f32) -> (usize, usize, usize) {
    let folder = photos::folder("scenes");
    let truth: serde_json::Value = serde_json::from_slice(&photos::read(&folder.join("truth.json"))).unwrap();
    let (mut found, mut all, mut extra) = (0, 0, 0);
    for (file, noses) in truth["noses"].as_object().unwrap() {
        let (_, faces) = faces(detector, &folder.join(file), min_score);
        let noses = noses.as_array().unwrap();
        let is_inside = |nose: &&serde_json::Value| {
            let (x, y) = (nose[0].as_f64().unwrap() as f32, nose[1].as_f64().unwrap() as f32);
            faces
                .iter()
                .map(|face| face.bounding_box)
                .any(|b| (b.x..b.x + b.width).contains(&x) && (b.y..b.y + b.height).contains(&y))
        };
        found += noses.iter().filter(is_inside).count();
        all += noses.len();
        extra += faces.len().saturating_sub(noses.len());
    }
    (found, all, extra)
}

/// Of the photos of lfw100 but the first of each person: those whose person has the most similar first photo.
fn rank_1(detector: &Detector, min_score: f32) -> (usize, usize) {
    let input = InputNormalisation { mean: 0.0, scale: 1.0, ..InputNormalisation::default() };
    let embedder = Embedder::load(&of_setup("sface-128.onnx"), &Target::CPU, input).unwrap();
    let embed = |photo: &PathBuf| -> Option<Vec<f32>> {
        let (image, faces) = faces(detector, photo, min_score);
        let chip = vision::align(&image, &faces.first()?.landmarks).unwrap();
        let row = embedder.forward(&[chip]).unwrap().remove(0);
        let length = row.iter().map(|number| number * number).sum::<f32>().sqrt();
        Some(row.iter().map(|number| number / length).collect())
    };
    let people = photos::people(&photos::folder("lfw100"));
    let enrolled: Vec<_> = people.iter().map(|(_, files)| embed(&files[0]).unwrap()).collect();
    let (mut right, mut probes) = (0, 0);
    for (person, (_, files)) in people.iter().enumerate() {
        for file in &files[1..] {
            probes += 1;
            let Some(probe) = embed(file) else { continue };
            let similarity = |row: &Vec<f32>| row.iter().zip(&probe).map(|(a, b)| a * b).sum::<f32>();
            let similarities: Vec<_> = enrolled.iter().map(similarity).collect();
            let best = (0..similarities.len()).max_by(|a, b| similarities[*a].total_cmp(&similarities[*b]));
            right += usize::from(best == Some(person));
        }
    }
    (right, probes)
}

/// The median of runs on an image of 640x480, on one thread.
fn milliseconds(detector: &Detector) -> f64 {
    use_threads(1);
    let image: Vec<u8> = (0..640 * 480 * 3).map(|n| (n * 37 % 251) as u8).collect();
    let mut times: Vec<f64> = (0..15)
        .map(|_| {
            let began = Instant::now();
            detector.forward(&[&image], 640, 480).unwrap();
            began.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

#[test]
#[ignore = "needs the test photos"]
fn yunet_finds_the_faces_of_the_photos() {
    let (yunet, retinaface) = (load(&yunet()), load(&of_setup("retinaface-mobilenet0.25.onnx")));
    assert_eq!((yunet.kind(), retinaface.kind()), (DetectorKind::YuNet, DetectorKind::RetinaFace));
    println!("ms at 640x480: YuNet {:.1}, RetinaFace {:.1}", milliseconds(&yunet), milliseconds(&retinaface));
    let min_score = DetectOptions::default().min_score;
    for (name, detector) in [("YuNet", &yunet), ("RetinaFace", &retinaface)] {
        for min_score in [0.6, 0.7, min_score] {
            println!("{name} above {min_score}: scenes {:?}", scenes(detector, min_score));
        }
    }
    let (found, all, extra) = scenes(&yunet, min_score);
    assert_eq!((found, all), (46, 46));
    assert!(extra <= 1, "{extra}");
    assert_eq!(rank_1(&yunet, min_score), (90, 90));
}
