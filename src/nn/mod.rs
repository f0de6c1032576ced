//! Networks: loading weights and running them as libtorch operations. Pixels go in, plain numbers come out.
//!
//! [`Network`] is any file that we can run, ONNX (see [`onnx`]) or TorchScript; [`Detector`] and [`Embedder`] are
//! networks that kept a contract about their input and outputs when they were loaded. [`Target`] says where and in which
//! precision they run. Threads share a network by handles of their own.

mod detector;
mod embedder;
mod error;
#[cfg(test)]
mod kernel_tests;
mod network;
pub mod onnx;
mod outputs;
mod pixels;
mod rows;
mod shim;
mod target;
#[cfg(test)]
pub(crate) mod testing;

pub use detector::Detector;
pub use embedder::{Channels, Embedder, InputNormalisation, JOINED_INPUT, join};
pub use error::{NetworkError, UnsupportedOperator};
pub use network::{Format, Network, read as read_network};
pub use outputs::embeddings;
pub use rows::{DeviceRows, NearRow, RowQuery, scan_rows};
pub use shim::{dots_i8, exit_at_once, keep_heap, prelu};
pub use target::{Kernels, Precision, Target, load_cuda, use_threads};
pub use tch::Device;
