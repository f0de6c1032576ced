//! GET /version and GET /info: what a server is.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::types::ModelId;

/// GET /version
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Version {
    /// `faceid`.
    #[schema(example = "faceid")]
    pub name: String,
    /// Of the program, as in semver.org: programs that used what the document says go on working while the first number that is not 0
    /// stays.
    #[schema(example = "0.2.0")]
    pub version: String,
}

impl Default for Version {
    fn default() -> Self {
        Self { name: env!("CARGO_PKG_NAME").to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() }
    }
}

/// GET /info
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Info {
    pub version: Version,
    pub model: ModelInfo,
    pub limits: RequestLimits,
}

/// The model that answers.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ModelInfo {
    pub name: String,
    pub id: ModelId,
    /// Components of an embedding.
    pub dimension: usize,
    /// Side in pixels of the aligned crop that it reads.
    pub chip_side: u32,
    /// The similarity from which on POST /verify calls two photos one person, if the request says nothing.
    pub threshold: f32,
    /// The similarities at which two photos of different people match so often, as far as it was measured.
    pub thresholds: Vec<ThresholdAt>,
}

/// A threshold and its rate.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
pub struct ThresholdAt {
    /// False match rate of one comparison.
    pub fmr: f64,
    pub threshold: f32,
}

/// What a request may bring.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
pub struct RequestLimits {
    /// Bytes of a request.
    pub max_body_bytes: usize,
    /// Bytes of an image.
    pub max_image_bytes: usize,
    pub max_image_pixels: u64,
    /// Subjects that a request may ask for.
    pub max_top_k: u32,
    /// Items of a page.
    pub max_page: u32,
}
