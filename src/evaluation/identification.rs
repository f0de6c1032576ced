//! One to many: who is this, and is it anybody who is enrolled?

use super::bootstrap::{Estimate, Resampling, estimate, in_parallel};
use super::faces::{Faces, dot};
use super::random::Random;

/// Comparisons of vector components that an open-set measurement may cost; beyond, there are fewer splits.
const OPEN_SET_BUDGET: usize = 200_000_000_000;
const LEAST_SPLITS: usize = 5;

/// Closed-set identification with one enrolled photo of each subject.
#[derive(Debug, Clone, PartialEq)]
pub struct OneShot {
    /// Photos that were looked for: those of subjects with two or more.
    pub probes: usize,
    /// Subjects among whom they were looked for.
    pub subjects: usize,
    /// For each rank asked for: the share of probes whose subject is among that many most similar ones.
    pub hits: Vec<Estimate>,
}

/// The mean over every choice of one enrolled photo per subject and every other photo as a probe.
///
/// The choices for different subjects are independent, so the mean is exact without trying all: given the photo of its own
/// subject, each other subject beats it with a probability that is counted, and the number who do has a Poisson-binomial
/// distribution. An equal similarity counts as beating. Intervals are over the subjects of the probes. `None` without a
/// subject who has two photos, or without two subjects.
pub fn one_shot(faces: &Faces, ranks: &[usize], resampling: Resampling) -> Option<OneShot> {
    let subjects = faces.by_subject().iter().filter(|faces| !faces.is_empty()).count();
    let probes: Vec<usize> = (0..faces.len()).filter(|f| faces.by_subject()[faces.subject(*f)].len() > 1).collect();
    if probes.is_empty() || subjects < 2 {
        return None;
    }
    let hits = in_parallel(probes.len(), |n| hits_of(faces, probes[n], ranks));
    let share = |rank: usize, weights: Option<&[f64]>| {
        let weight = |probe: &usize| weights.map_or(1.0, |weights| weights[faces.subject(*probe)]);
        let sum: f64 = probes.iter().zip(&hits).map(|(probe, hits)| weight(probe) * hits[rank]).sum();
        sum / probes.iter().map(weight).sum::<f64>()
    };
    let one = |rank| {
        let draws = resampling.run(faces.by_subject().len(), |weights| share(rank, Some(weights)));
        estimate(share(rank, None), draws.into_iter())
    };
    Some(OneShot { probes: probes.len(), subjects, hits: (0..ranks.len()).map(one).collect() })
}

/// For each rank, the probability that the subject of `probe` is found, over all choices of enrolled photos.
fn hits_of(faces: &Faces, probe: usize, ranks: &[usize]) -> Vec<f64> {
    let own = faces.subject(probe);
    let similarities = faces.similarities(faces.vector(probe));
    let others = faces.by_subject().iter().enumerate().filter(|(subject, faces)| *subject != own && !faces.is_empty());
    let others: Vec<&Vec<usize>> = others.map(|(_, faces)| faces).collect();
    let most = ranks.iter().copied().max().unwrap_or(0);
    let mut sums = vec![0.0; ranks.len()];
    let enrolled = faces.by_subject()[own].iter().filter(|face| **face != probe);
    for face in enrolled.clone() {
        // beaten_by[k]: the probability that just k others are more similar.
        let mut beaten_by = vec![0.0; most];
        if let Some(none) = beaten_by.first_mut() {
            *none = 1.0;
        }
        for photos in &others {
            let beating = photos.iter().filter(|photo| similarities[**photo] >= similarities[*face]).count();
            if beating > 0 {
                let p = beating as f64 / photos.len() as f64;
                for k in (0..most).rev() {
                    let from_below = if k > 0 { beaten_by[k - 1] * p } else { 0.0 };
                    beaten_by[k] = beaten_by[k] * (1.0 - p) + from_below;
                }
            }
        }
        for (sum, rank) in sums.iter_mut().zip(ranks) {
            *sum += beaten_by[..*rank].iter().sum::<f64>();
        }
    }
    let count = enrolled.count() as f64;
    sums.into_iter().map(|sum| sum / count).collect()
}

/// Open-set identification: some probes are of strangers.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenSet {
    /// Random halves of the subjects that were enrolled, one after the other.
    pub splits: usize,
    /// Photos of an enrolled subject that make its template.
    pub photos: usize,
    /// Subjects that are enrolled in a split, and probes of theirs.
    pub enrolled: usize,
    pub mated_probes: usize,
    /// Probes of strangers in a split, on average.
    pub stranger_probes: usize,
    /// At each rate asked for; `None` where a split has too few probes of strangers to have one of them accepted.
    pub points: Vec<Option<FpirPoint>>,
}

/// What a threshold costs that accepts a share of strangers.
#[derive(Debug, Clone, PartialEq)]
pub struct FpirPoint {
    /// The share of probes of enrolled subjects whose own template is not the most similar, or below the threshold.
    pub fnir: Estimate,
    /// The threshold, mean over the splits.
    pub threshold: Estimate,
}

/// The probes of one split: subject and what counts.
struct Split {
    enrolled: usize,
    /// Similarity to the own template, -inf if another one is more similar.
    mated: Vec<(usize, f32)>,
    /// The largest similarity to any template, largest first.
    strangers: Vec<(usize, f32)>,
}

/// Enrolls a random half of the subjects who have more than `photos` photos, with the normalised mean of that many, and
/// looks for the rest of their photos and for those of everybody else. The mean over `splits` such halves; intervals are
/// over the subjects of the probes. `None` if a half would be empty.
pub fn open_set(faces: &Faces, photos: usize, fpirs: &[f64], splits: usize, resampling: Resampling) -> Option<OpenSet> {
    let subjects = faces.by_subject().iter().filter(|faces| !faces.is_empty()).count();
    let eligible: Vec<usize> =
        (0..faces.by_subject().len()).filter(|s| faces.by_subject()[*s].len() > photos).collect();
    let enrolled = (subjects / 2).min(eligible.len());
    if enrolled == 0 || photos == 0 {
        return None;
    }
    let cost = faces.len() * enrolled * faces.dimension();
    let splits = (OPEN_SET_BUDGET / cost.max(1)).clamp(LEAST_SPLITS.min(splits), splits);
    let made = in_parallel(splits, |n| {
        let mut random = Random::new(resampling.seed, n as u64);
        let mut order = eligible.clone();
        random.shuffle(&mut order);
        split(faces, &order[..enrolled], photos, &mut random)
    });
    let mean = |of: fn(&Split) -> usize| made.iter().map(of).sum::<usize>() / made.len();
    let (mated_probes, stranger_probes) = (mean(|split| split.mated.len()), mean(|split| split.strangers.len()));
    let ones = vec![1.0; faces.by_subject().len()];
    let point = |fpir: f64| {
        if fpir * (stranger_probes as f64) < 1.0 {
            return None;
        }
        let own = at_fpir(&made, fpir, &ones)?;
        let draws = resampling.run(ones.len(), |weights| at_fpir(&made, fpir, weights));
        let of = |value: f64, at: fn((f64, f64)) -> f64| estimate(value, draws.iter().flatten().map(|draw| at(*draw)));
        Some(FpirPoint { fnir: of(own.0, |draw| draw.0), threshold: of(own.1, |draw| draw.1) })
    };
    let points = fpirs.iter().map(|fpir| point(*fpir)).collect();
    let enrolled = mean(|split| split.enrolled);
    Some(OpenSet { splits, photos, enrolled, mated_probes, stranger_probes, points })
}

fn split(faces: &Faces, enrolled: &[usize], photos: usize, random: &mut Random) -> Split {
    let mut template_of = vec![None; faces.by_subject().len()];
    let mut is_probe = vec![true; faces.len()];
    let mut templates = Vec::with_capacity(enrolled.len());
    for subject in enrolled {
        let mut order = faces.by_subject()[*subject].clone();
        random.shuffle(&mut order);
        order[..photos].iter().for_each(|face| is_probe[*face] = false);
        template_of[*subject] = Some(templates.len());
        templates.push(template(faces, &order[..photos]));
    }
    let (mut mated, mut strangers) = (Vec::new(), Vec::new());
    for face in (0..faces.len()).filter(|face| is_probe[*face]) {
        let subject = faces.subject(face);
        let similarities = templates.iter().map(|template| dot(template, faces.vector(face)));
        let (best, similarity) = similarities
            .enumerate()
            .fold((usize::MAX, f32::NEG_INFINITY), |best, next| if next.1 > best.1 { next } else { best });
        match template_of[subject] {
            Some(own) => mated.push((subject, if own == best { similarity } else { f32::NEG_INFINITY })),
            None => strangers.push((subject, similarity)),
        }
    }
    strangers.sort_unstable_by(|a, b| b.1.total_cmp(&a.1));
    Split { enrolled: enrolled.len(), mated, strangers }
}

/// The L2-normalised mean.
fn template(faces: &Faces, photos: &[usize]) -> Vec<f32> {
    let mut sum = vec![0.0_f32; faces.dimension()];
    for photo in photos {
        sum.iter_mut().zip(faces.vector(*photo)).for_each(|(sum, value)| *sum += value);
    }
    let norm = dot(&sum, &sum).sqrt().max(f32::MIN_POSITIVE);
    sum.iter_mut().for_each(|value| *value /= norm);
    sum
}

/// FNIR and threshold at an FPIR, mean over those splits where the weights leave probes of both kinds.
fn at_fpir(splits: &[Split], fpir: f64, weights: &[f64]) -> Option<(f64, f64)> {
    let (mut fnirs, mut thresholds, mut count) = (0.0, 0.0, 0.0);
    for split in splits {
        let sum = |probes: &[(usize, f32)]| probes.iter().map(|(subject, _)| weights[*subject]).sum::<f64>();
        let (all_strangers, all_mated) = (sum(&split.strangers), sum(&split.mated));
        if all_strangers <= 0.0 || all_mated <= 0.0 {
            continue;
        }
        // The first stranger that is one too many; all above it may pass.
        let mut taken = 0.0;
        let one_too_many = split.strangers.iter().find(|(subject, _)| {
            taken += weights[*subject];
            taken > fpir * all_strangers * (1.0 + 1e-12)
        });
        let threshold = one_too_many.map_or(-1.0, |(_, similarity)| similarity.next_up());
        let missed = split.mated.iter().filter(|(_, similarity)| *similarity < threshold);
        fnirs += missed.map(|(subject, _)| weights[*subject]).sum::<f64>() / all_mated;
        thresholds += f64::from(threshold);
        count += 1.0;
    }
    (count > 0.0).then(|| (fnirs / count, thresholds / count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::faces::made;

    const FEW: Resampling = Resampling { draws: 50, seed: 1 };

    #[test]
    fn the_mean_over_all_choices_is_that_of_trying_them() {
        let faces = made::faces(3, 3, 2.5, 4);
        let exact = one_shot(&faces, &[1, 2], FEW).unwrap();
        // All 27 choices, and all probes that are not enrolled.
        let (mut hits, mut probes) = ([0.0; 2], 0.0);
        for choice in 0..27 {
            let enrolled = [choice % 3, 3 + choice / 3 % 3, 6 + choice / 9];
            for probe in (0..9).filter(|face| !enrolled.contains(face)) {
                let own = faces.similarity(probe, enrolled[faces.subject(probe)]);
                let better = enrolled.iter().filter(|face| faces.similarity(probe, **face) > own).count();
                hits[0] += f64::from(u8::from(better < 1));
                hits[1] += f64::from(u8::from(better < 2));
                probes += 1.0;
            }
        }
        assert_eq!((exact.probes, exact.subjects), (9, 3));
        for (exact, tried) in exact.hits.iter().zip(hits) {
            assert!((exact.value - tried / probes).abs() < 1e-9, "{exact:?} {}", tried / probes);
            assert!(exact.low <= exact.value && exact.value <= exact.high);
        }
        assert!(exact.hits[0].value < exact.hits[1].value && exact.hits[1].value < 1.0);
    }

    #[test]
    fn good_faces_are_found_and_strangers_refused() {
        let faces = made::faces(20, 6, 0.3, 1);
        assert!(one_shot(&faces, &[1], FEW).unwrap().hits[0].value > 0.999);
        let open = open_set(&faces, 1, &[0.1, 0.01, 1e-3], 20, FEW).unwrap();
        assert_eq!((open.enrolled, open.mated_probes, open.stranger_probes), (10, 50, 60));
        assert!(open.points[0].as_ref().unwrap().fnir.value < 0.01);
        assert_eq!(open.points[1..], [None, None], "60 strangers do not tell a rate of 0.01");
    }

    #[test]
    fn more_photos_make_a_better_template() {
        let faces = made::faces(30, 8, 2.0, 2);
        let fnir = |photos| open_set(&faces, photos, &[0.1], 20, FEW).unwrap().points[0].clone().unwrap().fnir;
        let (one, three) = (fnir(1), fnir(3));
        assert!(three.value < one.value - 0.05, "{one:?} {three:?}");
        assert!(one.low < one.value && one.value < one.high);
    }

    #[test]
    fn who_has_one_photo_can_only_be_a_stranger() {
        let single = made::faces(5, 1, 1.0, 1);
        assert_eq!(one_shot(&single, &[1], FEW), None);
        assert_eq!(open_set(&single, 1, &[0.5], 5, FEW), None);
        assert_eq!(open_set(&made::faces(5, 4, 1.0, 1), 4, &[0.5], 5, FEW), None);
    }
}
