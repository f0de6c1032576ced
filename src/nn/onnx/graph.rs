//! A loaded graph, and how it runs.

use tch::{Device, Kind, Tensor};

use super::fusion::Part;
use super::ops::{Inputs, OpError, Run};
use super::tensors;
use crate::nn::error::{NetworkError, brief};

/// Number of a value (a named edge of the ONNX graph).
pub(super) type Slot = usize;

/// An ONNX graph with its weights, ready to run.
pub struct Graph {
    pub(super) device: Device,
    /// The type in which the input is read: float, or what the network was reduced to.
    pub(super) kind: Kind,
    /// Its convolutions are ours, with threads of their own.
    pub(super) fused: bool,
    pub(super) input: Input,
    pub(super) outputs: Vec<Slot>,
    pub(super) output_names: Vec<String>,
    /// By slot: weights and other values that no run changes.
    pub(super) constants: Vec<Option<Tensor>>,
    /// In an order in which every node comes after those it reads.
    pub(super) nodes: Vec<Node>,
    /// The first node that runs for all images of a batch at once (see [`super::passes`]).
    pub(super) tail: usize,
}

/// The one value that a run brings.
pub(super) struct Input {
    pub slot: Slot,
    /// What the file declares, `None` for a free dimension; the whole is `None` if it declares no shape.
    pub dims: Option<Vec<Option<i64>>>,
}

/// One operation of a run.
pub(super) struct Node {
    pub label: Label,
    pub inputs: Vec<Option<Slot>>,
    pub outputs: Vec<Option<Slot>>,
    pub run: Run,
    /// What the node is to `fusion`.
    pub part: Part,
    /// It runs on values of one type only.
    pub is_strict: bool,
    /// For a `Reshape` whose constant target begins with the declared batch of one: that target.
    pub batch_target: Option<Vec<i64>>,
    /// Values that no later node reads.
    pub release: Vec<Slot>,
}

/// How messages call a node.
#[derive(Debug, Clone)]
pub(super) struct Label {
    pub node: String,
    pub operator: String,
}

impl Label {
    pub fn error(&self, OpError(reason): OpError) -> NetworkError {
        NetworkError::Node { node: self.node.clone(), operator: self.operator.clone(), reason }
    }
}

impl Graph {
    pub fn output_names(&self) -> &[String] {
        &self.output_names
    }

    /// The dimensions that the file declares for the input, if it does: `None` for one that is free.
    pub fn declared(&self) -> Option<&[Option<i64>]> {
        self.input.dims.as_deref()
    }

    pub fn device(&self) -> Device {
        self.device
    }

    /// Whether convolutions run in kernels of ours, on threads of ours.
    pub fn is_fused(&self) -> bool {
        self.fused
    }

    /// The type of the input that needs no conversion.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Runs the graph on `input` and returns its outputs in declared order, floating-point ones as
    /// float. Call it under `no_grad`.
    pub fn run(&self, input: &Tensor) -> Result<Vec<Tensor>, NetworkError> {
        self.run_with(input, std::iter::empty())
    }

    /// The same with other tensors in place of some constants, in the type of the constants.
    pub(super) fn run_with<'a>(
        &self,
        input: &Tensor,
        given: impl Iterator<Item = (Slot, &'a Tensor)>,
    ) -> Result<Vec<Tensor>, NetworkError> {
        let mut values = self.no_values();
        for (slot, tensor) in given {
            let kind = self.constants[slot].as_ref().map_or(Ok(Kind::Float), Tensor::f_kind)?;
            values[slot] = Some(tensor.f_to_kind(kind)?);
        }
        self.read(input, &mut values)?;
        self.run_nodes(&self.nodes, &mut values, input.size().first().copied().unwrap_or(1), |_| {})?;
        self.outputs.iter().map(|slot| self.output(*slot, &values)).collect()
    }

    /// By slot: none computed yet.
    pub(super) fn no_values(&self) -> Vec<Option<Tensor>> {
        self.constants.iter().map(|_| None).collect()
    }

    pub(super) fn read(&self, input: &Tensor, values: &mut [Option<Tensor>]) -> Result<(), NetworkError> {
        self.check_shape(&input.size())?;
        values[self.input.slot] = Some(input.f_to_device(self.device)?.f_to_kind(self.kind)?);
        Ok(())
    }

    /// Runs some of the nodes on a batch, showing each value that they compute.
    pub(super) fn run_nodes(
        &self,
        nodes: &[Node],
        values: &mut [Option<Tensor>],
        batch: i64,
        mut seen: impl FnMut(&Tensor),
    ) -> Result<(), NetworkError> {
        for node in nodes {
            let results = self.run_node(node, values, batch).map_err(|error| node.label.error(error))?;
            for (slot, result) in node.outputs.iter().zip(results) {
                if let Some(slot) = slot {
                    seen(&result);
                    values[*slot] = Some(result);
                }
            }
            for slot in &node.release {
                values[*slot] = None;
            }
        }
        Ok(())
    }

    fn run_node(&self, node: &Node, values: &[Option<Tensor>], batch: i64) -> Result<Vec<Tensor>, OpError> {
        let value = |slot: Slot| values[slot].as_ref().or(self.constants[slot].as_ref());
        let mut inputs: Vec<Option<&Tensor>> = node.inputs.iter().map(|slot| slot.and_then(value)).collect();
        let batch_target = match (&node.batch_target, inputs.first()) {
            // A reshaped list of integers is shape arithmetic and has nothing to do with the batch.
            (Some(target), Some(Some(data))) if batch != 1 && tensors::is_floating(data.f_kind()?) => {
                let mut target = target.clone();
                target[0] = batch;
                Some(tensors::int_vector(&target)?)
            }
            _ => None,
        };
        if let (Some(target), Some(input)) = (&batch_target, inputs.get_mut(1)) {
            *input = Some(target);
        }
        let reduced = self.reduced(node, &inputs)?;
        for (input, reduced) in inputs.iter_mut().zip(&reduced).filter(|(_, reduced)| reduced.is_some()) {
            *input = reduced.as_ref();
        }
        (node.run)(&Inputs::new(inputs))
    }

    /// Inputs in float that a node cannot combine with weights of the reduced type: what a file casts or turns back from
    /// integers is float.
    fn reduced(&self, node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Option<Tensor>>, OpError> {
        if self.fused || self.kind == Kind::Float || !node.is_strict {
            return Ok(Vec::new());
        }
        let reduce = |input: &Option<&Tensor>| match input {
            Some(tensor) if tensor.f_kind()? == Kind::Float => Ok(Some(tensor.f_to_kind(self.kind)?)),
            _ => Ok(None),
        };
        inputs.iter().map(reduce).collect()
    }

    pub(super) fn output(&self, slot: Slot, values: &[Option<Tensor>]) -> Result<Tensor, NetworkError> {
        let value = self.value(slot, values)?;
        match value.f_kind()? {
            Kind::Half | Kind::BFloat16 => Ok(value.f_to_kind(Kind::Float)?),
            _ => Ok(value),
        }
    }

    /// A value that was computed, or a constant.
    pub(super) fn value(&self, slot: Slot, values: &[Option<Tensor>]) -> Result<Tensor, NetworkError> {
        let value = values[slot].as_ref().or(self.constants[slot].as_ref());
        let value = value.ok_or_else(|| NetworkError::Malformed("an output has no value".into()))?;
        Ok(value.shallow_clone())
    }

    fn check_shape(&self, given: &[i64]) -> Result<(), NetworkError> {
        let Some(declared) = &self.input.dims else {
            return Ok(());
        };
        let fits = |(place, (declared, given)): (usize, (&Option<i64>, &i64))| {
            declared.is_none_or(|declared| declared == *given || (place == 0 && declared == 1))
        };
        if declared.len() == given.len() && declared.iter().zip(given).enumerate().all(fits) {
            return Ok(());
        }
        let dims: Vec<_> = declared.iter().map(|dim| dim.map_or("?".to_owned(), |dim| dim.to_string())).collect();
        Err(NetworkError::InputShape { expected: dims.join("x"), given: format!("{given:?}") })
    }
}

impl From<tch::TchError> for OpError {
    fn from(error: tch::TchError) -> Self {
        Self(brief(&error))
    }
}
