//! Several photos in one request.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use faceid::http::Code;
use faceid::service::answers::{Embedded, Identified};
use futures_util::future::join_all;
use reqwest::StatusCode;
use reqwest::multipart::Form;
use serde_json::{Value, json};

use crate::support::process::{Server, data_dir};
use crate::support::{TestApp, part, photos};

#[tokio::test]
#[ignore = "needs the test photos"]
async fn a_batch_answers_as_its_photos_do_and_one_that_fails_fails_alone() {
    let app = TestApp::start().await;
    let people = app.enroll_people(3, 1).await;
    let probes: Vec<Vec<u8>> = people.iter().map(|(_, files)| photos::read(&files[1])).collect();
    let mut form = Form::new().text("gallery", app.gallery.clone()).text("top_k", "1");
    for photo in [&probes[0], &b"no photo".to_vec(), &probes[1], &probes[2]] {
        form = form.part("images", part(photo));
    }
    let answer = app.post_form("/identify/batch", form).await;
    answer.expect(StatusCode::OK);
    let results = answer.value()["results"].as_array().unwrap().clone();
    assert_eq!(results.len(), 4);
    assert_eq!(results[1]["problem"]["code"], "unsupported_image");
    assert_eq!(results[1]["problem"]["field"], "images");
    for (result, (person, probe)) in [0, 2, 3].map(|n| &results[n]).into_iter().zip(people.iter().zip(&probes)) {
        let of_batch: Identified = serde_json::from_value(result["answer"].clone()).unwrap();
        let alone: Identified = app.post_photo("/identify", probe).await.json();
        assert_eq!(of_batch.faces[0].matches[0].subject, person.0);
        assert_eq!(of_batch.faces[0].matches[0].similarity, alone.faces[0].matches[0].similarity);
        assert_eq!(of_batch.threshold, alone.threshold);
    }

    let images: Vec<String> = probes.iter().map(|photo| STANDARD.encode(photo)).collect();
    let answer = app.post_json("/embed/batch", json!({"images": images, "max_faces": 1})).await;
    answer.expect(StatusCode::OK);
    for (result, probe) in answer.value()["results"].as_array().unwrap().iter().zip(&probes) {
        let of_batch: Embedded = serde_json::from_value(result["answer"].clone()).unwrap();
        let alone: Embedded = app.post_photo("/embed", probe).await.json();
        assert_eq!(of_batch.faces.len(), 1);
        assert_eq!(of_batch.faces[0].embedding, alone.faces[0].embedding);
    }
}

#[tokio::test]
async fn batches_have_a_size() {
    let app = TestApp::start().await;
    let images = |count: usize| json!({"images": vec!["aGVsbG8="; count]});
    let answer = app.post_json("/embed/batch", images(64)).await;
    answer.expect(StatusCode::OK);
    let value: Value = answer.value();
    let results = value["results"].as_array().unwrap();
    assert!(results.len() == 64 && results.iter().all(|result| result["problem"]["status"] == 415), "{value}");
    for count in [0, 65] {
        let problem = app.post_json("/embed/batch", images(count)).await.expect_problem(422, Code::InvalidField);
        assert_eq!(problem.field.as_deref(), Some("images"));
    }
    app.post_json("/embed/batch", json!({})).await.expect_problem(422, Code::MissingField);
    // One is a batch as well; a raw body is none.
    app.post_json("/embed/batch", json!({"images": "aGVsbG8="})).await.expect(StatusCode::OK);
    let raw = app.request(reqwest::Method::POST, "/embed/batch").header("content-type", "image/jpeg").body("x");
    app.send(raw).await.expect_problem(415, Code::UnsupportedMediaType);
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn a_batch_takes_as_many_places_as_it_has_photos_in_work() {
    let data = data_dir();
    let server = Server::start(data.path(), &["--threads", "1", "--max-requests", "3"]).await;
    let app = TestApp { url: server.url.clone(), gallery: "default".to_owned(), client: reqwest::Client::new() };
    let people = photos::people(&photos::folder("lfw100"));
    let batch = |photos: usize| {
        let images = people.iter().flat_map(|(_, files)| files).take(photos).map(|file| part(&photos::read(file)));
        images.fold(Form::new(), |form, image| form.part("images", image))
    };
    // Alone, whatever its size.
    let alone = app.post_form("/embed/batch", batch(20)).await;
    alone.expect(StatusCode::OK);
    assert!(alone.value()["results"].as_array().unwrap().iter().all(|result| result.get("problem").is_none()));
    // Beside others it takes the places that are left. Without one it is refused as a whole, and never a photo of it alone.
    let answers = join_all((0..6).map(|_| app.post_form("/embed/batch", batch(2)))).await;
    let (mut served, mut refused) = (0, 0);
    for answer in &answers {
        if answer.status == StatusCode::OK {
            let results = answer.value()["results"].as_array().unwrap().clone();
            assert!(results.iter().all(|result| result["answer"].is_object()), "{results:?}");
            served += 1;
        } else {
            answer.expect_problem(503, Code::Overloaded);
            refused += 1;
        }
    }
    assert!(served > 0 && refused > 0, "{served} served, {refused} refused");
}
