//! The result as an ONNX file that reads chips: `N x 3 x 112 x 112`, (value - 127.5) / 127.5, red first.

use std::path::Path;

use super::TrainingError;
use super::augment::LUMA;
use super::config::Input;
use super::files::write_atomically;
use super::model::Model;
use super::network::{Activation, Block, Conv, EPSILON, Network, Norm};
use super::params::Params;
use super::trainer::Trainer;
use crate::nn::onnx::{ConvWeights, Value, Writer};
use crate::nn::{Embedder, Format, InputNormalisation, Target};
use crate::types::Chip;

/// Least cosine of an embedding by the file with that by the trained network. Folding costs about 1e-6.
const LEAST_COSINE: f32 = 0.999;

impl Trainer {
    /// Writes the result's ONNX file, if [`Self::exported`] finds that it is what was trained.
    pub fn export(&self, path: &Path, probes: &[Chip]) -> Result<(), TrainingError> {
        write_atomically(path, &self.exported(path, probes)?)
    }

    /// What would be written to `path` now: the ONNX file is loaded as a server does, and must embed `probes` as the trained
    /// network does. Both in float32, in whatever the training works, so that what is compared is the file and not how numbers
    /// are rounded.
    pub fn exported(&self, path: &Path, probes: &[Chip]) -> Result<Vec<u8>, TrainingError> {
        let content = self.to_onnx();
        let input = match &self.model {
            Model::Built(_) => InputNormalisation::default(),
            Model::Base(network) => network.normalisation(),
        };
        let embedder = Embedder::from_bytes(content.clone().into(), Format::Onnx, &Target::CPU, input)?;
        let (rows, expected) = (embedder.forward(probes)?, self.embed_precisely(probes)?);
        let worst = rows.iter().zip(&expected).map(|(a, b)| cosine(a, b)).fold(1.0, |worst: f32, cosine| {
            // Written so that what is not a number fails, too.
            if cosine >= worst { worst } else { cosine }
        });
        if worst >= LEAST_COSINE {
            return Ok(content);
        }
        Err(TrainingError::Export { path: path.to_owned(), cosine: worst })
    }

    /// The result as an ONNX file. Its embeddings are not normalised, so that their length can still be looked at.
    pub fn to_onnx(&self) -> Vec<u8> {
        match &self.model {
            Model::Built(network) => write_network(network, &self.result()),
            Model::Base(network) => network.to_onnx(&self.result()),
        }
    }
}

fn write_network(network: &Network, params: &Params) -> Vec<u8> {
    let (mut writer, mut value) = Writer::new(3, Chip::SIDE.into());
    if network.input == Input::Grey56 {
        value = writer.conv(&value, &brightness());
    }
    let mut channels = 0;
    for block in &network.blocks {
        value = match block {
            Block::Conv(conv) => {
                channels = params.get(conv.weight).size()[0];
                write(&mut writer, conv, params, &value)
            }
            Block::MaxPool => writer.max_pool(&value),
            Block::Residual(convs) => {
                let inner = convs.iter().fold(value.clone(), |inner, conv| write(&mut writer, conv, params, &inner));
                writer.add(&value, &inner)
            }
        };
    }
    writer.finish(&value, channels)
}

/// From a chip to what the small input is: the mean brightness of 2 x 2 pixels, as a convolution.
fn brightness() -> ConvWeights {
    let weights = LUMA.iter().flat_map(|weight| [weight / 4.0; 4]).collect();
    ConvWeights { shape: [1, 3, 2, 2], weights, bias: vec![0.0], stride: 2, padding: 0, groups: 1 }
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn write(writer: &mut Writer, conv: &Conv, params: &Params, input: &Value) -> Value {
    let value = writer.conv(input, &folded(conv, params));
    match conv.activation {
        Activation::None => value,
        Activation::Relu => writer.relu(&value),
        Activation::PRelu(slopes) => writer.prelu(&value, &params.numbers(slopes)),
        Activation::Sigmoid => writer.sigmoid(&value),
    }
}

/// A convolution that has taken in its normalisation: w' = w s, b' = (b - mean) s + shift, s = scale / sqrt(variance).
fn folded(conv: &Conv, params: &Params) -> ConvWeights {
    let shape: [i64; 4] = std::array::from_fn(|place| params.get(conv.weight).size()[place]);
    let mut weights = params.numbers(conv.weight);
    let channels = shape[0] as usize;
    let mut bias = conv.bias.map_or_else(|| vec![0.0; channels], |bias| params.numbers(bias));
    if let Some(Norm { scale, shift, mean, variance }) = &conv.norm {
        let [scale, shift, mean, variance] = [scale, shift, mean, variance].map(|index| params.numbers(*index));
        let per_channel = weights.len() / channels;
        for channel in 0..channels {
            let factor = f64::from(scale[channel]) / (f64::from(variance[channel]) + EPSILON).sqrt();
            for weight in &mut weights[channel * per_channel..][..per_channel] {
                *weight = (f64::from(*weight) * factor) as f32;
            }
            let centred = f64::from(bias[channel]) - f64::from(mean[channel]);
            bias[channel] = (centred * factor + f64::from(shift[channel])) as f32;
        }
    }
    ConvWeights { shape, weights, bias, stride: conv.stride, padding: conv.padding, groups: conv.groups }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::super::config::{Architecture, BatchShape, TrainConfig};
    use super::super::dataset::{Dataset, made};
    use super::super::feed::Sets;
    use super::*;

    #[test]
    fn the_file_embeds_as_the_trained_network_does() {
        let dataset = made::stripes(&[2, 2, 2], 1);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("net.onnx");
        for network in [
            Architecture::Cnn { input: Input::Grey56, dimension: 16 },
            Architecture::Cnn { input: Input::Rgb112, dimension: 16 },
            Architecture::MobileFaceNet { input: Input::Rgb112, dimension: 24, width: 0.125 },
            Architecture::Mlp { input: Input::Grey56, hidden: 16, dimension: 8 },
        ] {
            let batch = BatchShape { subjects: 3, photos: 2, singles: 0 };
            let mut config = TrainConfig { steps: 3, network, batch, ..TrainConfig::default() };
            config.optimiser.warm_up = 0.0;
            let mut trainer = Trainer::new(config).unwrap();
            let sets = Sets { train: &dataset, validation: &Dataset::NOBODY, replay: None };
            trainer.run(&sets, |_, _| Ok(ControlFlow::Continue(()))).unwrap();
            trainer.export(&path, dataset.chips()).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), trainer.exported(&path, dataset.chips()).unwrap());
            let embedder = Embedder::load(&path, &Target::CPU, InputNormalisation::default()).unwrap();
            for (row, expected) in
                embedder.forward(dataset.chips()).unwrap().iter().zip(trainer.embed(dataset.chips()).unwrap())
            {
                let cosine = cosine(row, &expected);
                assert!(cosine > 0.9999, "{:?}: {cosine}", trainer.config().network);
            }
        }
    }
}
