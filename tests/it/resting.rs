//! How long connections live: between requests, within them, and when the server stops.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::Request;
use axum::routing::get;
use bytes::Bytes;
use faceid::config::{HttpConfig, Settings};
use faceid::http::{leaving, parting, serve, starting};
use faceid::service::StartProgress;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use crate::support::process::{Server, data_dir};
use crate::support::{TestApp, eventually};

/// Far less than an hour, and generous otherwise.
const PATIENCE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const BRIEF: Duration = Duration::from_millis(300);

fn config(head: Duration, rest: Duration) -> HttpConfig {
    let config = Settings::default().into_config().unwrap().http;
    HttpConfig { request_timeout: head, idle_timeout: rest, ..config }
}

/// A server of this process, which ends with what this returns, or when it is asked to.
struct Host {
    address: SocketAddr,
    stop: Arc<Notify>,
    server: JoinSet<()>,
}

impl Host {
    async fn of(routes: Router, config: HttpConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop, mut server) = (listener.local_addr().unwrap(), Arc::new(Notify::new()), JoinSet::new());
        let asked = Arc::clone(&stop);
        server.spawn(async move { serve(listener, routes, &config, asked.notified()).await });
        Self { address, stop, server }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// A connection of HTTP/2, and its end.
    async fn connect_h2(&self) -> (h2::client::SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>) {
        let (sender, connection) = h2::client::handshake(self.connect().await).await.unwrap();
        (sender, tokio::spawn(connection))
    }
}

/// Says at once that it is there, or, at another path, when it is told to.
fn routes(go_on: &Arc<Notify>) -> Router {
    let go_on = Arc::clone(go_on);
    let slow = get(move || async move {
        go_on.notified().await;
        "slow"
    });
    Router::new().route("/", get(|| async { "here" })).route("/slow", slow)
}

async fn ask(stream: &mut TcpStream, path: &str) -> String {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
    hear(stream).await
}

/// An answer with a body of four letters.
async fn hear(stream: &mut TcpStream) -> String {
    let (mut head, mut body) = (Vec::new(), [0; 4]);
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    stream.read_exact(&mut body).await.unwrap();
    String::from_utf8([&head, &body[..]].concat()).unwrap()
}

async fn until_closed(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    // An end or a reset: closed either way.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the connection stays open for ever");
    rest
}

/// The answer to a request of HTTP/2.
async fn ask_h2(sender: &h2::client::SendRequest<Bytes>, path: &str) -> (StatusCode, String) {
    let mut sender = sender.clone().ready().await.unwrap();
    let request = Request::get(format!("http://x{path}")).body(()).unwrap();
    let (answer, _) = sender.send_request(request, true).unwrap();
    drop(sender);
    let (head, mut body) = answer.await.unwrap().into_parts();
    let mut text = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece.unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        text.extend_from_slice(&piece);
    }
    (head.status, String::from_utf8(text).unwrap())
}

#[tokio::test]
async fn a_connection_rests_longer_than_a_head_may_take() {
    let host = Host::of(routes(&Arc::default()), config(Duration::from_secs(1), HOUR)).await;
    let mut stream = host.connect().await;
    for _ in 0..2 {
        assert!(ask(&mut stream, "/").await.ends_with("here"));
        tokio::time::sleep(Duration::from_millis(2500)).await;
    }
    assert!(ask(&mut stream, "/").await.ends_with("here"));
}

#[tokio::test]
async fn a_connection_that_rests_too_long_is_closed_and_one_in_work_is_not() {
    let go_on = Arc::new(Notify::new());
    let host = Host::of(routes(&go_on), config(HOUR, BRIEF)).await;
    let mut stream = host.connect().await;
    stream.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    tokio::time::sleep(4 * BRIEF).await;
    go_on.notify_one();
    assert!(hear(&mut stream).await.ends_with("slow"));
    assert_eq!(until_closed(&mut stream).await, b"");
}

#[tokio::test]
async fn a_head_has_its_time_from_its_first_byte() {
    let host = Host::of(routes(&Arc::default()), config(BRIEF, HOUR)).await;
    let half = b"GET / HTTP/1.1\r\nHost: x\r\nX-";
    // None at all, half a head, half of what begins HTTP/2.
    for say in [&b""[..], half, b"PRI * HTTP/2.0\r\n"] {
        let mut stream = host.connect().await;
        stream.write_all(say).await.unwrap();
        until_closed(&mut stream).await;
    }
    // And the second one of a connection.
    let mut stream = host.connect().await;
    assert!(ask(&mut stream, "/").await.ends_with("here"));
    stream.write_all(half).await.unwrap();
    until_closed(&mut stream).await;
}

#[tokio::test]
async fn http_2_answers_on_one_connection_and_has_the_same_times() {
    let go_on = Arc::new(Notify::new());
    let host = Host::of(routes(&go_on), config(HOUR, BRIEF)).await;
    let (sender, connection) = host.connect_h2().await;
    let slow = tokio::spawn({
        let sender = sender.clone();
        async move { ask_h2(&sender, "/slow").await }
    });
    for _ in 0..3 {
        assert_eq!(ask_h2(&sender, "/").await, (StatusCode::OK, "here".to_owned()));
    }
    // One that is in work keeps the connection.
    tokio::time::sleep(4 * BRIEF).await;
    assert_eq!(ask_h2(&sender, "/").await.1, "here");
    go_on.notify_one();
    assert_eq!(slow.await.unwrap().1, "slow");
    // It is told to go, and then ends.
    let ended = timeout(PATIENCE, connection).await.expect("the connection stays open for ever").unwrap();
    assert!(ended.is_ok(), "{ended:?}");
    assert!(sender.ready().await.is_err());
}

#[tokio::test]
async fn the_frames_of_an_answer_are_no_head_of_the_next_request() {
    let host = Host::of(routes(&Arc::default()), config(Duration::from_secs(1), HOUR)).await;
    let (sender, connection) = host.connect_h2().await;
    for _ in 0..2 {
        assert_eq!(ask_h2(&sender, "/").await.1, "here");
        tokio::time::sleep(Duration::from_millis(2500)).await;
    }
    assert_eq!(ask_h2(&sender, "/").await.1, "here");
    assert!(!connection.is_finished());
}

#[tokio::test]
async fn a_stop_lets_both_versions_finish() {
    let go_on = Arc::new(Notify::new());
    let mut host = Host::of(routes(&go_on), config(HOUR, HOUR)).await;
    let (sender, connection) = host.connect_h2().await;
    assert_eq!(ask_h2(&sender, "/").await.1, "here");
    let slow = tokio::spawn(async move { ask_h2(&sender, "/slow").await });
    let (mut first, mut silent) = (host.connect().await, host.connect().await);
    first.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut resting = host.connect().await;
    assert!(ask(&mut resting, "/").await.ends_with("here"));
    tokio::time::sleep(BRIEF).await;
    host.stop.notify_one();
    for stream in [&mut resting, &mut silent] {
        assert_eq!(until_closed(stream).await, b"");
    }
    tokio::time::sleep(BRIEF).await;
    go_on.notify_waiters();
    assert!(hear(&mut first).await.ends_with("slow"));
    assert_eq!(slow.await.unwrap().1, "slow");
    timeout(PATIENCE, host.server.join_next()).await.expect("the server ends").unwrap().unwrap();
    timeout(PATIENCE, connection).await.expect("the connection ends").unwrap().unwrap();
}

#[tokio::test]
async fn who_leaves_says_so_first_and_then_lets_go_of_its_clients() {
    let config = HttpConfig { base_path: "/faces".parse().unwrap(), ..config(HOUR, HOUR) };
    let stopping = leaving(starting(StartProgress::default(), &config), &config);
    let host = Host::of(stopping.clone(), config.clone()).await;
    let client = reqwest::Client::new();
    let get =
        async |host: &Host, path: &str| client.get(format!("http://{}{path}", host.address)).send().await.unwrap();
    for path in ["/readyz", "/faces/readyz"] {
        let answer = get(&host, path).await;
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(answer.headers().contains_key("x-request-id"));
        let said: serde_json::Value = answer.json().await.unwrap();
        assert_eq!(said, serde_json::json!({"ready": false, "stopping": true}), "{path}");
    }
    let alive = get(&host, "/faces/healthz").await;
    assert_eq!((alive.status(), alive.headers().get("connection")), (StatusCode::OK, None));

    let host = Host::of(parting(stopping), config).await;
    for path in ["/faces/healthz", "/readyz", "/no-such-path"] {
        assert_eq!(get(&host, path).await.headers()["connection"], "close", "{path}");
    }
    let mut stream = host.connect().await;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(String::from_utf8(until_closed(&mut stream).await).unwrap().ends_with("ok"));
    // HTTP/2 forbids the header.
    let (sender, _connection) = host.connect_h2().await;
    assert_eq!(ask_h2(&sender, "/healthz").await, (StatusCode::OK, "ok".to_owned()));
}

#[tokio::test]
async fn a_server_that_gets_sigterm_serves_on_until_others_know() {
    let data = data_dir();
    let mut server = Server::start(data.path(), &["--shutdown-grace", "3600"]).await;
    let app = TestApp::at(server.url.clone()).await;
    server.terminate();
    let said = eventually(PATIENCE, "it says that it is about to stop", async || {
        let answer = app.get("/readyz").await;
        (answer.status == StatusCode::SERVICE_UNAVAILABLE && answer.value()["stopping"] == true).then_some(())
    });
    said.await;
    // Newcomers are served.
    let newcomer = TestApp::at(server.url.clone()).await;
    newcomer.get(&format!("/galleries/{}", app.gallery)).await.expect(StatusCode::OK);
    newcomer.get("/healthz").await.expect(StatusCode::OK);
    // Who insists need not wait.
    server.terminate();
    assert!(server.ended().await.success());
}

#[tokio::test]
async fn a_grace_ends_by_itself_and_is_not_for_ctrl_c() {
    for (grace, signal) in [("1", Signal::SIGTERM), ("3600", Signal::SIGINT)] {
        let data = data_dir();
        let mut server = Server::start(data.path(), &["--shutdown-grace", grace]).await;
        kill(Pid::from_raw(server.pid().try_into().unwrap()), signal).unwrap();
        assert!(server.ended().await.success());
    }
}
