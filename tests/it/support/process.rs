//! A faceid server as a process of its own.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::made_by_setup;

/// How long a server may take to become ready or to stop. Generous: machines are shared.
const PATIENCE: Duration = Duration::from_secs(120);

/// The `faceid` program with its networks and Postgres, whatever the environment of the tests holds.
pub fn faceid() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_faceid"));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["FACEID_", "AWS_", "AZURE_", "GOOGLE_"].iter().any(|start| text.starts_with(start))
            || name == "DATABASE_URL"
        {
            command.env_remove(name);
        }
    }
    command
        .env("FACEID_WEIGHTS_DIR", made_by_setup("FACEID_WEIGHTS_DIR", "weights"))
        .env("FACEID_POSTGRES_DIR", made_by_setup("FACEID_POSTGRES_DIR", "postgres"))
        // What tests stop need not wait for anybody.
        .env("FACEID_SHUTDOWN_GRACE", "0")
        .stdin(Stdio::null());
    command
}

/// A folder that the user of the private Postgres can reach, gone when dropped.
pub fn data_dir() -> TempDir {
    tempfile::Builder::new().prefix("faceid-it-").tempdir().unwrap()
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A running server; killed when dropped.
pub struct Server {
    pub url: String,
    child: Child,
}

impl Server {
    /// Starts `faceid serve` on a free port with `data_dir` and more arguments, and waits until it is ready.
    pub async fn start(data_dir: &Path, arguments: &[&str]) -> Self {
        Self::start_logging_to(Stdio::inherit(), data_dir, arguments).await
    }

    /// As [`Self::start`]; warnings and errors go to `log`.
    pub async fn start_logging_to(log: impl Into<Stdio>, data_dir: &Path, arguments: &[&str]) -> Self {
        Self::start_from(faceid(), log, data_dir, arguments).await
    }

    /// As [`Self::start_logging_to`], by a command that has more in its environment.
    pub async fn start_from(faceid: Command, log: impl Into<Stdio>, data_dir: &Path, arguments: &[&str]) -> Self {
        let mut server = Self::spawn(faceid, log, data_dir, arguments);
        server.until_ready().await;
        server
    }

    /// As [`Self::start_from`], but does not wait.
    pub fn spawn(mut faceid: Command, log: impl Into<Stdio>, data_dir: &Path, arguments: &[&str]) -> Self {
        let bind = format!("127.0.0.1:{}", free_port());
        let child = faceid
            // Arguments overrule them.
            .env("FACEID_LOG", "warn")
            .env("FACEID_BIND", &bind)
            // Tests look again and again whether a key counts by now.
            .env("FACEID_ADDRESS_REQUESTS_PER_SECOND", "0")
            .args(["serve", "--data-dir"])
            .arg(data_dir)
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let scheme = if arguments.contains(&"--tls-cert") { "https" } else { "http" };
        Self { url: format!("{scheme}://{bind}"), child }
    }

    /// Waits until the server is ready.
    pub async fn until_ready(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        // Whoever vouches for it.
        let client = reqwest::Client::builder().tls_danger_accept_invalid_certs(true).build().unwrap();
        loop {
            if let Ok(response) = client.get(format!("{}/readyz", self.url)).send().await
                && response.status().is_success()
            {
                return;
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the server ended with {status} before it was ready");
            }
            assert!(Instant::now() < deadline, "the server did not become ready");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory in bytes.
    pub fn resident_memory(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The most that it was.
    pub fn peak_memory(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, which: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(which)).unwrap();
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() * 1024
    }

    /// kill -9
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks the server to stop.
    pub fn terminate(&self) {
        let pid = nix::unistd::Pid::from_raw(self.pid().try_into().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    }

    /// Waits for the end.
    pub async fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the server did not stop");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
