//! Candidates that come with the request.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use faceid::http::Code;
use faceid::service::answers::{Compared, Embedded, Verified};
use reqwest::StatusCode;
use reqwest::multipart::Form;
use serde_json::{Value, json};

use crate::support::{Answer, TestApp, part, photos};

async fn compare(app: &TestApp, probe: &[u8], candidates: &[&[u8]]) -> Answer {
    let form = Form::new().part("image", part(probe));
    let form = candidates.iter().fold(form, |form, candidate| form.part("candidates", part(candidate)));
    app.post_form("/compare", form).await
}

/// A picture in which nobody is.
fn nobody() -> Vec<u8> {
    let mut file = std::io::Cursor::new(Vec::new());
    image::RgbImage::new(64, 48).write_to(&mut file, image::ImageFormat::Png).unwrap();
    file.into_inner()
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn candidates_are_compared_as_pairs_are_and_one_that_fails_fails_alone() {
    let app = TestApp::start().await;
    let people = photos::people(&photos::folder("lfw100"));
    let photo = |person: usize, number: usize| photos::read(&people[person].1[number]);
    let (probe, other, same) = (photo(0, 0), photo(1, 0), photo(0, 1));
    let answer = compare(&app, &probe, &[&other, b"no photo", &same, &nobody()]).await;
    answer.expect(StatusCode::OK);
    let value = answer.value();
    let problems = [1, 3].map(|n| &value["candidates"][n]["problem"]);
    assert_eq!([&problems[0]["code"], &problems[1]["code"]], ["unsupported_image", "no_face"]);
    assert!(problems.iter().all(|problem| problem["field"] == "candidates"), "{value}");
    for n in [0, 2] {
        let candidate = value["candidates"][n].as_object().unwrap();
        assert!(candidate["face"]["box"].is_object() && !candidate.contains_key("problem"), "{candidate:?}");
    }
    let compared: Compared = answer.json();
    let matches = &compared.faces[0].matches;
    assert_eq!(matches.iter().map(|one| one.candidate).collect::<Vec<_>>(), [2, 0]);
    assert!(matches[0].same_person && !matches[1].same_person, "{matches:?}");
    for (found, candidate) in matches.iter().zip([&same, &other]) {
        let pair = Form::new().part("image_a", part(&probe)).part("image_b", part(candidate));
        let verified: Verified = app.post_form("/verify", pair).await.json();
        assert!((found.similarity - verified.similarity).abs() < 1e-3);
        assert_eq!(found.same_person, verified.same_person);
        assert!((found.probability.unwrap() - verified.probability.unwrap()).abs() < 1e-2);
        assert_eq!(compared.threshold, verified.threshold);
    }

    // Of the probe a failure is one of the request.
    let problem = compare(&app, &nobody(), &[&other]).await.expect_problem(422, Code::NoFace);
    assert_eq!(problem.field.as_deref(), Some("image"));
    // A threshold that all reach.
    let form = Form::new().part("image", part(&probe)).part("candidates", part(&other)).text("threshold", "-1");
    assert_eq!(app.post_form("/compare", form).await.value()["faces"][0]["matches"][0]["same_person"], true);
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn every_face_of_a_photo_is_compared() {
    let app = TestApp::start().await;
    let crowd = photos::read(&photos::files(&photos::folder("scenes"))[0]);
    let detected: Embedded = app.post_photo("/embed", &crowd).await.json();
    assert!(detected.faces.len() > 1);
    let embeddings: Vec<&Vec<f32>> = detected.faces.iter().map(|face| &face.embedding).collect();
    let body = json!({"image": STANDARD.encode(&crowd), "candidate_embeddings": embeddings});
    let compared: Compared = app.post_json("/compare", body).await.json();
    assert_eq!(compared.faces.len(), detected.faces.len());
    for (n, face) in compared.faces.iter().enumerate() {
        assert_eq!((face.matches[0].candidate, face.matches.len()), (n, embeddings.len()));
        assert!(face.matches[0].similarity > 0.999 && face.matches.is_sorted_by_key(|one| -one.similarity));
        assert!(face.face.is_some() && face.anomaly.is_some());
    }
    let one = json!({"image": STANDARD.encode(&crowd), "max_faces": 1, "candidates": [STANDARD.encode(&crowd)]});
    let compared: Compared = app.post_json("/compare", one).await.json();
    assert_eq!(compared.faces.len(), 1);
    assert!(compared.faces[0].matches[0].similarity > 0.999);
}

/// An embedding in one direction, of the length of the active model.
fn along(axis: usize) -> Vec<f32> {
    let mut numbers = vec![0.0; 128];
    numbers[axis] = 2.0;
    numbers
}

#[tokio::test]
async fn embeddings_are_compared_without_any_photo() {
    let app = TestApp::start().await;
    let candidates = json!([along(1), [1.0, 2.0], along(0), vec![0.0; 128]]);
    let value =
        app.post_json("/compare", json!({"embedding": along(0), "candidate_embeddings": candidates})).await.value();
    let face = &value["faces"][0];
    assert!(face["face"].is_null() && face["anomaly"].is_null(), "{face}");
    let found = face["matches"].as_array().unwrap();
    let found: Vec<(u64, f64)> =
        found.iter().map(|one| (one["candidate"].as_u64().unwrap(), one["similarity"].as_f64().unwrap())).collect();
    assert_eq!(found, [(2, 1.0), (0, 0.0)]);
    let candidates: Vec<&Value> = value["candidates"].as_array().unwrap().iter().collect();
    assert_eq!((candidates[0], candidates[2]), (&json!({}), &json!({})));
    for n in [1, 3] {
        let problem = &candidates[n]["problem"];
        assert_eq!((&problem["code"], &problem["field"]), (&json!("invalid_field"), &json!("candidate_embeddings")));
    }
    // Of the probe it is one of the request.
    let wrong = json!({"embedding": [1.0], "candidate_embeddings": [along(0)]});
    let problem = app.post_json("/compare", wrong).await.expect_problem(422, Code::InvalidField);
    assert_eq!(problem.field.as_deref(), Some("embedding"));
}

#[tokio::test]
async fn one_probe_and_one_list_of_candidates_is_needed() {
    let app = TestApp::start().await;
    // Of so many digits that 64 of them are longer than a field of other routes may be.
    let (photo, embedding) = (json!(STANDARD.encode("photo")), json!(vec![0.123456789; 128]));
    let many = |count: usize| json!({"embedding": embedding, "candidate_embeddings": vec![&embedding; count]});
    app.post_json("/compare", many(64)).await.expect(StatusCode::OK);
    for (body, field) in [
        (json!({"candidates": [photo]}), "embedding"),
        (json!({"image": photo, "embedding": embedding, "candidates": [photo]}), "embedding"),
        (json!({"embedding": embedding}), "candidate_embeddings"),
        (
            json!({"embedding": embedding, "candidates": [photo], "candidate_embeddings": [embedding]}),
            "candidate_embeddings",
        ),
        (many(0), "candidate_embeddings"),
        (many(65), "candidate_embeddings"),
        (json!({"embedding": embedding, "candidates": []}), "candidates"),
        (json!({"embedding": embedding, "candidates": vec![&photo; 65]}), "candidates"),
        (json!({"embedding": embedding, "candidate_embeddings": [["a"]]}), "candidate_embeddings"),
    ] {
        let problem = app.post_json("/compare", body).await.expect_problem(422, Code::InvalidField);
        assert_eq!(problem.field.as_deref(), Some(field), "{}", problem.detail);
    }
}
