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
    let work = work(&parsed, limits)?;
    let profile = parsed.metadata.icc_profile.as_ref().map_or(0, Vec::len);
    drop(parsed);
    let buffers = Buffers::Heic { work };
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

/// What decoding takes at most, besides copies of the file.
fn work(parsed: &ParsedHeif, limits: &DecodeLimits) -> Result<u64, DecodeError> {
    let sizes: Vec<Size> = parsed.images.iter().map(|image| Size::of(image, limits)).collect::<Result<_, _>>()?;
    let reference = parsed.reference_image.as_ref().map(|image| Size::of(image, limits)).transpose()?;
    let planes = sizes.iter().map(Size::planes).sum::<u64>();
    let largest = sizes.iter().map(Size::picture).max().unwrap_or(0);
    let finished = match parsed.grid {
        // All tiles stay until the image was put together and turned.
        Some(grid) => {
            let pixels = u64::from(grid.output_width) * u64::from(grid.output_height);
            let at_once = rayon::current_num_threads().min(sizes.len()) as u64;
            let per_pixel = sizes.iter().map(|size| size.bytes_per_pixel).max().unwrap_or(0);
            planes + (largest * at_once).max(2 * pixels * per_pixel)
        }
        None => largest.max(2 * planes) + reference.map_or(0, |size| size.picture()),
    };
    let alpha = parsed.alpha.as_ref().map_or(Ok(0), |alpha| work(&alpha.image, limits))?;
    Ok(finished + alpha)
}

/// Of a picture as it is coded.
struct Size {
    pixels: u64,
    /// Of the samples, in 32 bits.
    bytes_per_pixel: u64,
}

impl Size {
    fn of(image: &ResolvedImage, limits: &DecodeLimits) -> Result<Self, DecodeError> {
        let sps: Sps = image
            .hevc_config
            .nalus_of_type(NAL_SPS)
            .filter_map(|unit| parse_nal_header(unit).ok())
            .find(|(header, _)| header.nal_unit_type == NAL_SPS && header.nuh_layer_id == 0)
            .ok_or_else(|| corrupt("it does not say how it is coded"))
            .and_then(|(_, payload)| parse_sps(&strip_emulation_prevention(payload)).map_err(from_heic))?;
        let (width, height) = (sps.pic_width_in_luma_samples, sps.pic_height_in_luma_samples);
        ImageHeader::checked(FORMAT, width, height, limits)?;
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
