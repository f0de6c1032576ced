//! Clients that mean harm by how they speak: floods of slow connections, heads without end, requests inside of requests.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::{Client, StatusCode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::support::certificates::{Authority, files};
use crate::support::process::{Server, data_dir};

/// Far less than the minutes after which these servers let go of whoever is slow, and generous otherwise.
const PATIENCE: Duration = Duration::from_secs(120);
const CLIENT: &str = "client-key-for-tests";
const KEYS: [&str; 4] = ["--client-key", CLIENT, "--admin-key", "admin-key-for-tests-"];
/// Few connections, and no end of patience with each.
const FEW: [&str; 6] = ["--max-connections", "64", "--request-timeout", "300", "--idle-timeout", "300"];
const ATTACKERS: usize = 512;

/// Where attackers meet the server.
#[derive(Clone)]
struct Target {
    address: std::net::SocketAddr,
    tls: Option<TlsConnector>,
}

trait Talk: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Talk for T {}

impl Target {
    async fn connect(&self) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        // What is not read is soon felt by the server.
        socket.set_recv_buffer_size(4096)?;
        socket.connect(self.address).await
    }

    async fn talk(&self) -> std::io::Result<Box<dyn Talk>> {
        let stream = self.connect().await?;
        Ok(match &self.tls {
            None => Box::new(stream),
            Some(connector) => Box::new(connector.connect(ServerName::try_from("localhost").unwrap(), stream).await?),
        })
    }

    /// One of the ways to hold a place, until the server lets go.
    async fn attack(&self, way: usize) -> std::io::Result<()> {
        match way % 5 {
            0 => {
                let mut silent = self.connect().await?;
                silent.read_u8().await.map(drop)
            }
            1 => {
                let mut stream = self.connect().await?;
                let half = if self.tls.is_some() { &b"\x16\x03\x01\x02"[..] } else { b"GET / HT" };
                stream.write_all(half).await?;
                stream.read_u8().await.map(drop)
            }
            2 => trickle(self.talk().await?, "GET /galleries HTTP/1.1\r\nHost: x\r\nX-Long: ").await,
            3 => {
                let head =
                    "POST /detect HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 1000000\r\n\r\n";
                trickle(self.talk().await?, head).await
            }
            _ => {
                let mut stream = self.talk().await?;
                // More than any buffer holds, and not a byte of it is read.
                loop {
                    stream.write_all(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n").await?;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }
}

/// A byte a second, for ever.
async fn trickle(mut stream: Box<dyn Talk>, head: &str) -> std::io::Result<()> {
    stream.write_all(head.as_bytes()).await?;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        stream.write_all(b"a").await?;
        stream.flush().await?;
    }
}

/// Attackers that come again a second after they were shut out; they stop when this is dropped.
fn flood(target: &Target) -> JoinSet<()> {
    let mut attackers = JoinSet::new();
    let target = Arc::new(target.clone());
    for way in 0..ATTACKERS {
        let target = Arc::clone(&target);
        attackers.spawn(async move {
            loop {
                let _ = target.attack(way).await;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
    }
    attackers
}

fn picture() -> Vec<u8> {
    let image = image::RgbImage::from_fn(120, 90, |x, y| image::Rgb([x as u8, y as u8, (x + y) as u8]));
    let mut png = std::io::Cursor::new(Vec::new());
    image.write_to(&mut png, image::ImageFormat::Png).unwrap();
    png.into_inner()
}

/// A client whose connections are not those of any other.
fn stranger() -> Client {
    Client::builder().tls_danger_accept_invalid_certs(true).timeout(PATIENCE).build().unwrap()
}

/// What one who comes anew is answered. On a machine that is busy with other things as well a newcomer may be too slow with its first
/// words, and then comes again.
async fn answered(ask: impl AsyncFn(Client) -> reqwest::Result<reqwest::Response>) -> StatusCode {
    let until = Instant::now() + PATIENCE;
    loop {
        match ask(stranger()).await {
            Ok(answer) => return answer.status(),
            Err(error) => assert!(Instant::now() < until, "{error:?}"),
        }
    }
}

async fn a_known_caller_is_served(server: &Server, target: &Target) {
    let galleries = format!("{}/galleries", server.url);
    let kept = stranger();
    // To the end of the answer, so that its connection is used again.
    let list = async |client: &Client| {
        let answer = client.get(&galleries).header("x-api-key", CLIENT).send().await?;
        let status = answer.status();
        answer.bytes().await.map(|_| status)
    };
    assert_eq!(list(&kept).await.unwrap(), StatusCode::OK);
    let attackers = flood(target);
    // Until they are all there.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let photo = picture();
    for round in 0..4 {
        // Who was there before them stays.
        let status = list(&kept).await.unwrap_or_else(|error| panic!("round {round}: {error:?}"));
        assert_eq!(status, StatusCode::OK, "round {round}");
        let detect = async |client: Client| {
            let request = client.post(format!("{}/detect", server.url)).header("x-api-key", CLIENT);
            request.header("content-type", "image/png").body(photo.clone()).send().await
        };
        assert_eq!(answered(detect).await, StatusCode::OK, "round {round}");
        for probe in ["/healthz", "/readyz"] {
            let probe = format!("{}{probe}", server.url);
            assert_eq!(answered(async |client: Client| client.get(&probe).send().await).await, StatusCode::OK);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    drop(attackers);
    assert_eq!(list(&stranger()).await.unwrap(), StatusCode::OK);
}

fn target(server: &Server, tls: Option<TlsConnector>) -> Target {
    let (_, address) = server.url.split_once("://").unwrap();
    Target { address: address.parse().unwrap(), tls }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_slow_strangers_does_not_shut_out_a_known_caller() {
    let data = data_dir();
    let server = Server::start(data.path(), &[&KEYS[..], &FEW].concat()).await;
    a_known_caller_is_served(&server, &target(&server, None)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_does_one_over_tls() {
    let (data, authority) = (data_dir(), Authority::new("ours"));
    let config = files(data.path(), &authority.server());
    let [cert, key] = [&config.cert, &config.key].map(|path| path.to_str().unwrap());
    let tls = ["--tls-cert", cert, "--tls-key", key];
    let server = Server::start(data.path(), &[&KEYS[..], &FEW, &tls].concat()).await;
    a_known_caller_is_served(&server, &target(&server, Some(authority.connector(&[b"http/1.1"])))).await;
}

/// All that is answered on a connection, which the server closes; what is not read by it may cost the end of the answer.
async fn told(target: &Target, say: &[u8]) -> String {
    let mut stream = TcpStream::connect(target.address).await.unwrap();
    let mut heard = Vec::new();
    // The server may have closed by then.
    let _ = stream.write_all(say).await;
    let _ = timeout(PATIENCE, stream.read_to_end(&mut heard)).await.expect("the connection is closed");
    String::from_utf8_lossy(&heard).into_owned()
}

fn statuses(heard: &str) -> Vec<&str> {
    heard.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect()
}

#[tokio::test]
async fn heads_that_are_none_are_refused_and_their_connections_closed() {
    let data = data_dir();
    let server = Server::start(data.path(), &KEYS).await;
    let target = target(&server, None);
    let get = "GET /healthz HTTP/1.1\r\nHost: x\r\n";
    let post = "POST /detect HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n";
    let many: String = (0..101).map(|number| format!("X-{number}: x\r\n")).collect();
    let large = "x".repeat(1 << 20);
    let next = "GET /version HTTP/1.1\r\nHost: x\r\n\r\n";
    let chunks = "1\r\nx\r\n0\r\n\r\n";
    for (what, say, status) in [
        ("too many headers", format!("{get}{many}\r\n"), "431"),
        ("a header without end", format!("{get}X-Large: {large}"), "431"),
        ("a path without end", format!("GET /{large} HTTP/1.1\r\nHost: x\r\n\r\n"), "431"),
        ("a path that is too long", format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", &large[..70_000]), "414"),
        ("two lengths", format!("{post}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"), "400"),
        ("two lengths in a line", format!("{post}Content-Length: 5, 6\r\n\r\nhello!"), "400"),
        ("a length with a sign", format!("{post}Content-Length: +5\r\n\r\nhello"), "400"),
        ("a length below zero", format!("{post}Content-Length: -5\r\n\r\nhello"), "400"),
        ("a length beyond numbers", format!("{post}Content-Length: 99999999999999999999\r\n\r\nhello"), "400"),
        ("chunks that are not last", format!("{post}Transfer-Encoding: chunked, gzip\r\n\r\n{chunks}"), "400"),
        ("an unknown coding", format!("{post}Transfer-Encoding: xchunked\r\n\r\n{chunks}"), "400"),
        ("chunks of HTTP/1.0", format!("POST /detect HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"), "400"),
        ("a space before the colon", format!("{post}Content-Length : 5\r\n\r\nhello"), "400"),
        ("a line that is folded", format!("{get}X-Long: a\r\n b\r\n\r\n"), "400"),
        ("a zero in a header", format!("{get}X-Zero: a\0b\r\n\r\n"), "400"),
        ("a break in a header", format!("{get}X-Break: a\rb\r\n\r\n"), "400"),
        ("no HTTP at all", "hello there\r\n\r\n".to_owned(), "400"),
    ] {
        let heard = told(&target, format!("{say}{next}").as_bytes()).await;
        // What comes behind it is no request any more.
        assert_eq!(statuses(&heard), [status], "{what}: {heard}");
        let after = told(&target, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        assert_eq!(statuses(&after), ["200"], "after {what}: {after}");
    }
}

/// Where a proxy goes by the length and the server by the chunks, or the other way round, one could have a request of theirs taken for
/// somebody else's. It goes by the chunks, and nothing comes after them on that connection.
#[tokio::test]
async fn a_request_inside_of_another_is_not_answered() {
    let data = data_dir();
    let server = Server::start(data.path(), &KEYS).await;
    let target = target(&server, None);
    let inside = "GET /version HTTP/1.1\r\nHost: x\r\n\r\n";
    let head = "POST /detect HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n";
    let (length, chunked) = (format!("Content-Length: {}\r\n", inside.len() + 5), "Transfer-Encoding: chunked\r\n");
    for both in [format!("{length}{chunked}"), format!("{chunked}{length}")] {
        let heard = told(&target, format!("{head}{both}\r\n0\r\n\r\n{inside}").as_bytes()).await;
        assert_eq!(statuses(&heard), ["401"], "{both}: {heard}");
        assert!(heard.to_lowercase().contains("connection: close"), "{heard}");
    }
    // A chunk that is none ends it as well.
    for chunk in
        ["5;\nx\r\nhello\r\n0\r\n\r\n", "-1\r\nx\r\n0\r\n\r\n", "0x5\r\nhello\r\n0\r\n\r\n", "ffffffffffffffffff\r\nx"]
    {
        let heard = told(&target, format!("{head}{chunked}\r\n{chunk}{inside}").as_bytes()).await;
        assert!(statuses(&heard).len() <= 1 && !heard.contains("HTTP/1.1 200"), "{chunk:?}: {heard}");
    }
}
