//! A server under ten times the load that it can bear: `cargo bench --bench overload -- PHOTO...`
//!
//! Finds what a server of one thread answers to 8 connections, then sends requests at random times whatever becomes of
//! those before: at 80 % of that for 30 s, at ten times that for 60 s. Prints what accepted and refused requests had
//! to wait, the server's memory and tasks, and how a lone request fares one second later.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reqwest::multipart::{Form, Part};
use reqwest::{Client, StatusCode};
use tokio::task::JoinSet;

const CAPACITY_TIME: Duration = Duration::from_secs(10);
const LOAD_TIME: Duration = Duration::from_secs(30);
const OVERLOAD_TIME: Duration = Duration::from_secs(60);

/// After this the client closes a connection, which is a task of the server.
const IDLE_TIME: Duration = Duration::from_secs(2);

/// Killed when dropped; its private Postgres stops by itself.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[derive(Clone)]
struct Target {
    client: Client,
    url: String,
    photos: Arc<Vec<Vec<u8>>>,
}

/// Latencies in seconds, by outcome.
#[derive(Default)]
struct Outcome {
    accepted: Vec<f64>,
    refused: Vec<f64>,
    failed: usize,
}

impl Target {
    async fn identify(&self, n: usize) -> Result<StatusCode, reqwest::Error> {
        let photo = self.photos[n % self.photos.len()].clone();
        let form = Form::new().part("image", Part::bytes(photo).file_name("photo.jpg"));
        let response = self.client.post(format!("{}/identify", self.url)).multipart(form).send().await?;
        let status = response.status();
        response.bytes().await?;
        Ok(status)
    }

    /// A number that /metrics shows.
    async fn metric(&self, name: &str) -> f64 {
        let text = self.client.get(format!("{}/metrics", self.url)).send().await.unwrap().text().await.unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok()).unwrap_or(f64::NAN)
    }

    /// Requests a second with 8 connections, each sending the next when it has its answer.
    async fn capacity(&self) -> f64 {
        let started = Instant::now();
        let mut clients = JoinSet::new();
        for start in 0..8 {
            let target = self.clone();
            clients.spawn(async move {
                let mut done = 0;
                while started.elapsed() < CAPACITY_TIME {
                    assert_eq!(target.identify(start + 8 * done).await.unwrap(), StatusCode::OK);
                    done += 1;
                }
                done
            });
        }
        clients.join_all().await.into_iter().sum::<usize>() as f64 / started.elapsed().as_secs_f64()
    }

    /// Requests at random times, `rate` a second on average (a Poisson process), and the most memory seen.
    async fn load(&self, rate: f64, time: Duration) -> (Outcome, f64) {
        let outcome = Arc::new(Mutex::new(Outcome::default()));
        let (started, mut next, mut requests) = (Instant::now(), 0.0, JoinSet::new());
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        let (mut sent, mut most_memory, mut sampled) = (0, 0.0_f64, 0);
        while next < time.as_secs_f64() {
            // xorshift64
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let uniform = (random >> 11) as f64 / (1_u64 << 53) as f64;
            next -= (1.0 - uniform).ln() / rate;
            tokio::time::sleep_until((started + Duration::from_secs_f64(next)).into()).await;
            let (target, outcome) = (self.clone(), outcome.clone());
            requests.spawn(async move {
                let began = Instant::now();
                let answer = target.identify(sent).await;
                let elapsed = began.elapsed().as_secs_f64();
                let mut outcome = outcome.lock().unwrap();
                match answer {
                    Ok(StatusCode::OK) => outcome.accepted.push(elapsed),
                    Ok(StatusCode::SERVICE_UNAVAILABLE) => outcome.refused.push(elapsed),
                    _ => outcome.failed += 1,
                }
            });
            sent += 1;
            while requests.try_join_next().is_some() {}
            if next as u64 / 5 > sampled {
                sampled = next as u64 / 5;
                most_memory = most_memory.max(self.metric("process_resident_memory_bytes").await);
            }
        }
        requests.join_all().await;
        (std::mem::take(&mut outcome.lock().unwrap()), most_memory)
    }
}

/// Milliseconds.
fn percentile(times: &mut [f64], part: f64) -> f64 {
    times.sort_by(f64::total_cmp);
    let place = (times.len() as f64 * part) as usize;
    times.get(place.min(times.len().saturating_sub(1))).map_or(f64::NAN, |time| time * 1e3)
}

fn show(what: &str, rate: f64, outcome: &mut Outcome) {
    let Outcome { accepted, refused, failed } = outcome;
    println!(
        "{what}: {rate:.0} requests/s sent; {} accepted, p50 {:.0} ms, p99 {:.0} ms; {} refused, p50 {:.1} ms, p99 {:.1} ms; \
         {failed} failed",
        accepted.len(),
        percentile(accepted, 0.5),
        percentile(accepted, 0.99),
        refused.len(),
        percentile(refused, 0.5),
        percentile(refused, 0.99),
    );
}

/// On the first processor, so that the one who sends does not take the time that it measures.
fn start(data_dir: &Path, port: u16) -> Server {
    let address = format!("127.0.0.1:{port}");
    let mut command = Command::new("taskset");
    command.args(["-c", "0", env!("CARGO_BIN_EXE_faceid"), "serve", "--threads", "1", "--log", "error"]);
    command.args(["--bind", &address, "--data-dir"]).arg(data_dir).stdout(Stdio::null());
    Server(command.spawn().expect("taskset and faceid start"))
}

#[tokio::main]
async fn main() {
    let photos: Vec<_> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    if photos.is_empty() {
        println!("overload: name photos to send");
        return;
    }
    let photos = photos.iter().map(|path| std::fs::read(path).expect("a photo can be read")).collect();
    let data_dir = tempfile::tempdir().unwrap();
    // The private Postgres may run as another user.
    std::fs::set_permissions(data_dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let _server = start(data_dir.path(), port);
    let client = Client::builder().pool_idle_timeout(IDLE_TIME).build().unwrap();
    let target = Target { client, url: format!("http://127.0.0.1:{port}"), photos: Arc::new(photos) };
    while !target.client.get(format!("{}/readyz", target.url)).send().await.is_ok_and(|r| r.status().is_success()) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    target.capacity().await; // warms up
    let capacity = target.capacity().await;
    println!("capacity: {capacity:.0} requests/s");
    tokio::time::sleep(2 * IDLE_TIME).await;
    let tasks_before = target.metric("faceid_async_tasks").await;
    let (mut normal, memory_before) = target.load(0.8 * capacity, LOAD_TIME).await;
    show("80 %", 0.8 * capacity, &mut normal);
    let (mut over, memory) = target.load(10.0 * capacity, OVERLOAD_TIME).await;
    show("10 times", 10.0 * capacity, &mut over);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut lone = Vec::new();
    for n in 0..20 {
        let began = Instant::now();
        assert_eq!(target.identify(n).await.unwrap(), StatusCode::OK);
        lone.push(began.elapsed().as_secs_f64());
    }
    println!(
        "one second later: first lone request {:.1} ms, median of 20 {:.1} ms",
        lone[0] * 1e3,
        percentile(&mut lone, 0.5)
    );
    println!(
        "p99 at 10 times / at 80 %: {:.2}",
        percentile(&mut over.accepted, 0.99) / percentile(&mut normal.accepted, 0.99)
    );
    println!("resident memory: {:.0} MB at 80 %, {:.0} MB at 10 times", memory_before / 1e6, memory / 1e6);
    tokio::time::sleep(2 * IDLE_TIME).await;
    println!("async tasks: {tasks_before} before, {} after", target.metric("faceid_async_tasks").await);
}
