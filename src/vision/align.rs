//! A face is turned, scaled and moved so that its five points lie where the embedder expects them.

use image::RgbImage;
use thiserror::Error;

use crate::types::{Chip, InvalidValue, Landmarks, Point};

/// Where the five points lie in a chip: the ArcFace template for 112x112 (Deng et al. 2019, arXiv:1801.07698).
pub(super) const TEMPLATE: [Point; 5] = [
    Point { x: 38.2946, y: 51.6963 },
    Point { x: 73.5318, y: 51.5014 },
    Point { x: 56.0252, y: 71.7366 },
    Point { x: 41.5493, y: 92.3655 },
    Point { x: 70.7299, y: 92.2041 },
];

/// Samples per chip pixel and axis at most: enough for faces of 1,800 pixels, and a bound on the time of larger ones.
const MAX_SAMPLES: u32 = 16;

/// Why a face could not be aligned.
#[derive(Debug, Error, Clone, PartialEq)]
pub enum AlignError {
    #[error("the five points of the face do not span a face")]
    Degenerate,
    #[error(transparent)]
    Chip(#[from] InvalidValue),
}

/// A rotation, uniform scaling and shift: (x, y) -> (a x - b y + tx, b x + a y + ty).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Similarity {
    pub a: f64,
    pub b: f64,
    pub tx: f64,
    pub ty: f64,
}

impl Similarity {
    /// The similarity without reflection that brings `from` nearest to `to` in the least-squares sense.
    ///
    /// Umeyama (1991) solves this by a singular value decomposition for any dimension. In the plane, with points as
    /// complex numbers about their means, it is one quotient: sum(to * conj(from)) / sum(|from|^2).
    pub fn estimate(from: &[Point; 5], to: &[Point; 5]) -> Result<Self, AlignError> {
        let ((from_x, from_y), (to_x, to_y)) = (mean(from), mean(to));
        let (mut real, mut imaginary, mut spread) = (0.0, 0.0, 0.0);
        for (p, q) in from.iter().zip(to) {
            let (px, py) = (f64::from(p.x) - from_x, f64::from(p.y) - from_y);
            let (qx, qy) = (f64::from(q.x) - to_x, f64::from(q.y) - to_y);
            real += qx * px + qy * py;
            imaginary += qy * px - qx * py;
            spread += px * px + py * py;
        }
        let (a, b) = (real / spread, imaginary / spread);
        let similarity = Self { a, b, tx: to_x - (a * from_x - b * from_y), ty: to_y - (b * from_x + a * from_y) };
        // Points that coincide (spread 0) or cancel out (a and b 0) have no direction to align.
        if spread > 1e-6 && similarity.scale() > 1e-6 && similarity.is_finite() {
            Ok(similarity)
        } else {
            Err(AlignError::Degenerate)
        }
    }

    /// How much longer a line becomes.
    pub fn scale(&self) -> f64 {
        self.a.hypot(self.b)
    }

    pub fn apply(&self, x: f64, y: f64) -> (f64, f64) {
        (self.a * x - self.b * y + self.tx, self.b * x + self.a * y + self.ty)
    }

    /// The similarity that undoes this one.
    pub(super) fn inverse(&self) -> Self {
        let square = self.a * self.a + self.b * self.b;
        let (a, b) = (self.a / square, -self.b / square);
        Self { a, b, tx: -(a * self.tx - b * self.ty), ty: -(b * self.tx + a * self.ty) }
    }

    fn is_finite(&self) -> bool {
        [self.a, self.b, self.tx, self.ty].iter().all(|v| v.is_finite())
    }
}

/// How far the five points are from those of a face that looks ahead, however it lies: the root of the mean square of what
/// the best similarity leaves between them, in distances between the eyes. About 0.08 for people in the news, 0.2 for a
/// profile.
pub(super) fn misfit(landmarks: &Landmarks) -> f32 {
    let points = landmarks.points();
    let Ok(fit) = Similarity::estimate(&points, &TEMPLATE) else { return f32::INFINITY };
    let squares = points.iter().zip(&TEMPLATE).map(|(from, to)| {
        let (x, y) = fit.apply(f64::from(from.x), f64::from(from.y));
        (x - f64::from(to.x)).powi(2) + (y - f64::from(to.y)).powi(2)
    });
    ((squares.sum::<f64>() / 5.0).sqrt() / f64::from(TEMPLATE[1].x - TEMPLATE[0].x)) as f32
}

fn mean(points: &[Point; 5]) -> (f64, f64) {
    let sum = points.iter().fold((0.0, 0.0), |(x, y), p| (x + f64::from(p.x), y + f64::from(p.y)));
    (sum.0 / 5.0, sum.1 / 5.0)
}

/// Cuts the chip of a face out of the upright `image`; what lies outside the image is black.
///
/// Points that coincide or are not finite are [`AlignError::Degenerate`].
pub fn align(image: &RgbImage, landmarks: &Landmarks) -> Result<Chip, AlignError> {
    let to_image = Similarity::estimate(&landmarks.points(), &TEMPLATE)?.inverse();
    if !to_image.is_finite() {
        return Err(AlignError::Degenerate);
    }
    Ok(Chip::try_from(warp(image, &to_image, Chip::SIDE))?)
}

/// Pixels of the image, on a side, for one of a face's chip; 1 for points that have no chip.
pub fn chip_step(landmarks: &Landmarks) -> f32 {
    Similarity::estimate(&landmarks.points(), &TEMPLATE).map_or(1.0, |fit| 1.0 / fit.scale() as f32)
}

/// The share of a face's chip that lies outside an image of `size` pixels, 0..=1, to about a hundredth.
pub fn share_outside(size: (u32, u32), landmarks: &Landmarks) -> f32 {
    const GRID: u32 = 10;
    let Ok(fit) = Similarity::estimate(&landmarks.points(), &TEMPLATE) else { return 1.0 };
    let to_image = fit.inverse();
    let step = f64::from(Chip::SIDE) / f64::from(GRID);
    let points = (0..GRID * GRID)
        .map(|n| to_image.apply((f64::from(n % GRID) + 0.5) * step, (f64::from(n / GRID) + 0.5) * step));
    let is_outside = |(x, y): &(f64, f64)| *x < 0.0 || *y < 0.0 || *x > f64::from(size.0) || *y > f64::from(size.1);
    points.filter(is_outside).count() as f32 / (GRID * GRID) as f32
}

/// Draws the square of `side` pixels whose pixel (u, v) shows the image at `to_image` of (u, v).
///
/// A pixel of it is the mean of k x k bilinear samples, k being the image pixels for one of them rounded up: with one
/// sample, a face larger than the chip would be drawn from a few of its pixels and flicker with the landmarks.
pub(super) fn warp(image: &RgbImage, to_image: &Similarity, side: u32) -> RgbImage {
    // Within rounding of a whole number of pixels is that number, so that an unscaled face is drawn as it is.
    let samples = ((to_image.scale() - 1e-3).ceil() as u32).clamp(1, MAX_SAMPLES);
    let step = 1.0 / f64::from(samples);
    let norm = 1.0 / (samples * samples) as f32;
    let width = side as usize;
    let mut square = vec![0; width * width * 3];
    let mut sums = vec![[0f32; 4]; width];
    for (v, row) in square.chunks_exact_mut(width * 3).enumerate() {
        sums.fill([0.0; 4]);
        for j in 0..samples {
            // One row of samples: `samples` to a chip pixel, evenly spaced about its centre.
            let offset = |i: u32| (f64::from(i) + 0.5) * step - 0.5;
            let (x, y) = to_image.apply(offset(0), v as f64 + offset(j));
            let line = Line { x, y, dx: to_image.a * step, dy: to_image.b * step };
            sample_line(image, &line, samples as usize, &mut sums);
        }
        for (pixel, sum) in row.chunks_exact_mut(3).zip(&sums) {
            for (value, sum) in pixel.iter_mut().zip(sum) {
                *value = (sum * norm + 0.5) as u8;
            }
        }
    }
    // There are three bytes for each pixel, so this never falls back.
    RgbImage::from_raw(side, side, square).unwrap_or_default()
}

/// Evenly spaced points of the image, in pixels.
struct Line {
    x: f64,
    y: f64,
    dx: f64,
    dy: f64,
}

impl Line {
    fn at(&self, i: usize) -> (f64, f64) {
        (self.x + self.dx * i as f64, self.y + self.dy * i as f64)
    }
}

/// Adds `samples` points of the line to each of the sums, one after the other.
fn sample_line(image: &RgbImage, line: &Line, samples: usize, sums: &mut [[f32; 4]]) {
    let count = samples * sums.len();
    // Four bytes are read where a pixel has three, so the last column is left to the careful way; so are points that
    // rounding could carry over the edge.
    let (right, bottom) = (f64::from(image.width()) - 2.0, f64::from(image.height()) - 1.0);
    let is_inside = |(x, y): (f64, f64)| x >= MARGIN && y >= MARGIN && x < right - MARGIN && y < bottom - MARGIN;
    // Between two points inside, all are.
    if is_inside(line.at(0)) && is_inside(line.at(count - 1)) {
        let (mut x, mut y) = (fixed(line.x), fixed(line.y));
        let (dx, dy) = (fixed(line.dx), fixed(line.dy));
        for sum in sums {
            for _ in 0..samples {
                *sum = added(*sum, colour_inside(image, x, y));
                (x, y) = (x + dx, y + dy);
            }
        }
    } else {
        for (n, sum) in sums.iter_mut().enumerate() {
            for i in n * samples..(n + 1) * samples {
                let (x, y) = line.at(i);
                add_anywhere(image, x, y, sum);
            }
        }
    }
}

/// Binary digits after the point of [`fixed`]: a line of 112 x 16 samples strays by a millionth of a pixel.
const FIXED_BITS: u32 = 32;

/// More than that, in pixels.
const MARGIN: f64 = 1e-5;

/// A number of pixels with a fixed point. Stepping along a line is then one addition, and whole pixels are a shift away,
/// where floating point takes a multiplication and a conversion that minds what does not fit.
fn fixed(pixels: f64) -> i64 {
    (pixels * (1_u64 << FIXED_BITS) as f64) as i64
}

fn added(sum: [f32; 4], colour: [f32; 4]) -> [f32; 4] {
    std::array::from_fn(|channel| sum[channel] + colour[channel])
}

/// The image's colour between the four pixels about (x, y), which all lie in the image, and one more column.
#[inline(always)]
fn colour_inside(image: &RgbImage, x: i64, y: i64) -> [f32; 4] {
    // 31 bits of what is after the point: a signed number, which converts fast.
    let part = |v: i64| (v as u32 >> 1) as i32 as f32 * (1.0 / (1_u32 << 31) as f32);
    let (fx, fy) = (part(x), part(y));
    let stride = image.width() as usize * 3;
    let start = (y >> FIXED_BITS) as usize * stride + (x >> FIXED_BITS) as usize * 3;
    let pixels = image.as_raw();
    let (upper, lower) = (&pixels[start..start + 7], &pixels[start + stride..start + stride + 7]);
    let pixel = |row: &[u8], at: usize| [row[at], row[at + 1], row[at + 2], row[at + 3]].map(f32::from);
    let between = |from: [f32; 4], to: [f32; 4], part: f32| -> [f32; 4] {
        std::array::from_fn(|channel| from[channel] + (to[channel] - from[channel]) * part)
    };
    let above = between(pixel(upper, 0), pixel(upper, 3), fx);
    let below = between(pixel(lower, 0), pixel(lower, 3), fx);
    between(above, below, fy)
}

/// Adds the colour of any point: pixels outside the image count as black.
fn add_anywhere(image: &RgbImage, x: f64, y: f64, sum: &mut [f32; 4]) {
    let (left, top) = (x.floor(), y.floor());
    let (fx, fy) = ((x - left) as f32, (y - top) as f32);
    // A point far outside saturates, and stays outside.
    let (column, row) = (left as i64, top as i64);
    let weights = [(1.0 - fx) * (1.0 - fy), fx * (1.0 - fy), (1.0 - fx) * fy, fx * fy];
    for (i, weight) in weights.iter().enumerate() {
        let x = u32::try_from(column.saturating_add(i as i64 % 2));
        let y = u32::try_from(row.saturating_add(i as i64 / 2));
        if let (Ok(x), Ok(y)) = (x, y)
            && let Some(pixel) = image.get_pixel_checked(x, y)
        {
            for channel in 0..3 {
                sum[channel] += f32::from(pixel[channel]) * weight;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use image::Rgb;
    use proptest::prelude::*;

    use super::*;

    fn similarity(scale: f64, degrees: f64, tx: f64, ty: f64) -> Similarity {
        let (sin, cos) = degrees.to_radians().sin_cos();
        Similarity { a: scale * cos, b: scale * sin, tx, ty }
    }

    /// The face whose alignment is the inverse of `to_image`.
    fn face(to_image: &Similarity) -> [Point; 5] {
        TEMPLATE.map(|p| {
            let (x, y) = to_image.apply(f64::from(p.x), f64::from(p.y));
            Point { x: x as f32, y: y as f32 }
        })
    }

    /// Smooth in all directions, so that it can be computed between pixels.
    fn scene(x: f64, y: f64) -> [f64; 3] {
        [(x / 23.0).sin(), (y / 31.0).cos(), ((x + 2.0 * y) / 47.0).sin()].map(|v| 127.5 + 120.0 * v)
    }

    fn scene_image(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| Rgb(scene(f64::from(x), f64::from(y)).map(|v| v.round() as u8)))
    }

    #[test]
    fn known_similarities_are_recovered() {
        // Powers of two and right angles: exact in f32, so what is left is the estimate's own error.
        for (scale, degrees, tx, ty) in
            [(1.0, 0.0, 0.0, 0.0), (2.0, 90.0, 256.0, -64.0), (0.5, 180.0, 1024.0, 512.0), (4.0, 270.0, 0.5, 0.25)]
        {
            let expected = similarity(scale, degrees, tx, ty);
            let from = [(0.0, 0.0), (32.0, 0.0), (16.0, 24.0), (4.0, 40.0), (28.0, 40.0)].map(|(x, y)| Point { x, y });
            let to = from.map(|p| {
                let (x, y) = expected.apply(f64::from(p.x), f64::from(p.y));
                Point { x: x as f32, y: y as f32 }
            });
            let got = Similarity::estimate(&from, &to).unwrap();
            for (a, b) in [(got.a, expected.a), (got.b, expected.b), (got.tx, expected.tx), (got.ty, expected.ty)] {
                assert!((a - b).abs() < 1e-6, "{got:?} is not {expected:?}");
            }
        }
    }

    #[test]
    fn inexact_points_are_met_as_by_umeyama() {
        // Expected values from the singular value decomposition of Umeyama (1991), computed with NumPy.
        let from =
            [(61.2, 70.1), (102.9, 74.4), (80.3, 99.0), (60.0, 118.7), (97.1, 121.5)].map(|(x, y)| Point { x, y });
        let got = Similarity::estimate(&from, &TEMPLATE).unwrap();
        for (value, expected) in [(got.a, UMEYAMA[0]), (got.b, UMEYAMA[1]), (got.tx, UMEYAMA[2]), (got.ty, UMEYAMA[3])]
        {
            assert!((value - expected).abs() < 1e-5, "{got:?} is not {UMEYAMA:?}");
        }
    }

    const UMEYAMA: [f64; 4] = [0.830331908, -0.071383519, -17.555133774, -2.693432216];

    #[test]
    fn points_without_extent_are_refused() {
        let image = scene_image(20, 20);
        let all = |x: f32, y: f32| Landmarks::from([Point { x, y }; 5]);
        for landmarks in [all(5.0, 5.0), all(f32::NAN, 5.0), all(f32::INFINITY, 0.0), all(f32::MAX, f32::MIN)] {
            assert_eq!(align(&image, &landmarks), Err(AlignError::Degenerate));
        }
        let mut one_bad = TEMPLATE;
        one_bad[2].x = f32::NAN;
        assert_eq!(align(&image, &one_bad.into()), Err(AlignError::Degenerate));
    }

    #[test]
    fn a_face_that_lies_like_the_template_is_copied() {
        let image = scene_image(130, 120);
        let chip = align(&image, &TEMPLATE.into()).unwrap();
        for (i, pixel) in chip.as_rgb().chunks(3).enumerate() {
            let expected = image.get_pixel(i as u32 % 112, i as u32 / 112);
            assert!(pixel.iter().zip(expected.0).all(|(a, b)| a.abs_diff(b) <= 1));
        }
    }

    #[test]
    fn turned_faces_of_any_size_are_drawn_upright() {
        let image = scene_image(700, 700);
        for (scale, degrees) in [(0.4, 10.0), (1.0, -35.0), (1.7, 80.0), (3.2, 170.0), (4.5, -120.0)] {
            // About the middle of the image.
            let turn = similarity(scale, degrees, 0.0, 0.0);
            let (x, y) = turn.apply(56.0, 56.0);
            let to_image = Similarity { tx: 350.0 - x, ty: 350.0 - y, ..turn };
            let chip = align(&image, &face(&to_image).into()).unwrap();
            for (i, pixel) in chip.as_rgb().chunks(3).enumerate() {
                let (x, y) = to_image.apply(f64::from(i as u32 % 112), f64::from(i as u32 / 112));
                for (got, expected) in pixel.iter().zip(scene(x, y)) {
                    assert!((f64::from(*got) - expected).abs() <= 2.0, "scale {scale}, {degrees} degrees, pixel {i}");
                }
            }
        }
    }

    #[test]
    fn large_faces_use_all_their_pixels() {
        // A checkerboard of single pixels, seen from afar, is grey.
        let image = RgbImage::from_fn(1200, 1200, |x, y| Rgb([if (x + y) % 2 == 0 { 255 } else { 0 }; 3]));
        let chip = align(&image, &face(&similarity(8.0, 0.0, 10.0, 10.0)).into()).unwrap();
        let worst = chip.as_rgb().iter().map(|v| v.abs_diff(128)).max();
        assert!(worst <= Some(4), "{worst:?}");
    }

    #[test]
    fn outside_the_image_is_black() {
        let white = RgbImage::from_pixel(60, 60, Rgb([255; 3]));
        let chip = align(&white, &TEMPLATE.into()).unwrap();
        let pixel = |x: usize, y: usize| chip.as_rgb()[(y * 112 + x) * 3];
        assert_eq!((pixel(10, 10), pixel(80, 10), pixel(10, 80), pixel(111, 111)), (255, 0, 0, 0));
        let far = similarity(1.0, 0.0, 1e7, -1e7);
        assert!(align(&white, &face(&far).into()).is_ok_and(|chip| chip.as_rgb().iter().all(|v| *v == 0)));
    }

    proptest! {
        #[test]
        fn any_similarity_is_recovered(
            scale in 0.05..40.0f64, degrees in -180.0..180.0f64, x in -3000.0..3000.0f64, y in -3000.0..3000.0f64,
        ) {
            let expected = similarity(scale, degrees, x, y);
            let got = Similarity::estimate(&TEMPLATE, &face(&expected)).unwrap();
            // The points were rounded to f32: half a unit in the last place of their coordinates.
            let rounding = 1e-7 * (scale * 112.0 + x.abs().max(y.abs()));
            prop_assert!((got.a - expected.a).abs() < rounding && (got.b - expected.b).abs() < rounding);
            let (ex, ey) = expected.apply(56.0, 56.0);
            let (gx, gy) = got.apply(56.0, 56.0);
            prop_assert!((ex - gx).abs() < 10.0 * rounding && (ey - gy).abs() < 10.0 * rounding);
            let (bx, by) = got.inverse().apply(gx, gy);
            prop_assert!((bx - 56.0).abs() < 1e-6 && (by - 56.0).abs() < 1e-6);
        }

        #[test]
        fn any_points_give_a_chip_or_an_error(values in prop::array::uniform10(any::<f32>())) {
            let image = scene_image(9, 7);
            let points: [Point; 5] = std::array::from_fn(|i| Point { x: values[2 * i], y: values[2 * i + 1] });
            let _ = align(&image, &points.into());
        }
    }
}
