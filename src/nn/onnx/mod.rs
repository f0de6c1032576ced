//! Reads ONNX files and runs them as libtorch operations.
//!
//! A model is resolved once, at load: attributes are parsed, weights become tensors on the device, what depends on
//! constants only is computed, and every operator that is missing is named. A run then calls one function per node.
//!
//! What is supported: opsets 7 to 23 of ONNX's own operators as listed in `ops::OPERATORS`, one input with floating-point
//! elements, weights inside the file or, where a path is known, in files beside it (see [`self_contained`]). The type in which a network runs is the caller's choice, not the file's (only
//! float64 stays what it is). On the CPU convolutions run fused (see `fusion`).
//!
//! **Batches.** Many published networks were exported with a fixed batch of one: input `[1, 3, H, W]`, and a `Reshape`
//! to a constant target such as `[1, -1]`. A declared batch of one is therefore taken as free, and when another
//! batch comes, a constant `Reshape` target of floating-point data that begins with that one begins with the
//! batch instead. With a batch of one nothing changes. A network that mixes its images in some other way
//! fails or gives wrong rows for a batch, which is why `nn::Embedder` compares a batch with single runs at load.
//!
//! **Hostile files.** How much of everything a file has is counted before it is read (`counts`), lengths are checked before
//! memory is taken, no value may have more than [`MAX_ELEMENTS`] elements, and whatever libtorch refuses becomes an error. No
//! step compares all with all. A network may still ask for more time or memory than anybody has: files that somebody brings
//! are tried out in a process of their own first.

mod attributes;
mod counts;
mod external;
mod fusion;
mod graph;
mod join;
mod layout;
mod load;
mod ops;
mod passes;
mod proto;
mod simplify;
mod tensors;
#[cfg(test)]
mod tests;
mod trainable;
mod unpack;
mod write;

pub use external::self_contained;
pub use graph::Graph;
pub use join::{Joined, join};
pub use layout::declared_input;
pub use tensors::MAX_ELEMENTS;
pub use trainable::{Trainable, Weight};
pub use write::{ConvWeights, Value, Writer};
