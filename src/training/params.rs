//! The numbers of a network, by name.

use tch::{Device, Kind, Tensor, no_grad};

/// What a tensor is to training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Trained, and drawn towards 0 by weight decay.
    Weight,
    /// Trained only: biases, slopes, and what scales a normalisation.
    Plain,
    /// Not trained: running means and variances.
    Statistic,
}

#[derive(Debug)]
pub struct Param {
    pub name: String,
    pub role: Role,
    pub tensor: Tensor,
}

/// Where a parameter is in [`Params`].
pub type Index = usize;

/// Tensors begin at multiples of this many numbers, a cache line, which kernels like.
const ALIGNMENT: i64 = 16;

/// Parameters in the order in which the network was built, float32.
///
/// Those that are trained are views of one long tensor and the statistics of another, so that an optimiser needs a few
/// operations for all of them. What lies between the views is 0 and stays 0.
#[derive(Debug)]
pub struct Params {
    list: Vec<Param>,
    /// All that is trained, one behind the other.
    pub trained: Tensor,
    /// All that is not.
    pub statistics: Tensor,
}

/// Parameters that are being collected.
#[derive(Debug, Default)]
pub struct Collected(Vec<Param>);

impl Collected {
    /// Adds a tensor with these numbers, row by row.
    pub fn add(&mut self, name: String, role: Role, shape: &[i64], numbers: &[f32]) -> Index {
        self.0.push(Param { name, role, tensor: Tensor::from_slice(numbers).reshape(shape) });
        self.0.len() - 1
    }

    /// How many kernels and matrices there are.
    pub fn weights(&self) -> usize {
        self.0.iter().filter(|param| param.role == Role::Weight).count()
    }

    /// On a device, ready to be trained.
    pub fn finish(self, device: Device) -> Params {
        let params = Params::in_one_piece(self.0, device);
        for param in params.list.iter().filter(|param| param.role != Role::Statistic) {
            let _ = param.tensor.set_requires_grad(true);
        }
        params
    }
}

impl Params {
    /// Copies the numbers; the copies record no gradients.
    fn in_one_piece(list: Vec<Param>, device: Device) -> Self {
        let is_trained = |param: &&Param| param.role != Role::Statistic;
        let of = |list: Vec<&Param>| no_grad(|| padded(list.iter().map(|param| param.tensor.detach()), device));
        let trained = of(list.iter().filter(is_trained).collect());
        let statistics = of(list.iter().filter(|param| !is_trained(param)).collect());
        let mut starts = [0, 0];
        let view = |Param { name, role, tensor }: Param| {
            let (start, flat) =
                if role == Role::Statistic { (&mut starts[1], &statistics) } else { (&mut starts[0], &trained) };
            let count = tensor.numel() as i64;
            let view = flat.narrow(0, *start, count).view(tensor.size().as_slice());
            *start += count + gap(count);
            Param { name, role, tensor: view }
        };
        let list = list.into_iter().map(view).collect();
        Self { list, trained, statistics }
    }

    pub fn get(&self, index: Index) -> &Tensor {
        &self.list[index].tensor
    }

    pub fn iter(&self) -> impl Iterator<Item = &Param> {
        self.list.iter()
    }

    /// The numbers of a tensor, row by row.
    pub fn numbers(&self, index: Index) -> Vec<f32> {
        numbers(self.get(index))
    }

    /// Those that are trained.
    pub fn trained(&self) -> impl Iterator<Item = &Param> {
        self.list.iter().filter(|param| param.role != Role::Statistic)
    }

    pub fn device(&self) -> Device {
        self.trained.device()
    }

    /// The same numbers in tensors of their own, which record no gradients.
    pub fn detached_copy(&self) -> Self {
        let alias =
            |param: &Param| Param { name: param.name.clone(), role: param.role, tensor: param.tensor.shallow_clone() };
        Self::in_one_piece(self.list.iter().map(alias).collect(), self.device())
    }

    /// Tensors in the order and the shapes of the trained ones as one long tensor like [`Self::trained`].
    pub fn flat(&self, tensors: &[Tensor]) -> Tensor {
        padded(tensors.iter().map(Tensor::shallow_clone), self.device())
    }

    /// The parts of a tensor like [`Self::trained`], with the names of the parameters.
    pub fn parts<'a>(&'a self, flat: &'a Tensor) -> impl Iterator<Item = (&'a str, Tensor)> {
        let mut start = 0;
        self.trained().map(move |param| {
            let count = param.tensor.numel() as i64;
            let part = flat.narrow(0, start, count).view(param.tensor.size().as_slice());
            start += count + gap(count);
            (param.name.as_str(), part)
        })
    }

    /// Numbers that are trained.
    pub fn count(&self) -> usize {
        self.trained().map(|param| param.tensor.numel()).sum()
    }
}

/// What is missing to the next multiple of [`ALIGNMENT`].
fn gap(count: i64) -> i64 {
    (ALIGNMENT - count % ALIGNMENT) % ALIGNMENT
}

/// All tensors one behind the other, each from a multiple of [`ALIGNMENT`] on.
fn padded(tensors: impl Iterator<Item = Tensor>, device: Device) -> Tensor {
    let zeros = Tensor::zeros([ALIGNMENT], (Kind::Float, device));
    let mut pieces = vec![zeros.narrow(0, 0, 0)];
    for tensor in tensors {
        pieces.push(tensor.to_device(device).reshape([-1]));
        pieces.push(zeros.narrow(0, 0, gap(tensor.numel() as i64)));
    }
    Tensor::cat(&pieces, 0)
}

/// The numbers of a float tensor, row by row.
pub fn numbers(tensor: &Tensor) -> Vec<f32> {
    let tensor = tensor.detach().to_device(Device::Cpu).contiguous();
    let mut numbers = vec![0.0; tensor.numel()];
    let count = numbers.len();
    tensor.copy_data(&mut numbers, count);
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_views_of_one_tensor() {
        let mut collected = Collected::default();
        collected.add("a".into(), Role::Weight, &[2, 2], &[1.0, 2.0, 3.0, 4.0]);
        collected.add("mean".into(), Role::Statistic, &[1], &[9.0]);
        collected.add("b".into(), Role::Plain, &[3], &[5.0, 6.0, 7.0]);
        let params = collected.finish(Device::Cpu);
        assert_eq!((params.count(), params.trained.size(), params.statistics.size()), (7, vec![32], vec![16]));
        let copy = params.detached_copy();
        let _ = no_grad(|| params.trained.detach().g_mul_scalar_(2.0));
        assert_eq!(params.numbers(0), [2.0, 4.0, 6.0, 8.0]);
        assert_eq!((params.numbers(1), params.numbers(2)), (vec![9.0], vec![10.0, 12.0, 14.0]));
        assert_eq!(copy.numbers(2), [5.0, 6.0, 7.0]);
        assert!(params.get(0).requires_grad() && !params.get(1).requires_grad() && !copy.get(0).requires_grad());
        let flat = params.flat(&[Tensor::ones([2, 2], (Kind::Float, Device::Cpu)), Tensor::from_slice(&[1.0_f32; 3])]);
        assert_eq!(flat.sum(Kind::Float).double_value(&[]), 7.0);
        let parts: Vec<_> = params.parts(&flat).collect();
        assert_eq!((parts[1].0, numbers(&parts[1].1)), ("b", vec![1.0; 3]));
    }
}
