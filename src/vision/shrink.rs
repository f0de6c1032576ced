//! Shrinking an image for the detector by averaging areas.

use std::borrow::Cow;

use image::RgbImage;

/// Pixels of the shrunk image per pixel of the original, 0..=1. The two differ a little because sides are whole pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    pub x: f32,
    pub y: f32,
}

impl Scale {
    /// Nothing was shrunk.
    pub const NONE: Self = Self { x: 1.0, y: 1.0 };
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
    let (width, height) = image.dimensions();
    let (longest, max_side) = (width.max(height), max_side.max(1));
    if longest <= max_side {
        return Shrunk { image: Cow::Borrowed(image), scale: Scale::NONE };
    }
    let factor = f64::from(max_side) / f64::from(longest);
    let side = |original: u32| ((f64::from(original) * factor).round() as u32).max(1);
    let (new_width, new_height) = (side(width), side(height));
    let scale = Scale { x: new_width as f32 / width as f32, y: new_height as f32 / height as f32 };
    Shrunk { image: Cow::Owned(area_average(image, new_width, new_height)), scale }
}

/// The source pixels `first..first + count` that one target pixel covers: all fully, but the first and last.
struct Span {
    first: usize,
    count: usize,
    first_weight: f32,
    last_weight: f32,
}

impl Span {
    /// The weight of the `i`-th pixel of the span.
    fn weight(&self, i: usize) -> f32 {
        if i == 0 {
            self.first_weight
        } else if i + 1 == self.count {
            self.last_weight
        } else {
            1.0
        }
    }
}

/// The spans of `new` target pixels over `old` source pixels, `new <= old`.
fn spans(old: u32, new: u32) -> Vec<Span> {
    let step = f64::from(old) / f64::from(new);
    (0..new)
        .map(|i| {
            let (start, end) = (f64::from(i) * step, (f64::from(i + 1) * step).min(f64::from(old)));
            let first = start.floor().min(f64::from(old - 1));
            // A sliver that rounding left over is no pixel.
            let last = ((end - 1e-6).ceil() - 1.0).max(first);
            let first_weight = end.min(first + 1.0) - start;
            let last_weight = if last > first { end - last } else { first_weight };
            Span {
                first: first as usize,
                count: (last - first) as usize + 1,
                first_weight: first_weight as f32,
                last_weight: last_weight as f32,
            }
        })
        .collect()
}

/// Sums the rows of a target row first, so that each source pixel is read once and in memory order.
fn area_average(image: &RgbImage, new_width: u32, new_height: u32) -> RgbImage {
    let (width, height) = image.dimensions();
    let row_length = width as usize * 3;
    let columns = spans(width, new_width);
    let cell_area = (f64::from(width) / f64::from(new_width)) * (f64::from(height) / f64::from(new_height));
    let norm = (1.0 / cell_area) as f32;
    let mut pixels = Vec::with_capacity(new_width as usize * new_height as usize * 3);
    // One more than there are: colours are summed four at a time, which is what processors do at once.
    let mut sums = vec![0f32; row_length + 1];
    for rows in spans(height, new_height) {
        let row = |i: usize| {
            let start = (rows.first + i) * row_length;
            (&image.as_raw()[start..start + row_length], rows.weight(i) * norm)
        };
        let (first, weight) = row(0);
        sums.iter_mut().zip(first).for_each(|(sum, value)| *sum = f32::from(*value) * weight);
        for i in 1..rows.count {
            let (next, weight) = row(i);
            sums.iter_mut().zip(next).for_each(|(sum, value)| *sum += f32::from(*value) * weight);
        }
        for span in &columns {
            let [red, green, blue, _] = cell_sum(&sums[span.first * 3..(span.first + span.count) * 3 + 1], span);
            pixels.extend([red, green, blue].map(|sum| (sum + 0.5) as u8));
        }
    }
    // One pixel was pushed for each column of each row, so this never falls back.
    RgbImage::from_raw(new_width, new_height, pixels).unwrap_or_default()
}

/// The weighted sum of a span's pixels, of three numbers each; the fourth number of the sum means nothing.
#[inline(always)]
fn cell_sum(cell: &[f32], span: &Span) -> [f32; 4] {
    let mut sum = [0f32; 4];
    for i in 0..span.count {
        let pixel = &cell[i * 3..i * 3 + 4];
        let weight = span.weight(i);
        for channel in 0..4 {
            sum[channel] += pixel[channel] * weight;
        }
    }
    sum
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
