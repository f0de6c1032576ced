//! Networks: loading weights and running them as libtorch operations. Pixels go in, plain numbers come out.
//!
//! [`Network`] is any file that we can run, ONNX (see [`onnx`]) or TorchScript; [`Detector`] and [`Embedder`] are
//! networks that kept a contract about their input and outputs when they were loaded. A network is `Send` but not
//! `Sync`: one thread owns it.

mod detector;
mod embedder;
mod error;
mod network;
pub mod onnx;
mod pixels;
#[cfg(test)]
mod testing;

pub use detector::Detector;
pub use embedder::{Channels, Embedder, InputNormalisation};
pub use error::{NetworkError, UnsupportedOperator};
pub use network::Network;
