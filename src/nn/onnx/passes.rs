//! A batch in passes: as many images at once as fit the cache, up to the layer that reads whole images, whose matrix is
//! worth reading once for all of them.

use tch::Tensor;

use super::fusion::Part;
use super::graph::{Graph, Node, Slot};
use crate::nn::error::NetworkError;

impl Graph {
    /// [`Self::run`] with at most `at_once` images in a pass. All outputs must begin with the batch.
    pub fn run_in_passes(&self, input: &Tensor, at_once: i64) -> Result<Vec<Tensor>, NetworkError> {
        let batch = input.size().first().copied().unwrap_or(1);
        if at_once >= batch {
            return self.run(input);
        }
        let (body, tail) = self.nodes.split_at(self.tail);
        let joints = match tail.first() {
            Some(node) => node.inputs.iter().flatten().copied().take(1).collect(),
            None => self.outputs.clone(),
        };
        let mut parts: Vec<Vec<Tensor>> = joints.iter().map(|_| Vec::new()).collect();
        for images in input.f_split(at_once.max(1), 0)? {
            let mut values = self.no_values();
            self.read(&images, &mut values)?;
            self.run_nodes(body, &mut values, images.size()[0], |_| {})?;
            for (parts, joint) in parts.iter_mut().zip(&joints) {
                parts.push(self.value(*joint, &values)?);
            }
        }
        let mut values = self.no_values();
        for (joint, parts) in joints.iter().zip(parts) {
            values[*joint] = Some(Tensor::f_cat(&parts, 0)?);
        }
        self.run_nodes(tail, &mut values, batch, |_| {})?;
        self.outputs.iter().map(|slot| self.output(*slot, &values)).collect()
    }

    /// How many numbers the largest of the values has that a run with `input` computes.
    pub fn widest(&self, input: &Tensor) -> Result<usize, NetworkError> {
        let (mut values, mut widest) = (self.no_values(), 0);
        self.read(input, &mut values)?;
        let batch = input.size().first().copied().unwrap_or(1);
        self.run_nodes(&self.nodes, &mut values, batch, |value| widest = widest.max(value.numel()))?;
        Ok(widest)
    }
}

/// The last node that reads whole images, if only one value leads to it and what follows; else the number of nodes.
pub(super) fn tail(nodes: &[Node], outputs: &[Slot], input: Slot) -> usize {
    let Some(tail) = nodes.iter().rposition(|node| matches!(node.part, Part::Fused { flattens: true })) else {
        return nodes.len();
    };
    let (body, rest) = nodes.split_at(tail);
    let made = |slot: &&Slot| **slot == input || body.iter().any(|node| node.outputs.contains(&Some(**slot)));
    let joint = rest[0].inputs.first().copied().flatten();
    let mut read = rest.iter().flat_map(|node| node.inputs.iter().flatten()).chain(outputs).filter(made);
    if read.all(|slot| Some(*slot) == joint) { tail } else { nodes.len() }
}
