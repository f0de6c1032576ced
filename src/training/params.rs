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

/// Parameters in the order in which the network was built. Float32 on the CPU.
#[derive(Debug, Default)]
pub struct Params(pub Vec<Param>);

impl Params {
    /// Adds a tensor with these numbers, row by row.
    pub fn add(&mut self, name: String, role: Role, shape: &[i64], numbers: &[f32]) -> Index {
        let tensor = Tensor::from_slice(numbers).reshape(shape).set_requires_grad(role != Role::Statistic);
        self.0.push(Param { name, role, tensor });
        self.0.len() - 1
    }

    pub fn get(&self, index: Index) -> &Tensor {
        &self.0[index].tensor
    }

    /// The numbers of a tensor, row by row.
    pub fn numbers(&self, index: Index) -> Vec<f32> {
        numbers(self.get(index))
    }

    /// Those that are trained.
    pub fn trained(&self) -> impl Iterator<Item = &Param> {
        self.0.iter().filter(|param| param.role != Role::Statistic)
    }

    /// The same numbers in tensors of their own, which record no gradients.
    pub fn detached_copy(&self) -> Self {
        let copy = |param: &Param| Param {
            name: param.name.clone(),
            role: param.role,
            tensor: no_grad(|| param.tensor.detach().copy()),
        };
        Self(self.0.iter().map(copy).collect())
    }

    /// Tensors of zeros in the shapes of the trained ones.
    pub fn zeros(&self) -> Vec<Tensor> {
        self.trained().map(|param| Tensor::zeros(param.tensor.size(), (Kind::Float, Device::Cpu))).collect()
    }

    /// Numbers that are trained.
    pub fn count(&self) -> usize {
        self.trained().map(|param| param.tensor.numel()).sum()
    }
}

/// The numbers of a float tensor, row by row.
pub fn numbers(tensor: &Tensor) -> Vec<f32> {
    let tensor = tensor.detach().contiguous();
    let mut numbers = vec![0.0; tensor.numel()];
    let count = numbers.len();
    tensor.copy_data(&mut numbers, count);
    numbers
}
