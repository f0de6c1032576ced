//! A file that somebody brings is loaded and tried out in a process of its own first, which can be killed: by its time, by its
//! memory, when nobody waits for it any more, and when the server ends.

use std::collections::VecDeque;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;

use bytes::Bytes;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use crate::config::{TrialConfig, secret_variables};
use crate::engine::{Channels, Format, InputNormalisation};
use crate::service::ServiceError;

/// How long a trial may compute, all its threads together. A network of 170 MB takes some seconds.
const MOST_TIME: Duration = Duration::from_secs(40);

/// How long it may take, from its start to its answer: on a busy machine, many times what it computes. Then it says
/// nothing of the network.
const MOST_PATIENCE: Duration = Duration::from_secs(300);

/// Bytes of memory that a trial may take whatever the file, and for each byte of the file: the file itself, its weights as
/// float32 and again as kernels pack them, and what is in between.
const MEMORY: u64 = 1 << 30;
const MEMORY_PER_BYTE: u64 = 12;

/// Bytes at the end of what a trial says that are kept.
const LAST_WORDS: usize = 16 << 10;

/// Characters of a message that are handed on: names in a file may be as long as the file.
const MESSAGE: usize = 1000;

/// What the process is told of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum TrialFormat {
    Onnx,
    Torchscript,
}

/// What the process says of the network, on the last line of its output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrialAnswer {
    /// It is an embedder; the components of its embeddings.
    Dimension(usize),
    /// It is not, and why.
    Refused(String),
    OutOfMemory,
}

impl TrialAnswer {
    pub fn to_line(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// Memory that the trial of a file may take, in bytes.
fn memory_for(bytes: usize) -> u64 {
    MEMORY + MEMORY_PER_BYTE * bytes as u64
}

/// Loads the network and makes trial runs, in a process of its own. A network that is no embedder, crashes or takes too much
/// is an [`ServiceError::InvalidModel`] that says so; where the machine is too busy to tell, [`ServiceError::Overloaded`].
pub(in crate::service) async fn try_out(
    config: &TrialConfig,
    content: &Bytes,
    format: Format,
    normalisation: InputNormalisation,
) -> Result<(), ServiceError> {
    let child = start(config, content.len(), format, normalisation)
        .map_err(|error| ServiceError::Internal(format!("cannot start a process to try out a model: {error}")))?;
    // Whoever drops this kills the process.
    let reason = match tokio::time::timeout(MOST_PATIENCE, watch(child, content)).await {
        Err(_) => return Err(ServiceError::Overloaded),
        Ok(Err(error)) => return Err(ServiceError::Internal(format!("cannot hear of the trial of a model: {error}"))),
        Ok(Ok(output)) => match verdict(&output, memory_for(content.len())) {
            Ok(()) => return Ok(()),
            Err(reason) => reason,
        },
    };
    Err(ServiceError::InvalidModel(shortened(&reason)))
}

fn start(
    config: &TrialConfig,
    bytes: usize,
    format: Format,
    InputNormalisation { mean, scale, channels, crop, size }: InputNormalisation,
) -> std::io::Result<Child> {
    let format = match format {
        Format::Onnx => TrialFormat::Onnx,
        Format::TorchScript => TrialFormat::Torchscript,
    };
    let channels = match channels {
        Channels::Rgb => "rgb",
        Channels::Bgr => "bgr",
    };
    let mut command = Command::new(&config.program);
    secret_variables().iter().for_each(|name| _ = command.env_remove(name));
    command
        .arg("try-model")
        .args(["--bytes", &bytes.to_string()])
        .args(["--format", &word(&format)])
        .args(["--mean", &mean.to_string(), "--scale", &scale.to_string(), "--channels", channels])
        .args(["--crop", &crop.to_string(), "--size", &size.to_string()])
        .args(["--precision", &word(&config.precision), "--kernels", &word(&config.kernels)])
        .args(["--memory", &memory_for(bytes).to_string()])
        .args(["--seconds", &MOST_TIME.as_secs().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
}

/// A choice as its flag takes it.
fn word(choice: &impl clap::ValueEnum) -> String {
    choice.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// Gives the process its file, and waits for its end and its last words.
async fn watch(mut child: Child, content: &Bytes) -> std::io::Result<Output> {
    let (mut input, output, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feeding = async {
        // One that has ended takes no more, and says why.
        if let Some(input) = &mut input {
            let _ = input.write_all(content).await;
        }
    };
    let ((), stdout, stderr) = tokio::join!(feeding, last_words(output), last_words(errors));
    let status = child.wait().await?;
    // Until here: its end is that of the process.
    drop(input);
    Ok(Output { status, stdout: stdout?, stderr: stderr? })
}

async fn last_words(output: Option<impl AsyncRead + Unpin>) -> std::io::Result<Vec<u8>> {
    let Some(mut output) = output else { return Ok(Vec::new()) };
    let (mut last, mut chunk) = (VecDeque::new(), vec![0; LAST_WORDS]);
    loop {
        match output.read(&mut chunk).await? {
            0 => return Ok(last.into()),
            read => last.extend(&chunk[..read]),
        }
        last.drain(..last.len().saturating_sub(LAST_WORDS));
    }
}

/// Why the network is not taken in, if it is not.
fn verdict(output: &Output, memory: u64) -> Result<(), String> {
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    let answer = said.trim_end().lines().next_back().and_then(|line| serde_json::from_str(line).ok());
    match answer.filter(|_| output.status.success()) {
        Some(TrialAnswer::Dimension(_)) => Ok(()),
        Some(TrialAnswer::Refused(reason)) => Err(reason),
        Some(TrialAnswer::OutOfMemory) => Err(too_large(memory)),
        None if output.status.signal() == Some(Signal::SIGXCPU as i32) => Err(too_slow()),
        // What Rust and C++ say before they give up.
        None if ["memory allocation of", "bad_alloc"].iter().any(|words| complaint.contains(words)) => {
            Err(too_large(memory))
        }
        None if output.status.signal() == Some(Signal::SIGKILL as i32) => {
            Err("the process that tried it out was killed, perhaps because the machine ran out of memory".to_owned())
        }
        None => Err(crashed(output.status, &complaint)),
    }
}

fn too_slow() -> String {
    format!(
        "it was not loaded and tried out within {} s of computing, the time that a network has for that",
        MOST_TIME.as_secs()
    )
}

fn too_large(memory: u64) -> String {
    let limit = memory as f64 / f64::from(1 << 30);
    format!(
        "to be loaded and tried out it needs more than the {limit:.1} GiB of memory that a file of its size may take"
    )
}

fn crashed(status: ExitStatus, complaint: &str) -> String {
    let last = complaint.lines().rfind(|line| !line.trim().is_empty()).map(|line| format!(": {line}"));
    format!("the process that tried it out crashed ({status}){}", last.unwrap_or_default())
}

fn shortened(message: &str) -> String {
    match message.char_indices().nth(MESSAGE) {
        Some((end, _)) => format!("{}...", &message[..end]),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(wait_status: i32, stdout: &str, stderr: &str) -> Result<(), String> {
        let output = Output { status: ExitStatus::from_raw(wait_status), stdout: stdout.into(), stderr: stderr.into() };
        verdict(&output, memory_for(1 << 20))
    }

    #[test]
    fn ends_are_told_apart() {
        let line = TrialAnswer::Dimension(512).to_line();
        assert_eq!(ended(0, &format!("what a program prints\n{line}\n"), ""), Ok(()));
        let refused = TrialAnswer::Refused("no network".to_owned()).to_line();
        assert_eq!(ended(0, &refused, ""), Err("no network".to_owned()));
        // Whatever it said before.
        for (status, stderr, words) in [
            (0, "", "crashed"),
            (101 << 8, "thread 'main' panicked at x:\nat the end\n", "at the end"),
            (Signal::SIGSEGV as i32, "", "crashed (signal: 11"),
            (Signal::SIGXCPU as i32, "", "within 40 s"),
            (Signal::SIGKILL as i32, "", "killed"),
            (Signal::SIGABRT as i32, "memory allocation of 99 bytes failed", "more than the 1.0 GiB"),
            (Signal::SIGABRT as i32, "terminate called: std::bad_alloc", "more than the 1.0 GiB"),
        ] {
            let answer = if status == 0 { "" } else { &line };
            let reason = ended(status, answer, stderr).unwrap_err();
            assert!(reason.contains(words), "{reason}");
        }
        assert!(ended(0, &TrialAnswer::OutOfMemory.to_line(), "").unwrap_err().contains("GiB"));
    }

    #[test]
    fn messages_are_cut_between_characters() {
        assert_eq!(shortened("short"), "short");
        assert_eq!(shortened(&"é".repeat(MESSAGE * 2)).chars().count(), MESSAGE + 3);
    }
}
