//! Tensors of an ONNX file, and the arithmetic of shapes with the limits that keep a hostile file harmless.
//!
//! Half-precision numbers (float16, bfloat16) become float32; a network is reduced as a whole, or not at all.
//! Integers and booleans live on the CPU whatever the device, because they are shapes and indices that operators
//! read back.

use std::borrow::Cow;

use half::{bf16, f16};
use tch::{Device, Kind, Tensor};

use super::ops::{OpError, OpResult, refuse};
use super::proto::{TensorProto, data_type};

/// Weights below this are nothing beside one of at least [`SMALL`]: their ratio is far beyond float32's 7 digits.
const TRACE: f64 = 1e-18;
const SMALL: f64 = 1e-6;

/// The most elements that one value of a graph may have (1 GiB as float32).
pub const MAX_ELEMENTS: i64 = 1 << 28;
/// The most dimensions that one value may have.
pub const MAX_RANK: usize = 12;
/// The most numbers that an operator reads back from a tensor of shapes or indices.
const MAX_READ_BACK: usize = 1 << 20;

/// The number of elements of a tensor of this shape, if it is one that a value may have.
pub fn element_count(dims: &[i64]) -> OpResult<i64> {
    if dims.len() > MAX_RANK || dims.iter().any(|dim| *dim < 0) {
        refuse!("a tensor cannot have the shape {dims:?}");
    }
    // Zeros count as ones here, so that a zero cannot hide an absurd neighbour.
    let bound = dims.iter().try_fold(1_i64, |product, dim| product.checked_mul((*dim).max(1)));
    match bound {
        Some(bound) if bound <= MAX_ELEMENTS => Ok(dims.iter().product()),
        _ => refuse!("a tensor of shape {dims:?} is larger than {MAX_ELEMENTS} elements"),
    }
}

/// The common shape of tensors under NumPy's broadcasting rule.
pub fn broadcast_shape(shapes: &[&[i64]]) -> OpResult<Vec<i64>> {
    let rank = shapes.iter().map(|shape| shape.len()).max().unwrap_or(0);
    let mut common = vec![1; rank];
    for shape in shapes {
        for (place, &dim) in common[rank - shape.len()..].iter_mut().zip(*shape) {
            match (*place, dim) {
                (_, 1) => {}
                (1, dim) => *place = dim,
                (a, b) if a == b => {}
                _ => refuse!("the shapes {shapes:?} do not fit together"),
            }
        }
    }
    element_count(&common)?;
    Ok(common)
}

/// `axis`, counted from the end when negative, as an index below `rank`.
pub fn axis_index(axis: i64, rank: usize) -> OpResult<usize> {
    let signed = rank as i64;
    let index = if axis < 0 { axis.saturating_add(signed) } else { axis };
    if (0..signed).contains(&index) {
        Ok(index as usize)
    } else {
        refuse!("axis {axis} of a tensor with {rank} dimensions")
    }
}

/// The same for several axes, ascending and without repetition.
pub fn axis_indices(axes: &[i64], rank: usize) -> OpResult<Vec<usize>> {
    let mut indices = axes.iter().map(|axis| axis_index(*axis, rank)).collect::<OpResult<Vec<_>>>()?;
    indices.sort_unstable();
    let count = indices.len();
    indices.dedup();
    if indices.len() < count { refuse!("the axes {axes:?} repeat") } else { Ok(indices) }
}

/// Where values of this kind live.
pub fn home(kind: Kind, device: Device) -> Device {
    if is_floating(kind) { device } else { Device::Cpu }
}

pub fn is_floating(kind: Kind) -> bool {
    matches!(kind, Kind::Float | Kind::Double | Kind::Half | Kind::BFloat16)
}

/// A tensor without dimensions that holds `value`.
pub fn scalar(value: f32, device: Device) -> OpResult<Tensor> {
    Ok(Tensor::f_from_slice(&[value])?.f_reshape([0_i64; 0])?.f_to_device(device)?)
}

/// The numbers of a tensor of shapes, axes or indices.
pub fn to_ints(tensor: &Tensor) -> OpResult<Vec<i64>> {
    let mut numbers = vec![0; read_back_len(tensor)?];
    let length = numbers.len();
    tensor.f_to_device(Device::Cpu)?.f_to_kind(Kind::Int64)?.f_copy_data(&mut numbers, length)?;
    Ok(numbers)
}

/// The numbers of a tensor of scales or limits.
pub fn to_floats(tensor: &Tensor) -> OpResult<Vec<f32>> {
    let mut numbers = vec![0.0; read_back_len(tensor)?];
    let length = numbers.len();
    tensor.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_copy_data(&mut numbers, length)?;
    Ok(numbers)
}

fn read_back_len(tensor: &Tensor) -> OpResult<usize> {
    match tensor.numel() {
        length if length <= MAX_READ_BACK => Ok(length),
        length => refuse!("{length} numbers where a short list of shapes or indices is expected"),
    }
}

/// A one-dimensional tensor of integers, on the CPU.
pub fn int_vector(numbers: &[i64]) -> OpResult<Tensor> {
    Ok(Tensor::f_from_slice(numbers)?)
}

/// The kind in which we keep values of an ONNX data type.
pub fn kind_of(data_type: i32) -> OpResult<Kind> {
    Ok(match data_type {
        data_type::FLOAT | data_type::FLOAT16 | data_type::BFLOAT16 => Kind::Float,
        data_type::DOUBLE => Kind::Double,
        data_type::UINT8 => Kind::Uint8,
        data_type::INT8 => Kind::Int8,
        data_type::INT16 => Kind::Int16,
        data_type::INT32 => Kind::Int,
        data_type::INT64 => Kind::Int64,
        data_type::BOOL => Kind::Bool,
        other => refuse!("ONNX data type {other} is not supported"),
    })
}

/// The tensor of the message, at its home for `device`.
pub fn from_proto(proto: &TensorProto, device: Device) -> OpResult<Tensor> {
    if proto.data_location != 0 || !proto.external_data.is_empty() {
        refuse!("tensor {:?} keeps its data in another file", proto.name);
    }
    let kind = match proto.data_type {
        data_type::INT4 => Kind::Int8,
        data_type::UINT4 => Kind::Uint8,
        other => kind_of(other)?,
    };
    let count = element_count(&proto.dims)? as usize;
    let mut bytes: Cow<[u8]> = if proto.raw_data.is_empty() { typed_bytes(proto)?.into() } else { raw_bytes(proto) };
    if matches!(proto.data_type, data_type::INT4 | data_type::UINT4) {
        bytes = halves(&bytes, count, kind == Kind::Int8).into();
    }
    if bytes.len() != count * kind.elt_size_in_bytes() {
        let (name, dims) = (&proto.name, &proto.dims);
        refuse!("tensor {name:?} of shape {dims:?} needs {count} elements, but its data has another length");
    }
    Ok(Tensor::f_from_data_size(&bytes, &proto.dims, kind)?.f_to_device(home(kind, device))?)
}

/// The weights without those that can change no result.
///
/// Training with weight decay drives dead channels to 1e-20 and below; their products are subnormal numbers, which
/// processors multiply some hundred times slower. MobileFaceNet-512 has 182,000 such weights of 1,190,000: without
/// them it is 8 times as fast on the CPU, and the embeddings of the test's images keep every bit. A tensor that is
/// small as a whole is left alone.
pub fn without_traces(weights: Tensor) -> OpResult<Tensor> {
    // A number alone is small as a whole, or no trace.
    if weights.numel() <= 1 || !is_floating(weights.f_kind()?) {
        return Ok(weights);
    }
    let magnitudes = weights.f_abs()?;
    if magnitudes.f_max()?.f_double_value(&[])? < SMALL {
        return Ok(weights);
    }
    Ok(weights.f_masked_fill(&magnitudes.f_lt(TRACE)?, 0)?)
}

/// The `count` numbers of 4 bits that lie two in a byte, the lower half first.
fn halves(bytes: &[u8], count: usize, signed: bool) -> Vec<u8> {
    let widened = |half: u8| if signed && half > 7 { half | 0xf0 } else { half };
    let mut halves: Vec<u8> = bytes.iter().flat_map(|byte| [widened(byte & 15), widened(byte >> 4)]).collect();
    // Of an odd count the last half is padding.
    if halves.len() == count + 1 {
        halves.truncate(count);
    }
    halves
}

/// The little-endian bytes of the raw field, half precision widened.
fn raw_bytes(proto: &TensorProto) -> Cow<'_, [u8]> {
    let raw = &proto.raw_data;
    let pairs = || raw.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let widened: Vec<u8> = match proto.data_type {
        // A trailing odd byte would vanish in the pairs.
        data_type::FLOAT16 | data_type::BFLOAT16 if raw.len() % 2 == 1 => Vec::new(),
        data_type::FLOAT16 => pairs().flat_map(|bits| f16::from_bits(bits).to_f32().to_le_bytes()).collect(),
        data_type::BFLOAT16 => pairs().flat_map(|bits| bf16::from_bits(bits).to_f32().to_le_bytes()).collect(),
        data_type::BOOL => raw.iter().map(|byte| u8::from(*byte != 0)).collect(),
        _ => return Cow::Borrowed(raw),
    };
    Cow::Owned(widened)
}

/// The same from the field that ONNX keeps for the data type; the small types share the field of int32.
fn typed_bytes(proto: &TensorProto) -> OpResult<Vec<u8>> {
    let ints = proto.int32_data.iter().copied();
    Ok(match proto.data_type {
        data_type::FLOAT => proto.float_data.iter().flat_map(|value| value.to_le_bytes()).collect(),
        data_type::DOUBLE => proto.double_data.iter().flat_map(|value| value.to_le_bytes()).collect(),
        data_type::INT64 => proto.int64_data.iter().flat_map(|value| value.to_le_bytes()).collect(),
        data_type::INT32 => ints.flat_map(i32::to_le_bytes).collect(),
        data_type::INT16 => ints.flat_map(|value| (value as i16).to_le_bytes()).collect(),
        data_type::INT8 | data_type::UINT8 | data_type::INT4 | data_type::UINT4 => {
            ints.map(|value| value as u8).collect()
        }
        data_type::BOOL => ints.map(|value| u8::from(value != 0)).collect(),
        data_type::FLOAT16 => ints.flat_map(|bits| f16::from_bits(bits as u16).to_f32().to_le_bytes()).collect(),
        data_type::BFLOAT16 => ints.flat_map(|bits| bf16::from_bits(bits as u16).to_f32().to_le_bytes()).collect(),
        other => return Err(OpError(format!("ONNX data type {other} is not supported"))),
    })
}
