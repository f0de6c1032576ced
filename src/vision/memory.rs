//! What decoding takes: bytes of memory by format, from what the file says before a pixel is decoded.

use image::ColorType;

/// For what does not grow with the image: the decoders' tables and windows.
const FIXED: u64 = 512 << 10;

/// Bytes of a pixel of the result, 8-bit RGB.
const RGB: u64 = 3;

/// The buffers that grow with the image, by format; the result, 8-bit RGB, comes to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Buffers {
    /// One row of blocks of each plane, before and after it is brought to full size. Where the planes do not come
    /// together in one scan (`kept`), 16-bit coefficients of every pixel of every plane wait for the last one. They
    /// count as if no plane were subsampled: the decoder does not tell.
    Jpeg { planes: u64, kept: bool },
    /// Some rows of `row` bytes, unpacked ones and the last for the filter of the next, and metadata of `exif` bytes, as
    /// read and as kept.
    Png { row: u64, exif: u64 },
    /// A row of indices.
    Gif,
    /// A strip or tile of `part` bytes, a row of pixels gathered from planes (`row` bytes), and what a JPEG inside
    /// takes (`packed`); before that, the longest list of values (`lists`).
    Tiff { part: u64, row: u64, packed: u64, lists: u64 },
    /// The pixels, and `tables` for the prefix codes of what is lossless.
    WebP { kind: WebP, tables: u64 },
    /// What decoding takes in all, by the pictures inside.
    #[cfg(feature = "heic")]
    Heic { most: u64 },
    /// BMP and PNM: the samples at their depth, and these as 8-bit RGB if they are anything else.
    Samples(ColorType),
}

/// What is inside a WebP, with the bytes that it takes for each pixel, the result included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WebP {
    /// RGB 3, brightness 1, colours at half size 1/2, a word or two for each block.
    Lossy,
    /// RGBA 4, brightness and colours 3/2, opacity 1, unpacked from 4.
    LossyWithAlpha,
    /// RGBA 4, RGB 3 if it is opaque, maps of transforms and codes of up to a quarter each.
    Lossless,
    /// The first frame as RGBA 4, the canvas 4, the result as RGBA 4.
    Animated,
}

impl WebP {
    fn bytes_per_pixel(self) -> u64 {
        match self {
            Self::Lossy => 5,
            Self::LossyWithAlpha => 11,
            Self::Lossless => 8,
            Self::Animated => 12,
        }
    }
}

impl Buffers {
    /// The most bytes held at once by decoding `width` x `height` pixels out of a file of `file` bytes and turning the
    /// result upright, which takes a copy where width and height are exchanged (`turned`).
    pub fn peak(self, width: u32, height: u32, turned: bool, file: usize) -> u64 {
        let upright = area(width, height, 1) * RGB * if turned { 2 } else { 1 };
        self.decoding(width, height).max(upright) + self.file_copies() * file as u64 + FIXED
    }

    fn decoding(self, width: u32, height: u32) -> u64 {
        let pixels = area(width, height, 1);
        match self {
            Self::Jpeg { planes, kept } => {
                let blocks = area(width, 1, 32) / 32 * 256 * planes;
                let coefficients = if kept { area(width, height, 32) * 2 * planes } else { 0 };
                pixels * RGB + blocks + coefficients
            }
            Self::Png { row, exif } => pixels * RGB + 16 * row + 3 * exif,
            Self::Gif => pixels * RGB + u64::from(u16::MAX),
            Self::Tiff { part, row, packed, lists } => pixels * RGB + part + row + packed + lists,
            Self::WebP { kind, tables } => area(width, height, 16) * kind.bytes_per_pixel() + tables,
            #[cfg(feature = "heic")]
            Self::Heic { most } => most,
            Self::Samples(colour) => {
                let converted = match colour {
                    ColorType::Rgb8 | ColorType::Rgba8 => 0,
                    other if other.has_alpha() => 4,
                    _ => RGB,
                };
                pixels * (u64::from(colour.bytes_per_pixel()) + converted)
            }
        }
    }

    /// How often the file's bytes may be in memory besides the file: metadata, compressed data.
    fn file_copies(self) -> u64 {
        match self {
            Self::Jpeg { .. } | Self::Gif | Self::WebP { .. } => 2,
            Self::Tiff { .. } => 3,
            // Its items, the parts of these, and these as they are read.
            #[cfg(feature = "heic")]
            Self::Heic { .. } => 5,
            Self::Png { .. } | Self::Samples(_) => 0,
        }
    }
}

/// Width times height, both rounded up to whole blocks.
fn area(width: u32, height: u32, block: u32) -> u64 {
    let whole = |side: u32| u64::from(side.div_ceil(block)) * u64::from(block);
    whole(width) * whole(height)
}
