//! GIF, converted row by row. The first frame is drawn on the canvas; what lies outside the canvas is not kept.

use std::io::Cursor;

use gif::{ColorOutput, DecodeOptions, DecodingError};
use image::RgbImage;
use image::metadata::Orientation;

use super::decode::{DecodeError, DecodeLimits, Format, ImageHeader, Opened};
use super::memory::Buffers;

const FORMAT: Format = Format::Gif;

const WHITE: [u8; 3] = [255; 3];

/// A frame may be larger than its canvas: viewers show what lies on it. Its rows are unpacked all the same, so both
/// respect the limit of pixels.
pub(super) fn open<'a>(bytes: &'a [u8], limits: &DecodeLimits) -> Result<Opened<'a>, DecodeError> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    let mut decoder = options.read_info(Cursor::new(bytes)).map_err(from_gif)?;
    let (width, height) = (u32::from(decoder.width()), u32::from(decoder.height()));
    let header = ImageHeader::checked(FORMAT, width, height, limits)?;
    let frame = decoder.next_frame_info().map_err(from_gif)?.ok_or_else(|| corrupt("it has no frame"))?;
    let place = Place::of(frame);
    ImageHeader::checked(FORMAT, place.width.into(), place.height.into(), limits)?;
    let transparent = frame.transparent;
    Opened::new(header, Orientation::NoTransforms, Buffers::Gif, bytes, limits, move || {
        let colours = colours(decoder.palette().map_err(from_gif)?, transparent);
        let mut image = RgbImage::from_pixel(width, height, image::Rgb(WHITE));
        let mut row = vec![0; place.width.into()];
        for y in place.rows() {
            if !decoder.fill_buffer(&mut row).map_err(from_gif)? {
                return Err(corrupt("it ends too early"));
            }
            place.draw(&row, y, &colours, &mut image);
        }
        Ok(image)
    })
}

/// Where a frame lies on the canvas.
#[derive(Clone, Copy)]
struct Place {
    left: u16,
    top: u16,
    width: u16,
    height: u16,
    interlaced: bool,
}

impl Place {
    fn of(frame: &gif::Frame<'_>) -> Self {
        let gif::Frame { left, top, width, height, interlaced, .. } = *frame;
        Self { left, top, width, height, interlaced }
    }

    /// The frame's rows in the order in which they are stored: if interlaced, every eighth, those halfway between,
    /// and so on.
    fn rows(self) -> impl Iterator<Item = u16> {
        let passes: &[(u16, usize)] = if self.interlaced { &[(0, 8), (4, 8), (2, 4), (1, 2)] } else { &[(0, 1)] };
        passes.iter().flat_map(move |&(first, step)| (first..self.height).step_by(step))
    }

    /// Row `y` of the frame, as far as it lies on the canvas.
    fn draw(self, row: &[u8], y: u16, colours: &[[u8; 3]; 256], canvas: &mut RgbImage) {
        let stride = canvas.width() as usize * 3;
        let line = canvas.chunks_exact_mut(stride).nth(usize::from(self.top) + usize::from(y));
        let pixels = line.into_iter().flat_map(|line| line.as_chunks_mut::<3>().0).skip(self.left.into());
        pixels.zip(row).for_each(|(pixel, index)| *pixel = colours[usize::from(*index)]);
    }
}

/// The colour of each index; those that the palette does not have are transparent, and so white.
fn colours(palette: &[u8], transparent: Option<u8>) -> [[u8; 3]; 256] {
    let mut colours = [WHITE; 256];
    for (colour, known) in colours.iter_mut().zip(palette.as_chunks::<3>().0) {
        *colour = *known;
    }
    if let Some(index) = transparent {
        colours[usize::from(index)] = WHITE;
    }
    colours
}

fn from_gif(error: DecodingError) -> DecodeError {
    match error {
        DecodingError::UnexpectedEof => corrupt("it ends too early"),
        error => corrupt(&error.to_string()),
    }
}

fn corrupt(reason: &str) -> DecodeError {
    DecodeError::Corrupt { format: FORMAT, reason: reason.to_owned() }
}
