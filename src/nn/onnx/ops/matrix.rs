//! Products of matrices.

use tch::Tensor;

use super::{Build, OpResult, Run, refuse, single};
use crate::nn::onnx::tensors::{broadcast_shape, element_count};

/// `alpha * A' * B' + beta * C`, where `'` transposes if the attribute says so.
pub fn gemm(build: &mut Build) -> OpResult<Run> {
    let alpha = f64::from(build.attributes.float_or("alpha", 1.0)?);
    let beta = f64::from(build.attributes.float_or("beta", 1.0)?);
    let transpose_a = build.attributes.flag_or("transA", false)?;
    let transpose_b = build.attributes.flag_or("transB", false)?;
    single(move |inputs| {
        let a = matrix(inputs.get(0)?, transpose_a)?;
        let b = matrix(inputs.get(1)?, transpose_b)?;
        let size = [a.size()[0], b.size()[1]];
        element_count(&size)?;
        let product = a.f_matmul(&b)?;
        let product = if alpha == 1.0 { product } else { product.f_mul_scalar(alpha)? };
        let Some(c) = inputs.optional(2) else {
            return Ok(product);
        };
        if broadcast_shape(&[&c.size(), &size])? != size {
            refuse!("a summand of shape {:?} does not fit a product of shape {size:?}", c.size());
        }
        Ok(if beta == 1.0 { product.f_add(c)? } else { product.f_add(&c.f_mul_scalar(beta)?)? })
    })
}

fn matrix(tensor: &Tensor, transpose: bool) -> OpResult<Tensor> {
    if tensor.dim() != 2 {
        refuse!("a matrix has 2 dimensions, this has the shape {:?}", tensor.size());
    }
    Ok(if transpose { tensor.f_transpose(0, 1)? } else { tensor.shallow_clone() })
}

/// NumPy's `matmul`: the last two dimensions are matrices, those before are broadcast.
pub fn matmul(_: &mut Build) -> OpResult<Run> {
    single(|inputs| {
        let (a, b) = (inputs.get(0)?, inputs.get(1)?);
        let (a_size, b_size) = (a.size(), b.size());
        let (a_stack, a_rows) = split_rows(&a_size);
        let (b_stack, b_columns) = match b_size[..] {
            [ref stack @ .., _, columns] => (stack, columns),
            _ => (&b_size[..0], 1),
        };
        let mut size = broadcast_shape(&[a_stack, b_stack])?;
        size.extend([a_rows, b_columns]);
        element_count(&size)?;
        Ok(a.f_matmul(b)?)
    })
}

fn split_rows(size: &[i64]) -> (&[i64], i64) {
    match size {
        [stack @ .., rows, _] => (stack, *rows),
        _ => (&[], 1),
    }
}
