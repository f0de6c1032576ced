//! Pixels: photo bytes become an upright image, the detector's numbers become faces, a face becomes a chip.
//!
//! One function per step, in the order of a request: [`decode`] -> [`Finder`] (what to look at, [`draw`]n for
//! the detector network until the faces are found) -> [`align`] -> (embedder network), with [`quality`] beside it and [`encode_chip`] for storage. Everything here
//! is pure computation on memory: no network library, no database, no async.

mod align;
mod chip;
mod decode;
mod detect;
mod exposure;
mod finder;
mod gif;
#[cfg(feature = "heic")]
mod heic;
mod icc;
mod ifd;
mod jpeg;
mod look;
mod memory;
mod orientation;
mod png;
mod quality;
mod raster;
mod raw;
mod samples;
mod shrink;
mod sniff;
mod tiff;
mod vp8l;
mod webp;

#[cfg(test)]
mod photo_tests;
#[cfg(test)]
mod rows_tests;

pub use align::{AlignError, Similarity, align, chip_step, share_outside};
pub use chip::{ChipError, cropped_face, decode_chip, encode_chip, whole_face};
pub use decode::{DecodeError, DecodeLimits, Format, ImageHeader, Opened, decode, is_image, open};
pub use detect::{DetectError, DetectOptions, detections};
pub use exposure::brightened;
pub use finder::{Detail, Finder, Found, MinFace, Searched, Wanted};
pub use look::{Look, Turn, draw};
pub use quality::{Weakness, chip_quality, quality, weaknesses};
pub use raster::Raster;
pub use shrink::{Scale, Shrunk, shrink};
