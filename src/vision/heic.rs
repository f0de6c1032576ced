//! HEIC, as phones take it: tiles of an HEVC picture in a container that says which way is up.
//!
//! The decoder turns and crops as the container says; EXIF repeats the orientation and is not listened to, as in viewers.

use heic_decoder::bitreader::strip_emulation_prevention;
use heic_decoder::hevc::nal::{NAL_SPS, parse_nal_header};
use heic_decoder::hevc::params::{Sps, parse_sps};
use heic_decoder::isobmff::{self, ParsedHeif, ResolvedImage};
use heic_decoder::{DecodedImage, HeifError};
use image::metadata::Orientation;
use image::{DynamicImage, RgbImage, RgbaImage};

use super::decode::{DecodeError, DecodeLimits, Format, ImageHeader, Opened, on_white};
use super::icc;
use super::memory::Buffers;

mod boxes;

const FORMAT: Format = Format::Heic;

/// Pixels that small images may have in blocks that are cropped.
const BLOCKS: u64 = 1 << 16;

pub(super) fn open<'a>(bytes: &'a [u8], limits: &DecodeLimits) -> Result<Opened<'a>, DecodeError> {
    let copied = boxes::copied(bytes).ok_or_else(|| corrupt("its list of items is missing or damaged"))?;
    // A photo names each part of the file once, and its preview once more.
    if copied > 3 * bytes.len() as u64 + (64 << 10) {
        return Err(corrupt("its items are more than the file holds"));
    }
    let info = heic_decoder::probe(bytes).map_err(from_heic)?;
    let side = |side: usize| u32::try_from(side).map_err(|_| corrupt("it is too large"));
    let header = ImageHeader::checked(FORMAT, side(info.width)?, side(info.height)?, limits)?;
    let parsed = isobmff::parse(bytes).map_err(from_heic)?;
    let most = most(&parsed, u64::from(header.width) * u64::from(header.height), limits)?;
    let profile = parsed.metadata.icc_profile.as_ref().map_or(0, Vec::len);
    drop(parsed);
    let buffers = Buffers::Heic { most };
    let opened = Opened::new(header, Orientation::NoTransforms, buffers, bytes, limits, move || decode(bytes))?;
    // It is copied out of the file once more.
    opened.with_profile(profile, limits, move || {
        let profile = heic_decoder::read_metadata(bytes).ok()?.icc_profile?;
        icc::read(profile.as_slice())
    })
}

fn decode(bytes: &[u8]) -> Result<RgbImage, DecodeError> {
    let mut image = heic_decoder::decode(bytes).map_err(from_heic)?;
    let is_blank = image.alpha.as_ref().is_none_or(|alpha| alpha.samples.iter().all(|sample| *sample == 0));
    if is_blank {
        image.alpha = None;
        return rgb(&image);
    }
    let converted = image.to_rgba8().map_err(from_heic)?;
    drop(image);
    let (width, height) = (converted.width as u32, converted.height as u32);
    let rgba = RgbaImage::from_raw(width, height, converted.data).ok_or_else(|| corrupt("it has too few pixels"))?;
    Ok(on_white(DynamicImage::ImageRgba8(rgba)))
}

fn rgb(image: &DecodedImage) -> Result<RgbImage, DecodeError> {
    let converted = image.to_rgb8().map_err(from_heic)?;
    let (width, height) = (converted.width as u32, converted.height as u32);
    RgbImage::from_raw(width, height, converted.data).ok_or_else(|| corrupt("it has too few pixels"))
}

/// Bytes that an image inside the file takes.
struct Work {
    /// While it is decoded.
    most: u64,
    /// By its samples, in the end.
    kept: u64,
}

/// What decoding takes at most, the result included, but not copies of the file.
fn most(parsed: &ParsedHeif, pixels: u64, limits: &DecodeLimits) -> Result<u64, DecodeError> {
    let colours = Work::of(parsed, limits)?;
    let Some(alpha) = &parsed.alpha else { return Ok(colours.most.max(colours.kept + 3 * pixels)) };
    let alpha = Work::of(&alpha.image, limits)?;
    Ok(colours.most.max(colours.kept + alpha.most).max(colours.kept + alpha.kept + 4 * pixels))
}

impl Work {
    fn of(parsed: &ParsedHeif, limits: &DecodeLimits) -> Result<Self, DecodeError> {
        let sizes: Vec<Size> = parsed.images.iter().map(Size::of).collect::<Result<_, _>>()?;
        let reference = parsed.reference_image.as_ref().map(Size::of).transpose()?;
        // Pictures are made up to whole blocks; the rest is work for nothing.
        let coded = sizes.iter().map(|size| size.pixels).sum::<u64>();
        if coded > 2 * limits.max_pixels + BLOCKS {
            return Err(corrupt("its parts are larger than the image"));
        }
        let planes = sizes.iter().map(Size::planes).sum::<u64>();
        let largest = sizes.iter().map(Size::picture).max().unwrap_or(0);
        // To turn or crop it takes a copy.
        let copies = if parsed.transforms.is_empty() { 1 } else { 2 };
        let Some(grid) = parsed.grid else {
            // Coded pictures are made up to whole blocks, and cropped.
            let most = largest.max(2 * planes) + reference.map_or(0, |size| size.picture());
            return Ok(Self { most, kept: planes });
        };
        let at_once = rayon::current_num_threads().min(sizes.len()) as u64;
        let bytes_per_pixel = sizes.iter().map(|size| size.bytes_per_pixel).max().unwrap_or(0);
        let kept = u64::from(grid.output_width) * u64::from(grid.output_height) * bytes_per_pixel;
        // All tiles stay until the image was put together and turned; what they were decoded in, threads do not give back.
        Ok(Self { most: planes + largest * at_once + copies * kept, kept })
    }
}

/// Of a picture as it is coded.
struct Size {
    pixels: u64,
    /// Of the samples, in 32 bits.
    bytes_per_pixel: u64,
}

impl Size {
    fn of(image: &ResolvedImage) -> Result<Self, DecodeError> {
        let sps: Sps = image
            .hevc_config
            .nalus_of_type(NAL_SPS)
            .filter_map(|unit| parse_nal_header(unit).ok())
            .find(|(header, _)| header.nal_unit_type == NAL_SPS && header.nuh_layer_id == 0)
            .ok_or_else(|| corrupt("it does not say how it is coded"))
            .and_then(|(_, payload)| parse_sps(&strip_emulation_prevention(payload)).map_err(from_heic))?;
        let (width, height) = (sps.pic_width_in_luma_samples, sps.pic_height_in_luma_samples);
        let bytes_per_pixel = match sps.chroma_format_idc {
            0 => 4,
            1 => 6,
            2 => 8,
            _ => 12,
        };
        Ok(Self { pixels: u64::from(width) * u64::from(height), bytes_per_pixel })
    }

    /// The samples.
    fn planes(&self) -> u64 {
        self.pixels * self.bytes_per_pixel
    }

    /// A picture while it is decoded: its samples, a byte for each, what is known of blocks of 4x4, and a copy of a plane.
    fn picture(&self) -> u64 {
        self.planes() * 5 / 4 + self.pixels * 7
    }
}

fn from_heic(error: HeifError) -> DecodeError {
    match error {
        HeifError::Unsupported(reason) => {
            DecodeError::Unsupported { reason: format!("HEIC: {reason}; convert it to JPEG") }
        }
        error => corrupt(&error.to_string()),
    }
}

fn corrupt(reason: &str) -> DecodeError {
    DecodeError::Corrupt { format: FORMAT, reason: reason.to_owned() }
}
