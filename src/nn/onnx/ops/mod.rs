//! The operators: for each a function that takes the attributes of a node and returns what the node does at a run.
//!
//! To add one, write such a function in the file of its subject, name it in [`OPERATORS`], and record a case for it in
//! `scripts/onnx_reference.py`. What the operators mean: <https://onnx.ai/onnx/operators/>.

mod activation;
mod arithmetic;
mod constant;
mod conv;
mod index;
mod matrix;
mod normalise;
mod pad;
mod pool;
mod quantise;
mod reduce;
mod resize;
mod shape;
mod window;

use tch::{Device, Tensor};

use super::attributes::Attributes;

/// Why an operator cannot do what a node asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct OpError(pub String);

pub type OpResult<T> = Result<T, OpError>;

/// Returns from the function with an [`OpError`]; takes the arguments of `format!`.
macro_rules! refuse {
    ($($message:tt)*) => {
        return Err($crate::nn::onnx::ops::OpError(format!($($message)*)))
    };
}
pub(super) use refuse;

/// What a node does: from its inputs to its outputs.
pub type Run = Box<dyn Fn(&Inputs) -> OpResult<Vec<Tensor>> + Send>;

/// Reads a node's attributes and resolves it.
pub type Builder = fn(&mut Build) -> OpResult<Run>;

/// What a builder knows of its node.
pub struct Build {
    pub attributes: Attributes,
    /// Version of ONNX's own operators that the file asks for.
    pub opset: i64,
    /// How many outputs the node lists.
    pub outputs: usize,
    pub device: Device,
}

/// The inputs of a node at a run.
pub struct Inputs<'a>(Vec<Option<&'a Tensor>>);

impl<'a> Inputs<'a> {
    pub fn new(inputs: Vec<Option<&'a Tensor>>) -> Self {
        Self(inputs)
    }

    /// The input at `place`, which the operator cannot do without.
    pub fn get(&self, place: usize) -> OpResult<&'a Tensor> {
        self.optional(place).ok_or_else(|| OpError(format!("its input number {place} is missing")))
    }

    pub fn optional(&self, place: usize) -> Option<&'a Tensor> {
        self.0.get(place).copied().flatten()
    }

    /// All inputs, none of which may be missing.
    pub fn all(&self) -> OpResult<Vec<&'a Tensor>> {
        (0..self.0.len()).map(|place| self.get(place)).collect()
    }
}

/// Wraps an operator with one output.
fn single(run: impl Fn(&Inputs) -> OpResult<Tensor> + Send + 'static) -> OpResult<Run> {
    Ok(Box::new(move |inputs| Ok(vec![run(inputs)?])))
}

/// The tensors on one device. Shape arithmetic is on the CPU; where it meets pixels, it moves to them.
fn on_one_device(tensors: &[&Tensor]) -> OpResult<Vec<Tensor>> {
    let device = tensors.iter().map(|tensor| tensor.device()).find(|device| *device != Device::Cpu);
    let device = device.unwrap_or(Device::Cpu);
    tensors.iter().map(|tensor| Ok(tensor.f_to_device(device)?)).collect()
}

/// The function that resolves nodes of this operator, `None` if we lack it.
pub fn builder(operator: &str) -> Option<Builder> {
    OPERATORS.iter().find(|(name, _)| *name == operator).map(|(_, builder)| *builder)
}

/// Every operator of ONNX that we have.
pub const OPERATORS: &[(&str, Builder)] = &[
    ("Abs", |_| arithmetic::unary(Tensor::f_abs)),
    ("Add", |_| arithmetic::binary(Tensor::f_add)),
    ("And", |_| arithmetic::binary(Tensor::f_logical_and)),
    ("AveragePool", pool::average),
    ("BatchNormalization", normalise::batch),
    ("Cast", constant::cast),
    ("Ceil", |_| arithmetic::unary(Tensor::f_ceil)),
    ("Clip", activation::clip),
    ("Concat", index::concat),
    ("Constant", constant::constant),
    ("ConstantOfShape", constant::constant_of_shape),
    ("Conv", conv::conv),
    ("ConvTranspose", conv::conv_transpose),
    ("DequantizeLinear", quantise::dequantize),
    ("Div", arithmetic::div),
    ("Dropout", constant::dropout),
    ("Elu", activation::elu),
    ("Equal", |_| arithmetic::binary(Tensor::f_eq_tensor)),
    ("Erf", |_| arithmetic::unary(Tensor::f_erf)),
    ("Exp", |_| arithmetic::unary(Tensor::f_exp)),
    ("Expand", shape::expand),
    ("Flatten", shape::flatten),
    ("Floor", |_| arithmetic::unary(Tensor::f_floor)),
    ("Gather", index::gather),
    ("Gelu", activation::gelu),
    ("Gemm", matrix::gemm),
    ("GlobalAveragePool", pool::global_average),
    ("GlobalMaxPool", pool::global_max),
    ("Greater", |_| arithmetic::binary(Tensor::f_gt_tensor)),
    ("GreaterOrEqual", |_| arithmetic::binary(Tensor::f_ge_tensor)),
    ("HardSigmoid", activation::hard_sigmoid),
    ("HardSwish", |_| arithmetic::unary(Tensor::f_hardswish)),
    ("Identity", constant::identity),
    ("InstanceNormalization", normalise::instance),
    ("LayerNormalization", normalise::layer),
    ("LeakyRelu", activation::leaky_relu),
    ("Less", |_| arithmetic::binary(Tensor::f_lt_tensor)),
    ("LessOrEqual", |_| arithmetic::binary(Tensor::f_le_tensor)),
    ("Log", |_| arithmetic::unary(Tensor::f_log)),
    ("LogSoftmax", activation::log_softmax),
    ("LpNormalization", normalise::lp),
    ("MatMul", matrix::matmul),
    ("Max", |_| arithmetic::fold(Tensor::f_maximum)),
    ("MaxPool", pool::max),
    ("Min", |_| arithmetic::fold(Tensor::f_minimum)),
    ("Mul", |_| arithmetic::binary(Tensor::f_mul)),
    ("Neg", |_| arithmetic::unary(Tensor::f_neg)),
    ("Not", |_| arithmetic::unary(Tensor::f_logical_not)),
    ("Or", |_| arithmetic::binary(Tensor::f_logical_or)),
    ("Pad", pad::pad),
    ("Pow", arithmetic::pow),
    ("PRelu", activation::prelu),
    ("QuantizeLinear", quantise::quantize),
    ("Range", constant::range),
    ("Reciprocal", |_| arithmetic::unary(Tensor::f_reciprocal)),
    ("ReduceL1", reduce::l1),
    ("ReduceL2", reduce::l2),
    ("ReduceMax", reduce::max),
    ("ReduceMean", reduce::mean),
    ("ReduceMin", reduce::min),
    ("ReduceSum", reduce::sum),
    ("Relu", |_| arithmetic::unary(Tensor::f_relu)),
    ("Reshape", shape::reshape),
    ("Resize", resize::resize),
    ("Round", |_| arithmetic::unary(Tensor::f_round)),
    ("Shape", shape::shape),
    ("Sigmoid", |_| arithmetic::unary(Tensor::f_sigmoid)),
    ("Slice", index::slice),
    ("Softmax", activation::softmax),
    ("Softplus", |_| arithmetic::unary(Tensor::f_softplus)),
    ("Split", index::split),
    ("Sqrt", |_| arithmetic::unary(Tensor::f_sqrt)),
    ("Squeeze", shape::squeeze),
    ("Sub", |_| arithmetic::binary(Tensor::f_sub)),
    ("Sum", |_| arithmetic::fold(Tensor::f_add)),
    ("Tanh", |_| arithmetic::unary(Tensor::f_tanh)),
    ("Tile", pad::tile),
    ("Transpose", shape::transpose),
    ("Unsqueeze", shape::unsqueeze),
    ("Upsample", resize::upsample),
    ("Where", arithmetic::select),
];
