//! The embedder: a network that turns chips into vectors.

mod join;

use std::path::Path;

use bytes::Bytes;
use tch::{Device, Kind, Tensor, no_grad};

use super::error::NetworkError;
use super::network::{Format, Network};
use super::outputs;
use super::pixels::{self, Normalisation};
use super::target::Target;
use crate::types::{Chip, ChipCrop, InputSize};

pub use self::join::{JOINED_INPUT, join};
pub use super::pixels::Channels;

/// How far a batch's rows may be from the rows of single runs, relative to the largest number in them.
const BATCH_TOLERANCE: f64 = 1e-3;

/// The same for a network in half precision, where libtorch may sum a batch in another order: rounding alone is 1e-3.
const REDUCED_BATCH_TOLERANCE: f64 = 2e-2;

/// Numbers that a layer may hand to the next in one pass on the CPU; with more, passes get slower, since the cache no longer
/// holds them. 4 chips of MobileFaceNet, 2 of SFace; measured on processors with 0.5, 1 and 2 MiB of second-level cache.
const CPU_NUMBERS: usize = 2 * 64 * 112 * 112;

/// Chips that are read into one tensor on the CPU.
const MOST_CHIPS: usize = 64;

/// What a network was trained to read: `(pixel - mean) / scale`, pixels 0..=255, its first channel red or blue; of a part of
/// the chip, brought to a size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct InputNormalisation {
    pub mean: f32,
    pub scale: f32,
    pub channels: Channels,
    pub crop: ChipCrop,
    pub size: InputSize,
}

impl Default for InputNormalisation {
    fn default() -> Self {
        Self::STANDARD
    }
}

impl InputNormalisation {
    /// The whole chip, RGB in -1..=1, the convention of most published face networks.
    pub const STANDARD: Self = Self {
        mean: 127.5,
        scale: 127.5,
        channels: Channels::Rgb,
        crop: ChipCrop::WHOLE,
        size: ChipCrop::WHOLE.size(),
    };

    /// What a network reads of RGB images of a chip's size: `N x 3 x H x W` floats on `device`, channels last on the CPU.
    pub fn input(&self, images: &[&[u8]], device: Device) -> Result<Tensor, NetworkError> {
        self.read(images, device, Kind::Float)
    }

    /// The same in another type.
    fn read(&self, images: &[&[u8]], device: Device, kind: Kind) -> Result<Tensor, NetworkError> {
        let Self { mean, scale, channels, crop, size } = *self;
        let normalisation = Normalisation { mean: [mean; 3], scale, channels };
        let chip = (Chip::SIDE, Chip::SIDE);
        if crop == ChipCrop::WHOLE && size == crop.size() {
            return pixels::stack(images, chip, &normalisation, device, kind);
        }
        // Between pixels there are more values than half the bytes tell apart.
        let chips = pixels::stack(images, chip, &normalisation, device, Kind::Float)?;
        Ok(pixels::part(&chips, crop, size)?.f_to_kind(kind)?)
    }

    /// Says what is wrong with it, if no network can be meant.
    fn check(&self) -> Result<(), NetworkError> {
        let usable = self.mean.is_finite() && self.scale.is_normal();
        let checked = self.crop.check().and_then(|()| self.size.check());
        match (usable, checked) {
            (true, Ok(())) => Ok(()),
            (false, _) => Err(contract(format!("{self:?} cannot be applied"))),
            (_, Err(reason)) => Err(contract(reason)),
        }
    }
}

/// A network that gives one vector per chip: `N x 3 x 112 x 112` in, or what is made of that, `N x D` out.
pub struct Embedder {
    network: Network,
    normalisation: InputNormalisation,
    /// Which of its outputs the vectors are.
    output: usize,
    dimension: usize,
    passes: Passes,
}

/// How a batch goes through.
struct Passes {
    /// Chips that become one tensor. What comes last, a product with a large matrix, is for all of them at once.
    run: usize,
    /// Chips of a pass through what comes before.
    pass: usize,
}

impl Embedder {
    /// Loads the network and makes trial runs that find its dimension and check that it takes a batch, giving
    /// every chip the row that it has alone.
    pub fn load(path: &Path, target: &Target, normalisation: InputNormalisation) -> Result<Self, NetworkError> {
        Self::tried(normalisation, || Network::load(path, target))
    }

    /// As [`Self::load`], of a file's content.
    pub fn from_bytes(
        content: Bytes,
        format: Format,
        target: &Target,
        normalisation: InputNormalisation,
    ) -> Result<Self, NetworkError> {
        Self::tried(normalisation, || Network::from_bytes(content, format, target))
    }

    fn tried(
        normalisation: InputNormalisation,
        network: impl FnOnce() -> Result<Network, NetworkError>,
    ) -> Result<Self, NetworkError> {
        normalisation.check()?;
        // The trial compares two chips of one pass with each alone.
        let mut embedder =
            Self { network: network()?, normalisation, output: 0, dimension: 0, passes: Passes { run: 2, pass: 2 } };
        embedder.check_input()?;
        (embedder.output, embedder.dimension) = no_grad(|| embedder.trial())?;
        embedder.passes = no_grad(|| embedder.passes())?;
        Ok(embedder)
    }

    /// The length of the vectors.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// Embeds the chips as one batch: a row for each, not normalised.
    pub fn forward(&self, chips: &[Chip]) -> Result<Vec<Vec<f32>>, NetworkError> {
        if chips.is_empty() {
            return Ok(Vec::new());
        }
        let images: Vec<&[u8]> = chips.iter().map(Chip::as_rgb).collect();
        let mut rows = Vec::with_capacity(chips.len());
        for images in images.chunks(self.passes.run) {
            let numbers = no_grad(|| {
                let outputs = self.run(images)?;
                let output = outputs.get(self.output).map_or(&[][..], std::slice::from_ref);
                pixels::to_floats(&outputs::embeddings(output, &[], images.len())?.1)
            })?;
            rows.extend(numbers.chunks_exact(self.dimension).map(<[f32]>::to_vec));
        }
        Ok(rows)
    }

    fn passes(&self) -> Result<Passes, NetworkError> {
        let input = self.input(&[&trial_image(37, 59)])?;
        let InputSize { width, height } = self.normalisation.size;
        let usual = pixels::images_per_run((width, height), &self.network);
        Ok(match self.network.widest(&input)? {
            Some(widest) => Passes { run: MOST_CHIPS, pass: (CPU_NUMBERS / widest.max(1)).clamp(1, MOST_CHIPS) },
            None => Passes { run: usual, pass: usual },
        })
    }

    /// Whether the file declares an input that chips fit.
    fn check_input(&self) -> Result<(), NetworkError> {
        let Some(declared) = self.network.declared() else { return Ok(()) };
        let InputSize { width, height } = self.normalisation.size;
        let wanted = [3, i64::from(height), i64::from(width)];
        let fits = |(declared, wanted): (&Option<i64>, i64)| declared.is_none_or(|declared| declared == wanted);
        if declared.len() == 4 && declared[1..].iter().zip(wanted).all(fits) {
            return Ok(());
        }
        let dims: Vec<_> = declared.iter().map(|dim| dim.map_or("?".to_owned(), |dim| dim.to_string())).collect();
        Err(contract(format!(
            "it takes an input of shape {}, and would get N x 3 x {height} x {width}; a network that reads another size, or a \
             part of the chip, says so in its manifest (crop, size)",
            dims.join(" x ")
        )))
    }

    /// What the network reads of images of a chip's size.
    fn input(&self, images: &[&[u8]]) -> Result<Tensor, NetworkError> {
        self.normalisation.read(images, self.network.device(), self.network.kind())
    }

    /// The outputs for images of a chip's size.
    fn run(&self, images: &[&[u8]]) -> Result<Vec<Tensor>, NetworkError> {
        self.network.forward_in_passes(&self.input(images)?, self.passes.pass)
    }

    /// Which output the vectors are, and their length.
    fn trial(&self) -> Result<(usize, usize), NetworkError> {
        let [a, b] = [trial_image(37, 59), trial_image(83, 13)];
        let (place, together) = outputs::embeddings(&self.run(&[&a, &b])?, self.network.output_names(), 2)?;
        let alone = |image: &[u8]| match self.run(&[image])?.get(place) {
            Some(output) if output.numel() * 2 == together.numel() => Ok(output.f_reshape([1, -1])?),
            _ => Err(contract("a batch gives rows of another length than single chips".into())),
        };
        let first = alone(&a)?;
        // On a GPU libtorch may sum in another order each time; what draws lots differs there by more than a batch may.
        if first.device() == Device::Cpu && first != alone(&a)? {
            return Err(contract("it gives another vector of the same image each time".into()));
        }
        let alone = Tensor::f_cat(&[first, alone(&b)?], 0)?.f_to_kind(Kind::Double)?;
        let together = together.f_to_kind(Kind::Double)?;
        let largest = alone.f_abs()?.f_max()?.f_double_value(&[])?;
        let difference = alone.f_sub(&together)?.f_abs()?.f_max()?.f_double_value(&[])?;
        if !largest.is_finite() || largest == 0.0 {
            return Err(contract("its vector of a trial image is all zero or not finite".into()));
        }
        // Written so that a difference that is not a number fails, too.
        let tolerance = if self.network.kind() == Kind::Float { BATCH_TOLERANCE } else { REDUCED_BATCH_TOLERANCE };
        if difference <= tolerance * largest {
            return Ok((place, alone.size()[1] as usize));
        }
        Err(contract(format!("in a batch the rows differ by {difference} from those of single chips")))
    }
}

/// A made image of a chip's size, in stripes that depend on the two factors.
fn trial_image(across: usize, down: usize) -> Vec<u8> {
    let side = Chip::SIDE as usize;
    (0..side * side * 3).map(|i| ((i / 3 % side * across + i / 3 / side * down + i % 3 * 101) % 256) as u8).collect()
}

fn contract(reason: String) -> NetworkError {
    NetworkError::Contract { role: "embedder", reason }
}

#[cfg(test)]
mod tests;
