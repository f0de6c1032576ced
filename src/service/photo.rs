//! From bytes to aligned faces: decode, detect, align, measure quality. The one way in for every photo.

use bytes::Bytes;
use image::RgbImage;
use tracing::{Instrument, debug, debug_span, instrument};

use super::ServiceError;
use super::answers::FoundFace;
use crate::config::RecognitionConfig;
use crate::engine::{DetectorInput, Engine, Held, MemoryBudget, Step};
use crate::types::{Chip, Detection, Quality};
use crate::vision::{self, DecodeError, DecodeLimits, DetectOptions, Scale, Shrunk};

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

/// Reads photos, within a budget of memory for all of them together.
pub struct PhotoReader {
    engine: Engine,
    options: DetectOptions,
    decoder: Decoder,
}

/// What the engine's threads need to decode photos.
#[derive(Clone)]
struct Decoder {
    limits: DecodeLimits,
    detector_side: u32,
    budget: MemoryBudget,
}

/// What became of the bytes of a photo.
enum Outcome {
    Decoded(Decoded),
    /// So many bytes of the budget are not free at the moment.
    Waits(u64),
}

/// A photo's pixels. What they hold of the budget goes with them, below them: it is given back when they are freed, and
/// not when the client who sent them leaves.
struct Decoded {
    image: RgbImage,
    image_held: Held,
    small: RgbImage,
    small_held: Option<Held>,
    scale: Scale,
}

/// The upright image, once the detector has the small one.
struct Upright {
    image: RgbImage,
    _held: Held,
}

impl PhotoReader {
    pub fn new(engine: Engine, config: &RecognitionConfig) -> Self {
        let budget = MemoryBudget::new(config.decode_budget);
        let detector_side = config.detector_side;
        let limits = DecodeLimits {
            max_bytes: config.max_image_bytes,
            max_pixels: config.max_image_pixels,
            // One that needs more would wait for ever.
            max_memory: budget.total().saturating_sub(largest_small(detector_side)),
        };
        let options = DetectOptions { min_score: config.min_detection_score, ..DetectOptions::default() };
        Self { engine, options, decoder: Decoder { limits, detector_side, budget } }
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
        let decoded = self.decode(field, bytes).instrument(debug_span!("decode")).await?;
        let Decoded { image, image_held, small, small_held, scale } = decoded;
        let image = Upright { image, _held: image_held };
        let (small_width, small_height) = small.dimensions();
        let input = DetectorInput::holding(small, small_held);
        let output = self.engine.detect(input).instrument(debug_span!("detect")).await?;

        let options = self.options;
        let aligned = self.engine.on_cpu(Step::Align, move || {
            // As a whole, so that it is dropped as a whole.
            let upright = image;
            let (width, height) = upright.image.dimensions();
            let found = vision::detections(&output, small_width, small_height, scale, &options)
                .map_err(|error| ServiceError::Internal(error.to_string()))?;
            let faces = found.into_iter().filter_map(|found| align(&upright.image, found)).take(most).collect();
            Ok(Photo { width, height, faces, field })
        });
        aligned.instrument(debug_span!("align")).await?
    }

    /// Headers are read on the engine's threads as well: a decoder may look at every byte of the file before it knows
    /// the size. If there is room, decoding goes on at once; else it begins anew when there is.
    async fn decode(&self, field: &'static str, bytes: Bytes) -> Result<Decoded, ServiceError> {
        let mut held = None;
        loop {
            let (decoder, own) = (self.decoder.clone(), bytes.clone());
            let decoded = self.engine.on_cpu(Step::Decode, move || decoder.decode(&own, held));
            match decoded.await?.map_err(|source| ServiceError::Image { field, source })? {
                Outcome::Decoded(decoded) => return Ok(decoded),
                Outcome::Waits(needed) => held = Some(self.decoder.budget.take(needed).await?),
            }
        }
    }
}

impl Decoder {
    /// Decodes and shrinks a photo with the bytes that are held for it, or else with those that are free.
    fn decode(&self, bytes: &[u8], held: Option<Held>) -> Result<Outcome, DecodeError> {
        let opened = vision::open(bytes, &self.limits)?;
        let needed = opened.memory() + largest_small(self.detector_side);
        let Some(mut image_held) = held.or_else(|| self.budget.try_take(needed)) else {
            return Ok(Outcome::Waits(needed));
        };
        let image = opened.decode()?;
        let Shrunk { image: small, scale } = vision::shrink(&image, self.detector_side);
        let small = small.into_owned();
        let (image_bytes, small_bytes) = (image.len() as u64, small.len() as u64);
        let small_held = image_held.split(small_bytes);
        image_held.keep(image_bytes);
        Ok(Outcome::Decoded(Decoded { image, image_held, small, small_held, scale }))
    }
}

/// The most bytes of an image that was shrunk for the detector.
fn largest_small(side: u32) -> u64 {
    u64::from(side) * u64::from(side) * 3
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
