//! Model files that ask for more than anybody has, or break what tries them out: the server answers and goes on.

use std::path::Path;
use std::time::{Duration, Instant};

use faceid::http::Code;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::StatusCode;

use crate::support::models::model_form;
use crate::support::onnx::{embedder, endless_embedder, ints, mean_of_pixels, plain, scalar};
use crate::support::process::{Server, data_dir};
use crate::support::{Answer, TestApp, eventually};

/// What a request must not wait for that is answered at once. Generous: machines are shared.
const SOON: Duration = Duration::from_secs(30);

async fn import(app: &TestApp, file: Vec<u8>) -> Answer {
    app.post_form("/admin/models", model_form(file).text("name", "hostile").text("threshold", "0.5")).await
}

async fn server() -> (tempfile::TempDir, Server, TestApp) {
    let data = data_dir();
    let server = Server::start(data.path(), &["--shutdown-timeout", "1", "--request-timeout", "300"]).await;
    let app = TestApp::at(server.url.clone()).await;
    (data, server, app)
}

/// The process in which a server tries out a model at present.
fn trial_of(server: u32) -> Option<Pid> {
    std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let status = std::fs::read_to_string(entry.path().join("status")).ok()?;
        let is_child = status.lines().any(|line| line.split_whitespace().eq(["PPid:", &server.to_string()]));
        let arguments = std::fs::read(entry.path().join("cmdline")).ok()?;
        (is_child && arguments.split(|byte| *byte == 0).any(|it| it == b"try-model")).then(|| Pid::from_raw(pid))
    })
}

/// Whether there is no such process any more, or nothing but its exit status.
fn is_gone(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    stat.map_or(true, |stat| stat.contains(") Z "))
}

async fn until_tried(server: &Server) -> Pid {
    let pid = server.pid();
    eventually(SOON, "a process tries out the model", async || trial_of(pid)).await
}

async fn until_gone(trial: Pid) {
    eventually(SOON, "the trial is gone", async || is_gone(trial).then_some(())).await;
}

#[tokio::test]
async fn files_of_too_many_parts_are_refused_at_once() {
    const MANY: usize = 100_000;
    let app = TestApp::start().await;
    let small = plain("Relu", &["x"], "end");
    let weights: Vec<_> = (0..MANY).map(|n| scalar(&format!("w{n}"), n as f32)).chain([small]).collect();
    let copies = (0..MANY).map(|n| plain("Identity", &[&format!("x{n}")], &format!("x{}", n + 1)));
    let copies: Vec<_> = [plain("Relu", &["x"], "x0")].into_iter().chain(copies).collect();
    for (parts, what) in [(weights, "65536 weights"), (copies, "65536 nodes")] {
        let began = Instant::now();
        let problem = import(&app, embedder(&parts)).await.expect_problem(422, Code::InvalidModel);
        assert!(problem.detail.contains(what), "{}", problem.detail);
        assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn as_many_parts_as_are_allowed_are_no_burden() {
    const MANY: usize = 30_000;
    let app = TestApp::start().await;
    let weights = (0..MANY).map(|n| scalar(&format!("w{n}"), 1.0 + n as f32 / 1e6));
    let copies = (0..MANY).map(|n| plain("Identity", &[&format!("x{n}")], &format!("x{}", n + 1)));
    let ends = [plain("Relu", &["x"], "x0"), plain("Mul", &[&format!("x{MANY}"), "w1"], "end")];
    let parts: Vec<_> = weights.chain(copies).chain(ends).collect();
    let form = model_form(embedder(&parts)).text("name", format!("many-{}", app.gallery)).text("threshold", "0.5");
    app.post_form("/admin/models", form).await.expect(StatusCode::CREATED);
}

#[tokio::test]
async fn a_network_that_never_ends_is_refused_and_nothing_goes_on() {
    let (_data, mut server, app) = server().await;
    let (answer, trial) = tokio::join!(import(&app, endless_embedder()), until_tried(&server));
    let problem = answer.expect_problem(422, Code::InvalidModel);
    assert!(problem.detail.contains("within 40 s of computing"), "{}", problem.detail);
    until_gone(trial).await;
    server.terminate();
    assert!(server.ended().await.success());
}

#[tokio::test]
async fn a_network_that_takes_too_much_memory_is_refused_and_the_server_takes_none() {
    let (_data, server, app) = server().await;
    let before = server.peak_memory();
    // Three values of 1 GiB at a time.
    let mut parts = vec![mean_of_pixels(), ints("many", &[1, 1 << 28]), plain("Expand", &["s", "many"], "wide")];
    for n in 0..3 {
        parts.push(scalar(&format!("c{n}"), n as f32));
        parts.push(plain("Add", &["wide", &format!("c{n}")], &format!("v{n}")));
    }
    parts.push([plain("Sum", &["v0", "v1", "v2"], "v"), plain("ReduceMean", &["v"], "t")].concat());
    parts.push([plain("Reshape", &["t", "one"], "u"), plain("Add", &["x", "u"], "end")].concat());
    let problem = import(&app, embedder(&parts)).await.expect_problem(422, Code::InvalidModel);
    assert!(problem.detail.contains("GiB of memory"), "{}", problem.detail);
    let more = server.peak_memory() - before;
    assert!(more < 512 << 20, "{more} bytes more");
}

#[tokio::test]
async fn a_network_that_crashes_what_tries_it_out_is_refused() {
    let (_data, server, app) = server().await;
    let (answer, ()) = tokio::join!(import(&app, endless_embedder()), async {
        let trial = until_tried(&server).await;
        // As if it had read memory that is not its own.
        kill(trial, Signal::SIGSEGV).unwrap();
        until_gone(trial).await;
    });
    let problem = answer.expect_problem(422, Code::InvalidModel);
    assert!(problem.detail.contains("crashed"), "{}", problem.detail);
    assert_eq!(app.get("/healthz").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_trial_ends_with_whoever_waits_for_it() {
    let (_data, mut server, app) = server().await;
    // A client that hangs up.
    let waiting = tokio::spawn({
        let app = TestApp { client: app.client.clone(), url: app.url.clone(), gallery: app.gallery.clone() };
        async move { import(&app, endless_embedder()).await }
    });
    let trial = until_tried(&server).await;
    waiting.abort();
    until_gone(trial).await;
    // A server that is stopped: it ends within the time for what it accepted, and takes the trial with it.
    let begin = |app: &TestApp| {
        let form = model_form(endless_embedder()).text("name", "hostile").text("threshold", "0.5");
        tokio::spawn(app.request(reqwest::Method::POST, "/admin/models").multipart(form).send())
    };
    let waiting = begin(&app);
    let trial = until_tried(&server).await;
    let began = Instant::now();
    server.terminate();
    assert!(server.ended().await.success());
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    until_gone(trial).await;
    let _ = waiting.await.unwrap();
}

#[tokio::test]
async fn a_trial_ends_with_a_server_that_is_killed() {
    let (_data, mut server, app) = server().await;
    let form = model_form(endless_embedder()).text("name", "hostile").text("threshold", "0.5");
    let waiting = tokio::spawn(app.request(reqwest::Method::POST, "/admin/models").multipart(form).send());
    let trial = until_tried(&server).await;
    server.kill();
    until_gone(trial).await;
    let _ = waiting.await.unwrap();
}
