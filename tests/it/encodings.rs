//! Compressed bodies, of requests and of answers.

use async_compression::tokio::bufread::{GzipDecoder, GzipEncoder, ZlibEncoder, ZstdDecoder, ZstdEncoder};
use faceid::http::Code;
use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::datasets::zipped;
use crate::support::{Answer, TestApp};

async fn all(mut reader: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).await.unwrap();
    bytes
}

async fn compressed(encoding: &str, bytes: &[u8]) -> Vec<u8> {
    match encoding {
        "gzip" => all(GzipEncoder::new(bytes)).await,
        "deflate" => all(ZlibEncoder::new(bytes)).await,
        "zstd" => all(ZstdEncoder::new(bytes)).await,
        other => panic!("{other}"),
    }
}

async fn post(app: &TestApp, path: &str, kind: &str, encoding: &str, body: Vec<u8>) -> Answer {
    let request = app.request(Method::POST, path).header("content-type", kind).header("content-encoding", encoding);
    app.send(request.body(body)).await
}

/// A new gallery's name, and the request for it.
fn gallery() -> (String, Vec<u8>) {
    let name = format!("test-{}", uuid::Uuid::now_v7());
    let body = json!({"name": name}).to_string().into_bytes();
    (name, body)
}

fn picture() -> Vec<u8> {
    let image = image::RgbImage::from_fn(120, 90, |x, y| image::Rgb([x as u8, y as u8, (x + y) as u8]));
    let mut bmp = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bmp, image::ImageFormat::Bmp).unwrap();
    bmp.into_inner()
}

#[tokio::test]
async fn bodies_of_requests_may_be_compressed() {
    let app = TestApp::start().await;
    for encoding in ["gzip", "deflate", "zstd"] {
        let (name, body) = gallery();
        let answer = post(&app, "/galleries", "application/json", encoding, compressed(encoding, &body).await).await;
        answer.expect(StatusCode::CREATED);
        app.get(&format!("/galleries/{name}")).await.expect(StatusCode::OK);

        let (picture, kind) = (picture(), "image/bmp");
        let plain = app.send(app.request(Method::POST, "/detect").header("content-type", kind).body(picture.clone()));
        let answer = post(&app, "/detect", kind, encoding, compressed(encoding, &picture).await).await;
        answer.expect(StatusCode::OK);
        assert_eq!(answer.value()["faces"], plain.await.value()["faces"]);
    }
    // A gzip file may have several members, and a body may be as it is.
    let (_, body) = gallery();
    let (one, two) = body.split_at(5);
    let members = [compressed("gzip", one).await, compressed("gzip", two).await].concat();
    post(&app, "/galleries", "application/json", "X-GZIP", members).await.expect(StatusCode::CREATED);
    post(&app, "/galleries", "application/json", "identity", gallery().1).await.expect(StatusCode::CREATED);
}

#[tokio::test]
async fn uploads_may_be_compressed() {
    let app = TestApp::start().await;
    let archive = zipped(&[("Ada/1.png".to_owned(), b"\x89PNG\r\n\x1a\n and so on".to_vec())]);
    let path = format!("/admin/datasets?gallery={}", app.gallery);
    let answer = post(&app, &path, "application/zip", "zstd", compressed("zstd", &archive).await).await;
    answer.expect(StatusCode::ACCEPTED);

    let form =
        "--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.onnx\"\r\n\r\nno network\r\n--x--\r\n";
    let body = compressed("gzip", form.as_bytes()).await;
    // It was read as a form, and one that lacks a field.
    let answer = post(&app, "/admin/models", "multipart/form-data; boundary=x", "gzip", body).await;
    assert_eq!(answer.expect_problem(422, Code::InvalidField).field.as_deref(), Some("name"));
}

#[tokio::test]
async fn what_is_not_known_is_refused_with_what_is() {
    let app = TestApp::start().await;
    for encoding in ["br", "compress", "gzip, zstd"] {
        let answer = post(&app, "/galleries", "application/json", encoding, gallery().1).await;
        let problem = answer.expect_problem(415, Code::UnsupportedEncoding);
        assert!(
            problem.detail.contains(encoding) && problem.detail.contains("gzip, zstd, deflate"),
            "{}",
            problem.detail
        );
        assert_eq!(answer.headers["accept-encoding"], "gzip, zstd, deflate");
    }
}

#[tokio::test]
async fn a_broken_stream_is_the_clients_fault() {
    let app = TestApp::start().await;
    // More than fits a piece, so that its beginning is read.
    let body = json!({"name": "x", "padding": "0123456789".repeat(10_000)}).to_string().into_bytes();
    for encoding in ["gzip", "deflate", "zstd"] {
        let whole = compressed(encoding, &body).await;
        let mut garbled = whole.clone();
        garbled[..8].fill(0x55);
        for (what, broken) in [
            ("half", whole[..whole.len() / 2].to_vec()),
            ("all but the end", whole[..whole.len() - 1].to_vec()),
            ("garbled", garbled),
            ("not compressed", gallery().1),
        ] {
            let answer = post(&app, "/galleries", "application/json", encoding, broken).await;
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{what} of {encoding}: {}", answer.text());
            let problem = answer.expect_problem(400, Code::IncompleteBody);
            assert!(problem.detail.contains(encoding), "{what}: {}", problem.detail);
        }
    }
    let behind = [compressed("gzip", &gallery().1).await, b"and more".to_vec()].concat();
    post(&app, "/galleries", "application/json", "gzip", behind).await.expect_problem(400, Code::IncompleteBody);
    // The next request is served as usual.
    post(&app, "/galleries", "application/json", "identity", gallery().1).await.expect(StatusCode::CREATED);
}

#[tokio::test]
async fn a_bomb_meets_the_limit_of_what_it_becomes() {
    let app = TestApp::start().await;
    let zeros = vec![b' '; 64 << 20];
    for encoding in ["gzip", "deflate", "zstd"] {
        let bomb = compressed(encoding, &zeros).await;
        assert!(bomb.len() < 1 << 20, "{} bytes would be too many by themselves", bomb.len());
        let answer = post(&app, "/galleries", "application/json", encoding, bomb).await;
        answer.expect_problem(413, Code::BodyTooLarge);
    }
}

#[tokio::test]
async fn answers_are_compressed_for_those_who_take_it() {
    let app = TestApp::start().await;
    let get = async |path: &str, accepted: &str| {
        app.send(app.request(Method::GET, path).header("accept-encoding", accepted)).await
    };
    let plain = app.get("/openapi.json").await;
    assert!(!plain.headers.contains_key("content-encoding"));
    assert!(plain.headers["vary"].to_str().unwrap().contains("accept-encoding"));
    let answer = get("/openapi.json", "gzip, br").await;
    assert_eq!(answer.headers["content-encoding"], "gzip");
    assert!(answer.body.len() < plain.body.len() / 2);
    assert!(all(GzipDecoder::new(&answer.body[..])).await == plain.body);
    let answer = get("/openapi.json", "zstd;q=1, gzip;q=0.5").await;
    assert_eq!(answer.headers["content-encoding"], "zstd");
    assert!(all(ZstdDecoder::new(&answer.body[..])).await == plain.body);

    // Tiny answers and events are not, nor what nobody could read.
    let jobs = app.get("/admin/jobs").await.value();
    let job = jobs["items"].as_array().unwrap().iter().find(|job| job["kind"] == "review").unwrap();
    let events = format!("/admin/jobs/{}/events", job["id"].as_str().unwrap());
    for (path, accepted) in [
        ("/healthz", "gzip"),
        ("/openapi.json", "br"),
        ("/openapi.json", "br, identity;q=0"),
        ("/openapi.json", "*;q=0"),
        (&events, "gzip, zstd"),
    ] {
        let request = app.request(Method::GET, path).header("accept-encoding", accepted);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{path} {accepted}");
        assert!(!response.headers().contains_key("content-encoding"), "{path} {accepted}");
    }
}
