//! Who is let in when there are more than the server can take, and what it says of itself meanwhile.

use std::time::{Duration, Instant};

use faceid::http::Code;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::header::{CONNECTION, RETRY_AFTER};
use reqwest::{Client, Method, StatusCode};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::process::{Server, data_dir, faceid, free_port};
use crate::support::{Answer, TestApp, eventually, made_by_setup, onnx};

/// Far less than the five minutes after which these servers let go of whoever says nothing, and generous otherwise.
const PROMPTLY: Duration = Duration::from_secs(60);

const FEW: [&str; 4] = ["--max-connections", "8", "--request-timeout", "300"];

async fn connect(server: &Server, say: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.url.strip_prefix("http://").unwrap()).await.unwrap();
    stream.write_all(say.as_bytes()).await.unwrap();
    stream
}

/// A client whose connections are not those of any other.
fn stranger(app: &TestApp) -> TestApp {
    TestApp { client: Client::new(), url: app.url.clone(), gallery: app.gallery.clone() }
}

/// A made picture, all of whose bytes are there.
fn picture() -> Vec<u8> {
    let image = image::RgbImage::from_fn(120, 90, |x, y| image::Rgb([x as u8, y as u8, (x + y) as u8]));
    let mut png = std::io::Cursor::new(Vec::new());
    image.write_to(&mut png, image::ImageFormat::Png).unwrap();
    png.into_inner()
}

async fn detect(app: &TestApp) -> Answer {
    app.send(app.request(Method::POST, "/detect").header("content-type", "image/png").body(picture())).await
}

async fn promptly<T>(answer: impl Future<Output = T>) -> T {
    timeout(PROMPTLY, answer).await.expect("an answer without waiting for others to leave")
}

#[tokio::test]
async fn connections_that_say_nothing_keep_nobody_out() {
    let data = data_dir();
    let server = Server::start(data.path(), &FEW).await;
    let app = TestApp::at(server.url.clone()).await;
    let half_a_head = "POST /detect HTTP/1.1\r\nHost: x\r\nX-";
    for say in ["", half_a_head, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"] {
        let mut idle = Vec::new();
        for _ in 0..40 {
            idle.push(connect(&server, say).await);
        }
        promptly(stranger(&app).get("/healthz")).await.expect(StatusCode::OK);
        promptly(detect(&stranger(&app))).await.expect(StatusCode::OK);
    }
}

#[tokio::test]
async fn refusals_that_are_thrown_away_keep_nobody_out() {
    let data = data_dir();
    let keys = ["--client-key", "client-key-0123456", "--admin-key", "admin-key-01234567"];
    let server = Server::start(data.path(), &[&FEW[..], &keys].concat()).await;
    let mut refused = Vec::new();
    for _ in 0..20 {
        let begun = "POST /detect HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 1000000\r\n\r\nx";
        let mut stream = connect(&server, begun).await;
        // The answer does not wait for the rest of the body.
        let mut heard = [0; 12];
        promptly(stream.read_exact(&mut heard)).await.unwrap();
        assert_eq!(&heard, b"HTTP/1.1 401");
        refused.push(stream);
    }
    let client = Client::new();
    let detect = client.post(format!("{}/detect", server.url)).header("x-api-key", keys[1]);
    let answer = promptly(detect.header("content-type", "image/png").body(picture()).send()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    // Who gave way is let go.
    let _ = promptly(refused[0].read_to_end(&mut Vec::new())).await;
}

#[tokio::test]
async fn a_server_with_all_hands_full_says_that_it_lives() {
    let data = data_dir();
    let server = Server::start(data.path(), &FEW).await;
    let app = TestApp::at(server.url.clone()).await;
    let (photo, mut slow) = (picture(), Vec::new());
    let head = format!(
        "POST /detect HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {}\r\n\
         Expect: 100-continue\r\n\r\n",
        photo.len()
    );
    for _ in 0..8 {
        let mut stream = connect(&server, &head).await;
        // From then on it is in work; before, it would give way to the next.
        let mut go_on = [0; 25];
        promptly(stream.read_exact(&mut go_on)).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&go_on), "HTTP/1.1 100 Continue\r\n\r\n");
        stream.write_all(&photo[..10]).await.unwrap();
        slow.push(stream);
    }
    let answer = eventually(PROMPTLY, "all places are taken", async || {
        let answer = promptly(detect(&stranger(&app))).await;
        (answer.status != StatusCode::OK).then_some(answer)
    })
    .await;
    answer.expect_problem(503, Code::Overloaded);
    assert_eq!(
        (&answer.headers[RETRY_AFTER], &answer.headers[CONNECTION]),
        (&"1".parse().unwrap(), &"close".parse().unwrap())
    );
    // Not even those who take the places of probes as well, and say nothing, keep a probe out.
    let mut silent = Vec::new();
    for _ in 0..60 {
        silent.push(connect(&server, "").await);
    }
    for probe in ["/healthz", "/readyz", "/metrics"] {
        promptly(stranger(&app).get(probe)).await.expect(StatusCode::OK);
    }
    // None of those in work was harmed.
    for stream in &mut slow {
        stream.write_all(&photo[10..]).await.unwrap();
        let mut first = [0; 12];
        promptly(stream.read_exact(&mut first)).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&first), "HTTP/1.1 200");
    }
    promptly(detect(&stranger(&app))).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn asking_whether_it_is_ready_gives_the_server_no_work() {
    let data = data_dir();
    let server = Server::start(data.path(), &[]).await;
    let app = TestApp::at(server.url.clone()).await;
    let embedded = async || -> f64 {
        let metrics = app.get("/metrics").await.text();
        metrics.lines().find_map(|line| line.strip_prefix("faceid_faces_total ")).map_or(0.0, |n| n.parse().unwrap())
    };
    let (before, began) = (embedded().await, Instant::now());
    for _ in 0..300 {
        // On a machine that is busy enough the engine may count as down for a while.
        app.get("/readyz").await;
    }
    // The server looks every two seconds, whoever asks.
    let (looks, seconds) = (embedded().await - before, began.elapsed().as_secs_f64());
    assert!(looks <= 2.0 + seconds / 1.5, "{looks} chips were embedded for 300 probes in {seconds:.0} s");
}

/// A postmaster and the processes that it started.
fn postgres(data: &std::path::Path) -> Vec<Pid> {
    let file = std::fs::read_to_string(data.join("postgres/postmaster.pid")).unwrap();
    let postmaster = file.lines().next().unwrap();
    let children = std::fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children")).unwrap();
    [postmaster].into_iter().chain(children.split_whitespace()).map(|pid| Pid::from_raw(pid.parse().unwrap())).collect()
}

#[tokio::test]
async fn a_database_that_hangs_and_comes_back_shows() {
    let data = data_dir();
    let server = Server::start(data.path(), &[]).await;
    let app = TestApp::at(server.url.clone()).await;
    let within = Duration::from_secs(60);
    let processes = postgres(data.path());
    for pid in &processes {
        kill(*pid, Signal::SIGSTOP).unwrap();
    }
    let down = eventually(within, "the database counts as down", async || {
        let answer = app.get("/readyz").await;
        (answer.status == StatusCode::SERVICE_UNAVAILABLE).then(|| answer.value())
    })
    .await;
    let alive = app.get("/healthz").await.status;
    for pid in &processes {
        kill(*pid, Signal::SIGCONT).unwrap();
    }
    assert_eq!((&down["ready"], &down["gallery"], &down["engine"]), (&false.into(), &"down".into(), &"ok".into()));
    assert_eq!(alive, StatusCode::OK);
    let up: Value = eventually(within, "the database counts as up", async || {
        let answer = app.get("/readyz").await;
        (answer.status == StatusCode::OK).then(|| answer.value())
    })
    .await;
    assert_eq!(up["gallery"], "ok");
}

/// What a command says that is expected to end by itself.
async fn ended(command: std::process::Command) -> std::process::Output {
    let mut command = tokio::process::Command::from(command);
    timeout(2 * PROMPTLY, command.kill_on_drop(true).output()).await.expect("the command ends").unwrap()
}

#[tokio::test]
async fn a_detector_of_another_layout_ends_the_start() {
    let folder = data_dir();
    let three_rows = folder.path().join("three-rows.onnx");
    std::fs::write(&three_rows, onnx::detector_with_three_rows()).unwrap();
    let embedder = made_by_setup("FACEID_WEIGHTS_DIR", "weights").join("sface-128.onnx");
    for (detector, wrong) in
        [(three_rows, "3 scores"), (embedder, "not a usable detector: it should take images of any size")]
    {
        let data = data_dir();
        let mut command = faceid();
        command.args(["serve", "--log", "off", "--bind", &format!("127.0.0.1:{}", free_port()), "--data-dir"]);
        command.arg(data.path()).arg("--detector").arg(&detector);
        // On the build that took such a file for a detector, it would go on for ever.
        let output = ended(command).await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(detector.to_str().unwrap()) && said.contains(wrong), "{said}");
        assert_eq!(said.trim().lines().count(), 1, "{said}");
        assert!(output.stdout.is_empty(), "it says that it is ready");
    }
}
