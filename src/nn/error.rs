//! What can go wrong with a network file or a run of it.

use std::fmt;
use std::path::PathBuf;

use tch::TchError;
use thiserror::Error;

/// Why a network could not be loaded or run.
#[derive(Debug, Error)]
pub enum NetworkError {
    #[error("cannot read the network file {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the network file {} has {bytes} bytes; at most {limit} are read", path.display())]
    FileTooLarge { path: PathBuf, bytes: u64, limit: u64 },
    /// The file is not what it claims to be, or breaks a rule of its format.
    #[error("not a usable ONNX model: {0}")]
    Malformed(String),
    /// All operators of the file that the importer lacks, so that one attempt tells the whole story.
    #[error("the ONNX importer lacks these operators: {}", join(.0))]
    UnsupportedOperators(Vec<UnsupportedOperator>),
    /// A node has an attribute, input or shape that its operator cannot take; at load or at a run.
    #[error("node {node} ({operator}): {reason}")]
    Node { node: String, operator: String, reason: String },
    /// The input does not fit what the network declares.
    #[error("the network takes an input of shape {expected}, not {given}")]
    InputShape { expected: String, given: String },
    /// The network runs, but is not the kind of network that is wanted here.
    #[error("not a usable {role}: {reason}")]
    Contract { role: &'static str, reason: String },
    #[error("libtorch: {0}")]
    Torch(String),
    #[error("CUDA is not available: {0}")]
    NoCuda(String),
}

impl NetworkError {
    /// Whether there was too little memory, of the processor or of a GPU: what libtorch's allocators and C++'s say then.
    pub fn is_out_of_memory(&self) -> bool {
        // Wherever it was noticed: at a weight that is unpacked, a node that runs.
        let said = self.to_string();
        ["can't allocate memory", "CUDA out of memory", "bad_alloc"].iter().any(|words| said.contains(words))
    }
}

impl From<TchError> for NetworkError {
    fn from(error: TchError) -> Self {
        Self::Torch(brief(&error))
    }
}

/// An operator that the importer lacks, and the first node that uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsupportedOperator {
    /// The operator's name, with its domain before `::` unless it is ONNX's own.
    pub operator: String,
    pub node: String,
}

impl fmt::Display for UnsupportedOperator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (node {})", self.operator, self.node)
    }
}

fn join(operators: &[UnsupportedOperator]) -> String {
    operators.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The line of torch's message that names the cause; the rest is a C++ stack trace.
///
/// The TorchScript interpreter prints a traceback first and the cause in a line of its own.
pub(super) fn brief(error: &TchError) -> String {
    let whole = match error {
        TchError::Torch(message) => message.clone(),
        other => other.to_string(),
    };
    brief_text(&whole)
}

/// The same for a message that came without its error.
pub(super) fn brief_text(whole: &str) -> String {
    let cause = whole.lines().find(|line| line.starts_with("RuntimeError: ")).or_else(|| whole.lines().next());
    cause.unwrap_or("no message").trim().to_owned()
}
