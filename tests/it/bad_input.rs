//! Bad input gets a clear error with a stable code, and the next request is served as usual.

use bytes::Bytes;
use faceid::http::Code;
use futures_util::stream;
use reqwest::multipart::Form;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::made::grey_png;
use crate::support::process::{Server, data_dir};
use crate::support::{Answer, TestApp, part, photos};

/// A small photo without a face, to see that the server still serves.
fn plain_png() -> Vec<u8> {
    let image = image::RgbImage::from_fn(64, 48, |x, y| image::Rgb([x as u8, y as u8, 128]));
    let mut png = std::io::Cursor::new(Vec::new());
    image.write_to(&mut png, image::ImageFormat::Png).unwrap();
    png.into_inner()
}

impl TestApp {
    async fn detect_as(&self, media_type: &str, body: impl Into<reqwest::Body>) -> Answer {
        self.send(self.request(Method::POST, "/detect").header("content-type", media_type).body(body)).await
    }

    async fn detect_form(&self, photo: &[u8]) -> Answer {
        self.post_form("/detect", Form::new().part("image", part(photo))).await
    }

    async fn still_serves(&self) {
        self.detect_form(&plain_png()).await.expect(StatusCode::OK);
    }
}

#[tokio::test]
async fn images_that_cannot_be_read() {
    let app = TestApp::start().await;
    let cut = &plain_png()[..60];
    for (what, bytes, status, code) in [
        ("an empty file", b"".as_slice(), 422, Code::EmptyImage),
        ("a text called .jpg", b"This is no photo.", 415, Code::UnsupportedImage),
        ("a PDF", b"%PDF-1.7 and so on", 415, Code::UnsupportedImage),
        ("a PNG that ends early", cut, 422, Code::CorruptImage),
        ("a JPEG that is only a start", b"\xff\xd8\xff\xe0\0\x10JFIF\0", 422, Code::CorruptImage),
    ] {
        println!("{what}");
        let problem = app.detect_form(bytes).await.expect_problem(status, code);
        assert_eq!(problem.field.as_deref(), Some("image"));
        app.detect_as("image/jpeg", bytes.to_vec()).await.expect_problem(status, code);
        app.still_serves().await;
    }
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn the_three_bad_files() {
    let folder = photos::folder("bad");
    let app = TestApp::start().await;
    for (file, status, code) in [
        ("empty.png", 415, Code::UnsupportedImage),
        ("truncated.jpg", 422, Code::CorruptImage),
        ("corrupted.png", 422, Code::CorruptImage),
    ] {
        let bytes = photos::read(&folder.join(file));
        app.detect_form(&bytes).await.expect_problem(status, code);
        app.post_form("/enroll", app.enroll_form("Nobody", &bytes)).await.expect_problem(status, code);
        app.still_serves().await;
    }
    let subjects = app.get(&format!("/subjects?gallery={}", app.gallery)).await.value();
    assert_eq!(subjects["items"], json!([]), "nothing may be half-enrolled");
}

#[tokio::test]
async fn bombs_and_floods_do_not_cost_memory() {
    let folder = data_dir();
    let limits = ["--max-image-bytes", "16777216", "--max-body-bytes", "48000000"];
    let server = Server::start(folder.path(), &limits).await;
    let app = TestApp::at(server.url.clone()).await;
    let (bomb, flood) = (grey_png(20_000), vec![0; 50_000_000]);
    let json_flood = format!("{{\"image\": \"{}\"}}", "A".repeat(50_000_000));
    app.detect_form(&bomb).await.expect_problem(413, Code::ImageTooLarge);
    let before = server.resident_memory();
    for _ in 0..5 {
        app.detect_form(&bomb).await.expect_problem(413, Code::ImageTooLarge);
        app.detect_form(&flood).await.expect_problem(413, Code::BodyTooLarge);
        app.detect_as("image/jpeg", flood.clone()).await.expect_problem(413, Code::BodyTooLarge);
        app.detect_as("application/json", json_flood.clone()).await.expect_problem(413, Code::BodyTooLarge);
        app.still_serves().await;
    }
    let grown = server.resident_memory().saturating_sub(before);
    println!("resident memory before {before}, grown by {grown}");
    assert!(grown < 64 << 20, "resident memory grew by {grown} bytes");
}

#[tokio::test]
async fn a_long_body_that_does_not_say_so_is_refused() {
    let app = TestApp::start().await;
    for media_type in ["image/png", "application/json", "multipart/form-data; boundary=b"] {
        // A stream has no Content-Length.
        let start = Bytes::from("--b\r\nContent-Disposition: form-data; name=\"image\"\r\n\r\n");
        let chunks = std::iter::once(start).chain((0..190).map(|_| Bytes::from(vec![b' '; 1_000_000])));
        let body = reqwest::Body::wrap_stream(stream::iter(chunks.map(Ok::<_, std::io::Error>)));
        app.detect_as(media_type, body).await.expect_problem(413, Code::BodyTooLarge);
        app.still_serves().await;
    }
}

#[tokio::test]
async fn a_refusal_is_seen_by_clients_that_are_still_sending() {
    let app = TestApp::start().await;
    let photo = vec![b'x'; 12_000_000];
    for _ in 0..5 {
        let wrong_field = Form::new().text("picture", "1").part("image", part(&photo));
        app.post_form("/detect", wrong_field).await.expect_problem(422, Code::UnknownField);
        app.detect_as("text/plain", photo.clone()).await.expect_problem(415, Code::UnsupportedMediaType);
        let nowhere = app.request(Method::POST, "/nowhere").body(photo.clone());
        app.send(nowhere).await.expect_problem(404, Code::RouteNotFound);
        let wrong_method = app.request(Method::PUT, "/detect").body(photo.clone());
        app.send(wrong_method).await.expect_problem(405, Code::MethodNotAllowed);
        let long_name = app.request(Method::POST, "/galleries").json(&json!({"name": "x".repeat(12_000_000)}));
        app.send(long_name).await.expect_problem(413, Code::BodyTooLarge);
    }
}

#[tokio::test]
async fn bodies_that_cannot_be_parsed() {
    let app = TestApp::start().await;
    let multipart = "multipart/form-data; boundary=b";
    let unclosed = "--b\r\nContent-Disposition: form-data; name=\"image\"; filename=\"a\"\r\n\r\nabc";
    let nested = format!("{{\"image\": {}1{}}}", "[".repeat(5_000), "]".repeat(5_000));
    for (media_type, body, status, code) in [
        (multipart, "", 400, Code::MalformedMultipart),
        (multipart, "no boundary anywhere", 400, Code::MalformedMultipart),
        (multipart, unclosed, 400, Code::MalformedMultipart),
        ("multipart/form-data", "--b--", 400, Code::MalformedMultipart),
        ("application/json", "", 400, Code::MalformedJson),
        ("application/json", "{\"image\": ", 400, Code::MalformedJson),
        ("application/json", "[1, 2]", 400, Code::MalformedJson),
        ("application/json", &nested, 422, Code::InvalidField),
        ("application/json", "{\"image\": \"\", \"image\": \"\"}", 422, Code::InvalidField),
        ("application/json", "{\"image\": \"a*b\"}", 422, Code::InvalidField),
        ("application/json", "{\"image\": 5}", 422, Code::InvalidField),
        ("application/json", "{\"image\": \"\"}", 422, Code::EmptyImage),
        ("application/json", "{}", 422, Code::MissingField),
        ("application/json", "{\"img\": \"aGVsbG8=\"}", 422, Code::UnknownField),
        ("text/plain", "hello", 415, Code::UnsupportedMediaType),
        ("application/x-www-form-urlencoded", "image=1", 415, Code::UnsupportedMediaType),
    ] {
        println!("{media_type}: {}", &body[..body.len().min(60)]);
        app.detect_as(media_type, body.to_owned()).await.expect_problem(status, code);
    }
    app.still_serves().await;
}

#[tokio::test]
async fn fields_that_are_wrong_are_named() {
    let app = TestApp::start().await;
    let image = plain_png();
    let form = || Form::new().part("image", part(&image));
    for (path, form, code, field) in [
        ("/detect", Form::new().part("picture", part(&image)), Code::UnknownField, "picture"),
        ("/identify", Form::new().text("top_k", "3"), Code::MissingField, "image"),
        ("/detect", form().part("image", part(&image)), Code::InvalidField, "image"),
        ("/identify", form().text("topk", "3"), Code::UnknownField, "topk"),
        ("/identify", form().text("top_k", "0"), Code::InvalidField, "top_k"),
        ("/identify", form().text("top_k", "many"), Code::InvalidField, "top_k"),
        ("/identify", form().text("threshold", "2"), Code::InvalidField, "threshold"),
        ("/identify", form().text("threshold", "NaN"), Code::InvalidField, "threshold"),
        ("/enroll", form(), Code::MissingField, "subject"),
        ("/enroll", form().text("subject", ""), Code::InvalidField, "subject"),
        ("/enroll", form().text("subject", "é".repeat(256)), Code::InvalidField, "subject"),
        ("/enroll", form().text("subject", "a\0b"), Code::InvalidField, "subject"),
        ("/enroll", form().text("subject", "A").text("metadata", "[1]"), Code::InvalidField, "metadata"),
        ("/enroll", form().text("subject", "A").text("on_duplicate", "maybe"), Code::InvalidField, "on_duplicate"),
        ("/enroll", form().text("subject", "A").text("face", "any"), Code::InvalidField, "face"),
        ("/verify", Form::new().part("image_a", part(&image)), Code::MissingField, "image_b"),
    ] {
        let problem = app.post_form(path, form).await.expect_problem(422, code);
        assert_eq!(problem.field.as_deref(), Some(field), "{path}");
    }
    app.still_serves().await;
}

#[tokio::test]
async fn routes_and_methods_that_do_not_exist() {
    let app = TestApp::start().await;
    app.get("/nowhere").await.expect_problem(404, Code::RouteNotFound);
    app.get("/enroll").await.expect_problem(405, Code::MethodNotAllowed);
    app.get("/faces/not-an-id").await.expect_problem(400, Code::MalformedPath);
    app.get("/subjects?gallery=%FF").await.expect_problem(400, Code::MalformedQuery);
    app.get("/subjects?limit=many").await.expect_problem(422, Code::InvalidField);
    for path in ["/subjects?page=2", "/galleries/default?verbose=1", "/faces?top_k=2"] {
        app.get(path).await.expect_problem(422, Code::UnknownField);
    }
    app.get("/subjects?limit=0").await.expect_problem(422, Code::InvalidField);
    app.get("/subjects?cursor=nonsense").await.expect_problem(400, Code::InvalidCursor);
    app.get("/subjects/%FF").await.expect_problem(400, Code::MalformedPath);
    app.get("/subjects?gallery=nowhere").await.expect_problem(404, Code::GalleryNotFound);
    app.get("/faces/01890000-0000-7000-8000-000000000000").await.expect_problem(404, Code::FaceNotFound);
}

#[tokio::test]
async fn photos_without_a_face() {
    let app = TestApp::start().await;
    let plain = plain_png();
    let of = |path: &'static str| (path, Form::new().part("image", part(&plain)));
    for (path, form) in [of("/detect"), of("/identify")] {
        let answer = app.post_form(path, form).await;
        answer.expect(StatusCode::OK);
        assert_eq!(answer.value()["faces"], json!([]));
    }
    let (path, form) = of("/embed");
    app.post_form(path, form).await.expect_problem(422, Code::NoFace);
    app.post_form("/enroll", app.enroll_form("A", &plain)).await.expect_problem(422, Code::NoFace);
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn photos_with_too_many_faces() {
    let app = TestApp::start().await;
    let plain = plain_png();
    let group = photos::read(&photos::folder("scenes").join("000_5.jpg"));
    let form = Form::new().text("subject", "A").text("gallery", app.gallery.clone()).part("image", part(&group));
    let problem = app.post_form("/enroll", form).await.expect_problem(422, Code::MultipleFaces);
    assert!(problem.detail.contains("5 faces"), "{}", problem.detail);
    app.enroll_largest("A", &group).await;

    let pair = Form::new().part("image_a", part(&group)).part("image_b", part(&plain));
    let problem = app.post_form("/verify", pair).await.expect_problem(422, Code::NoFace);
    assert_eq!(problem.field.as_deref(), Some("image_b"));
}
