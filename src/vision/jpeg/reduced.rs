//! JPEG decoded smaller than it is: of each block of 8x8 pixels only the lowest frequencies are turned into pixels, 4x4, 2x2 or
//! one, which takes a fraction of the time and of the memory.
//!
//! Only for images whose components come together in one scan, as nearly all of cameras and phones do. The crates that can do
//! this start threads of their own, or do not tell when image data is missing.

use image::RgbImage;
use multiversion::multiversion;

use super::ImageHeader;
use super::codes::{Bits, Codes};
use super::segments::{self, END_OF_IMAGE};
use super::walk::{Image, Scan};

/// What became of it.
pub(super) enum Reduced {
    /// RGB as stored, and by how much it is smaller.
    Image(RgbImage, u32),
    /// Codes are missing.
    Cut,
    /// No such image: the other decoder shall judge.
    Unknown,
}

/// Decodes an image with sides that are smaller by the largest factor up to `most` that leaves no rest.
pub(super) fn decode(bytes: &[u8], header: &ImageHeader, most: u32) -> Reduced {
    let fits = |step: &u32| *step <= most && header.width.is_multiple_of(*step) && header.height.is_multiple_of(*step);
    let decoded = match [8, 4, 2].into_iter().find(fits) {
        Some(8) => decode_blocks::<1>(bytes, header),
        Some(4) => decode_blocks::<2>(bytes, header),
        Some(2) => decode_blocks::<4>(bytes, header),
        _ => None,
    };
    decoded.unwrap_or(Reduced::Unknown)
}

/// Decodes an image with `N` x `N` pixels for each block of 8x8.
fn decode_blocks<const N: usize>(bytes: &[u8], header: &ImageHeader) -> Option<Reduced> {
    let mut image = Image::of_size((header.width, header.height));
    let (scan, start) = image.first_scan(bytes)?;
    let (mut planes, (columns, rows)) = planes::<N>(&image, &scan)?;
    let step = 8 / N as u32;
    let mut result = RgbImage::new(header.width / step, header.height / step);
    let width = result.width() as usize;
    let mut bits = Bits::new(bytes, start);
    let mut left = image.restart;
    let unit_height = planes.iter().map(Plane::height).max()?;
    for lines in result.chunks_mut(3 * width * unit_height).take(rows) {
        for column in 0..columns {
            if image.restart > 0 && left == 0 {
                if !bits.restart() {
                    return Some(Reduced::Cut);
                }
                left = image.restart;
                planes.iter_mut().for_each(|plane| plane.last = 0);
            }
            left = left.wrapping_sub(1);
            planes.iter_mut().try_for_each(|plane| plane.unit(column, &mut bits))?;
            if bits.is_over() {
                return Some(Reduced::Cut);
            }
        }
        for (y, line) in lines.chunks_exact_mut(3 * width).enumerate() {
            match &mut planes[..] {
                [grey] => write_grey(grey.line(y, unit_height, width), line),
                [brightness, blue, red] => write_colours(
                    brightness.line(y, unit_height, width),
                    blue.line(y, unit_height, width),
                    red.line(y, unit_height, width),
                    line,
                ),
                _ => return None,
            }
        }
    }
    let next = segments::segment(bytes, bits.end())?;
    (next.marker == END_OF_IMAGE).then_some(Reduced::Image(result, step))
}

/// The components, and how many units are in a row and in a column.
fn planes<'a, const N: usize>(image: &'a Image, scan: &Scan) -> Option<(Vec<Plane<'a, N>>, (usize, usize))> {
    let all: Vec<usize> = (0..image.components.len()).collect();
    if image.progressive || scan.components != all || !matches!(all.len(), 1 | 3) {
        return None;
    }
    let alone = all.len() == 1;
    let widest = image.components.iter().map(|component| component.across).max()?;
    let units = if alone { (image.components[0].width, image.components[0].height) } else { image.units };
    let plane = |component: &super::walk::Component| {
        let (across, down) = if alone { (1, 1) } else { (component.across, component.down) };
        let wider = if alone { 1 } else { widest / across };
        let stride = units.0 * across * N;
        let quantiser = image.quantisers.get(component.quantiser)?.as_ref()?;
        (alone || widest.is_multiple_of(across)).then_some(Plane {
            across,
            down,
            wider,
            dc: image.dc.get(component.dc)?.as_ref()?,
            ac: image.ac.get(component.ac)?.as_ref()?,
            // An N x N transform has N/8 of the sum of one of 8x8.
            scale: quantiser.map(|value| f32::from(value) * N as f32 / 8.0),
            cosines: cosines(),
            last: 0,
            stride,
            pixels: vec![0.0; stride * down * N],
            wide: vec![0.0; if wider > 1 { stride * wider } else { 0 }],
        })
    };
    Some((image.components.iter().map(plane).collect::<Option<_>>()?, units))
}

/// One component of a row of units.
struct Plane<'a, const N: usize> {
    /// Blocks of a unit.
    across: usize,
    down: usize,
    /// Columns of the image for one of its own.
    wider: usize,
    dc: &'a Codes,
    ac: &'a Codes,
    scale: [f32; 64],
    cosines: [[f32; N]; N],
    /// What the first coefficient of the next block is added to.
    last: i32,
    stride: usize,
    /// 0..=255, or a little beyond.
    pixels: Vec<f32>,
    /// A line with as many columns as the image.
    wide: Vec<f32>,
}

impl<const N: usize> Plane<'_, N> {
    /// Pixel rows of a unit.
    fn height(&self) -> usize {
        self.down * N
    }

    fn unit(&mut self, column: usize, bits: &mut Bits) -> Option<()> {
        for down in 0..self.down {
            for across in 0..self.across {
                let block = self.block(bits)?;
                let start = down * N * self.stride + (column * self.across + across) * N;
                for (row, values) in block.iter().enumerate() {
                    self.pixels[start + row * self.stride..][..N].copy_from_slice(values);
                }
            }
        }
        Some(())
    }

    /// The pixels of the next block: the inverse cosine transform of its lowest frequencies (ITU-T T.81, A.3.3, with N for 8).
    #[inline(always)]
    fn block(&mut self, bits: &mut Bits) -> Option<[[f32; N]; N]> {
        let (size, length) = self.dc.next(bits)?;
        if size > 15 {
            return None;
        }
        self.last = self.last.wrapping_add(bits.value(length, size.into()));
        let mut coefficients = [[0.0; N]; N];
        coefficients[0][0] = self.last as f32 * self.scale[0];
        let (mut at, mut rows) = (1, 1);
        while at < 64 {
            let (symbol, length) = self.ac.next(bits)?;
            let value = bits.value(length, u32::from(symbol & 15));
            if symbol & 15 == 0 && symbol != 0xf0 {
                break;
            }
            at += usize::from(symbol >> 4);
            let (row, column) = *PLACES.get(at)?;
            if (row as usize) < N && (column as usize) < N {
                coefficients[row as usize][column as usize] = value as f32 * self.scale[at];
                rows = rows.max(row as usize + 1);
            }
            at += 1;
        }
        Some(self.transformed(&coefficients, rows))
    }

    #[inline(always)]
    fn transformed(&self, coefficients: &[[f32; N]; N], rows: usize) -> [[f32; N]; N] {
        let mut pixels = [[128.0; N]; N];
        for (row, down) in coefficients.iter().zip(&self.cosines).take(rows) {
            let mut line = [0.0; N];
            for (value, across) in row.iter().zip(&self.cosines) {
                (0..N).for_each(|x| line[x] += value * across[x]);
            }
            for (y, pixels) in pixels.iter_mut().enumerate() {
                (0..N).for_each(|x| pixels[x] += line[x] * down[y]);
            }
        }
        pixels
    }

    /// Line `y` of a row of units of so many lines, made as wide as the image.
    fn line(&mut self, y: usize, unit_height: usize, width: usize) -> &[f32] {
        let own = y * self.height() / unit_height;
        let line = &self.pixels[own * self.stride..][..self.stride];
        if self.wider == 1 {
            return &line[..width];
        }
        for (wide, value) in self.wide.chunks_exact_mut(self.wider).zip(line) {
            wide.fill(*value);
        }
        &self.wide[..width]
    }
}

/// By frequency, then place: of a transform of N places that keeps lengths.
fn cosines<const N: usize>() -> [[f32; N]; N] {
    std::array::from_fn(|frequency| {
        std::array::from_fn(|place| {
            let angle = std::f64::consts::PI * (2 * place + 1) as f64 * frequency as f64 / (2 * N) as f64;
            let norm = if frequency == 0 { 1.0 } else { 2.0 };
            ((norm / N as f64).sqrt() * angle.cos()) as f32
        })
    })
}

/// Rows and columns of coefficients in the order in which they are stored (ITU-T T.81, figure 5).
const PLACES: [(u8, u8); 64] = {
    let mut places = [(0, 0); 64];
    let (mut row, mut column, mut at) = (0_u8, 0_u8, 0);
    while at < 64 {
        places[at] = (row, column);
        at += 1;
        let up = (row + column).is_multiple_of(2);
        match (up, row, column) {
            (true, _, 7) => row += 1,
            (true, 0, _) => column += 1,
            (true, ..) => (row, column) = (row - 1, column + 1),
            (false, 7, _) => column += 1,
            (false, _, 0) => row += 1,
            (false, ..) => (row, column) = (row + 1, column - 1),
        }
    }
    places
};

fn write_grey(brightness: &[f32], line: &mut [u8]) {
    for (pixel, value) in line.as_chunks_mut::<3>().0.iter_mut().zip(brightness) {
        *pixel = [(value + 0.5) as u8; 3];
    }
}

/// RGB from brightness and colours (ITU-T T.871, section 7).
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn write_colours(brightness: &[f32], blue: &[f32], red: &[f32], line: &mut [u8]) {
    let pixels = line.as_chunks_mut::<3>().0.iter_mut();
    for (pixel, ((y, cb), cr)) in pixels.zip(brightness.iter().zip(blue).zip(red)) {
        let (y, cb, cr) = (y + 0.5, cb - 128.0, cr - 128.0);
        *pixel = [(y + 1.402 * cr) as u8, (y - 0.344_136 * cb - 0.714_136 * cr) as u8, (y + 1.772 * cb) as u8];
    }
}
