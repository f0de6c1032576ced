//! The networks: blocks of convolutions, built once, run forward for training and read by the exporter.

use tch::{Device, Kind, Tensor};

use super::config::{Architecture, Input};
use super::params::{Collected, Index, Params, Role};
use crate::evaluation::Random;
use crate::nn::{NetworkError, prelu};

/// What running statistics take from a batch, as is usual.
const MOMENTUM: f64 = 0.1;
/// Added to variances.
pub const EPSILON: f64 = 1e-5;

/// A convolution and what follows it. A linear layer is one whose kernel is as large as its input.
#[derive(Debug, Clone)]
pub struct Conv {
    /// `out x in / groups x kernel x kernel`.
    pub weight: Index,
    pub bias: Option<Index>,
    pub norm: Option<Norm>,
    pub activation: Activation,
    pub stride: i64,
    pub padding: i64,
    pub groups: i64,
}

/// A batch normalisation (Ioffe and Szegedy 2015, arXiv:1502.03167): four tensors of a number for each channel.
#[derive(Debug, Clone)]
pub struct Norm {
    pub scale: Index,
    pub shift: Index,
    pub mean: Index,
    pub variance: Index,
}

#[derive(Debug, Clone, Copy)]
pub enum Activation {
    None,
    Relu,
    /// Slopes for each channel.
    PRelu(Index),
    Sigmoid,
}

#[derive(Debug, Clone)]
pub enum Block {
    Conv(Conv),
    /// The largest of 2 x 2.
    MaxPool,
    /// What these give is added to what they read.
    Residual(Vec<Conv>),
}

/// The order of a network's blocks; the numbers are in [`Params`].
#[derive(Debug, Clone)]
pub struct Network {
    pub input: Input,
    pub blocks: Vec<Block>,
    normalised: bool,
}

impl Network {
    /// A network with random weights that follow from the seed, on a device. `None` if it is to come from a file.
    pub fn new(architecture: &Architecture, seed: u64, device: Device) -> Option<(Self, Params)> {
        let input = architecture.input()?;
        let mut builder = Builder {
            params: Collected::default(),
            blocks: Vec::new(),
            random: Random::new(seed, u64::MAX),
            channels: input.channels(),
            side: input.side(),
        };
        match *architecture {
            Architecture::Cnn { dimension, .. } => builder.cnn(dimension.into()),
            Architecture::MobileFaceNet { dimension, width, .. } => builder.mobile_face_net(dimension.into(), width),
            Architecture::Mlp { hidden, dimension, .. } => builder.mlp(hidden.into(), dimension.into()),
            Architecture::Base => return None,
        }
        let network = Self { input, blocks: builder.blocks, normalised: architecture.normalised() };
        Some((network, builder.params.finish(device)))
    }

    /// `N x D` embeddings of `N x C x S x S` inputs, of length 1 unless the architecture says otherwise. With `train`,
    /// batches are normalised by their own statistics, which the running ones take a part of. Convolutions work in `kind`,
    /// with copies of the weights; the embeddings are float32.
    pub fn forward(&self, params: &Params, input: &Tensor, train: bool, kind: Kind) -> Result<Tensor, NetworkError> {
        let mut value = input.to_kind(kind);
        for block in &self.blocks {
            value = match block {
                Block::Conv(conv) => conv.forward(params, &value, train)?,
                Block::MaxPool => value.max_pool2d([2, 2], [2, 2], [0, 0], [1, 1], false),
                Block::Residual(convs) => {
                    let inner = |value: Tensor, conv: &Conv| conv.forward(params, &value, train);
                    &value + convs.iter().try_fold(value.shallow_clone(), inner)?
                }
            };
        }
        let rows = value.flatten(1, -1).to_kind(Kind::Float);
        Ok(if self.normalised { of_length_1(&rows) } else { rows })
    }

    /// Whether embeddings have length 1.
    pub fn is_normalised(&self) -> bool {
        self.normalised
    }

    /// Multiplications, each with an addition, that an input of the network takes.
    pub fn multiply_adds(&self, params: &Params) -> u64 {
        let (mut side, mut sum) = (self.input.side(), 0);
        for block in &self.blocks {
            let convs = match block {
                Block::Conv(conv) => std::slice::from_ref(conv),
                Block::Residual(convs) => convs,
                Block::MaxPool => {
                    side /= 2;
                    continue;
                }
            };
            for conv in convs {
                let shape = params.get(conv.weight).size();
                side = (side + 2 * conv.padding - shape[3]) / conv.stride + 1;
                sum += (shape.iter().product::<i64>() * side * side) as u64;
            }
        }
        sum
    }
}

/// Rows divided by their lengths.
pub fn of_length_1(rows: &Tensor) -> Tensor {
    let lengths = rows.square().sum_dim_intlist([1_i64].as_slice(), true, Kind::Float).clamp_min(1e-12).sqrt();
    rows / lengths
}

impl Conv {
    fn forward(&self, params: &Params, input: &Tensor, train: bool) -> Result<Tensor, NetworkError> {
        // Normalisations have float32 parameters beside values of any type.
        let as_input = |index: Index| params.get(index).to_kind(input.kind());
        let (weight, bias) = (as_input(self.weight), self.bias.map(as_input));
        let is_linear = self.groups == 1 && self.padding == 0 && input.size()[2..] == weight.size()[2..];
        let mut value = if is_linear {
            let rows = input.flatten(1, -1).linear(&weight.flatten(1, -1), bias.as_ref());
            rows.unsqueeze(-1).unsqueeze(-1)
        } else {
            let (stride, padding) = ([self.stride; 2], [self.padding; 2]);
            input.conv2d(&weight, bias.as_ref(), stride, padding, [1, 1], self.groups)
        };
        if let Some(norm) = &self.norm {
            let [scale, shift, mean, variance] =
                [norm.scale, norm.shift, norm.mean, norm.variance].map(|index| Some(params.get(index)));
            value = value.batch_norm(scale, shift, mean, variance, train, MOMENTUM, EPSILON, false);
        }
        Ok(match self.activation {
            Activation::None => value,
            Activation::Relu => value.relu(),
            Activation::PRelu(slopes) => prelu(&value, &as_input(slopes)).map_err(NetworkError::Torch)?,
            Activation::Sigmoid => value.sigmoid(),
        })
    }
}

/// What follows a convolution that is built.
#[derive(Debug, Clone, Copy, PartialEq)]
enum After {
    NormRelu,
    NormPRelu,
    Norm,
    Relu,
    Sigmoid,
}

struct Builder {
    params: Collected,
    blocks: Vec<Block>,
    random: Random,
    /// Of what the next block reads.
    channels: i64,
    side: i64,
}

impl Builder {
    /// Halves the side down to 7, so that both inputs end in the same linear layer.
    fn cnn(&mut self, dimension: i64) {
        for channels in [32, 64, 128, 128] {
            self.conv(channels, 3, 1, 1, After::NormRelu);
            if self.side > 7 {
                self.blocks.push(Block::MaxPool);
                self.side /= 2;
            }
        }
        self.conv(dimension, self.side, 1, 1, After::Norm);
    }

    fn mlp(&mut self, hidden: i64, dimension: i64) {
        self.conv(hidden, self.side, 1, 1, After::Relu);
        self.conv(dimension, 1, 1, 1, After::Sigmoid);
    }

    fn mobile_face_net(&mut self, dimension: i64, width: f64) {
        // In multiples of 8, which kernels like.
        let wide = |channels: i64| ((channels as f64 * width / 8.0).round() as i64).max(1) * 8;
        self.conv(wide(64), 3, if self.side > 56 { 2 } else { 1 }, 1, After::NormPRelu);
        self.conv(wide(64), 3, 1, self.channels, After::NormPRelu);
        for (expansion, channels, repeats, stride) in
            [(2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1)]
        {
            for repeat in 0..repeats {
                self.bottleneck(expansion, wide(channels), if repeat == 0 { stride } else { 1 });
            }
        }
        self.conv(wide(512), 1, 1, 1, After::NormPRelu);
        self.conv(self.channels, self.side, 1, self.channels, After::Norm);
        self.conv(dimension, 1, 1, 1, After::Norm);
    }

    /// Widens, filters each channel by itself, narrows (Sandler et al. 2018, arXiv:1801.04381).
    fn bottleneck(&mut self, expansion: i64, channels: i64, stride: i64) {
        let (start, before) = (self.blocks.len(), self.channels);
        let inner = before * expansion;
        self.conv(inner, 1, 1, 1, After::NormPRelu);
        self.conv(inner, 3, stride, inner, After::NormPRelu);
        self.conv(channels, 1, 1, 1, After::Norm);
        if stride == 1 && before == channels {
            let convs = self.blocks.drain(start..).filter_map(|block| match block {
                Block::Conv(conv) => Some(conv),
                _ => None,
            });
            let residual = Block::Residual(convs.collect());
            self.blocks.push(residual);
        }
    }

    /// Kernels as large as the input have no padding, others keep the side but for the stride. Weights are drawn as He et
    /// al. 2015, arXiv:1502.01852, do.
    fn conv(&mut self, out: i64, kernel: i64, stride: i64, groups: i64, after: After) {
        let padding = if kernel == self.side { 0 } else { kernel / 2 };
        let name = format!("conv{}", self.params.weights());
        let shape = [out, self.channels / groups, kernel, kernel];
        let spread = (2.0 / (shape[1] * kernel * kernel) as f64).sqrt();
        let random: Vec<f32> =
            (0..shape.iter().product::<i64>()).map(|_| (self.random.normal() * spread) as f32).collect();
        let weight = self.params.add(format!("{name}.weight"), Role::Weight, &shape, &random);
        let mut vector = |part: &str, role: Role, value: f32| {
            self.params.add(format!("{name}.{part}"), role, &[out], &vec![value; out as usize])
        };
        let norm = matches!(after, After::NormRelu | After::NormPRelu | After::Norm).then(|| Norm {
            scale: vector("norm.scale", Role::Plain, 1.0),
            shift: vector("norm.shift", Role::Plain, 0.0),
            mean: vector("norm.mean", Role::Statistic, 0.0),
            variance: vector("norm.variance", Role::Statistic, 1.0),
        });
        let bias = norm.is_none().then(|| vector("bias", Role::Plain, 0.0));
        let activation = match after {
            After::NormRelu | After::Relu => Activation::Relu,
            After::NormPRelu => Activation::PRelu(vector("slopes", Role::Plain, 0.25)),
            After::Norm => Activation::None,
            After::Sigmoid => Activation::Sigmoid,
        };
        self.blocks.push(Block::Conv(Conv { weight, bias, norm, activation, stride, padding, groups }));
        self.side = (self.side + 2 * padding - kernel) / stride + 1;
        self.channels = out;
    }
}

#[cfg(test)]
mod tests {
    use tch::no_grad;

    use super::*;

    fn input(input: Input, n: i64) -> Tensor {
        let shape = [n, input.channels(), input.side(), input.side()];
        let count = shape.iter().product::<i64>();
        (Tensor::arange(count, (Kind::Float, Device::Cpu)) * 0.37).sin().reshape(shape)
    }

    #[test]
    fn embeddings_have_the_shape_and_length_that_was_asked_for() {
        for (architecture, parameters) in [
            (Architecture::Cnn { input: Input::Grey56, dimension: 128 }, 1_000_000..1_100_000),
            (Architecture::Cnn { input: Input::Rgb112, dimension: 64 }, 600_000..700_000),
            (Architecture::MobileFaceNet { input: Input::Rgb112, dimension: 128, width: 1.0 }, 900_000..1_050_000),
            (Architecture::MobileFaceNet { input: Input::Grey56, dimension: 96, width: 0.25 }, 50_000..110_000),
        ] {
            let (network, params) = Network::new(&architecture, 1, Device::Cpu).unwrap();
            assert!(parameters.contains(&params.count()), "{architecture:?}: {}", params.count());
            let output =
                no_grad(|| network.forward(&params, &input(architecture.input().unwrap(), 2), true, Kind::Float))
                    .unwrap();
            assert_eq!(output.size(), [2, i64::from(architecture.dimension().unwrap())]);
            let lengths = output.square().sum_dim_intlist([1_i64].as_slice(), false, Kind::Float);
            assert!((lengths - 1.0).abs().max().double_value(&[]) < 1e-5, "{architecture:?}");
        }
    }

    #[test]
    fn multiplications_are_those_of_the_published_network() {
        let architecture = Architecture::MobileFaceNet { input: Input::Rgb112, dimension: 128, width: 1.0 };
        let (network, params) = Network::new(&architecture, 1, Device::Cpu).unwrap();
        let millions = network.multiply_adds(&params) / 1_000_000;
        // Chen et al. 2018, table 2: 221 M.
        assert!((215..=227).contains(&millions), "{millions}");
    }

    #[test]
    fn bfloat16_embeds_nearly_as_float32_and_has_gradients() {
        let architecture = Architecture::MobileFaceNet { input: Input::Rgb112, dimension: 32, width: 0.25 };
        let (network, params) = Network::new(&architecture, 1, Device::Cpu).unwrap();
        let rows = |kind, train| network.forward(&params, &input(Input::Rgb112, 4), train, kind).unwrap();
        // By the running statistics: those of four images at the last layers would magnify any rounding.
        let (exact, short) = (rows(Kind::Float, false), rows(Kind::BFloat16, false));
        assert_eq!(short.kind(), Kind::Float);
        let cosines = (&exact * &short).sum_dim_intlist([1_i64].as_slice(), false, Kind::Float);
        assert!(cosines.min().double_value(&[]) > 0.99, "{cosines:?}");
        let first: Vec<_> = params.trained().take(1).map(|param| &param.tensor).collect();
        let short = rows(Kind::BFloat16, true);
        let gradient = Tensor::run_backward(&[short.select(1, 0).sum(Kind::Float)], &first, false, false).remove(0);
        assert!(gradient.kind() == Kind::Float && gradient.abs().max().double_value(&[]) > 0.0);
    }

    #[test]
    fn the_seed_decides_the_weights() {
        let of = |seed| Network::new(&Architecture::default(), seed, Device::Cpu).unwrap().1.numbers(0);
        assert_eq!(of(3), of(3));
        assert!(of(3) != of(4));
    }
}
