//! Forms and other bodies as clients write them, and as nobody should.

use std::time::Duration;

use faceid::http::{Code, Problem};
use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::process::{Server, data_dir, faceid};
use crate::support::{Answer, TestApp};

/// A small photo without a face.
fn plain_png() -> Vec<u8> {
    let image = image::RgbImage::from_fn(64, 48, |x, y| image::Rgb([x as u8, y as u8, 128]));
    let mut png = std::io::Cursor::new(Vec::new());
    image.write_to(&mut png, image::ImageFormat::Png).unwrap();
    png.into_inner()
}

fn part(headers: &str, content: &[u8]) -> Vec<u8> {
    [format!("--b\r\n{headers}\r\n\r\n").as_bytes(), content, b"\r\n"].concat()
}

fn image_part(content: &[u8]) -> Vec<u8> {
    part("Content-Disposition: form-data; name=\"image\"; filename=\"photo.png\"\r\nContent-Type: image/png", content)
}

impl TestApp {
    async fn send_form(&self, path: &str, boundary: &str, body: Vec<u8>) -> Answer {
        let media_type = format!("multipart/form-data; boundary={boundary}");
        self.send(self.request(Method::POST, path).header("content-type", media_type).body(body)).await
    }

    /// Sends a body of `length` bytes that begins so, until the server answers; the problem, and how much was sent.
    async fn send_until_answered(&self, path: &str, start: &[u8], length: usize) -> (Problem, usize) {
        let mut connection = TcpStream::connect(self.url.strip_prefix("http://").unwrap()).await.unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: {length}\r\n\r\n"
        );
        connection.write_all(&[head.as_bytes(), start].concat()).await.unwrap();
        let (mut answers, mut requests) = connection.split();
        let mut sent = start.len();
        let sending = async {
            while sent < length && requests.write_all(&[b'x'; 10_000][..10_000.min(length - sent)]).await.is_ok() {
                sent += 10_000.min(length - sent);
            }
            std::future::pending().await
        };
        let mut answer = Vec::new();
        let hearing = async {
            let mut buffer = [0; 4096];
            while !answer.windows(4).any(|bytes| bytes == b"}") && !answer.ends_with(b"}") {
                match answers.read(&mut buffer).await.unwrap() {
                    0 => break,
                    read => answer.extend_from_slice(&buffer[..read]),
                }
            }
        };
        tokio::select! { () = hearing => (), () = sending => () }
        let body = answer.iter().position(|byte| *byte == b'{').expect("an answer with a body");
        (serde_json::from_slice(&answer[body..]).unwrap(), sent)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_become_a_form_is_refused_at_its_first_bytes() {
    const LENGTH: usize = 1_000_000_000;
    let data = data_dir();
    let server = Server::start(data.path(), &[]).await;
    let app = TestApp::at(server.url.clone()).await;
    let before = server.peak_memory();
    for start in
        [&b""[..], b"--b\r\nX: ", b"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"", b"--b-"]
    {
        let (problem, sent) = app.send_until_answered("/admin/datasets?gallery=g", start, LENGTH).await;
        assert_eq!(problem.code, Code::MalformedMultipart);
        // What is on its way when the answer comes.
        assert!(sent < 100_000_000, "{sent} bytes were sent before the answer");
    }
    let grown = server.peak_memory() - before;
    println!("peak memory before {before}, grown by {grown}");
    assert!(grown < 32 << 20, "peak memory grew by {grown} bytes");
    // Nor is more needed than that to know.
    for start in ["This is no form.", "--b-\r\n", "--b\nContent-Disposition: form-data; name=\"file\"\n\n"] {
        let answer = app.send_until_answered("/admin/datasets?gallery=g", start.as_bytes(), start.len() + 1);
        let (problem, _) = tokio::time::timeout(Duration::from_secs(15), answer).await.expect("an answer at once");
        assert_eq!(problem.code, Code::MalformedMultipart);
    }
}

#[tokio::test]
async fn forms_as_clients_write_them() {
    let app = TestApp::start().await;
    let png = plain_png();
    let whole = [image_part(&png), b"--b--\r\n".to_vec()].concat();
    let renamed = |boundary: &str| {
        let mut body = Vec::new();
        for (at, byte) in whole.iter().enumerate() {
            let is_boundary =
                *byte == b'b' && at >= 2 && &whole[at - 2..at] == b"--" && (at < 4 || whole[at - 3] == b'\n');
            if is_boundary { body.extend(boundary.bytes()) } else { body.push(*byte) }
        }
        body
    };
    let long = "x".repeat(70);
    for (boundary, body) in [
        ("b", whole.clone()),
        ("\"b\"", whole.clone()),
        ("\"a b?:=\"; charset=utf-8", renamed("a b?:=")),
        ("----=_Part_1", renamed("----=_Part_1")),
        (long.as_str(), renamed(&long)),
        ("b", [b"\r\n".to_vec(), whole.clone()].concat()),
        ("b", [b"A preamble.\r\n".to_vec(), whole.clone()].concat()),
        ("b", [whole.clone(), b"what some add".to_vec()].concat()),
        ("b", whole[..whole.len() - 2].to_vec()),
        (
            "b",
            [part("Content-Disposition: form-data; filename*=UTF-8''%c3%a9.png; name=image", &png), b"--b--".to_vec()]
                .concat(),
        ),
        (
            "b",
            [
                part("content-disposition: form-data; filename=\"\u{e9};name=x\\\".png\"; name=\"image\"", &png),
                b"--b--".to_vec(),
            ]
            .concat(),
        ),
    ] {
        app.send_form("/detect", boundary, body).await.expect(StatusCode::OK);
    }
    let empty = [image_part(b""), b"--b--".to_vec()].concat();
    app.send_form("/detect", "b", empty).await.expect_problem(422, Code::EmptyImage);
    let foreign = [part("Content-Disposition: form-data; name=\"größe\"", b"1"), whole.clone()].concat();
    let problem = app.send_form("/detect", "b", foreign).await.expect_problem(422, Code::UnknownField);
    assert_eq!(problem.field.as_deref(), Some("größe"));
}

#[tokio::test]
async fn forms_as_nobody_should_write_them() {
    let app = TestApp::start().await;
    let png = plain_png();
    let end = b"--b--\r\n".to_vec();
    let lines_of_unix = "--b\nContent-Disposition: form-data; name=\"image\"\n\nx\n--b--\n".as_bytes().to_vec();
    let many = |count| -> Vec<u8> {
        (0..count).flat_map(|_| part("Content-Disposition: form-data; name=\"gallery\"", b"g")).collect()
    };
    let nested = "Content-Disposition: form-data; name=\"image\"\r\nContent-Type: multipart/mixed; boundary=c";
    let encoded = "Content-Disposition: form-data; name=\"image\"\r\nContent-Transfer-Encoding: base64";
    let long = format!("Content-Disposition: form-data; name=\"image\"\r\nX: {}", "y".repeat(9000));
    for (what, boundary, body) in [
        ("lines that end with LF", "b", lines_of_unix),
        ("a long preamble", "b", [vec![b' '; 9000], b"\r\n".to_vec(), image_part(&png), end.clone()].concat()),
        ("another boundary", "c", [image_part(&png), end.clone()].concat()),
        ("a boundary of 71 characters", &"b".repeat(71), end.clone()),
        ("no boundary", "", end.clone()),
        ("a part without a name", "b", [part("Content-Type: image/png", &png), end.clone()].concat()),
        ("parts in a part", "b", [part(nested, b"--c--"), end.clone()].concat()),
        ("long headers", "b", [part(&long, &png), end.clone()].concat()),
        ("a long epilogue", "b", [image_part(&png), end.clone(), vec![b' '; 9000]].concat()),
    ] {
        println!("{what}");
        app.send_form("/detect", boundary, body).await.expect_problem(400, Code::MalformedMultipart);
    }
    let encoded = [part(encoded, b"aGVsbG8="), end.clone()].concat();
    let problem = app.send_form("/detect", "b", encoded).await.expect_problem(415, Code::UnsupportedMediaType);
    assert!(problem.field.as_deref() == Some("image") && problem.detail.contains("base64"), "{problem:?}");
    let too_many = [many(97), end.clone()].concat();
    app.send_form("/identify", "b", too_many).await.expect_problem(400, Code::MalformedMultipart);
    let problem =
        app.send_form("/identify", "b", [many(2), end].concat()).await.expect_problem(422, Code::InvalidField);
    assert!(problem.detail.contains("twice"));
}

#[tokio::test]
async fn small_pieces_make_a_form_like_any_other() {
    let app = TestApp::start().await;
    let form = [image_part(&plain_png()), b"--b--\r\n".to_vec()].concat();
    for piece in [1, 7, 100] {
        let mut connection = TcpStream::connect(app.url.strip_prefix("http://").unwrap()).await.unwrap();
        connection.set_nodelay(true).unwrap();
        let head = "POST /detect HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\
                    Content-Type: multipart/form-data; boundary=b\r\n\r\n";
        connection.write_all(head.as_bytes()).await.unwrap();
        for (number, bytes) in form.chunks(piece).enumerate() {
            let chunk = [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
            connection.write_all(&chunk).await.unwrap();
            if number % 50 == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        connection.write_all(b"0\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"faces\""), "{answer}");
    }
}

#[tokio::test]
async fn fields_may_be_as_long_as_their_route_needs() {
    let app = TestApp::start().await;
    let ask = async |body: String| {
        let request = app.request(Method::POST, "/identify/embedding").header("content-type", "application/json");
        app.send(request.body(body)).await
    };
    let body = |count: usize, number: &str| {
        let numbers = vec![format!("\n    {number}"); count].join(",");
        format!("{{\"gallery\": \"{}\", \"embedding\": [{numbers}\n  ]}}", app.gallery)
    };
    // As many bytes as 4,000 numbers of 17 digits have, in as many numbers as the model has dimensions.
    let long = format!("-0.25{}e-1", "0".repeat(600));
    ask(body(128, &long)).await.expect(StatusCode::OK);
    let problem = ask(body(4000, "-1.2345678901234567e-10")).await.expect_problem(422, Code::InvalidField);
    assert!(problem.detail.contains("4000"), "{}", problem.detail);
    let problem = ask(body(12_000, "-1.2345678901234567e-10")).await.expect_problem(422, Code::InvalidField);
    assert!(problem.detail.contains("more than 256000 bytes"), "{}", problem.detail);

    // Elsewhere a short text is enough, in a form as in JSON.
    let long = json!({"a": vec![0; 40_000]}).to_string();
    let parts = [
        part("Content-Disposition: form-data; name=\"metadata\"", long.as_bytes()),
        image_part(&plain_png()),
        b"--b--".to_vec(),
    ];
    let problem = app.send_form("/enroll", "b", parts.concat()).await.expect_problem(422, Code::InvalidField);
    assert_eq!(problem.field.as_deref(), Some("metadata"));
    let members = format!("{{{}}}", vec!["\"a\":1"; 100_000].join(","));
    let request = app.request(Method::POST, "/detect").header("content-type", "application/json").body(members);
    app.send(request).await.expect_problem(400, Code::MalformedJson);
}

#[tokio::test]
async fn limits_that_contradict_each_other_are_told_at_the_start() {
    let data = data_dir();
    let mut refused = faceid();
    let image = ["--max-image-bytes", "16777216"];
    refused.args(["serve", "--bind", "127.0.0.1:0", "--max-body-bytes", "10000000"]).args(image);
    refused.arg("--data-dir").arg(data.path());
    let output = refused.output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(
        message.contains("max_body_bytes = 10000000") && message.contains("max_image_bytes = 16777216"),
        "{message}"
    );

    let log = data.path().join("log");
    let limits = ["--max-body-bytes", "20000000", image[0], image[1]];
    drop(Server::start_logging_to(std::fs::File::create(&log).unwrap(), data.path(), &limits).await);
    let message = std::fs::read_to_string(&log).unwrap();
    assert!(message.contains("/verify") && message.contains("44743344"), "{message}");
}
