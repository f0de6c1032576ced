//! A loaded graph that several threads run.

use std::ops::Deref;

use crate::nn::onnx::Graph;

/// A graph that threads may share. tch's tensors are not `Sync`, since most of their operations may write in place.
///
/// Only for graphs, because it is [`Graph`] that keeps the promise: whoever changes what a run does must keep it, too.
pub struct SharedGraph(Graph);

// SAFETY: the graph is reachable by shared reference only, and a run (`Graph::run`, `run_in_passes` and `widest`, all that a
// shared reference offers outside of `nn::onnx` beside plain numbers and names) writes to values of its own alone: operators
// get their inputs by shared reference, none of them calls an operation that writes in place, and what their closures hold
// (plain numbers, `FusedConv`, tensors that they hand out by `shallow_clone`) is only read, inputs of other operators
// included. libtorch allows any number of readers, and reference counts are atomic. `Graph` is `Send` by itself, as its
// threads end it.
unsafe impl Sync for SharedGraph {}

impl SharedGraph {
    pub fn new(graph: Graph) -> Self {
        Self(graph)
    }
}

impl Deref for SharedGraph {
    type Target = Graph;

    fn deref(&self) -> &Graph {
        &self.0
    }
}
