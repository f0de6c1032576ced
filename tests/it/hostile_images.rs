//! Images that are small as files and large in memory cost no more than the budget, whoever sends them and leaves.

use std::time::Duration;

use faceid::http::Code;
use futures_util::future::join_all;
use reqwest::StatusCode;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::made::{Scans, deep_png, float_tiff, gif, jpeg, png_with_profile, webp_with_codes};
use crate::support::process::{Server, data_dir};
use crate::support::{Answer, TestApp};

/// Less than by default, so that the test is fast: of it, 40 MiB are for what the detector is shown of a photo.
const LIMITS: [&str; 6] =
    ["--max-image-pixels", "16000000", "--max-image-bytes", "4194304", "--decode-budget", "176160768"];

const BUDGET: u64 = 168 << 20;

/// For all else that a server does meanwhile.
const BESIDES: u64 = 64 << 20;

/// A photo without a face.
fn plain() -> Vec<u8> {
    jpeg(64, (1, 1), Scans::Baseline)
}

impl TestApp {
    async fn detect_bytes(&self, image: &[u8]) -> Answer {
        let request = self.request(reqwest::Method::POST, "/detect").header("content-type", "image/any");
        self.send(request.body(image.to_vec())).await
    }
}

/// A server that has warmed up, and what it holds.
async fn server(folder: &std::path::Path) -> (Server, TestApp, u64) {
    let server = Server::start(folder, &LIMITS).await;
    let app = TestApp::at(server.url.clone()).await;
    join_all((0..8).map(async |_| app.detect_bytes(&plain()).await.expect(StatusCode::OK))).await;
    let before = server.resident_memory();
    (server, app, before)
}

#[tokio::test]
async fn small_files_of_large_images_stay_within_the_budget() {
    let folder = data_dir();
    let (server, app, before) = server(folder.path()).await;
    for (name, image, status) in [
        ("a GIF whose frame is larger than the limit", gif((100, 100), (9000, 9000)), 413),
        ("a GIF whose frame is larger than the canvas", gif((100, 100), (4000, 4000)), 200),
        ("a TIFF of floats in one strip", float_tiff(4000, 4000), 413),
        ("a TIFF of floats in many strips", float_tiff(4000, 50), 200),
        ("a PNG of 16 bits", deep_png(4000), 200),
        ("a progressive JPEG", jpeg(4000, (1, 1), Scans::Progressive), 413),
        ("a smaller progressive JPEG", jpeg(3200, (1, 1), Scans::Progressive), 200),
        ("a WebP of 256 pixels with 40,960 prefix codes", webp_with_codes(8_192), 413),
        ("a WebP of 256 pixels with 20,480 prefix codes", webp_with_codes(4_096), 200),
        ("a PNG with a large colour profile", png_with_profile(30), 200),
    ] {
        let answers = join_all((0..4).map(async |_| app.detect_bytes(&image).await)).await;
        for answer in answers {
            if status == 200 {
                answer.expect(StatusCode::OK);
            } else {
                answer.expect_problem(status, Code::ImageTooLarge);
            }
        }
        let grown = server.peak_memory().saturating_sub(before);
        println!("{name}: {grown} bytes more at most");
        assert!(grown < BUDGET + BESIDES, "{name}: {grown} bytes more");
        app.detect_bytes(&plain()).await.expect(StatusCode::OK);
    }
}

#[tokio::test]
async fn who_is_refused_is_told_what_it_would_take() {
    let folder = data_dir();
    let (_server, app, _) = server(folder.path()).await;
    let problem = app.detect_bytes(&float_tiff(4000, 4000)).await.expect_problem(413, Code::ImageTooLarge);
    let detail = problem.detail;
    // 16 bytes for each of 16 million pixels, three of the result, and what comes with the file.
    assert!(detail.contains("would take 31") && detail.contains("limit of 134 MB"), "{detail}");
}

#[tokio::test]
async fn clients_who_hang_up_do_not_free_what_is_still_in_use() {
    let folder = data_dir();
    let (server, app, before) = server(folder.path()).await;
    let image = jpeg(3200, (1, 1), Scans::Progressive);
    let address = server.url.strip_prefix("http://").unwrap();
    for _ in 0..12 {
        let mut connection = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "POST /detect HTTP/1.1\r\nhost: {address}\r\ncontent-type: image/any\r\ncontent-length: {}\r\n\r\n",
            image.len()
        );
        connection.write_all(&[head.as_bytes(), &image].concat()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    // Waits for its turn behind them.
    app.detect_bytes(&image).await.expect(StatusCode::OK);
    app.detect_bytes(&plain()).await.expect(StatusCode::OK);
    let grown = server.peak_memory().saturating_sub(before);
    assert!(grown < BUDGET + BESIDES, "{grown} bytes more");
}
