//! Vectors in 8-bit integers, with a bound on what the rounding changed.
//!
//! A vector x becomes s·q, with q in -127..=127 and one scale s for each vector. With e = x - s·q, for a row x and a query
//! y: x·y = s_x s_y (q_x·q_y) + (s_x q_x)·e_y + e_x·y, and by Cauchy-Schwarz the last two terms are at most
//! |s_x q_x| |e_y| + |e_x| |y|.

use half::f16;

/// Rows are padded with zeros to a multiple of this, for the kernels.
const LANES: usize = 64;

/// Largest length of a stored vector: 1 but for rounding to 16 bits.
const MAX_NORM: f32 = 1.001;

/// What the 32-bit floats of a bound can be off by.
const SLACK: f32 = 4e-6;

/// Bytes of a row of `dimension` components.
pub fn stride(dimension: usize) -> usize {
    dimension.next_multiple_of(LANES)
}

/// How a quantised vector relates to the one it stands for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    /// s
    pub scale: f32,
    /// |e|
    pub error: f32,
}

/// Appends the quantised `vector` to `rows`, padded to its stride.
pub fn quantise(vector: &[f16], rows: &mut Vec<i8>) -> Scale {
    let largest = vector.iter().map(|value| value.to_f32().abs()).fold(0.0, f32::max);
    let scale = if largest > 0.0 { largest / 127.0 } else { 1.0 };
    let mut squares = 0.0_f64;
    for value in vector {
        let value = value.to_f32();
        let quantised = (value / scale).round().clamp(-127.0, 127.0);
        squares += f64::from(value - quantised * scale).powi(2);
        rows.push(quantised as i8);
    }
    rows.resize(rows.len() + stride(vector.len()) - vector.len(), 0);
    Scale { scale, error: squares.sqrt() as f32 * 1.0001 }
}

/// Queries as a scan needs them.
pub struct Queries {
    /// One row after the other.
    pub rows: Vec<i8>,
    pub scales: Vec<Scale>,
}

impl Queries {
    pub fn new<'a>(probes: impl Iterator<Item = &'a [f16]>) -> Self {
        let (mut rows, mut scales) = (Vec::new(), Vec::new());
        for probe in probes {
            scales.push(quantise(probe, &mut rows));
        }
        Self { rows, scales }
    }
}

/// Estimates of similarities to one query.
#[derive(Clone, Copy)]
pub struct Estimator(Scale);

impl Estimator {
    pub fn new(query: Scale) -> Self {
        Self(query)
    }

    /// The similarity of a row of this scale whose 8-bit product with the query is `dot`, about.
    pub fn estimate(self, scale: f32, dot: i32) -> f32 {
        dot as f32 * scale * self.0.scale
    }

    /// How far the exact similarity of a row of this error can be from the estimate; more for a larger error.
    pub fn bound(self, error: f32) -> f32 {
        let (least, per_error) = self.bound_terms();
        least + per_error * error
    }

    /// The bound of a row without error, and what each unit of error adds:
    /// (|y| + e_x) e_y + e_x |y| = |y| e_y + e_x (e_y + |y|).
    pub fn bound_terms(self) -> (f32, f32) {
        (MAX_NORM * self.0.error + SLACK, self.0.error + MAX_NORM)
    }

    /// The largest estimate of some rows.
    pub fn largest(self, scales: &[f32], dots: &[i32]) -> f32 {
        // As many at once as the widest vectors have lanes, in the form that compilers make vector instructions of.
        const LANES: usize = 16;
        let mut best = [f32::NEG_INFINITY; LANES];
        let (scale_lanes, scales) = scales.as_chunks::<LANES>();
        let (dot_lanes, dots) = dots.as_chunks::<LANES>();
        for (scales, dots) in scale_lanes.iter().zip(dot_lanes) {
            for lane in 0..LANES {
                let value = dots[lane] as f32 * scales[lane];
                best[lane] = if value > best[lane] { value } else { best[lane] };
            }
        }
        let rest = scales.iter().zip(dots).map(|(scale, dot)| *dot as f32 * scale);
        best.into_iter().chain(rest).fold(f32::NEG_INFINITY, f32::max) * self.0.scale
    }
}
