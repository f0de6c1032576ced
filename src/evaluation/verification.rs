//! One to one: is this the same person?

use super::Comparisons;

/// What pairs say, if each subject counts as often as a weight says.
#[derive(Debug, Clone, PartialEq)]
pub struct ErrorRates {
    /// TAR at each of the rates asked for.
    pub tar: Vec<f64>,
    /// The error rate at the threshold where FMR and FNMR are equal, by linear interpolation.
    pub eer: f64,
    /// Probability that a genuine pair is more similar than an impostor pair, ties counting half (Mann and Whitney 1947).
    pub auc: f64,
    /// FMR and FNMR at the threshold asked for.
    pub fmr: f64,
    pub fnmr: f64,
}

/// Measures at `rates`, which ascend, and at `threshold`. `None` if no pair of a kind has any weight.
///
/// TAR at a rate is that at the lowest threshold which at most this share of impostor pairs reaches.
pub fn measure(comparisons: &Comparisons, weights: &[f64], rates: &[f64], threshold: f32) -> Option<ErrorRates> {
    let mut sums = Sums::default();
    let mut all = Sums::default();
    for pair in comparisons.pairs() {
        all.add(pair.is_genuine(), comparisons.weight(pair, weights));
    }
    if all.genuine <= 0.0 || all.impostor <= 0.0 {
        return None;
    }
    let (mut tar, mut eer, mut ordered, mut at_threshold) = (Vec::with_capacity(rates.len()), None, 0.0, None);
    // Pairs of one similarity match together or not at all.
    for group in comparisons.pairs().chunk_by(|a, b| a.similarity == b.similarity) {
        if at_threshold.is_none() && group[0].similarity < threshold {
            at_threshold = Some(sums);
        }
        let before = sums;
        for pair in group {
            sums.add(pair.is_genuine(), comparisons.weight(pair, weights));
        }
        while tar.len() < rates.len() && sums.impostor > rates[tar.len()] * all.impostor * (1.0 + 1e-12) {
            tar.push(before.genuine / all.genuine);
        }
        ordered += (sums.impostor - before.impostor) * (before.genuine + sums.genuine) / 2.0;
        if eer.is_none() && sums.fmr(&all) >= sums.fnmr(&all) {
            let (gap_before, gap) = (before.fnmr(&all) - before.fmr(&all), sums.fmr(&all) - sums.fnmr(&all));
            let part = gap_before / (gap_before + gap);
            eer = Some(before.fmr(&all) + part * (sums.fmr(&all) - before.fmr(&all)));
        }
    }
    tar.resize(rates.len(), 1.0);
    let at_threshold = at_threshold.unwrap_or(sums);
    Some(ErrorRates {
        tar,
        eer: eer.unwrap_or(0.0),
        auc: ordered / (all.genuine * all.impostor),
        fmr: at_threshold.fmr(&all),
        fnmr: at_threshold.fnmr(&all),
    })
}

/// Weight of the pairs that match at a threshold.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sums {
    pub genuine: f64,
    pub impostor: f64,
}

impl Sums {
    pub fn add(&mut self, genuine: bool, weight: f64) {
        if genuine { self.genuine += weight } else { self.impostor += weight }
    }

    pub fn fmr(&self, all: &Self) -> f64 {
        self.impostor / all.impostor
    }

    pub fn fnmr(&self, all: &Self) -> f64 {
        1.0 - self.genuine / all.genuine
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::faces::made;
    use crate::evaluation::{Pair, Resampling};

    fn comparisons(genuine: &[f32], impostor: &[f32]) -> Comparisons {
        let of = |similarities: &[f32], b: u32| {
            similarities.iter().map(move |similarity| Pair { similarity: *similarity, a: 0, b }).collect::<Vec<_>>()
        };
        Comparisons::new([of(genuine, 0), of(impostor, 1)].concat()).unwrap()
    }

    fn plain(comparisons: &Comparisons, rates: &[f64], threshold: f32) -> ErrorRates {
        measure(comparisons, &vec![1.0; comparisons.subjects()], rates, threshold).unwrap()
    }

    #[test]
    fn small_cases_by_hand() {
        let all = comparisons(&[0.9, 0.8, 0.6, 0.4], &[0.7, 0.5, 0.3, 0.2, 0.1]);
        let measured = plain(&all, &[0.1, 0.2, 0.5, 1.0], 0.5);
        assert_eq!(measured.tar, [0.5, 0.75, 1.0, 1.0]);
        assert_eq!((measured.fmr, measured.fnmr), (0.4, 0.25));
        // Of the 20 combinations, 0.6 is below 0.7, and 0.4 below 0.7 and 0.5.
        assert!((measured.auc - 17.0 / 20.0).abs() < 1e-12);
        // Between (FMR 0.2, FNMR 0.25) and (0.4, 0.25).
        assert!((measured.eer - 0.25).abs() < 1e-12, "{}", measured.eer);
    }

    #[test]
    fn perfect_and_useless() {
        let perfect = plain(&comparisons(&[0.9, 0.8], &[0.1, 0.2]), &[1e-3], 0.5);
        assert_eq!((perfect.tar[0], perfect.eer, perfect.auc, perfect.fmr, perfect.fnmr), (1.0, 0.0, 1.0, 0.0, 0.0));
        let useless = plain(&comparisons(&[0.5, 0.5], &[0.5]), &[0.1], 0.5);
        assert_eq!((useless.tar[0], useless.eer, useless.auc, useless.fmr, useless.fnmr), (0.0, 0.5, 0.5, 1.0, 0.0));
    }

    #[test]
    fn weights_count_as_repetitions() {
        let faces = made::faces(6, 4, 1.5, 3);
        let all = Comparisons::of_faces(&faces, usize::MAX, 0).unwrap();
        let weights = [2.0, 0.0, 1.0, 3.0, 0.0, 1.0];
        let repeated = all.pairs().iter().flat_map(|pair| std::iter::repeat_n(*pair, pair.weight(&weights) as usize));
        let repeated = Comparisons::new(repeated.collect()).unwrap();
        let (weighted, repeated) =
            (measure(&all, &weights, &[0.01, 0.1], 0.4).unwrap(), plain(&repeated, &[0.01, 0.1], 0.4));
        assert_eq!(weighted.tar, repeated.tar);
        assert!((weighted.auc - repeated.auc).abs() < 1e-12 && (weighted.eer - repeated.eer).abs() < 1e-12);
        assert_eq!((weighted.fmr, weighted.fnmr), (repeated.fmr, repeated.fnmr));
    }

    #[test]
    fn a_thousand_draws_over_eighty_thousand_pairs_take_seconds() {
        let all = Comparisons::of_faces(&made::faces(40, 10, 1.0, 1), usize::MAX, 0).unwrap();
        assert_eq!(all.pairs().len(), 79_800);
        let started = std::time::Instant::now();
        let resampling = Resampling { draws: 1000, seed: 0 };
        let draws = resampling.run(all.subjects(), |weights| measure(&all, weights, &[1e-3, 1e-2, 0.1], 0.4));
        assert!(draws.iter().flatten().count() == 1000);
        println!("{:?}", started.elapsed());
        assert!(started.elapsed().as_secs() < 30, "{:?}", started.elapsed());
    }
}
