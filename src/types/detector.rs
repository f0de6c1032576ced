//! What a detector network says of an image.

/// Kinds of detectors, each with its own meaning of a row. Their rows are those of cells of 8, then 16, then 32 pixels, row by
/// row from the top left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DetectorKind {
    /// Deng et al. 2020, arXiv:1905.00641: two anchors for each cell.
    #[default]
    RetinaFace,
    /// Guo et al. 2021, arXiv:2105.04714: two rows for each cell.
    Scrfd,
    /// Wu et al. 2023, "YuNet: A Tiny Millisecond-level Face Detector": one row for each cell.
    YuNet,
}

impl DetectorKind {
    /// Rows for each cell.
    pub fn per_cell(self) -> usize {
        match self {
            Self::RetinaFace | Self::Scrfd => 2,
            Self::YuNet => 1,
        }
    }

    /// A clear face has at least this score. Measured for RetinaFace-MobileNet0.25, of whose scores for 498 people in the news
    /// (Labeled Faces in the Wild) none is lower; the others leave more to the box and the points.
    pub fn clear_score(self) -> f32 {
        match self {
            Self::RetinaFace => 0.99,
            Self::YuNet => 0.8,
            Self::Scrfd => 0.65,
        }
    }

    /// Least score of what may be a face, where faces of at least so many pixels of the input (the shorter side of the box) are
    /// looked for.
    ///
    /// Measured on 192 faces of Labeled Faces in the Wild that were shrunk to 14, 16 and 20 pixels. RetinaFace-MobileNet0.25
    /// gives 98 % of them these scores (and 100, 23 and 4 other things on a megapixel of photos without such faces); YuNet 99 %
    /// of 96 such faces of 14 and 16 pixels, and all of 20. SCRFD was not measured.
    pub fn hint(self, pixels: f32) -> f32 {
        let (large, middle, small) = match self {
            Self::RetinaFace => (0.05, 0.02, 0.01),
            Self::Scrfd | Self::YuNet => (0.2, 0.1, 0.05),
        };
        if pixels >= 20.0 {
            large
        } else if pixels >= 16.0 {
            middle
        } else {
            small
        }
    }

    /// Pixels along a side that an image with `side` of them has for the network. Those that add maps of different levels
    /// need whole cells of 32 pixels.
    pub fn padded(self, side: u32) -> u32 {
        match self {
            Self::RetinaFace => side,
            Self::Scrfd | Self::YuNet => side.next_multiple_of(32),
        }
    }
}

/// What the detector network says of one image: a row per anchor, undecoded.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DetectorOutput {
    pub kind: DetectorKind,
    /// Offsets of the boxes: 4 numbers for each of the A anchors.
    pub boxes: Vec<f32>,
    /// Probability of a face: one for each anchor, 0..=1.
    pub scores: Vec<f32>,
    /// Offsets of the five points: 10 numbers for each anchor.
    pub landmarks: Vec<f32>,
}
