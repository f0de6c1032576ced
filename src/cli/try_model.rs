//! A network that somebody brings, tried out in a process of its own: it may crash, take all the memory that it is given, or
//! never end, and the server goes on.

use std::io::Read;
use std::process::ExitCode;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{CliError, confine};
use crate::config::{KernelsChoice, PrecisionChoice};
use crate::engine::{Channels, EngineError, Format, InputNormalisation, try_embedder};
use crate::registry::ChannelOrder;
use crate::service::{TrialAnswer, TrialFormat};
use crate::types::{ChipCrop, InputSize};

/// How much lower than that of the server the priority is.
const NICENESS: i32 = 5;

/// Try out a network that comes on standard input, and say what it gives; the server calls this
///
/// The process ends when standard input does.
#[derive(clap::Args)]
pub struct TryModel {
    /// Length of the file
    #[arg(long)]
    bytes: usize,
    #[arg(long)]
    format: TrialFormat,
    #[arg(long, allow_negative_numbers = true)]
    mean: f32,
    #[arg(long, allow_negative_numbers = true)]
    scale: f32,
    #[arg(long)]
    channels: ChannelOrder,
    #[arg(long)]
    crop: ChipCrop,
    #[arg(long)]
    size: InputSize,
    #[arg(long)]
    precision: PrecisionChoice,
    #[arg(long)]
    kernels: KernelsChoice,
    /// Bytes of memory that it may take
    #[arg(long)]
    memory: u64,
    /// Seconds that it may compute
    #[arg(long)]
    seconds: u64,
}

impl TryModel {
    pub fn run(self) -> Result<ExitCode, CliError> {
        confine::confine(Some(NICENESS), Some(self.memory))?;
        confine::confine_time(self.seconds)?;
        let content = self.content().map_err(CliError::io("cannot read the network"))?;
        end_with_input();
        let answer = match self.tried(content) {
            Ok(dimension) => TrialAnswer::Dimension(dimension),
            Err(EngineError::Embedder(error)) if error.is_out_of_memory() => TrialAnswer::OutOfMemory,
            Err(error) => TrialAnswer::Refused(error.to_string()),
        };
        super::say(format_args!("{}", answer.to_line()));
        Ok(ExitCode::SUCCESS)
    }

    fn content(&self) -> std::io::Result<Vec<u8>> {
        let mut content = Vec::with_capacity(self.bytes);
        std::io::stdin().lock().take(self.bytes as u64).read_to_end(&mut content)?;
        Ok(content)
    }

    fn tried(&self, content: Vec<u8>) -> Result<usize, EngineError> {
        let format = match self.format {
            TrialFormat::Onnx => Format::Onnx,
            TrialFormat::Torchscript => Format::TorchScript,
        };
        let channels = match self.channels {
            ChannelOrder::Rgb => Channels::Rgb,
            ChannelOrder::Bgr => Channels::Bgr,
        };
        let Self { mean, scale, crop, size, .. } = *self;
        let normalisation = InputNormalisation { mean, scale, channels, crop, size };
        try_embedder(content.into(), format, normalisation, self.precision, self.kernels)
    }
}

/// Ends this process, whatever it does then, when nobody is left who holds the other end of its standard input.
fn end_with_input() {
    std::thread::spawn(|| {
        let mut sink = [0; 256];
        while matches!(std::io::stdin().lock().read(&mut sink), Ok(1..)) {}
        let _ = kill(Pid::this(), Signal::SIGKILL);
    });
}
