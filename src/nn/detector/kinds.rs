//! Which kind of detector a network is, and the rows of its outputs.

use tch::{Kind, Tensor};

use super::contract;
use crate::nn::error::NetworkError;
use crate::types::DetectorKind;

/// Numbers per row in the boxes and the landmarks (five points), and of RetinaFace's scores (background, face).
pub const BOX: i64 = 4;
pub const LANDMARKS: i64 = 10;
const SCORES: i64 = 2;

/// Sides of the cells of the three levels, in pixels.
const STRIDES: [u32; 3] = [8, 16, 32];

/// How far probabilities may be off in bfloat16.
const ROUNDING: f64 = 0.02;

/// Shapes that a message names; nobody reads more.
const MAX_NAMED: usize = 16;

/// The outputs of all levels together.
pub struct Rows {
    /// `N x A x 4`
    pub boxes: Tensor,
    /// `N x A`: probabilities of a face.
    pub scores: Tensor,
    /// `N x A x 10`
    pub landmarks: Tensor,
}

/// The kind of a network that gave `outputs` for one image of `size`, whose sides are whole cells.
pub fn of(outputs: &[Tensor], size: (u32, u32)) -> Result<DetectorKind, NetworkError> {
    [DetectorKind::RetinaFace, DetectorKind::Scrfd, DetectorKind::YuNet]
        .into_iter()
        .find(|kind| Rows::of(*kind, outputs, 1, size).is_ok())
        .ok_or_else(|| wrong_outputs(outputs))
}

impl Rows {
    /// The rows for images of `size`, if `outputs` are those of this kind.
    pub fn of(
        kind: DetectorKind,
        outputs: &[Tensor],
        images: usize,
        (width, height): (u32, u32),
    ) -> Result<Self, NetworkError> {
        let images = images as i64;
        let cells = |stride: u32| i64::from(kind.padded(width) / stride) * i64::from(kind.padded(height) / stride);
        let levels = STRIDES.map(|stride| cells(stride) * kind.per_cell() as i64);
        match kind {
            DetectorKind::RetinaFace => Self::of_retinaface(outputs, images),
            DetectorKind::Scrfd => Self::of_levels(outputs, images, &levels, 1),
            DetectorKind::YuNet => Self::of_levels(outputs, images, &levels, 2),
        }
    }

    /// Three outputs with the rows of all levels, the boxes `N x A x 4`, probabilities of background and face `N x A x 2`.
    fn of_retinaface(outputs: &[Tensor], images: i64) -> Result<Self, NetworkError> {
        let boxes = columns_of(outputs, BOX, images)?.shallow_clone();
        let scores = columns_of(outputs, SCORES, images)?.f_select(2, 1)?;
        let landmarks = columns_of(outputs, LANDMARKS, images)?.shallow_clone();
        if boxes.size()[1] != scores.size()[1] || boxes.size()[1] != landmarks.size()[1] {
            return Err(wrong_outputs(outputs));
        }
        Ok(Self { boxes, scores, landmarks })
    }

    /// For each level boxes, landmarks and `scores` probabilities, of which the face's is the geometric mean: YuNet's are of
    /// the class and of an object, the order of which does not matter for that.
    fn of_levels(outputs: &[Tensor], images: i64, levels: &[i64; 3], scores: usize) -> Result<Self, NetworkError> {
        let found = |columns: i64, count: usize| -> Result<Vec<Tensor>, NetworkError> {
            let mut all = Vec::new();
            for rows in levels {
                let level = of_shape(outputs, images, *rows, columns)?;
                if level.len() != count {
                    return Err(wrong_outputs(outputs));
                }
                all.extend(level);
            }
            Ok(all)
        };
        let (boxes, landmarks) = (found(BOX, 1)?, found(LANDMARKS, 1)?);
        let mut faces = Vec::new();
        for level in found(1, scores)?.chunks(scores) {
            faces.push(match level {
                [class, object] => class.f_clamp(0.0, 1.0)?.f_mul(&object.f_clamp(0.0, 1.0)?)?.f_sqrt()?,
                level => level[0].shallow_clone(),
            });
        }
        Ok(Self {
            boxes: Tensor::f_cat(&boxes, 1)?,
            scores: Tensor::f_cat(&faces, 1)?.f_select(2, 0)?,
            landmarks: Tensor::f_cat(&landmarks, 1)?,
        })
    }
}

/// The outputs with so many rows of so many numbers for each image. InsightFace's networks for one image leave its dimension out.
fn of_shape(outputs: &[Tensor], images: i64, rows: i64, columns: i64) -> Result<Vec<Tensor>, NetworkError> {
    let fits = |output: &&Tensor| match output.size()[..] {
        [n, r, c] => [n, r, c] == [images, rows, columns],
        [r, c] => [1, r, c] == [images, rows, columns],
        _ => false,
    };
    outputs.iter().filter(fits).map(|output| Ok(output.f_reshape([images, rows, columns])?)).collect()
}

/// The output of RetinaFace with `columns` numbers per anchor.
fn columns_of(outputs: &[Tensor], columns: i64, images: i64) -> Result<&Tensor, NetworkError> {
    outputs
        .iter()
        .find(|output| matches!(output.size()[..], [n, _, last] if n == images && last == columns))
        .ok_or_else(|| wrong_outputs(outputs))
}

/// Whether these can be the outputs for an image without a face.
pub fn check(kind: DetectorKind, outputs: &[Tensor], size: (u32, u32)) -> Result<(), NetworkError> {
    match kind {
        DetectorKind::RetinaFace => check_pairs(columns_of(outputs, SCORES, 1)?),
        DetectorKind::Scrfd | DetectorKind::YuNet => check_faces(&Rows::of(kind, outputs, 1, size)?.scores),
    }
}

/// `N x A x 2`: probabilities of background and face.
pub fn check_pairs(scores: &Tensor) -> Result<(), NetworkError> {
    let scores = scores.f_to_kind(Kind::Double)?;
    let sums = scores.f_sum_dim_intlist([2_i64].as_slice(), false, Kind::Double)?;
    let off = sums.f_sub_scalar(1.0)?.f_abs()?.f_max()?.f_double_value(&[])?;
    let (least, most) = range(&scores)?;
    // Written so that what is no number is refused as well.
    if !(off <= ROUNDING && least >= -ROUNDING && most <= 1.0 + ROUNDING) {
        return Err(contract(format!(
            "its N x A x 2 output should hold probabilities of background and face, which add up to 1; it holds numbers \
             from {least} to {most}"
        )));
    }
    let faces = scores.f_select(2, 1)?.f_mean(Kind::Double)?.f_double_value(&[])?;
    if faces > 0.5 {
        return Err(contract(format!("{}; are its scores in the order background, face?", everywhere(faces))));
    }
    Ok(())
}

/// `N x A`: probabilities of a face.
pub fn check_faces(scores: &Tensor) -> Result<(), NetworkError> {
    let scores = scores.f_to_kind(Kind::Double)?;
    let (least, most) = range(&scores)?;
    if !(least >= -ROUNDING && most <= 1.0 + ROUNDING) {
        return Err(contract(format!(
            "its outputs of one number should hold probabilities of a face, from 0 to 1; they hold numbers from {least} to \
             {most}. Was the sigmoid left out?"
        )));
    }
    let faces = scores.f_mean(Kind::Double)?.f_double_value(&[])?;
    if faces > 0.5 { Err(contract(everywhere(faces))) } else { Ok(()) }
}

fn range(scores: &Tensor) -> Result<(f64, f64), NetworkError> {
    Ok((scores.f_min()?.f_double_value(&[])?, scores.f_max()?.f_double_value(&[])?))
}

fn everywhere(probability: f64) -> String {
    format!("it sees faces nearly everywhere on an image that is all grey (probability {probability:.2})")
}

fn wrong_outputs(outputs: &[Tensor]) -> NetworkError {
    let shapes: Vec<_> = outputs.iter().take(MAX_NAMED).map(Tensor::size).collect();
    contract(format!(
        "its outputs are those of no kind that is known. RetinaFace has N x A x 4, N x A x 2 and N x A x 10. For cells of 8, 16 \
         and 32 pixels each, SCRFD has two rows of 1, 4 and 10 numbers a cell (9 outputs), YuNet one row of 1, 1, 4 and 10 (12 \
         outputs); the 10 are five points, without which no face can be aligned. Its {} outputs are {shapes:?}",
        outputs.len()
    ))
}
