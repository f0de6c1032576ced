//! The process that trains: it may crash or run out of memory, and the server goes on.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::JoinHandle;
use tracing::{debug, warn};

use crate::config::{THIS_PROGRAM, secret_variables};
use crate::service::work::Failure;

/// Codes with which `faceid train` ends, beside 0 for success, 1 for any failure and 2 for arguments that make no sense.
pub mod training_exit {
    /// It was interrupted, and the run is saved.
    pub const INTERRUPTED: u8 = 3;
    /// There was too little memory.
    pub const OUT_OF_MEMORY: u8 = 4;
    /// The device cannot be had.
    pub const NO_DEVICE: u8 = 5;
}

/// How long a training may take to save the run when it is asked to end.
const PATIENCE: Duration = Duration::from_secs(12);

/// Lines of what it says of itself that are kept.
const LAST_WORDS: usize = 8;

/// How a training ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Exit {
    Done,
    /// The run is saved.
    Interrupted,
    /// It says that these settings or photos cannot be trained with.
    Refused(String),
    /// It needs more memory than it may have.
    OutOfMemory(String),
    /// The device that it was told to use cannot be had.
    NoDevice(String),
    /// It was killed or crashed.
    Died(String),
}

/// A running `faceid train`. It ends when this is dropped, or when the server dies: its standard input is at its end then.
pub(super) struct Training {
    child: Child,
    events: Lines<BufReader<ChildStdout>>,
    last_words: JoinHandle<String>,
}

impl Training {
    pub(super) fn start(arguments: Vec<OsString>) -> Result<Self, Failure> {
        let failed = |reason: &dyn std::fmt::Display| Failure::Passing(format!("cannot start a training: {reason}"));
        let mut command = Command::new(THIS_PROGRAM);
        secret_variables().iter().for_each(|name| _ = command.env_remove(name));
        let mut child = command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed(&error))?;
        let (Some(output), Some(errors)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(failed(&"it has no output"));
        };
        let last_words = tokio::spawn(last_words(errors));
        Ok(Self { child, events: BufReader::new(output).lines(), last_words })
    }

    /// The next event, or `None` when there are no more because the training has ended or is about to.
    pub(super) async fn next_event(&mut self) -> Option<Value> {
        loop {
            match self.events.next_line().await {
                Ok(Some(line)) => match serde_json::from_str(&line) {
                    Ok(event) => return Some(event),
                    Err(_) => debug!(line, "a training says something that is no event"),
                },
                Ok(None) => return None,
                Err(error) => {
                    warn!(%error, "cannot hear of a training any more");
                    return None;
                }
            }
        }
    }

    /// Waits for the end.
    pub(super) async fn ended(mut self) -> Exit {
        let status = self.child.wait().await;
        let last_words = self.last_words.await.unwrap_or_default();
        match status {
            Ok(status) => exit(status, last_words),
            Err(error) => Exit::Died(format!("the training cannot be waited for: {error}")),
        }
    }

    /// Asks the training to save the run, and waits for its end.
    pub(super) async fn interrupt(mut self) {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok())
            && let Err(error) = kill(Pid::from_raw(pid), Signal::SIGTERM)
        {
            debug!(%error, "a training has ended already");
        }
        // What it still says must be read, or it waits for that.
        let ended = async {
            while self.next_event().await.is_some() {}
            self.ended().await
        };
        if tokio::time::timeout(PATIENCE, ended).await.is_err() {
            warn!("a training does not end; killing it");
        }
    }
}

fn exit(status: ExitStatus, last_words: String) -> Exit {
    let said = if last_words.is_empty() { String::new() } else { format!(": {last_words}") };
    let code = status.code().map(|code| u8::try_from(code).unwrap_or(u8::MAX));
    match (code, status.signal()) {
        (Some(0), _) => Exit::Done,
        (Some(training_exit::INTERRUPTED), _) => Exit::Interrupted,
        (Some(training_exit::OUT_OF_MEMORY), _) => Exit::OutOfMemory(last_words),
        (Some(training_exit::NO_DEVICE), _) => Exit::NoDevice(last_words),
        // A panic is no answer: memory may have run out.
        (Some(1 | 2), _) if !last_words.contains("panicked") => Exit::Refused(last_words),
        (Some(code), _) => Exit::Died(format!("the training ended with code {code}{said}")),
        (None, Some(9)) => {
            Exit::Died(format!("the training was killed, perhaps because the machine ran out of memory{said}"))
        }
        (None, signal) => Exit::Died(format!("the training died of signal {}{said}", signal.unwrap_or_default())),
    }
}

/// The last lines that a process says of itself.
async fn last_words(output: impl AsyncRead + Unpin) -> String {
    let mut lines = BufReader::new(output).lines();
    let mut last = VecDeque::new();
    while let Ok(Some(line)) = lines.next_line().await {
        debug!(line, "a training says");
        last.push_back(line);
        if last.len() > LAST_WORDS {
            last.pop_front();
        }
    }
    Vec::from(last).join("\n").trim().trim_start_matches("faceid: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(wait_status: i32) -> Exit {
        exit(ExitStatus::from_raw(wait_status), "out of luck".to_owned())
    }

    #[test]
    fn ends_are_told_apart() {
        assert_eq!(ended(0), Exit::Done);
        assert_eq!(ended(3 << 8), Exit::Interrupted);
        assert_eq!(ended(4 << 8), Exit::OutOfMemory("out of luck".to_owned()));
        assert_eq!(ended(5 << 8), Exit::NoDevice("out of luck".to_owned()));
        let panicked = exit(ExitStatus::from_raw(1 << 8), "task 3 panicked: can't allocate memory".to_owned());
        assert!(matches!(panicked, Exit::Died(_)));
        assert_eq!(ended(1 << 8), Exit::Refused("out of luck".to_owned()));
        for (status, word) in [(101 << 8, "code 101"), (9, "out of memory"), (6, "signal 6")] {
            assert!(
                matches!(ended(status), Exit::Died(reason) if reason.contains(word) && reason.contains("out of luck"))
            );
        }
    }
}
