//! What is trained: a network that is built here, or one that came in a file.

use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor, no_grad};

use super::TrainingError;
use super::augment::to_input;
use super::config::{FineTuning, Input, TrainConfig};
use super::network::{Network, of_length_1};
use super::params::{Collected, Params, Role};
use crate::nn::onnx::Trainable;
use crate::nn::{InputNormalisation, NetworkError, embeddings};
use crate::types::{Chip, hex};

/// The file of a network that is trained further, and how it wants its chips.
#[derive(Clone)]
pub struct BaseFile {
    pub content: Vec<u8>,
    pub input: InputNormalisation,
}

impl BaseFile {
    /// Of the content, in hexadecimal.
    pub fn sha256(&self) -> String {
        let digest: [u8; 32] = Sha256::digest(&self.content).into();
        hex(&digest)
    }
}

/// Where a run begins and works. Other devices may round otherwise, but it is the same run.
#[derive(Clone, Copy)]
pub struct Setup<'a> {
    /// For settings whose network is [`super::Architecture::Base`].
    pub base: Option<&'a BaseFile>,
    /// Each takes a part of every batch; the loss is computed on the first.
    pub devices: &'a [Device],
}

impl Default for Setup<'_> {
    /// On the CPU, without a base.
    fn default() -> Self {
        Self { base: None, devices: &[Device::Cpu] }
    }
}

pub enum Model {
    Built(Network),
    Base(Box<BaseNetwork>),
}

/// A network of a file.
pub struct BaseNetwork {
    trainable: Trainable,
    /// Which of its weights each parameter is.
    places: Vec<usize>,
    input: InputNormalisation,
    /// The weights that it came with, as parameters.
    pub original: Params,
}

impl Model {
    /// The network that settings ask for, and its parameters, on a device.
    pub fn new(config: &TrainConfig, base: Option<&BaseFile>, device: Device) -> Result<(Self, Params), TrainingError> {
        let refused = |reason: &str| TrainingError::Config(reason.to_owned());
        match (Network::new(&config.network, config.seed, device), base) {
            (Some((network, params)), None) => Ok((Self::Built(network), params)),
            (None, Some(base)) => {
                let (network, params) = BaseNetwork::new(base, config, device)?;
                Ok((Self::Base(Box::new(network)), params))
            }
            (None, None) => Err(refused("network: the kind \"base\" needs the file of a network")),
            (Some(_), Some(_)) => Err(refused("network: a network that came in a file has the kind \"base\"")),
        }
    }

    /// What the network reads of RGB images of a chip's size.
    pub fn input(&self, images: &[&[u8]], device: Device) -> Result<Tensor, TrainingError> {
        let normalisation = match self {
            Self::Built(network) if network.input == Input::Grey56 => {
                let values: Vec<f32> = images.iter().flat_map(|image| to_input(image, network.input)).collect();
                let side = network.input.side();
                let rows = Tensor::from_slice(&values).to_device(device);
                // Strides that say "channels last", which a single channel leaves open: libtorch's convolutions,
                // normalisations and pools keep the order, and are faster in it on a CPU.
                return Ok(rows.as_strided([images.len() as i64, 1, side, side], [side * side, 1, side, 1], 0));
            }
            Self::Built(_) => InputNormalisation::default(),
            Self::Base(network) => network.input,
        };
        Ok(normalisation.input(images, device)?)
    }

    /// `N x D` embeddings; of length 1 but for networks that say otherwise. With `train`, a built network normalises a batch
    /// by its own statistics.
    pub fn forward(&self, params: &Params, input: &Tensor, train: bool, kind: Kind) -> Result<Tensor, TrainingError> {
        match self {
            Self::Built(network) => Ok(network.forward(params, input, train, kind)?),
            Self::Base(network) => Ok(network.forward(params, input)?),
        }
    }

    /// The same network for a run in float32, if this one is bound to what `config` says.
    pub fn in_float32(&self, config: &TrainConfig, device: Device) -> Result<Option<Self>, TrainingError> {
        match self {
            Self::Base(network) if config.precision.kind() != Kind::Float => {
                Ok(Some(Self::Base(Box::new(network.in_float32(device)?))))
            }
            _ => Ok(None),
        }
    }

    /// Whether embeddings have length 1.
    pub fn is_normalised(&self) -> bool {
        match self {
            Self::Built(network) => network.is_normalised(),
            Self::Base(_) => true,
        }
    }
}

impl BaseNetwork {
    fn new(base: &BaseFile, config: &TrainConfig, device: Device) -> Result<(Self, Params), TrainingError> {
        let trainable = Trainable::load(base.content.clone(), device, config.precision.kind())?;
        let frozen = frozen_layers(&config.fine_tuning, trainable.layers());
        let (mut collected, mut places) = (Collected::default(), Vec::new());
        for (place, weight) in trainable.weights().iter().enumerate().filter(|(_, weight)| weight.layer >= frozen) {
            let role = if weight.is_kernel { Role::Weight } else { Role::Plain };
            let numbers = super::params::numbers(&weight.tensor);
            collected.add(weight.name.clone(), role, &weight.tensor.size(), &numbers);
            places.push(place);
        }
        if places.is_empty() {
            let layers = trainable.layers();
            return Err(TrainingError::Config(format!("none of the network's {layers} layers can be trained")));
        }
        let params = collected.finish(device);
        let network = Self { trainable, places, input: base.input, original: params.detached_copy() };
        network.check(&params, device)?;
        Ok((network, params))
    }

    /// The same graph with its constants in float32.
    fn in_float32(&self, device: Device) -> Result<Self, NetworkError> {
        let trainable = Trainable::load(self.trainable.to_onnx(&[]), device, Kind::Float)?;
        let original = self.original.detached_copy();
        Ok(Self { trainable, places: self.places.clone(), input: self.input, original })
    }

    /// Refuses what is no embedder: a made chip must give one vector, and two chips two.
    fn check(&self, params: &Params, device: Device) -> Result<(), TrainingError> {
        let side = Chip::SIDE as usize;
        let image: Vec<u8> = (0..side * side * 3).map(|n| (n * 37 % 251) as u8).collect();
        let input = self.input.input(&[&image, &image], device)?;
        let rows = no_grad(|| self.forward(params, &input))?;
        if rows.size()[0] == 2 && rows.isfinite().all().int64_value(&[]) == 1 {
            return Ok(());
        }
        let reason = format!("two chips give embeddings of shape {:?}, or such as are not finite", rows.size());
        Err(NetworkError::Contract { role: "embedder", reason }.into())
    }

    /// `N x D`, of length 1.
    fn forward(&self, params: &Params, input: &Tensor) -> Result<Tensor, NetworkError> {
        let given = self.places.iter().zip(params.iter()).map(|(place, param)| (*place, &param.tensor));
        let outputs = self.trainable.forward(input, given)?;
        let images = input.size().first().copied().unwrap_or_default() as usize;
        Ok(of_length_1(&embeddings(&outputs, self.trainable.output_names(), images)?.1))
    }

    /// The file with these parameters in it.
    pub fn to_onnx(&self, params: &Params) -> Vec<u8> {
        let given: Vec<_> =
            self.places.iter().enumerate().map(|(index, place)| (*place, params.numbers(index))).collect();
        self.trainable.to_onnx(&given)
    }

    pub fn normalisation(&self) -> InputNormalisation {
        self.input
    }
}

/// How many leading layers of `layers` stay as they are.
fn frozen_layers(settings: &FineTuning, layers: usize) -> usize {
    let share = (settings.frozen_share * layers as f64).round() as usize;
    share.max(settings.frozen_layers as usize)
}
