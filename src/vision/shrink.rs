//! Shrinking an image for the detector by averaging areas.

use std::borrow::Cow;

use image::RgbImage;
use multiversion::multiversion;

/// Pixels of the shrunk image per pixel of the original, 0..=1. The two differ a little because sides are whole pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    pub x: f32,
    pub y: f32,
}

impl Scale {
    /// Nothing was shrunk.
    pub const NONE: Self = Self { x: 1.0, y: 1.0 };

    /// From an image of `size` to what was shrunk to `small`.
    pub(super) fn between(size: (u32, u32), small: (u32, u32)) -> Self {
        Self { x: small.0 as f32 / size.0 as f32, y: small.1 as f32 / size.1 as f32 }
    }
}

/// An image for the detector.
#[derive(Debug, Clone)]
pub struct Shrunk<'a> {
    /// Borrowed when the original was small enough already.
    pub image: Cow<'a, RgbImage>,
    pub scale: Scale,
}

/// Shrinks `image` so that its longest side is at most `max_side` (at least 1) pixels; never enlarges.
///
/// Each pixel becomes the mean of the area that it covers in the original, edge pixels counted by the part that is
/// covered, so that faces keep their smoothness at any factor (OpenCV's `INTER_AREA` does the same).
pub fn shrink(image: &RgbImage, max_side: u32) -> Shrunk<'_> {
    let size = image.dimensions();
    let small = shrunk_size(size, max_side);
    Shrunk { image: shrink_to(image, small), scale: Scale::between(size, small) }
}

/// The size of an image of `size` pixels whose longest side was brought to `max_side` pixels at most.
pub(super) fn shrunk_size(size: (u32, u32), max_side: u32) -> (u32, u32) {
    let (longest, max_side) = (size.0.max(size.1), max_side.max(1));
    if longest <= max_side {
        return size;
    }
    let factor = f64::from(max_side) / f64::from(longest);
    let side = |original: u32| ((f64::from(original) * factor).round() as u32).max(1);
    (side(size.0), side(size.1))
}

/// The image in `size` pixels, on neither side more than it has.
pub(super) fn shrink_to(image: &RgbImage, size: (u32, u32)) -> Cow<'_, RgbImage> {
    if image.dimensions() == size {
        return Cow::Borrowed(image);
    }
    Cow::Owned(area_average(image, size.0.min(image.width()), size.1.min(image.height())))
}

/// The source pixels that each target pixel of a side covers: all fully, but the first and last.
struct Spans {
    /// The first one of each.
    first: Vec<usize>,
    /// `most` for each, from the first pixel on; 0 for pixels that are not covered.
    weights: Vec<f32>,
    most: usize,
}

impl Spans {
    /// The spans of `new` target pixels over `old` source pixels, `new <= old`.
    fn new(old: u32, new: u32) -> Self {
        let step = f64::from(old) / f64::from(new);
        let most = step.ceil() as usize + 1;
        let mut spans = Self { first: Vec::with_capacity(new as usize), weights: vec![0.0; most * new as usize], most };
        for (i, weights) in (0..new).zip(spans.weights.chunks_exact_mut(most)) {
            let (start, end) = (f64::from(i) * step, (f64::from(i + 1) * step).min(f64::from(old)));
            let first = start.floor().min(f64::from(old - 1));
            // A sliver that rounding left over is no pixel.
            let last = ((end - 1e-6).ceil() - 1.0).max(first);
            let count = (last - first) as usize + 1;
            weights[..count].fill(1.0);
            if count > 1 {
                weights[count - 1] = (end - last) as f32;
            }
            weights[0] = (end.min(first + 1.0) - start) as f32;
            spans.first.push(first as usize);
        }
        spans
    }
}

/// Sums the rows of a target row first, so that each source pixel is read once and in memory order.
fn area_average(image: &RgbImage, new_width: u32, new_height: u32) -> RgbImage {
    let (width, height) = image.dimensions();
    let row_length = width as usize * 3;
    let (columns, rows) = (Spans::new(width, new_width), Spans::new(height, new_height));
    let cell_area = (f64::from(width) / f64::from(new_width)) * (f64::from(height) / f64::from(new_height));
    let norm = (1.0 / cell_area) as f32;
    let mut result = RgbImage::new(new_width, new_height);
    // Longer than a row, for cells that are read as if all covered as many pixels.
    let mut sums = vec![0f32; row_length + 3 * columns.most + 1];
    let lines = result.chunks_exact_mut(new_width as usize * 3);
    for ((first, weights), line) in rows.first.iter().zip(rows.weights.chunks_exact(rows.most)).zip(lines) {
        sums[..row_length].fill(0.0);
        for (row, weight) in (*first..).zip(weights).filter(|(_, weight)| **weight > 0.0) {
            add_row(&mut sums, &image.as_raw()[row * row_length..][..row_length], weight * norm);
        }
        match columns.most {
            2 => sum_cells::<2>(&sums, &columns, line),
            3 => sum_cells::<3>(&sums, &columns, line),
            4 => sum_cells::<4>(&sums, &columns, line),
            _ => sum_large_cells(&sums, &columns, line),
        }
    }
    result
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn add_row(sums: &mut [f32], row: &[u8], weight: f32) {
    sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f32::from(*value) * weight);
}

/// One target row: the weighted sums of spans of at most `MOST` pixels.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn sum_cells<const MOST: usize>(sums: &[f32], columns: &Spans, line: &mut [u8]) {
    let weights = columns.weights.as_chunks::<MOST>().0;
    for ((first, weights), pixel) in columns.first.iter().zip(weights).zip(line.chunks_exact_mut(3)) {
        put(cell_sum(&sums[first * 3..][..3 * MOST + 1], weights), pixel);
    }
}

/// The same for spans of any length.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn sum_large_cells(sums: &[f32], columns: &Spans, line: &mut [u8]) {
    let weights = columns.weights.chunks_exact(columns.most);
    for ((first, weights), pixel) in columns.first.iter().zip(weights).zip(line.chunks_exact_mut(3)) {
        put(cell_sum(&sums[first * 3..][..3 * weights.len() + 1], weights), pixel);
    }
}

/// The weighted sum of pixels of three numbers each; a fourth is summed along, since processors take four at once, and
/// means nothing.
#[inline(always)]
fn cell_sum(cell: &[f32], weights: &[f32]) -> [f32; 4] {
    let mut sum = [0f32; 4];
    for (pixel, weight) in cell.windows(4).step_by(3).zip(weights) {
        for channel in 0..4 {
            sum[channel] += pixel[channel] * weight;
        }
    }
    sum
}

/// Numbers of 0..=255, to the nearest whole one: 2^23 more have no room for a fraction, so the sum is rounded, and its
/// lowest bits are the number.
#[inline(always)]
fn put(sum: [f32; 4], pixel: &mut [u8]) {
    let bytes = sum.map(|value| (value + 8_388_608.0).to_bits() as u8);
    pixel.copy_from_slice(&bytes[..3]);
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    fn gradient(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| Rgb([(x * 7 % 256) as u8, (y * 5 % 256) as u8, ((x + y) % 256) as u8]))
    }

    #[test]
    fn small_images_are_borrowed() {
        let image = gradient(30, 20);
        let shrunk = shrink(&image, 30);
        assert!(matches!(shrunk.image, Cow::Borrowed(_)));
        assert_eq!(shrunk.scale, Scale::NONE);
    }

    #[test]
    fn the_longest_side_decides() {
        for (width, height, expected) in
            [(100, 50, (64, 32)), (50, 100, (32, 64)), (65, 65, (64, 64)), (1000, 1, (64, 1)), (3, 900, (1, 64))]
        {
            let image = gradient(width, height);
            let shrunk = shrink(&image, 64);
            assert_eq!(shrunk.image.dimensions(), expected);
            assert_eq!(shrunk.scale.x, expected.0 as f32 / width as f32);
            assert_eq!(shrunk.scale.y, expected.1 as f32 / height as f32);
        }
        assert_eq!(shrink(&gradient(9, 9), 0).image.dimensions(), (1, 1));
    }

    #[test]
    fn whole_factors_average_blocks() {
        let image = gradient(12, 9);
        let shrunk = shrink(&image, 4);
        for (x, y, pixel) in shrunk.image.enumerate_pixels() {
            for channel in 0..3 {
                let sum: u32 = (0..9).map(|i| u32::from(image.get_pixel(3 * x + i % 3, 3 * y + i / 3)[channel])).sum();
                assert_eq!(u32::from(pixel[channel]), (2 * sum + 9) / 18);
            }
        }
    }

    #[test]
    fn edge_pixels_count_by_the_part_covered() {
        // Three pixels to two: each target pixel covers one and a half.
        let image = RgbImage::from_raw(3, 1, vec![0, 0, 0, 90, 90, 90, 240, 240, 240]).unwrap();
        let shrunk = shrink(&image, 2);
        assert_eq!(shrunk.image.as_raw(), &[30, 30, 30, 190, 190, 190]);
    }

    #[test]
    fn flat_images_stay_flat() {
        for (width, height, side) in [(819, 546, 640), (641, 33, 640), (1999, 1777, 640), (7, 5, 3)] {
            let image = RgbImage::from_pixel(width, height, Rgb([255, 1, 128]));
            assert!(shrink(&image, side).image.pixels().all(|p| *p == Rgb([255, 1, 128])), "{width}x{height}");
        }
    }
}
