//! The embedder: a network that turns chips into vectors.

use std::path::Path;

use bytes::Bytes;
use tch::{Device, Kind, Tensor, no_grad};

use super::error::NetworkError;
use super::network::{Format, Network};
use super::pixels::{self, Normalisation};
use super::target::Target;
use crate::types::Chip;

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

/// What a network was trained to read: `(pixel - mean) / scale`, pixels 0..=255, its first channel red or blue.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct InputNormalisation {
    pub mean: f32,
    pub scale: f32,
    pub channels: Channels,
}

impl Default for InputNormalisation {
    /// RGB in -1..=1, the convention of most published face networks.
    fn default() -> Self {
        Self { mean: 127.5, scale: 127.5, channels: Channels::Rgb }
    }
}

impl InputNormalisation {
    /// What a network reads of RGB images of a chip's size: `N x 3 x 112 x 112` floats on `device`, channels last.
    pub fn input(&self, images: &[&[u8]], device: Device) -> Result<Tensor, NetworkError> {
        pixels::stack(images, (Chip::SIDE, Chip::SIDE), &(*self).into(), device, Kind::Float)
    }
}

impl From<InputNormalisation> for Normalisation {
    fn from(InputNormalisation { mean, scale, channels }: InputNormalisation) -> Self {
        Self { mean: [mean; 3], scale, channels }
    }
}

/// A network that gives one vector per chip: `N x 3 x 112 x 112` in, `N x D` out.
pub struct Embedder {
    network: Network,
    normalisation: InputNormalisation,
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
        let usable = normalisation.mean.is_finite() && normalisation.scale.is_normal();
        if !usable {
            return Err(contract(format!("{normalisation:?} cannot be applied")));
        }
        // The trial compares two chips of one pass with each alone.
        let mut embedder =
            Self { network: network()?, normalisation, dimension: 0, passes: Passes { run: 2, pass: 2 } };
        embedder.dimension = no_grad(|| embedder.trial())?;
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
            let numbers = no_grad(|| pixels::to_floats(&self.run(images)?))?;
            rows.extend(numbers.chunks_exact(self.dimension).map(<[f32]>::to_vec));
        }
        Ok(rows)
    }

    fn passes(&self) -> Result<Passes, NetworkError> {
        let size = (Chip::SIDE, Chip::SIDE);
        let input = pixels::batch(&[&trial_image(37, 59)], size, &self.normalisation.into(), &self.network)?;
        let usual = pixels::images_per_run(size, &self.network);
        Ok(match self.network.widest(&input)? {
            Some(widest) => Passes { run: MOST_CHIPS, pass: (CPU_NUMBERS / widest.max(1)).clamp(1, MOST_CHIPS) },
            None => Passes { run: usual, pass: usual },
        })
    }

    /// `N x D` for N images of a chip's size.
    fn run(&self, images: &[&[u8]]) -> Result<Tensor, NetworkError> {
        let input = pixels::batch(images, (Chip::SIDE, Chip::SIDE), &self.normalisation.into(), &self.network)?;
        let outputs = self.network.forward_in_passes(&input, self.passes.pass)?;
        let [output] = &outputs[..] else {
            return Err(contract(format!("it has {} outputs instead of one", outputs.len())));
        };
        // Some networks leave their last spatial dimensions: N x D x 1 x 1.
        match output.size()[..] {
            [n, dimension, ref rest @ ..]
                if n == images.len() as i64 && dimension > 0 && rest.iter().all(|side| *side == 1) =>
            {
                Ok(output.f_reshape([n, dimension])?)
            }
            ref other => Err(contract(format!("{} chips give an output of shape {other:?}", images.len()))),
        }
    }

    fn trial(&self) -> Result<usize, NetworkError> {
        let [a, b] = [trial_image(37, 59), trial_image(83, 13)];
        let first = self.run(&[&a])?;
        // On a GPU libtorch may sum in another order each time; what draws lots differs there by more than a batch may.
        if first.device() == Device::Cpu && first != self.run(&[&a])? {
            return Err(contract("it gives another vector of the same image each time".into()));
        }
        let alone = Tensor::f_cat(&[first, self.run(&[&b])?], 0)?.f_to_kind(Kind::Double)?;
        let together = self.run(&[&a, &b])?.f_to_kind(Kind::Double)?;
        if alone.size() != together.size() {
            return Err(contract("a batch gives rows of another length than single chips".into()));
        }
        let largest = alone.f_abs()?.f_max()?.f_double_value(&[])?;
        let difference = alone.f_sub(&together)?.f_abs()?.f_max()?.f_double_value(&[])?;
        if !largest.is_finite() || largest == 0.0 {
            return Err(contract("its vector of a trial image is all zero or not finite".into()));
        }
        // Written so that a difference that is not a number fails, too.
        let tolerance = if self.network.kind() == Kind::Float { BATCH_TOLERANCE } else { REDUCED_BATCH_TOLERANCE };
        if difference <= tolerance * largest {
            return Ok(alone.size()[1] as usize);
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
mod tests {
    use tch::CModule;

    use super::super::target::Kernels;
    use super::super::testing::{difference, fixture, floats, made_image, weights};
    use super::*;

    fn chip(n: u32) -> Chip {
        let image = image::RgbImage::from_raw(Chip::SIDE, Chip::SIDE, made_image(Chip::SIDE, Chip::SIDE, n)).unwrap();
        Chip::try_from(image).unwrap()
    }

    #[test]
    fn mobilefacenet_equals_onnx_runtime_alone_and_in_a_batch() {
        let path = weights("mobilefacenet-512.onnx");
        let embedder = Embedder::load(&path, &Target::CPU, InputNormalisation::default()).unwrap();
        assert_eq!((embedder.dimension(), embedder.passes.pass), (512, 4));
        let expected = &fixture("networks.json")["embedder"];
        let chips: Vec<_> = (0..expected["images"].as_u64().unwrap() as u32).map(chip).collect();
        let alone: Vec<_> =
            chips.iter().flat_map(|chip| embedder.forward(std::slice::from_ref(chip)).unwrap()).collect();
        let together = embedder.forward(&chips).unwrap();
        for rows in [alone, together] {
            let largest = difference(&rows.concat(), &floats(&expected["rows"]));
            println!("largest difference {largest:e}");
            assert!(largest <= 1e-4, "{largest}");
        }
        assert!(embedder.forward(&[]).unwrap().is_empty());
    }

    /// Its weights are in blocks of 8-bit numbers; ONNX Runtime was run with them as they are.
    #[test]
    fn sface_equals_onnx_runtime_with_all_kernels() {
        let normalisation = InputNormalisation { mean: 0.0, scale: 1.0, channels: Channels::Rgb };
        let expected = &fixture("networks.json")["sface"];
        let chips: Vec<_> = (0..expected["images"].as_u64().unwrap() as u32).map(chip).collect();
        let expected = floats(&expected["rows"]);
        let largest = expected.iter().fold(0.0_f32, |largest, number| largest.max(number.abs()));
        for kernels in [Kernels::Libtorch, Kernels::Avx2, Kernels::Avx512] {
            if !kernels.are_available() {
                println!("not tested: {kernels:?}, which this processor lacks");
                continue;
            }
            let target = Target::CPU.with_kernels(kernels);
            let embedder = Embedder::load(&weights("sface-128.onnx"), &target, normalisation).unwrap();
            assert_eq!((embedder.dimension(), embedder.passes.pass), (128, 2));
            let difference = difference(&embedder.forward(&chips).unwrap().concat(), &expected);
            println!("{kernels:?}: largest difference {difference:e} of {largest}");
            assert!(difference <= 1e-4 * largest, "{kernels:?}: {difference}");
        }
    }

    /// Traces `forward` as TorchScript and loads it as an embedder.
    fn traced(normalisation: InputNormalisation, forward: fn(&Tensor) -> Tensor) -> Result<Embedder, NetworkError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("toy.pt");
        let input = Tensor::zeros([2, 3, 112, 112], (Kind::Float, Device::Cpu));
        let module = CModule::create_by_tracing("toy", "forward", &[input], &mut |inputs| vec![forward(&inputs[0])]);
        module.unwrap().save(&path).unwrap();
        Embedder::load(&path, &Target::CPU, normalisation)
    }

    fn colours(x: &Tensor) -> Tensor {
        x.mean_dim([2_i64, 3].as_slice(), false, Kind::Float)
    }

    #[test]
    fn normalisation_and_channel_order_reach_the_network() {
        let image = image::RgbImage::from_pixel(Chip::SIDE, Chip::SIDE, image::Rgb([10, 20, 30]));
        let chips = [Chip::try_from(image).unwrap()];
        let rgb = InputNormalisation { mean: 10.0, scale: 2.0, channels: Channels::Rgb };
        assert_eq!(traced(rgb, colours).unwrap().forward(&chips).unwrap(), [[0.0, 5.0, 10.0]]);
        let bgr = InputNormalisation { channels: Channels::Bgr, ..rgb };
        assert_eq!(traced(bgr, colours).unwrap().forward(&chips).unwrap(), [[10.0, 5.0, 0.0]]);
        let useless = InputNormalisation { scale: 0.0, ..rgb };
        assert!(matches!(traced(useless, colours), Err(NetworkError::Contract { .. })));
    }

    #[test]
    fn networks_that_break_the_contract_are_refused() {
        let load = |forward| traced(InputNormalisation::default(), forward).map(|_| ()).unwrap_err().to_string();
        let mixes_its_batch = load(|x| colours(x) - colours(x).mean_dim([0_i64].as_slice(), true, Kind::Float));
        assert!(mixes_its_batch.contains("not a usable embedder"), "{mixes_its_batch}");
        let draws_lots = load(|x| colours(&x.dropout(0.5, true)));
        assert!(draws_lots.contains("another vector"), "{draws_lots}");
        assert!(load(|x| colours(x) * 0.0).contains("all zero"));
        assert!(load(|x| x.mean_dim([0_i64].as_slice(), true, Kind::Float)).contains("output of shape"));
    }
}
