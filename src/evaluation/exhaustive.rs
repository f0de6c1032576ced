//! Every impostor pair is compared, and the most similar ones are kept one by one.
//!
//! A rate of 1e-6 is a matter of the few most similar pairs among millions. Of a random million of them it can hardly be
//! told; of all of them it is counted. What lies below matters for rates of a percent or more, where a sample will do.

use super::bootstrap::in_parallel;
use super::faces::dot;
use super::random::Random;
use super::{Comparisons, EvaluationError, Faces, Pair};

/// Multiplications that comparing all pairs may cost, twice: a billion pairs of 512 numbers, minutes on one core.
const BUDGET: f64 = 512e9;

/// Bins of similarity from -1 to 1, to find where the most similar pairs begin.
const BINS: usize = 20_000;

/// Faces whose vectors stay in the nearest caches while all others pass by.
const BLOCK: usize = 64;

impl Comparisons {
    /// All genuine pairs of `faces`. Of the impostor pairs all if they are `most` or fewer, else the `most / 2` most similar
    /// ones and a sample of about as many others, each of which stands for several. With more faces than can be compared
    /// in minutes, [`Self::of_faces`].
    pub fn of_all(faces: &Faces, most: usize, seed: u64) -> Result<Self, EvaluationError> {
        let count = |n: usize| n * n.saturating_sub(1) / 2;
        let genuine: usize = faces.by_subject().iter().map(|faces| count(faces.len())).sum();
        let impostors = count(faces.len()) - genuine;
        if impostors <= most || impostors as f64 * faces.dimension() as f64 > BUDGET {
            return Self::of_faces(faces, most, seed);
        }
        if let Some(face) = (0..faces.len()).find(|face| !faces.similarity(*face, *face).is_finite()) {
            return Err(EvaluationError::NotFinite(faces.subject(face), faces.subject(face)));
        }
        let (cut, above) = most_similar(faces, most / 2);
        let share = (most - most / 2) as f64 / (impostors - above).max(1) as f64;
        let blocks = in_parallel(faces.len().div_ceil(BLOCK), |block| {
            let (mut random, mut kept, mut below) = (Random::new(seed, block as u64 + 1), Vec::new(), 0);
            compare_block(faces, block, |pair| {
                let is_below = !pair.is_genuine() && pair.similarity < cut;
                below += usize::from(is_below);
                if !is_below || random.unit() < share {
                    kept.push(pair);
                }
            });
            (kept, below)
        });
        let below = blocks.iter().map(|(_, below)| below).sum();
        let pairs = blocks.into_iter().flat_map(|(kept, _)| kept).collect();
        Ok(Self::new(pairs)?.with_sample_below(cut, below))
    }
}

/// A similarity that at most `most` impostor pairs reach, to the width of a bin, and how many do.
fn most_similar(faces: &Faces, most: usize) -> (f32, usize) {
    let bin = |similarity: f32| (((similarity + 1.0) / 2.0 * BINS as f32) as usize).min(BINS - 1);
    let blocks = in_parallel(faces.len().div_ceil(BLOCK), |block| {
        let mut counts = vec![0_u32; BINS];
        compare_block(faces, block, |pair| counts[bin(pair.similarity)] += u32::from(!pair.is_genuine()));
        counts
    });
    let (mut reached, mut lowest) = (0, BINS);
    while let Some(next) = lowest.checked_sub(1) {
        let here: usize = blocks.iter().map(|counts| counts[next] as usize).sum();
        if reached + here > most {
            break;
        }
        (reached, lowest) = (reached + here, next);
    }
    (lowest as f32 / BINS as f32 * 2.0 - 1.0, reached)
}

/// The pairs of the faces of a block with all before them.
fn compare_block(faces: &Faces, block: usize, mut found: impl FnMut(Pair)) {
    let rows = block * BLOCK..((block + 1) * BLOCK).min(faces.len());
    for j in 0..rows.end {
        let (b, other) = (faces.subject(j) as u32, faces.vector(j));
        for i in rows.start.max(j + 1)..rows.end {
            found(Pair { similarity: dot(faces.vector(i), other), a: faces.subject(i) as u32, b });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::faces::made;
    use crate::evaluation::{Curve, LogisticFit, measure};

    #[test]
    fn the_tail_is_counted_and_the_rest_estimated() {
        let faces = made::faces(60, 5, 1.6, 1);
        let all = Comparisons::of_faces(&faces, usize::MAX, 0).unwrap();
        let some = Comparisons::of_all(&faces, 12_000, 0).unwrap();
        assert_eq!((some.genuine(), some.impostor()), (all.genuine(), all.impostor()));
        assert!((11_000..14_000).contains(&some.pairs().len()), "{} of {}", some.pairs().len(), all.pairs().len());
        let mut weights = vec![1.0; 60];
        (weights[3], weights[7]) = (0.0, 2.0);
        let measured = |pairs| measure(pairs, &weights, &[1e-3, 1e-2, 0.1, 0.5], 0.3).unwrap();
        let (exact, estimated) = (measured(&all), measured(&some));
        assert!((exact.fmr / estimated.fmr - 1.0).abs() < 0.01, "{} {}", exact.fmr, estimated.fmr);
        assert_eq!(exact.fnmr, estimated.fnmr);
        for (exact, estimated) in exact.tar.iter().zip(&estimated.tar) {
            assert!((exact - estimated).abs() < 0.02, "{exact} {estimated}");
        }
        assert!((exact.auc - estimated.auc).abs() < 0.005 && (exact.eer - estimated.eer).abs() < 0.005);
        let (exact, estimated) = (LogisticFit::of(&all).unwrap(), LogisticFit::of(&some).unwrap());
        assert!((exact.slope / estimated.slope - 1.0).abs() < 0.05, "{exact:?} {estimated:?}");
        let bins = Curve::of(&some, 100, 50).bins;
        assert!((bins.iter().map(|bin| bin.1).sum::<f64>() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn the_most_similar_ones_are_there_one_by_one() {
        let faces = made::faces(40, 5, 1.6, 2);
        let all = Comparisons::of_faces(&faces, usize::MAX, 0).unwrap();
        let some = Comparisons::of_all(&faces, 4000, 0).unwrap();
        let top = |pairs: &Comparisons| pairs.impostors().take(1900).map(|pair| pair.similarity).collect::<Vec<_>>();
        assert_eq!(top(&all), top(&some));
        assert_eq!(Comparisons::of_all(&faces, usize::MAX, 0).unwrap().pairs(), all.pairs());
    }
}
