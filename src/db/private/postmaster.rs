//! One run of the postmaster: started with a guard, and stopped, be it ours or one that a killed run left behind.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Child;
use tokio::time::{Instant, sleep, timeout};

use super::DbError;
use super::cluster::Cluster;

/// How long each way of shutting down may take, in this order (PostgreSQL manual, "Shutting Down the Server").
const SHUTDOWN: [(Signal, Duration); 3] = [
    (Signal::SIGINT, Duration::from_secs(30)),
    (Signal::SIGQUIT, Duration::from_secs(10)),
    (Signal::SIGKILL, Duration::from_secs(5)),
];

/// Where a postmaster writes its process id and, further down, what it is at (pidfile.h of PostgreSQL).
const PID_FILE: &str = "postmaster.pid";
const STATUS_LINE: usize = 7;

/// Waits for the end of its input, which is the end of our process, then stops Postgres ("fast").
const GUARD: &str = r#"read -r _; kill -INT "$1""#;

/// A running postmaster and its guard.
#[derive(Debug)]
pub(super) struct Postmaster {
    child: Child,
    /// Its standard input is a pipe that only we hold, so the guard notices our death, even by `kill -9`.
    guard: Child,
}

impl Postmaster {
    pub fn spawn(cluster: &Cluster) -> Result<Self, DbError> {
        let child = cluster.postmaster()?.spawn().map_err(DbError::io("run", "postgres"))?;
        // A child that was never waited for has an id.
        let pid = child.id().unwrap_or_default().cast_signed();
        let guard = cluster
            .command(Path::new("/bin/sh"))
            .args(["-c", GUARD, "faceid-postgres-guard", &pid.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match guard {
            Ok(guard) => Ok(Self { child, guard }),
            Err(source) => {
                // Without a guard it would outlive us.
                let _ = kill(Pid::from_raw(pid), Signal::SIGINT);
                Err(DbError::Io { action: "run", path: PathBuf::from("/bin/sh"), source })
            }
        }
    }

    /// Waits until Postgres ends by itself. May be cancelled and called again.
    pub async fn ended(&mut self) -> String {
        let status = self.child.wait().await;
        // Before the id can belong to another process.
        self.dismiss_guard().await;
        describe(status)
    }

    /// Whether Postgres has ended.
    pub async fn has_ended(&mut self) -> Option<String> {
        match self.child.try_wait() {
            Ok(None) => None,
            _ => Some(self.ended().await),
        }
    }

    /// Whether Postgres itself says that it is starting, of which recovering is a part: in the file with its process id.
    pub fn says_that_it_starts(&self, cluster: &Path) -> bool {
        let file = fs::read_to_string(cluster.join(PID_FILE)).unwrap_or_default();
        let lines: Vec<&str> = file.lines().map(str::trim).collect();
        // An earlier run may have left its own file.
        let is_ours = self.child.id().is_some_and(|pid| lines.first() == Some(&pid.to_string().as_str()));
        is_ours && lines.get(STATUS_LINE) == Some(&"starting")
    }

    /// Stops Postgres, the gentle way first.
    pub async fn stop(mut self) {
        for (signal, patience) in SHUTDOWN {
            // No id: it has ended and was waited for.
            let Some(pid) = self.child.id() else { break };
            let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
            if timeout(patience, self.child.wait()).await.is_ok() {
                break;
            }
            tracing::warn!(%signal, ?patience, "the private Postgres did not stop in time");
        }
        self.dismiss_guard().await;
    }

    async fn dismiss_guard(&mut self) {
        if self.guard.id().is_none() {
            return;
        }
        if let Err(error) = self.guard.kill().await {
            tracing::warn!(%error, "cannot end the guard of the private Postgres");
        }
    }
}

fn describe(status: std::io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => format!("it ended with {status}"),
        Err(error) => format!("it cannot be waited for: {error}"),
    }
}

/// Ends what an earlier run left: a postmaster that is still alive (or is just being stopped by its guard), and
/// backends that outlived theirs. We hold the lock, so whatever runs on this cluster belongs to a dead owner.
pub(super) async fn end_leftovers(cluster: &Path) -> Result<(), DbError> {
    let pid_file = cluster.join(PID_FILE);
    let Some(pid) = first_line_pid(&pid_file) else { return Ok(()) };
    if works_on(pid, cluster) {
        tracing::warn!(%pid, "stopping the private Postgres that an earlier run left behind");
        for (signal, patience) in SHUTDOWN {
            let _ = kill(pid, signal);
            if gone_within(patience, || !works_on(pid, cluster)).await {
                break;
            }
        }
    }
    if !gone_within(Duration::from_secs(10), || processes().all(|pid| !works_on(pid, cluster))).await {
        let log = "processes of an earlier run still work on it".to_owned();
        return Err(DbError::NotStarted { reason: "its data is in use".to_owned(), log });
    }
    // Postgres clears a stale file itself, unless the id in it now belongs to an unrelated process.
    if pid_file.exists() && kill(pid, None) != Err(Errno::ESRCH) {
        fs::remove_file(&pid_file).map_err(DbError::io("remove", pid_file))?;
    }
    Ok(())
}

fn first_line_pid(pid_file: &Path) -> Option<Pid> {
    let pid = fs::read_to_string(pid_file).ok()?.lines().next()?.trim().parse().ok()?;
    // Signals to 0 and below mean whole groups.
    (pid > 0).then(|| Pid::from_raw(pid))
}

/// Whether a process is a postmaster or backend of the cluster: they all work in its folder, and a postmaster
/// names it on its command line, which can be read without the right to look into another account's process.
fn works_on(pid: Pid, cluster: &Path) -> bool {
    let process = PathBuf::from(format!("/proc/{pid}"));
    fs::read_link(process.join("cwd")).is_ok_and(|folder| folder == cluster)
        || fs::read(process.join("cmdline")).is_ok_and(|line| {
            let arguments: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            arguments.windows(2).any(|pair| pair == [b"-D", cluster.as_os_str().as_bytes()])
        })
}

fn processes() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(Pid::from_raw))
}

async fn gone_within(patience: Duration, gone: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    while !gone() {
        if Instant::now() >= deadline {
            return false;
        }
        sleep(Duration::from_millis(50)).await;
    }
    true
}
