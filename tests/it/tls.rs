//! HTTPS: versions, certificates that change, certificates of clients, and those who come without TLS.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use faceid::config::{ClientAuth, HttpConfig, Settings, TlsConfig};
use faceid::http::{Port, Tls, serve};
use reqwest::StatusCode;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ALL_VERSIONS, ProtocolVersion, version};

use crate::support::certificates::{Authority, Pair, files, written};
use crate::support::eventually;
use crate::support::process::{Server, data_dir, faceid};

/// Generous: machines are shared.
const PATIENCE: Duration = Duration::from_secs(60);
const H1: &[u8] = b"http/1.1";
const H2: &[u8] = b"h2";
const CLIENT: &str = "client-key-for-tests";
const ADMIN: &str = "admin-key-for-tests-";

/// A server of this process that says `here`; it ends when this is dropped.
struct Host {
    address: SocketAddr,
    _server: JoinSet<()>,
}

impl Host {
    async fn of(tls: TlsConfig, head: Duration) -> Self {
        let http = Settings::default().into_config().unwrap().http;
        let config = HttpConfig { request_timeout: head, tls: Some(tls.clone()), ..http };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let port = Port { listener, tls: Some(Tls::load(tls).await.unwrap()) };
        let mut server = JoinSet::new();
        let routes = Router::new().route("/", get(|| async { "here" }));
        server.spawn(async move { serve(port, routes, &config, std::future::pending()).await });
        Self { address, _server: server }
    }

    async fn connect(&self, connector: &TlsConnector) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        timeout(PATIENCE, connector.connect(localhost(), stream)).await.expect("the handshake comes to an end")
    }

    /// What is answered over HTTP/1.1 on a new connection.
    async fn ask(&self, connector: &TlsConnector) -> std::io::Result<String> {
        ask(&mut self.connect(connector).await?).await
    }
}

fn localhost() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

async fn ask(stream: &mut TlsStream<TcpStream>) -> std::io::Result<String> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await?;
    let mut text = String::new();
    while !text.ends_with("here") {
        let mut piece = [0; 512];
        let read = timeout(PATIENCE, stream.read(&mut piece)).await.expect("an answer")?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        text.push_str(std::str::from_utf8(&piece[..read]).unwrap());
    }
    Ok(text)
}

fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone()
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[tokio::test]
async fn a_client_chooses_the_version_of_http_and_of_tls() {
    let (folder, authority) = (folder(), Authority::new("ours"));
    let host = Host::of(files(folder.path(), &authority.server()), PATIENCE).await;
    for (versions, version) in [
        (ALL_VERSIONS, ProtocolVersion::TLSv1_3),
        (&[&version::TLS13], ProtocolVersion::TLSv1_3),
        (&[&version::TLS12], ProtocolVersion::TLSv1_2),
    ] {
        let mut stream = host.connect(&authority.connector_with(&[H1], None, versions)).await.unwrap();
        assert_eq!(stream.get_ref().1.protocol_version(), Some(version));
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(H1));
        assert!(ask(&mut stream).await.unwrap().starts_with("HTTP/1.1 200"));
    }
    // Without a word of it, it is HTTP/1.1.
    assert!(host.ask(&authority.connector(&[])).await.unwrap().starts_with("HTTP/1.1 200"));
    let stream = host.connect(&authority.connector(&[H1, H2])).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(H2));
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..3 {
        let request = axum::http::Request::get("https://localhost/").body(()).unwrap();
        let (answer, _) = sender.clone().ready().await.unwrap().send_request(request, true).unwrap();
        assert_eq!(timeout(PATIENCE, answer).await.unwrap().unwrap().status(), StatusCode::OK);
    }
    // Whoever trusts somebody else is not fooled.
    assert!(host.ask(&Authority::new("another").connector(&[H1])).await.is_err());
}

#[tokio::test]
async fn new_connections_get_a_new_certificate_and_old_ones_go_on() {
    let (folder, authority) = (folder(), Authority::new("ours"));
    let config = files(folder.path(), &authority.server());
    let host = Host::of(config.clone(), PATIENCE).await;
    let connector = authority.connector(&[H1]);
    let mut old = host.connect(&connector).await.unwrap();
    let first = shown(&old);
    authority.server().put(&config);
    let next = eventually(PATIENCE, "the new certificate", async || {
        let next = shown(&host.connect(&connector).await.unwrap());
        (next != first).then_some(next)
    })
    .await;
    assert!(ask(&mut old).await.unwrap().ends_with("here"));
    // A key of another certificate changes nothing, however often it is looked at.
    std::fs::write(&config.key, authority.server().key).unwrap();
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(shown(&host.connect(&connector).await.unwrap()), next);
    assert!(host.ask(&connector).await.unwrap().ends_with("here"));
}

#[tokio::test]
async fn a_certificate_is_asked_of_clients_if_that_is_wanted() {
    let (folder, ours, theirs) = (folder(), Authority::new("ours"), Authority::new("theirs"));
    let clients = Authority::new("for clients");
    let server = files(folder.path(), &ours.server());
    let ca = written(folder.path(), "clients.pem", &clients.pem);
    let (good, foreign) = (clients.client("door 3"), theirs.client("door 3"));
    let with = |identity: Option<&Pair>| ours.connector_with(&[H1], identity, ALL_VERSIONS);
    for (auth, without, by_foreign) in
        [(ClientAuth::Off, true, true), (ClientAuth::Optional, true, false), (ClientAuth::Required, false, false)]
    {
        let config = TlsConfig { client_ca: Some(ca.clone()), client_auth: auth, ..server.clone() };
        let host = Host::of(config, PATIENCE).await;
        // One that is for servers is none of a client.
        let of_server = host.ask(&with(Some(&clients.server()))).await.is_ok();
        let answers = [None, Some(&foreign), Some(&good)].map(with);
        let mut answered = Vec::new();
        for connector in &answers {
            answered.push(host.ask(connector).await.is_ok());
        }
        assert_eq!(answered, [without, by_foreign, true], "{auth}");
        assert_eq!(of_server, auth == ClientAuth::Off, "{auth}");
    }
    // The authority is followed as well.
    let config = TlsConfig { client_ca: Some(ca.clone()), client_auth: ClientAuth::Required, ..server };
    let host = Host::of(config, PATIENCE).await;
    assert!(host.ask(&with(Some(&foreign))).await.is_err());
    written(folder.path(), "clients.pem", &theirs.pem);
    eventually(PATIENCE, "the other authority", async || host.ask(&with(Some(&foreign))).await.ok()).await;
    assert!(host.ask(&with(Some(&good))).await.is_err());
}

async fn until_closed(stream: &mut TcpStream) -> String {
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the connection stays open for ever");
    String::from_utf8_lossy(&rest).into_owned()
}

#[tokio::test]
async fn who_comes_without_tls_is_told() {
    let (folder, authority) = (folder(), Authority::new("ours"));
    let host = Host::of(files(folder.path(), &authority.server()), PATIENCE).await;
    let hello = "POST /enroll HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n";
    for (say, told) in [
        (format!("{hello}{}", "x".repeat(5000)), true),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), true),
        ("\0\0\0".to_owned(), false),
    ] {
        let mut stream = TcpStream::connect(host.address).await.unwrap();
        stream.write_all(say.as_bytes()).await.unwrap();
        let heard = until_closed(&mut stream).await;
        assert_eq!(
            heard.starts_with("HTTP/1.1 400 ") && heard.ends_with("use an https:// address\r\n"),
            told,
            "{heard}"
        );
        assert_eq!(heard.is_empty(), !told, "{heard}");
    }
    assert!(host.ask(&authority.connector(&[H1])).await.is_ok());
}

#[tokio::test]
async fn a_handshake_has_the_time_of_a_head() {
    let (folder, authority) = (folder(), Authority::new("ours"));
    let host = Host::of(files(folder.path(), &authority.server()), Duration::from_millis(300)).await;
    // Nothing, and half of what a handshake begins with.
    for say in [&b""[..], b"\x16\x03\x01\x02"] {
        let mut stream = TcpStream::connect(host.address).await.unwrap();
        stream.write_all(say).await.unwrap();
        until_closed(&mut stream).await;
    }
}

fn said(output: &std::process::Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_start_fails_by_files_that_are_of_no_use() {
    let (folder, authority) = (folder(), Authority::new("ours"));
    let (one, other) = (authority.server(), authority.server());
    let cert = written(folder.path(), "cert.pem", &one.cert);
    let key = written(folder.path(), "other.key", &other.key);
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let nowhere = path(&folder.path().join("nowhere.pem"));
    for (arguments, words) in [
        (vec!["--tls-cert", &path(&cert)], vec!["both tls_cert and tls_key"]),
        (vec!["--tls-client-ca", &path(&cert)], vec!["tls_client_ca is for a server with TLS"]),
        (vec!["--tls-cert", &nowhere, "--tls-key", &path(&key)], vec!["cannot read tls_cert", &nowhere]),
        (vec!["--tls-cert", &path(&cert), "--tls-key", &path(&key)], vec!["is not the key of", "other.key"]),
    ] {
        let data = data_dir();
        let mut command = faceid();
        let output = command.args(["serve", "--data-dir"]).arg(data.path()).args(&arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(words.iter().all(|word| said(&output).contains(word)), "{words:?}: {}", said(&output));
        assert!(!data.path().join("postgres").exists(), "the slow parts were started");
    }
}

/// A whole server, asked by the command line.
#[tokio::test(flavor = "multi_thread")]
async fn commands_ask_a_server_with_tls() {
    let (data, authority, clients) = (data_dir(), Authority::new("ours"), Authority::new("for clients"));
    let config = files(data.path(), &authority.server());
    let ca = written(data.path(), "ca.pem", &authority.pem);
    let others = written(data.path(), "others.pem", &Authority::new("others").pem);
    let identity = written(data.path(), "door.pem", &clients.client("door 3").identity());
    let client_ca = written(data.path(), "clients.pem", &clients.pem);
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let (cert, key) = (path(&config.cert), path(&config.key));
    let [ca, others, identity, client_ca] = [ca, others, identity, client_ca].map(|file| path(&file));
    let keys = ["--client-key", CLIENT, "--admin-key", ADMIN];
    let tls = ["--tls-cert", &cert, "--tls-key", &key, "--tls-client-ca", &client_ca];
    let arguments = [&keys[..], &tls, &["--tls-client-auth", "optional"]].concat();
    let log = data.path().join("log");
    let server = Server::start_logging_to(std::fs::File::create(&log).unwrap(), data.path(), &arguments).await;
    assert!(server.url.starts_with("https://"));
    let run = |arguments: &[&str]| {
        let output = faceid().args(arguments).env("FACEID_ADMIN_KEY", ADMIN).output().unwrap();
        (output.status.success(), said(&output))
    };
    let health = |more: &[&str]| run(&[&["health", "--server", &server.url][..], more].concat());
    let (good, text) = health(&["--server-ca", &ca]);
    assert!(good && text.contains("\"ready\":true"), "{text}");
    let (good, text) = health(&["--server-ca", &ca, "--server-identity", &identity]);
    assert!(good, "{text}");
    for (more, words) in [
        (&["--server-ca", others.as_str()][..], "certificate"),
        (&[], "certificate"),
        (&["--server-ca", key.as_str()], "does not hold certificates"),
        (&["--server-ca", "/nowhere.pem"], "cannot read /nowhere.pem"),
        (&["--server-ca", ca.as_str(), "--server-identity", ca.as_str()], "does not hold a certificate and its key"),
    ] {
        let (good, text) = health(more);
        assert!(!good && text.contains(words), "{more:?}: {text}");
    }
    // As a container looks after its own: by the configuration alone.
    let bind = server.url.strip_prefix("https://").unwrap();
    let own = |set: &[(&str, &str)]| {
        let output = faceid().arg("health").env("FACEID_BIND", bind).envs(set.iter().copied()).output().unwrap();
        (output.status.success(), said(&output))
    };
    let (good, text) = own(&[("FACEID_TLS_CERT", &cert), ("FACEID_TLS_KEY", &key)]);
    assert!(good && text.contains("\"ready\":true"), "{text}");
    let (good, text) = own(&[]);
    assert!(!good && text.contains("use an https:// address"), "{text}");
    let (good, text) = run(&["models", "list", "--server", &server.url, "--server-ca", &ca]);
    assert!(good && text.contains("sface"), "{text}");
    let (good, text) = run(&["keys", "list", "--server", &server.url, "--server-ca", &ca]);
    assert!(good, "{text}");

    let client = reqwest::Client::builder().tls_danger_accept_invalid_certs(true).build().unwrap();
    let answer = client.get(format!("{}/galleries", server.url)).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(answer.headers()["strict-transport-security"], "max-age=31536000");
    let metrics = async || {
        let metrics = client.get(format!("{}/metrics", server.url)).header("x-api-key", ADMIN).send().await.unwrap();
        let metrics = metrics.text().await.unwrap();
        let line = metrics.lines().find(|line| line.starts_with("faceid_tls_certificate_expires_timestamp_seconds "));
        line.and_then(|line| line.split(' ').nth(1).unwrap().parse::<f64>().ok())
    };
    let end = eventually(PATIENCE, "the end of the certificate is shown", metrics).await;
    // It ends in 4096, as the crate that made it says.
    assert!(end > 6e10, "{end}");
    authority.server_with(|params| params.not_after = rcgen::date_time_ymd(2099, 5, 17)).put(&config);
    eventually(PATIENCE, "the new one is followed", async || (metrics().await? < end).then_some(())).await;
    written(data.path(), "server.pem", "no certificate");
    eventually(PATIENCE, "the log says so", async || {
        let log = std::fs::read_to_string(&log).unwrap();
        (log.contains("not usable") && log.contains("server.pem")).then_some(())
    })
    .await;
    assert!(health(&["--server-ca", &ca]).0);
}
