//! From bytes to aligned faces: decode, detect, align, measure quality. The one way in for every photo.

use std::sync::Arc;

use bytes::Bytes;
use image::RgbImage;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{Instrument, debug, debug_span, instrument};

use super::ServiceError;
use super::answers::FoundFace;
use crate::config::RecognitionConfig;
use crate::engine::{Engine, Step};
use crate::types::{Chip, Detection, Quality};
use crate::vision::{self, DecodeLimits, DetectOptions, Scale, Shrunk};

/// Pixels per permit of the pixel budget: fine enough for thumbnails, and the largest budget fits a semaphore.
const PIXELS_PER_PERMIT: u64 = 4096;

/// The bytes of an image and the name of the field that it came in, for error messages.
pub struct PhotoBytes {
    pub field: &'static str,
    pub bytes: Bytes,
}

/// A photo that was looked at.
pub struct Photo {
    /// Size of the upright image.
    pub width: u32,
    pub height: u32,
    /// Largest first.
    pub faces: Vec<PhotoFace>,
    field: &'static str,
}

/// A face of a photo, ready to be embedded.
pub struct PhotoFace {
    pub detection: Detection,
    pub quality: Quality,
    pub chip: Chip,
}

impl PhotoFace {
    pub fn found(&self) -> FoundFace {
        FoundFace {
            bounding_box: self.detection.bounding_box,
            landmarks: self.detection.landmarks,
            detection_score: self.detection.score,
            quality: self.quality,
        }
    }
}

impl Photo {
    /// The largest face.
    pub fn largest(mut self) -> Result<PhotoFace, ServiceError> {
        if self.faces.is_empty() {
            return Err(ServiceError::NoFace { field: self.field });
        }
        Ok(self.faces.swap_remove(0))
    }

    /// The only face.
    pub fn only(self) -> Result<PhotoFace, ServiceError> {
        match self.faces.len() {
            0 | 1 => self.largest(),
            count => Err(ServiceError::MultipleFaces { field: self.field, count }),
        }
    }

    /// Refuses a photo without a face.
    pub fn not_empty(self) -> Result<Self, ServiceError> {
        if self.faces.is_empty() { Err(ServiceError::NoFace { field: self.field }) } else { Ok(self) }
    }
}

/// Reads photos, a bounded number of their pixels at a time.
pub struct PhotoReader {
    engine: Engine,
    limits: DecodeLimits,
    options: DetectOptions,
    detector_side: u32,
    pixels: Arc<Semaphore>,
}

impl PhotoReader {
    pub fn new(engine: Engine, config: &RecognitionConfig) -> Self {
        Self {
            engine,
            limits: DecodeLimits { max_bytes: config.max_image_bytes, max_pixels: config.max_image_pixels },
            options: DetectOptions { min_score: config.min_detection_score, ..DetectOptions::default() },
            detector_side: config.detector_side,
            pixels: Arc::new(Semaphore::new(permits(config.pixel_budget) as usize)),
        }
    }

    /// Tries whether the detector's answers can be read. The sizes are no multiples of anything, as those of photos are.
    pub async fn try_detector(&self) -> Result<(), ServiceError> {
        for (width, height) in [(163, 121), (67, 101)] {
            let image = RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8, y as u8, (x ^ y) as u8]));
            let output = self.engine.detect(image.into()).await?;
            vision::detections(&output, width, height, Scale::NONE, &self.options)
                .map_err(|error| ServiceError::Internal(error.to_string()))?;
        }
        Ok(())
    }

    /// Finds the faces of a photo and aligns the largest of them, `most` at most.
    #[instrument(skip_all, fields(field = photo.field))]
    pub async fn read(&self, photo: PhotoBytes, most: usize) -> Result<Photo, ServiceError> {
        let PhotoBytes { field, bytes } = photo;
        let refused = |source| ServiceError::Image { field, source };
        let header = vision::read_header(&bytes, &self.limits).map_err(refused)?;
        let pixels = u64::from(header.width) * u64::from(header.height);
        let held = acquire(&self.pixels, permits(pixels)).await?;

        let (limits, side) = (self.limits, self.detector_side);
        let decoded = self.engine.on_cpu(Step::Decode, move || {
            let image = vision::decode(&bytes, &limits)?;
            let Shrunk { image: small, scale } = vision::shrink(&image, side);
            let small = small.into_owned();
            Ok((image, small, scale))
        });
        let (image, small, scale) = decoded.instrument(debug_span!("decode")).await?.map_err(refused)?;
        let (small_width, small_height) = small.dimensions();
        let output = self.engine.detect(small.into()).instrument(debug_span!("detect")).await?;

        let options = self.options;
        let aligned = self.engine.on_cpu(Step::Align, move || {
            let _held = held;
            let (width, height) = image.dimensions();
            let found = vision::detections(&output, small_width, small_height, scale, &options)
                .map_err(|error| ServiceError::Internal(error.to_string()))?;
            let faces = found.into_iter().filter_map(|detection| align(&image, detection)).take(most).collect();
            Ok(Photo { width, height, faces, field })
        });
        aligned.instrument(debug_span!("align")).await?
    }
}

fn align(image: &RgbImage, detection: Detection) -> Option<PhotoFace> {
    match vision::align(image, &detection.landmarks) {
        Ok(chip) => {
            let quality = vision::quality(&detection, &chip);
            Some(PhotoFace { detection, quality, chip })
        }
        Err(error) => {
            debug!(%error, "dropped a detection that cannot be aligned");
            None
        }
    }
}

fn permits(pixels: u64) -> u32 {
    u32::try_from(pixels.div_ceil(PIXELS_PER_PERMIT)).unwrap_or(u32::MAX)
}

async fn acquire(semaphore: &Arc<Semaphore>, permits: u32) -> Result<OwnedSemaphorePermit, ServiceError> {
    let permit = Arc::clone(semaphore).acquire_many_owned(permits).await;
    permit.map_err(|_| ServiceError::Internal("a semaphore was closed".to_owned()))
}
