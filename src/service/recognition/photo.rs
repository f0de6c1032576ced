//! From bytes to aligned faces: decode, detect, align, measure quality. The one way in for every photo.

use std::sync::Arc;

use bytes::Bytes;
use image::RgbImage;
use tracing::{Instrument, debug, debug_span, instrument};

use crate::config::RecognitionConfig;
use crate::engine::{DetectorInput, Engine, Held, MemoryBudget, Step};
use crate::limits::Bill;
use crate::service::ServiceError;
use crate::service::answers::FoundFace;
use crate::types::{Chip, DetectorOutput, Quality};
use crate::vision::{
    self, ChipError, DecodeError, DecodeLimits, DetectOptions, Finder, Found, Look, Raster, Scale, Searched, Wanted,
    Weakness,
};

/// A photo that was looked at.
pub struct Photo {
    /// Size of the upright image.
    pub width: u32,
    pub height: u32,
    /// Largest first.
    pub faces: Vec<PhotoFace>,
    pub searched: Searched,
    field: &'static str,
}

/// A face of a photo, ready to be embedded.
pub struct PhotoFace {
    pub found: Found,
    pub quality: Quality,
    pub chip: Chip,
    /// What may keep it from being recognised.
    pub weaknesses: Vec<Weakness>,
}

impl PhotoFace {
    pub fn found(&self) -> FoundFace {
        let detection = &self.found.detection;
        FoundFace::new(detection.bounding_box, detection.landmarks, detection.score, self.quality)
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
enum DecodeStep {
    Decoded(Decoded, Drawn),
    /// So many bytes of the budget are not free at the moment.
    Waits(u64),
}

/// A photo in which faces are looked for. What it holds of the budget goes with it, below what it is for: it is given back when
/// that is freed, and not when the client who sent it leaves.
struct Decoded {
    photo: Raster,
    /// To decode it again, with more pixels; empty if it has them all.
    file: Bytes,
    limits: DecodeLimits,
    finder: Box<Finder>,
    _photo_held: Held,
    /// For the images of looks, wherever they are.
    looks_held: Option<Arc<Held>>,
}

/// Looks at a photo that the detector is to have.
type Drawn = Vec<(Look, RgbImage)>;

/// What comes after some looks.
enum Next {
    Look(Decoded, Drawn),
    Done(Photo),
}

impl PhotoReader {
    pub fn new(engine: Engine, config: &RecognitionConfig) -> Self {
        let budget = MemoryBudget::new(config.decode_budget);
        let detector_side = config.detector_side;
        let limits = DecodeLimits {
            max_bytes: config.max_image_bytes,
            max_pixels: config.max_image_pixels,
            // One that needs more would wait for ever.
            max_memory: budget.total().saturating_sub(Finder::most_memory(detector_side)),
        };
        let options = DetectOptions { min_score: config.min_detection_score, ..DetectOptions::default() };
        Self { engine, options, decoder: Decoder { limits, detector_side, budget } }
    }

    /// Tries whether the detector's answers can be read. The sizes are no multiples of anything, as those of photos are.
    pub async fn try_detector(&self) -> Result<(), ServiceError> {
        for (width, height) in [(163, 121), (67, 101)] {
            let image = RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8, y as u8, (x ^ y) as u8]));
            let output = self.engine.detect(vec![image.into()]).await?.pop().unwrap_or_default();
            vision::detections(&output, width, height, Scale::NONE, &self.options)
                .map_err(|error| ServiceError::Internal(error.to_string()))?;
        }
        Ok(())
    }

    /// Finds the faces of a photo that are wanted, and aligns the largest of them, `most` at most; of a chip takes the one that it
    /// is. `field` names the photo in errors, and its pixels go on the `bill`.
    #[instrument(skip(self, bytes, wanted, most, bill))]
    pub async fn read(
        &self,
        field: &'static str,
        bytes: Bytes,
        wanted: Wanted,
        most: usize,
        bill: &Bill,
    ) -> Result<Photo, ServiceError> {
        if wanted.aligned {
            let (limits, bill) = (self.decoder.limits, bill.clone());
            let reading = move || read_chip(&bytes, &limits, field, &bill);
            return self.engine.on_cpu(Step::Decode, reading).instrument(debug_span!("decode")).await?;
        }
        let (mut decoded, mut drawn) =
            self.decode(field, bytes, wanted, bill).instrument(debug_span!("decode")).await?;
        loop {
            let (looks, outputs) = self.detect(drawn, &decoded.looks_held).instrument(debug_span!("detect")).await?;
            let step = move || decoded.go_on(&looks, &outputs, most, field);
            match self.engine.on_cpu(Step::Align, step).instrument(debug_span!("align")).await?? {
                Next::Look(again, more) => (decoded, drawn) = (again, more),
                Next::Done(photo) => return Ok(photo),
            }
        }
    }

    /// Runs the detector on all looks at once.
    async fn detect(
        &self,
        drawn: Drawn,
        held: &Option<Arc<Held>>,
    ) -> Result<(Vec<Look>, Vec<DetectorOutput>), ServiceError> {
        let (looks, images): (Vec<Look>, Vec<RgbImage>) = drawn.into_iter().unzip();
        let images = images.into_iter().map(|image| DetectorInput::holding(image, held.clone())).collect();
        Ok((looks, self.engine.detect(images).await?))
    }

    /// Headers are read on the engine's threads as well: a decoder may look at every byte of the file before it knows
    /// the size. If there is room, decoding goes on at once; else it begins anew when there is.
    async fn decode(
        &self,
        field: &'static str,
        bytes: Bytes,
        wanted: Wanted,
        bill: &Bill,
    ) -> Result<(Decoded, Drawn), ServiceError> {
        let mut held = None;
        loop {
            let (decoder, own, options) = (self.decoder.clone(), bytes.clone(), self.options);
            // It is paid before it waits for room.
            let bill = if held.is_none() { bill.clone() } else { Bill::none() };
            let decoding = move || {
                let unreadable = |source| ServiceError::Image { field, source };
                let opened = vision::open(&own, &decoder.limits).map_err(unreadable)?;
                bill.pay(opened.upright_size())?;
                decoder.decode(&own, opened, held, options, wanted).map_err(unreadable)
            };
            match self.engine.on_cpu(Step::Decode, decoding).await?? {
                DecodeStep::Decoded(decoded, drawn) => return Ok((decoded, drawn)),
                DecodeStep::Waits(needed) => held = Some(self.decoder.budget.take(needed).await?),
            }
        }
    }
}

impl Decoder {
    /// Decodes a photo as far as the first looks at it need, and draws them, with the bytes that are held for it or else with
    /// those that are free.
    fn decode(
        &self,
        file: &Bytes,
        opened: vision::Opened<'_>,
        held: Option<Held>,
        options: DetectOptions,
        wanted: Wanted,
    ) -> Result<DecodeStep, DecodeError> {
        let mut finder = Box::new(Finder::new(opened.upright_size(), self.detector_side, options, wanted));
        let for_looks = finder.memory();
        let for_photo = opened.memory();
        let Some(mut photo_held) = held.or_else(|| self.budget.try_take(for_photo + for_looks)) else {
            return Ok(DecodeStep::Waits(for_photo + for_looks));
        };
        let looks = finder.next_looks();
        let photo = opened.decode_reduced(finest(&looks))?;
        let looks_held = photo_held.split(for_looks).map(Arc::new);
        let drawn = vision::draw(&photo, looks);
        // One that was decoded smaller may have to be decoded again.
        let (needed, file) = if photo.is_whole() { (photo.bytes(), Bytes::new()) } else { (for_photo, file.clone()) };
        photo_held.keep(needed);
        let decoded = Decoded { photo, file, limits: self.limits, finder, _photo_held: photo_held, looks_held };
        Ok(DecodeStep::Decoded(decoded, drawn))
    }
}

/// From how coarse a photo all of the looks can be drawn: so many of its pixels on each side may be one.
fn finest(looks: &[Look]) -> f32 {
    looks.iter().map(Look::coarsest).fold(f32::INFINITY, f32::min)
}

impl Decoded {
    /// Takes what the detector says, and looks again or is done.
    fn go_on(
        mut self,
        looks: &[Look],
        outputs: &[DetectorOutput],
        most: usize,
        field: &'static str,
    ) -> Result<Next, ServiceError> {
        for (look, output) in looks.iter().zip(outputs) {
            self.finder.note(look, output).map_err(|error| ServiceError::Internal(error.to_string()))?;
        }
        let looks = self.finder.next_looks();
        if looks.is_empty() {
            return self.align(most, field).map(Next::Done);
        }
        self.need(finest(&looks), field)?;
        let drawn = vision::draw(&self.photo, looks);
        Ok(Next::Look(self, drawn))
    }

    /// Decodes the photo again if one pixel for each square of `step` pixels is more than there is.
    fn need(&mut self, step: f32, field: &'static str) -> Result<(), ServiceError> {
        if self.photo.is_fine_enough(step) {
            return Ok(());
        }
        // The smaller one makes room first.
        self.photo = RgbImage::default().into();
        let again = vision::open(&self.file, &self.limits).and_then(|opened| opened.decode_again(step));
        self.photo = again.map_err(|source| ServiceError::Image { field, source })?;
        Ok(())
    }

    /// The chips of the largest faces, `most` at most.
    fn align(mut self, most: usize, field: &'static str) -> Result<Photo, ServiceError> {
        let (width, height) = self.photo.size();
        let (mut found, searched) = self.finder.finish();
        if self.finder.wanted().crop {
            found = vec![vision::cropped_face(found.into_iter().next(), (width, height))];
        }
        let steps = found.iter().take(most).map(|face| vision::chip_step(&face.detection.landmarks));
        self.need(steps.fold(f32::INFINITY, f32::min), field)?;
        let faces = found.into_iter().filter_map(|found| align(&self.photo, found)).take(most).collect();
        Ok(Photo { width, height, faces, searched, field })
    }
}

/// The face of an image that is said to be a chip. Others of a chip's shape were aligned otherwise, so no other size is taken.
fn read_chip(file: &Bytes, limits: &DecodeLimits, field: &'static str, bill: &Bill) -> Result<Photo, ServiceError> {
    let unreadable = |source| ServiceError::Image { field, source };
    let (width, height) = vision::open(file, limits).map_err(unreadable)?.upright_size();
    if (width, height) != (Chip::SIDE, Chip::SIDE) {
        let side = Chip::SIDE;
        let reason = format!("an aligned face has {side}x{side} pixels, this image has {width}x{height}");
        return Err(ServiceError::InvalidField { field, reason });
    }
    bill.pay((width, height))?;
    let chip = vision::decode_chip(file).map_err(|error| match error {
        ChipError::Decode(source) => unreadable(source),
        other => ServiceError::Internal(other.to_string()),
    })?;
    let quality = vision::chip_quality(&chip);
    let weaknesses = vision::weaknesses(&quality, &chip, false, 0.0);
    let face = PhotoFace { found: vision::whole_face(), quality, chip: vision::brightened(chip), weaknesses };
    let searched = Searched { min_face_pixels: width, looks: 0 };
    Ok(Photo { width, height, faces: vec![face], searched, field })
}

fn align(photo: &Raster, found: Found) -> Option<PhotoFace> {
    match photo.chip(&found.detection.landmarks) {
        Ok(chip) => {
            let quality = vision::quality(&found.detection, &chip);
            let outside = vision::share_outside(photo.size(), &found.detection.landmarks);
            let weaknesses = vision::weaknesses(&quality, &chip, found.doubtful, outside);
            Some(PhotoFace { found, quality, chip: vision::brightened(chip), weaknesses })
        }
        Err(error) => {
            debug!(%error, "dropped a detection that cannot be aligned");
            None
        }
    }
}
