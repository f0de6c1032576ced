//! A network file of either format, loaded onto a device.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tch::{Device, Kind, Tensor};

use super::error::{NetworkError, brief_text};
use super::onnx::{self, Graph};
use super::shim::{self, Script, SharedGraph};
use super::target::{self, Target};

/// Larger files are refused before they are read.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// What a network file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Data: a graph of known operators.
    Onnx,
    /// A program.
    TorchScript,
}

impl Format {
    /// What a content looks like: TorchScript files are zip archives, everything else counts as ONNX.
    pub fn of(content: &[u8]) -> Self {
        if content.starts_with(b"PK\x03\x04") { Self::TorchScript } else { Self::Onnx }
    }
}

/// A network that can run: `N x 3 x H x W` floats in, one or more tensors out. A clone is another handle on the same
/// weights, for another thread.
#[derive(Clone)]
pub enum Network {
    /// An ONNX graph, run node by node as libtorch operations.
    Onnx(Arc<SharedGraph>),
    /// A TorchScript module, run by libtorch's own interpreter.
    Script(Arc<Script>),
}

impl Network {
    /// Loads an ONNX or a TorchScript file onto the target's device, to run in its precision; on the CPU, TorchScript
    /// always runs in float32.
    ///
    /// A zip archive, which TorchScript files are, and the endings `.pt`, `.ts` and `.torchscript` count as
    /// TorchScript, anything else as ONNX. A TorchScript file is a program: load only those that you trust.
    pub fn load(path: &Path, target: &Target) -> Result<Self, NetworkError> {
        let content = read(path)?;
        let format = if has_torchscript_ending(path) { Format::TorchScript } else { Format::of(&content) };
        Self::from_bytes(content.into(), format, target)
    }

    /// As [`Self::load`], of a file's content.
    pub fn from_bytes(content: Bytes, format: Format, target: &Target) -> Result<Self, NetworkError> {
        shim::tune_heap();
        let kind = target.precision.kind();
        match format {
            Format::Onnx => Ok(Self::onnx(Graph::load(content, target.device, kind, target.family())?)),
            Format::TorchScript => {
                // Less than float32 is for our own convolutions on the CPU; libtorch's are not known to be exact
                // enough.
                let kind = if target.is_gpu() { kind } else { Kind::Float };
                let script = Script::load(&content, target.device, kind, true).map_err(torch)?;
                Ok(Self::Script(Arc::new(script)))
            }
        }
    }

    pub(super) fn onnx(graph: Graph) -> Self {
        Self::Onnx(Arc::new(SharedGraph::new(graph)))
    }

    /// Runs the network on `input`, `N x 3 x H x W`, without recording gradients.
    ///
    /// Returns the outputs, as float, in the order in which the file declares them; the tensors, lists and tuples that
    /// a TorchScript module returns are flattened into one list.
    pub fn forward(&self, input: &Tensor) -> Result<Vec<Tensor>, NetworkError> {
        target::use_libtorch_threads(matches!(self, Self::Onnx(graph) if graph.is_fused()));
        shim::inference(|| {
            if self.device() == Device::Cpu {
                return self.run(input);
            }
            // Sizes that come again: cuDNN plans each layer anew for a batch that it has not seen.
            let batch = input.size().first().copied().unwrap_or(1);
            let room = batch.max(1).unsigned_abs().next_power_of_two() as i64;
            if room == batch {
                return self.run(input);
            }
            let padded = input.f_constant_pad_nd([0, 0, 0, 0, 0, 0, 0, room - batch])?;
            let cut = |output: Tensor| match output.size().first() {
                Some(rows) if *rows == room => output.f_narrow(0, 0, batch),
                _ => Ok(output),
            };
            self.run(&padded)?.into_iter().map(|output| Ok(cut(output)?)).collect()
        })
    }

    /// [`Self::forward`]; on the CPU with at most `at_once` images in a pass, where the outputs begin with the batch.
    pub fn forward_in_passes(&self, input: &Tensor, at_once: usize) -> Result<Vec<Tensor>, NetworkError> {
        match self {
            Self::Onnx(graph) if graph.device() == Device::Cpu => {
                target::use_libtorch_threads(graph.is_fused());
                shim::inference(|| graph.run_in_passes(input, at_once as i64))
            }
            _ => self.forward(input),
        }
    }

    /// How many numbers the largest value has that a run with `input` computes; known of ONNX graphs on the CPU.
    pub fn widest(&self, input: &Tensor) -> Result<Option<usize>, NetworkError> {
        match self {
            Self::Onnx(graph) if graph.device() == Device::Cpu => {
                target::use_libtorch_threads(graph.is_fused());
                shim::inference(|| graph.widest(input).map(Some))
            }
            _ => Ok(None),
        }
    }

    fn run(&self, input: &Tensor) -> Result<Vec<Tensor>, NetworkError> {
        match self {
            Self::Onnx(graph) => graph.run(input),
            Self::Script(script) => {
                let input = input.f_to_device(script.device())?.f_to_kind(script.kind())?;
                let outputs = script.run(&input).map_err(torch)?;
                outputs.iter().map(|output| Ok(output.f_to_kind(Kind::Float)?)).collect()
            }
        }
    }

    /// The names of the outputs in the order of [`Self::forward`]. TorchScript names none: empty.
    pub fn output_names(&self) -> &[String] {
        match self {
            Self::Onnx(graph) => graph.output_names(),
            Self::Script(_) => &[],
        }
    }

    /// The dimensions that an ONNX file declares for its input, if it does: `None` for one that is free.
    pub fn declared(&self) -> Option<&[Option<i64>]> {
        match self {
            Self::Onnx(graph) => graph.declared(),
            Self::Script(_) => None,
        }
    }

    /// Where the weights are and the work is done.
    pub fn device(&self) -> Device {
        match self {
            Self::Onnx(graph) => graph.device(),
            Self::Script(script) => script.device(),
        }
    }

    /// The type of input that needs no conversion.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Onnx(graph) => graph.kind(),
            Self::Script(script) => script.kind(),
        }
    }
}

/// The content of a network file, if it is not too large; with the weights in it that an ONNX file keeps in files beside it.
pub fn read(path: &Path) -> Result<Vec<u8>, NetworkError> {
    let read_error = |source| NetworkError::Read { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(read_error)?;
    let bytes = file.metadata().map_err(read_error)?.len();
    if bytes > MAX_FILE_BYTES {
        return Err(NetworkError::FileTooLarge { path: path.to_owned(), bytes, limit: MAX_FILE_BYTES });
    }
    let mut content = Vec::new();
    // The file may grow between the question and the reading.
    file.by_ref().take(MAX_FILE_BYTES).read_to_end(&mut content).map_err(read_error)?;
    match Format::of(&content) {
        Format::Onnx => onnx::self_contained(content, path, MAX_FILE_BYTES),
        Format::TorchScript => Ok(content),
    }
}

fn torch(message: String) -> NetworkError {
    NetworkError::Torch(brief_text(&message))
}

fn has_torchscript_ending(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    ["pt", "ts", "torchscript"].iter().any(|known| ending.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use tch::CModule;

    use super::super::testing::{fixture_path, made_input};
    use super::*;

    /// Traces a function as TorchScript and saves it under `name`.
    fn save_traced(folder: &Path, name: &str, function: fn(&Tensor) -> Tensor) -> std::path::PathBuf {
        let path = folder.join(name);
        let input = made_input(&[2, 3, 4, 5]);
        let module = CModule::create_by_tracing("toy", "forward", &[input], &mut |inputs| vec![function(&inputs[0])]);
        module.unwrap().save(&path).unwrap();
        path
    }

    #[test]
    fn torchscript_is_known_by_its_content_and_gives_tensors_lists_or_tuples() {
        let folder = tempfile::tempdir().unwrap();
        let input = made_input(&[1, 3, 6, 7]);
        let one = save_traced(folder.path(), "one.onnx", |x| x.relu());
        let network = Network::load(&one, &Target::CPU).unwrap();
        assert!(matches!(network, Network::Script(_)) && network.output_names().is_empty());
        assert_eq!(network.forward(&input).unwrap(), [input.relu()]);
        let several = fixture_path("script_outputs.pt");
        let outputs = Network::load(&several, &Target::CPU).unwrap().forward(&input).unwrap();
        assert_eq!(outputs, [input.abs(), input.neg(), &input + 1]);
    }

    #[test]
    fn runs_record_no_gradients() {
        let folder = tempfile::tempdir().unwrap();
        let path = save_traced(folder.path(), "toy.pt", |x| x.exp());
        let input = made_input(&[1, 3, 4, 5]).set_requires_grad(true);
        assert!(!Network::load(&path, &Target::CPU).unwrap().forward(&input).unwrap()[0].requires_grad());
    }

    #[test]
    fn torchscript_errors_are_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let path =
            save_traced(folder.path(), "toy.pt", |x| x.matmul(&Tensor::ones([5, 2], (Kind::Float, Device::Cpu))));
        let error =
            Network::load(&path, &Target::CPU).unwrap().forward(&made_input(&[1, 3, 4, 6])).unwrap_err().to_string();
        assert!(error.contains("shape") && error.lines().count() == 1, "{error}");
    }

    #[test]
    fn files_that_are_no_networks_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str, content: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        let load = |path: &Path| Network::load(path, &Target::CPU).map(|_| ());
        assert!(matches!(load(&folder.path().join("absent.onnx")), Err(NetworkError::Read { .. })));
        assert!(matches!(load(folder.path()), Err(NetworkError::Read { .. })));
        assert!(matches!(load(&path("text.onnx", b"hello")), Err(NetworkError::Malformed(_))));
        assert!(matches!(load(&path("text.pt", b"hello")), Err(NetworkError::Torch(_))));
        assert!(matches!(load(&path("zip.onnx", b"PK\x03\x04 no archive")), Err(NetworkError::Torch(_))));
        let large = std::fs::File::create(folder.path().join("large.onnx")).unwrap();
        large.set_len(MAX_FILE_BYTES + 1).unwrap();
        assert!(matches!(load(&folder.path().join("large.onnx")), Err(NetworkError::FileTooLarge { .. })));
    }
}
