//! Similarities on the scale of CompreFace, by which its clients decide.

/// How steep the scale is where it parts people. CompreFace's own networks have 5 to 7.
const STEEPNESS: f64 = 6.0;

/// From our similarity, a cosine, to a number from 0 to 1 that is 0.5 at a threshold: `(tanh((c0 - d) * c1) + 1) / 2`, as CompreFace
/// 1.2 has it (embedding-calculator, `similarity_coefficients`), where `d` is the distance of two vectors of length 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SimilarityScale {
    /// The distance that becomes 0.5.
    middle: f64,
    steepness: f64,
}

impl SimilarityScale {
    /// A scale of CompreFace's own: of which distance becomes 0.5, and how steep it is there.
    pub fn new(middle: f64, steepness: f64) -> Self {
        Self { middle, steepness }
    }

    /// The scale of a model that calls two faces one person from a cosine of `threshold` on.
    pub fn around(threshold: f32) -> Self {
        Self { middle: distance(threshold), steepness: STEEPNESS }
    }

    /// Where a cosine is on it, 0..=1, in steps of 0.00001.
    pub fn of(self, similarity: f32) -> f64 {
        let scaled = (((self.middle - distance(similarity)) * self.steepness).tanh() + 1.0) / 2.0;
        (scaled * 1e5).round() / 1e5
    }
}

/// Of two vectors of length 1 with such a cosine.
fn distance(similarity: f32) -> f64 {
    (2.0 - 2.0 * f64::from(similarity.clamp(-1.0, 1.0))).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_threshold_is_in_the_middle() {
        for threshold in [0.0, 0.3, 0.45] {
            assert_eq!(SimilarityScale::around(threshold).of(threshold), 0.5);
        }
    }

    #[test]
    fn it_rises_from_zero_to_one() {
        let scale = SimilarityScale::around(0.3);
        let all: Vec<f64> = (-10..=10).map(|tenth| scale.of(tenth as f32 / 10.0)).collect();
        assert!(all.is_sorted(), "{all:?}");
        assert!(all[0] < 0.001 && *all.last().unwrap() > 0.9999, "{all:?}");
        // Python: (math.tanh((math.sqrt(1.4) - math.sqrt(2 - 2 * s)) * 6) + 1) / 2
        assert_eq!([scale.of(0.0), scale.of(0.5)], [0.05886, 0.90012]);
        // Rounding can take a cosine a little past 1.
        assert_eq!(scale.of(1.0001), scale.of(1.0));
    }

    #[test]
    fn a_scale_of_compreface_says_what_compreface_says() {
        // FaceNet of CompreFace 1.2, in Python: (math.tanh((1.1817961 - math.sqrt(2 - 2 * s)) * 5.291995557) + 1) / 2
        let facenet = SimilarityScale::new(1.1817961, 5.291995557);
        assert_eq!([facenet.of(0.0), facenet.of(0.6)], [0.07872, 0.95441]);
    }
}
