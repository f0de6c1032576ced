//! Chips: shown in answers, and sent instead of photos.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use faceid::http::Code;
use faceid::service::answers::{Detected, Embedded, Enrolled, Identified};
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
