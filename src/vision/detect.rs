//! The detector network's raw output becomes faces.
//!
//! RetinaFace (Deng et al. 2020, arXiv:1905.00641) predicts, for each of a fixed grid of anchor squares, whether a face
//! is there and how its box and its five points deviate from the anchor. SCRFD (Guo et al. 2021, arXiv:2105.04714) and YuNet
//! (Wu et al. 2023) say the same of the corner of a cell, in sides of that cell. All name the points in one order, the
//! viewer's left before the right.

use thiserror::Error;

use super::shrink::Scale;
use crate::types::{BoundingBox, Detection, DetectorKind, DetectorOutput, Landmarks, Point};

/// The grid of anchors: a cell every `stride` pixels, in each cell of RetinaFace two squares of these sides.
const LEVELS: [(u32, [f32; 2]); 3] = [(8, [16.0, 32.0]), (16, [64.0, 128.0]), (32, [256.0, 512.0])];

/// How RetinaFace's offsets are scaled: those of centres and points, and those of sizes.
const CENTRE_VARIANCE: f32 = 0.1;
const SIZE_VARIANCE: f32 = 0.2;

/// Why the network's output could not be read.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum DetectError {
    #[error(
        "for a {width}x{height} image it should give {anchors} rows, the same number for each cell of 8, 16 and 32 pixels; this \
         answer holds {boxes} numbers of boxes, {scores} scores and {landmarks} numbers of landmarks"
    )]
    WrongRows { width: u32, height: u32, anchors: usize, boxes: usize, scores: usize, landmarks: usize },
}

/// Which detections count.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DetectOptions {
    /// Faces with a higher score than this are kept, 0..=1.
    pub min_score: f32,
    /// Of two boxes that overlap by more than this (intersection over union, 0..=1) the better one is kept.
    pub nms_iou: f32,
}

impl Default for DetectOptions {
    /// The values at which the default detector was measured.
    fn default() -> Self {
        Self { min_score: 0.8, nms_iou: 0.4 }
    }
}

/// Reads the detector's output for an input of `width` x `height` pixels into faces, the largest box first.
///
/// `scale` is what [`shrink`](super::shrink) said of that input; the faces are in pixels of the image before it. Rows
/// that hold anything but finite numbers are no faces, and neither is what a network sees in the margin that it was given
/// ([`DetectorKind::padded`]).
pub fn detections(
    output: &DetectorOutput,
    width: u32,
    height: u32,
    scale: Scale,
    options: &DetectOptions,
) -> Result<Vec<Detection>, DetectError> {
    let anchors = anchor_count(output.kind, width, height);
    let (boxes, scores, landmarks) = (output.boxes.len(), output.scores.len(), output.landmarks.len());
    if scores != anchors || boxes != 4 * anchors || landmarks != 10 * anchors {
        return Err(DetectError::WrongRows { width, height, anchors, boxes, scores, landmarks });
    }
    let mut candidates: Vec<Detection> = self::anchors(output.kind, width, height)
        .enumerate()
        // A score that is no number is not above any other.
        .filter(|(row, _)| output.scores[*row] > options.min_score)
        .filter_map(|(row, anchor)| decode_row(output, row, anchor))
        .filter(|face| !is_in_margin(output.kind, &face.bounding_box, width, height))
        .collect();
    candidates.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut faces: Vec<Detection> = suppress(candidates, options.nms_iou)
        .into_iter()
        .map(|face| to_original(face, scale))
        .filter(is_finite)
        .collect();
    faces.sort_by(|a, b| b.bounding_box.area().total_cmp(&a.bounding_box.area()));
    Ok(faces)
}

/// What the offsets of a row start from.
#[derive(Debug, Clone, Copy)]
struct Anchor {
    x: f32,
    y: f32,
    /// Of RetinaFace's square, else of the cell.
    side: f32,
}

/// The cells of one level across and down.
fn cells(kind: DetectorKind, width: u32, height: u32, stride: u32) -> (u32, u32) {
    (kind.padded(width).div_ceil(stride), kind.padded(height).div_ceil(stride))
}

fn anchor_count(kind: DetectorKind, width: u32, height: u32) -> usize {
    LEVELS
        .iter()
        .map(|(stride, _)| {
            let (columns, rows) = cells(kind, width, height, *stride);
            columns as usize * rows as usize * kind.per_cell()
        })
        .sum()
}

/// All anchors in the order of the network's rows: level, row, column, side.
fn anchors(kind: DetectorKind, width: u32, height: u32) -> impl Iterator<Item = Anchor> {
    LEVELS.into_iter().flat_map(move |(stride, squares)| {
        let (columns, rows) = cells(kind, width, height, stride);
        // RetinaFace starts from the middle of a cell, the others from its corner.
        let (sides, start) = match kind {
            DetectorKind::RetinaFace => (squares, 0.5),
            DetectorKind::Scrfd | DetectorKind::YuNet => ([stride as f32; 2], 0.0),
        };
        let place = move |cell: u32| (cell as f32 + start) * stride as f32;
        (0..rows).flat_map(move |row| {
            (0..columns).flat_map(move |column| {
                let sides = sides.into_iter().take(kind.per_cell());
                sides.map(move |side| Anchor { x: place(column), y: place(row), side })
            })
        })
    })
}

/// One row's face in pixels of the network's input, or none if it is not made of finite numbers.
fn decode_row(output: &DetectorOutput, row: usize, anchor: Anchor) -> Option<Detection> {
    let [a, b, c, d] = *output.boxes[4 * row..].first_chunk()?;
    let offsets: &[f32; 10] = output.landmarks[10 * row..].first_chunk()?;
    let (step, growth) = match output.kind {
        DetectorKind::RetinaFace => (CENTRE_VARIANCE * anchor.side, SIZE_VARIANCE),
        DetectorKind::Scrfd | DetectorKind::YuNet => (anchor.side, 1.0),
    };
    let point = |dx: f32, dy: f32| Point { x: anchor.x + dx * step, y: anchor.y + dy * step };
    let bounding_box = match output.kind {
        // Distances to the left, the top, the right and the bottom.
        DetectorKind::Scrfd => {
            let corner = point(-a, -b);
            BoundingBox { x: corner.x, y: corner.y, width: (a + c) * step, height: (b + d) * step }
        }
        DetectorKind::RetinaFace | DetectorKind::YuNet => {
            let centre = point(a, b);
            let (width, height) = (anchor.side * (c * growth).exp(), anchor.side * (d * growth).exp());
            BoundingBox { x: centre.x - width / 2.0, y: centre.y - height / 2.0, width, height }
        }
    };
    let face = Detection {
        bounding_box,
        landmarks: Landmarks::from(std::array::from_fn(|i| point(offsets[2 * i], offsets[2 * i + 1]))),
        score: output.scores[row].min(1.0),
    };
    is_finite(&face).then_some(face)
}

/// Whether a box is about something that is right of the image or below it, where networks that need whole cells get a margin.
fn is_in_margin(kind: DetectorKind, face: &BoundingBox, width: u32, height: u32) -> bool {
    let (x, y) = (face.x + face.width / 2.0, face.y + face.height / 2.0);
    let is_beyond = |side: u32, centre: f32| kind.padded(side) > side && centre > side as f32;
    is_beyond(width, x) || is_beyond(height, y)
}

fn is_finite(face: &Detection) -> bool {
    let BoundingBox { x, y, width, height } = face.bounding_box;
    let points = face.landmarks.points();
    [x, y, width, height, width * height, face.score].iter().all(|v| v.is_finite())
        && points.iter().all(|p| p.x.is_finite() && p.y.is_finite())
}

/// Greedy non-maximum suppression; `candidates` come best first.
fn suppress(candidates: Vec<Detection>, max_iou: f32) -> Vec<Detection> {
    let mut kept: Vec<Detection> = Vec::new();
    for candidate in candidates {
        if kept.iter().all(|better| iou(&better.bounding_box, &candidate.bounding_box) <= max_iou) {
            kept.push(candidate);
        }
    }
    kept
}

/// Intersection over union of two boxes, 0..=1.
pub(super) fn iou(a: &BoundingBox, b: &BoundingBox) -> f32 {
    let overlap = |a: f32, a_length: f32, b: f32, b_length: f32| (a + a_length).min(b + b_length) - a.max(b);
    let width = overlap(a.x, a.width, b.x, b.width).max(0.0);
    let height = overlap(a.y, a.height, b.y, b.height).max(0.0);
    let shared = width * height;
    let union = a.area() + b.area() - shared;
    if union > 0.0 { shared / union } else { 0.0 }
}

/// Maps a face from the shrunk image to the original.
///
/// Pixel centres are whole numbers in both, and the centre of a shrunk pixel is that of the block it averages: hence
/// the half pixels.
fn to_original(face: Detection, scale: Scale) -> Detection {
    let x = |x: f32| (x + 0.5) / scale.x - 0.5;
    let y = |y: f32| (y + 0.5) / scale.y - 0.5;
    let BoundingBox { x: left, y: top, width, height } = face.bounding_box;
    Detection {
        bounding_box: BoundingBox { x: x(left), y: y(top), width: width / scale.x, height: height / scale.y },
        landmarks: Landmarks::from(face.landmarks.points().map(|p| Point { x: x(p.x), y: y(p.y) })),
        score: face.score,
    }
}

#[cfg(test)]
mod tests;
