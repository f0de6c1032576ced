//! Chips: shown in answers, and sent instead of photos.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use faceid::http::Code;
use faceid::service::answers::{Detected, Embedded, Enrolled, Identified};
use reqwest::StatusCode;
use reqwest::multipart::Form;
use serde_json::{Value, json};

use crate::support::{TestApp, part, photos};

/// Two photos of one person.
fn two_photos() -> [Vec<u8>; 2] {
    let people = photos::people(&photos::folder("lfw100"));
    [0, 1].map(|n| photos::read(&people[0].1[n]))
}

/// The JPEG that a face shows.
fn decoded(chip: Option<&String>) -> Vec<u8> {
    STANDARD.decode(chip.unwrap()).unwrap()
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn who_asks_for_chips_gets_them() {
    let app = TestApp::start().await;
    let [photo, _] = two_photos();
    let enrolled: Enrolled = app.enroll_largest("Ada", &photo).await;
    let stored = app.get(&format!("/faces/{}/chip", enrolled.face_id)).await;
    let image = image::load_from_memory(&stored.body).unwrap();
    assert_eq!((image.width(), image.height()), (112, 112));

    let detected: Detected = app.post_photo("/detect?return=chip", &photo).await.json();
    let embedded: Embedded = app.post_photo("/embed?return=chip", &photo).await.json();
    let identified: Identified = app.post_photo("/identify?return=chip", &photo).await.json();
    let faces = [&detected.faces[0].chip, &embedded.faces[0].chip, &identified.faces[0].chip];
    assert!(detected.faces.iter().all(|face| face.chip.is_some()));
    for chip in faces {
        assert!(decoded(chip.as_ref()) == stored.body, "it is not what the embedder saw");
    }
    for (path, field) in [("/embed/batch", "images"), ("/identify/batch", "images")] {
        let body = json!({field: [STANDARD.encode(&photo)], "return": ["chip"]});
        let answer: Value = app.post_json(path, body).await.json();
        let chip = answer["results"][0]["answer"]["faces"][0]["chip"].as_str().map(str::to_owned);
        assert!(decoded(chip.as_ref()) == stored.body, "{path}");
    }

    for path in ["/detect", "/embed", "/identify"] {
        let answer = app.post_photo(path, &photo).await.value();
        let face = answer["faces"][0].as_object().unwrap();
        assert!(face.contains_key("box") && !face.contains_key("chip"), "{path}: {face:?}");
        let form = Form::new().part("image", part(&photo)).text("return", "photo");
        let problem = app.post_form(path, form).await.expect_problem(422, Code::InvalidField);
        assert_eq!(problem.field.as_deref(), Some("return"));
    }
}

/// Cosine of the first faces of two answers.
fn similarity(a: &Embedded, b: &Embedded) -> f32 {
    a.faces[0].embedding.iter().zip(&b.faces[0].embedding).map(|(a, b)| a * b).sum()
}

/// The chip of the largest face of a photo.
async fn chip_of(app: &TestApp, photo: &[u8]) -> Vec<u8> {
    let detected: Detected = app.post_photo("/detect?return=chip&max_faces=1", photo).await.json();
    decoded(detected.faces[0].chip.as_ref())
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn a_chip_is_embedded_as_its_photo_is() {
    let app = TestApp::start().await;
    let people = photos::people(&photos::folder("lfw100"));
    for (person, files) in &people[..5] {
        let photo = photos::read(&files[0]);
        let chip = chip_of(&app, &photo).await;
        let of_photo: Embedded = app.post_photo("/embed?max_faces=1", &photo).await.json();
        let of_chip: Embedded = app.post_photo("/embed?aligned=true&return=chip", &chip).await.json();
        assert_eq!((of_chip.faces.len(), of_chip.searched.looks), (1, 0));
        assert!(similarity(&of_photo, &of_chip) > 0.98, "{person}: {}", similarity(&of_photo, &of_chip));
        let sharpness = [&of_photo, &of_chip].map(|answer| answer.faces[0].face.quality.sharpness);
        assert!((sharpness[0] - sharpness[1]).abs() < 0.05, "{person}: {sharpness:?}");
    }
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn chips_are_enrolled_identified_and_verified() {
    let app = TestApp::start().await;
    let photos = two_photos();
    let [chip, other] = [chip_of(&app, &photos[0]).await, chip_of(&app, &photos[1]).await];
    let answer = app.post_form("/enroll", app.enroll_form("Ada", &chip).text("aligned", "true")).await;
    answer.expect(StatusCode::CREATED);
    let enrolled: Enrolled = answer.json();
    assert!(enrolled.usability.usable, "{enrolled:?}");
    let stored = app.get(&format!("/faces/{}", enrolled.face_id)).await.value();
    assert_eq!(stored["box"], json!({"x": 0.0, "y": 0.0, "width": 112.0, "height": 112.0}));
    let eye = stored["landmarks"]["left_eye"]["x"].as_f64().unwrap();
    assert!((eye - 38.2946).abs() < 1e-3 && stored["turned"] == 0, "{stored}");

    let found: Identified = app.post_photo("/identify?aligned=true", &other).await.json();
    assert!(found.faces.len() == 1 && found.faces[0].known && found.faces[0].matches[0].subject == "Ada", "{found:?}");
    let by_photo: Identified = app.post_photo("/identify?max_faces=1", &photos[1]).await.json();
    let apart = by_photo.faces[0].matches[0].similarity - found.faces[0].matches[0].similarity;
    assert!(apart.abs() < 0.05, "{apart}");
    let pair = Form::new().part("image_a", part(&chip)).part("image_b", part(&other)).text("aligned", "true");
    assert_eq!(app.post_form("/verify", pair).await.value()["same_person"], true);
    let path = format!("/subjects/Ada/verify?gallery={}&aligned=true", app.gallery);
    let itself = app.post_form(&path, Form::new().part("image", part(&chip))).await.value();
    assert!(itself["similarity"].as_f64().unwrap() > 0.99, "{itself}");
    let batch = json!({"images": [STANDARD.encode(&other), STANDARD.encode(&photos[0])], "aligned": true});
    let answer = app.post_json(&format!("/identify/batch?gallery={}", app.gallery), batch).await.value();
    assert_eq!(answer["results"][0]["answer"]["faces"][0]["matches"][0]["subject"], "Ada");
    assert_eq!(answer["results"][1]["problem"]["code"], "invalid_field");
}

/// A PNG of one colour.
fn plain(width: u32, height: u32) -> Vec<u8> {
    let mut file = std::io::Cursor::new(Vec::new());
    image::RgbImage::new(width, height).write_to(&mut file, image::ImageFormat::Png).unwrap();
    file.into_inner()
}

#[tokio::test]
async fn what_is_no_chip_is_refused() {
    let app = TestApp::start().await;
    for (width, height) in [(111, 112), (112, 160), (224, 224), (1, 1)] {
        let form = app.enroll_form("Ada", &plain(width, height)).text("aligned", "true");
        let problem = app.post_form("/enroll", form).await.expect_problem(422, Code::InvalidField);
        assert_eq!(problem.field.as_deref(), Some("image"));
        assert!(problem.detail.ends_with(&format!("this image has {width}x{height}")), "{}", problem.detail);
    }
    let form = app.enroll_form("Ada", b"no photo").text("aligned", "true");
    app.post_form("/enroll", form).await.expect_problem(415, Code::UnsupportedImage);
    let cut = &plain(112, 112)[..100];
    let form = app.enroll_form("Ada", cut).text("aligned", "true");
    app.post_form("/enroll", form).await.expect_problem(422, Code::CorruptImage);
    // Of the right size, and nobody.
    let form = app.enroll_form("Ada", &plain(112, 112)).text("aligned", "true");
    let problem = app.post_form("/enroll", form).await.expect_problem(422, Code::UnusableFace);
    assert!(problem.detail.contains("too dark"), "{}", problem.detail);
}
