//! What becomes of the errors as a gallery grows: who is missed, while a given share of strangers is taken for somebody.
//!
//! People who have one photo can be enrolled or be strangers, and count as look-alikes of others.

use serde::{Deserialize, Serialize};

use super::bootstrap::{Estimate, Resampling, estimate, in_parallel};
use super::faces::{Faces, dot};
use super::identification::FpirPoint;
use super::random::Random;
use super::report::FpirReport;

/// Strangers of a split; half of the people if that is less.
const STRANGERS: usize = 1000;

/// Photos of an enrolled person that are looked for, so that people with hundreds of photos do not decide alone.
const PROBES: usize = 5;

/// Multiplications that a measurement may cost; beyond, there are fewer splits.
const BUDGET: usize = 200_000_000_000;
const LEAST_SPLITS: usize = 10;

/// Templates that stay in the nearest caches while the probes pass by.
const BLOCK: usize = 32;

/// What to measure.
#[derive(Debug, Clone, PartialEq)]
pub struct GrowthPlan {
    /// People in the gallery, ascending; all but the strangers are added.
    pub sizes: Vec<usize>,
    pub fpirs: Vec<f64>,
    pub splits: usize,
    pub resampling: Resampling,
}

/// Open-set identification by the size of the gallery, with one photo of each person.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Growth {
    /// Random orders of the people, of whom the first ones are strangers and the next ones are enrolled.
    pub splits: usize,
    /// People of a split who are not enrolled, with one probe each.
    pub strangers: usize,
    pub sizes: Vec<GrowthSize>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GrowthSize {
    /// In the gallery.
    pub people: usize,
    /// Probes of them in a split, on average.
    pub mated_probes: usize,
    /// The threshold is one for all splits; it lets the share FPIR of all their strangers pass.
    pub at_fpir: Vec<FpirReport>,
}

/// Who was missed in the largest gallery, at one FPIR.
#[derive(Debug, Clone, PartialEq)]
pub struct Missed {
    pub people: usize,
    pub fpir: f64,
    /// Of each subject: probes that were missed, and all probes, over all splits.
    pub of_subject: Vec<(f64, f64)>,
}

/// Subjects and what counts of their probes, of all splits together, largest first.
#[derive(Default)]
struct Pool {
    /// Similarity to the own template, -inf if another one is more similar.
    mated: Vec<(usize, f32)>,
    /// The largest similarity to any template.
    strangers: Vec<(usize, f32)>,
}

/// Measures galleries of the sizes that the people allow, and who is missed at each rate in the largest. Intervals are over
/// the subjects of the probes. `None` if no size fits, or nobody has two photos.
pub fn growth(faces: &Faces, plan: &GrowthPlan) -> Option<(Growth, Vec<Missed>)> {
    let of_subject = faces.by_subject();
    let people: Vec<usize> = (0..of_subject.len()).filter(|subject| !of_subject[*subject].is_empty()).collect();
    let strangers = STRANGERS.min(people.len() / 2);
    let rest = people.len() - strangers;
    let mut sizes: Vec<usize> = plan.sizes.iter().copied().filter(|size| *size <= rest && *size > 0).collect();
    let largest = *sizes.last()?;
    sizes.extend(Some(rest).filter(|rest| *rest > largest));
    let mated: usize = of_subject.iter().map(|faces| faces.len().clamp(1, PROBES + 1) - 1).sum();
    let cost = (mated + strangers) * rest * faces.dimension();
    let splits = (BUDGET / cost.max(1)).clamp(LEAST_SPLITS.min(plan.splits), plan.splits);
    let made = in_parallel(splits, |n| split(faces, &people, strangers, &sizes, n, plan.resampling.seed));
    let mut pools: Vec<Pool> = sizes.iter().map(|_| Pool::default()).collect();
    for (pool, more) in made.into_iter().flat_map(|split| (0..).zip(split)) {
        pools[pool].mated.extend(more.mated);
        pools[pool].strangers.extend(more.strangers);
    }
    if pools[0].mated.is_empty() {
        return None;
    }
    for pool in &mut pools {
        pool.mated.sort_unstable_by(|a, b| b.1.total_cmp(&a.1));
        pool.strangers.sort_unstable_by(|a, b| b.1.total_cmp(&a.1));
    }
    let told: Vec<f64> = plan.fpirs.iter().copied().filter(|fpir| told(*fpir, strangers)).collect();
    let last = pools.last().zip(sizes.last());
    let missed = last.map(|(pool, people)| told.iter().map(|fpir| pool.missed(*people, *fpir, of_subject.len())));
    let measured = sizes.iter().zip(&pools).map(|(people, pool)| GrowthSize {
        people: *people,
        mated_probes: pool.mated.len() / splits,
        at_fpir: pool.report(plan, strangers, of_subject.len()),
    });
    Some((Growth { splits, strangers, sizes: measured.collect() }, missed.into_iter().flatten().collect()))
}

/// Whether so many strangers can show a rate: one of them at least may pass.
fn told(fpir: f64, strangers: usize) -> bool {
    fpir * strangers as f64 * (1.0 + 1e-9) >= 1.0
}

/// The probes of one random order of the people, for each size of the gallery.
fn split(faces: &Faces, people: &[usize], strangers: usize, sizes: &[usize], n: usize, seed: u64) -> Vec<Pool> {
    let mut random = Random::new(seed, n as u64 + 1);
    let mut order = people.to_vec();
    random.shuffle(&mut order);
    let (held_out, enrolled) = order.split_at(strangers);
    // Each probe: the face, the place of its person in the gallery, and the largest similarity so far.
    let mut probes: Vec<(usize, Option<usize>, f32)> = Vec::new();
    for subject in held_out {
        let photos = &faces.by_subject()[*subject];
        probes.push((photos[random.below(photos.len())], None, f32::NEG_INFINITY));
    }
    let mut templates = Vec::with_capacity(enrolled.len());
    for (place, subject) in enrolled.iter().enumerate() {
        let mut photos = faces.by_subject()[*subject].clone();
        random.shuffle(&mut photos);
        templates.push(photos[0]);
        probes.extend(photos[1..].iter().take(PROBES).map(|face| (*face, Some(place), f32::NEG_INFINITY)));
    }
    let mut pools = Vec::with_capacity(sizes.len());
    let mut compared = 0;
    for size in sizes {
        for block in templates[compared..*size].chunks(BLOCK) {
            for (probe, _, best) in &mut probes {
                let similarities = block.iter().map(|face| dot(faces.vector(*face), faces.vector(*probe)));
                *best = similarities.fold(*best, f32::max);
            }
        }
        compared = *size;
        pools.push(pool(faces, &templates, &probes, *size));
    }
    pools
}

fn pool(faces: &Faces, templates: &[usize], probes: &[(usize, Option<usize>, f32)], size: usize) -> Pool {
    let mut pool = Pool::default();
    for (probe, place, best) in probes {
        let subject = faces.subject(*probe);
        match place {
            None => pool.strangers.push((subject, *best)),
            Some(place) if *place < size => {
                let own = faces.similarity(templates[*place], *probe);
                pool.mated.push((subject, if own >= *best { own } else { f32::NEG_INFINITY }));
            }
            Some(_) => {}
        }
    }
    pool
}

impl Pool {
    fn report(&self, plan: &GrowthPlan, strangers: usize, subjects: usize) -> Vec<FpirReport> {
        let at = |weights: &[f64]| -> Vec<Option<(f64, f64)>> {
            plan.fpirs.iter().map(|fpir| self.at_fpir(*fpir, weights)).collect()
        };
        let (own, draws) = (at(&vec![1.0; subjects]), plan.resampling.run(subjects, at));
        let point = |(n, fpir): (usize, &f64)| {
            let (fnir, threshold) = own[n].filter(|_| told(*fpir, strangers))?;
            let of = |value, part: fn(&(f64, f64)) -> f64| -> Estimate {
                estimate(value, draws.iter().filter_map(|draw| draw[n].as_ref().map(part)))
            };
            Some(FpirPoint { fnir: of(fnir, |draw| draw.0), threshold: of(threshold, |draw| draw.1) })
        };
        let points = plan.fpirs.iter().enumerate().map(point);
        plan.fpirs.iter().zip(points).map(|(fpir, point)| FpirReport::new(*fpir, point)).collect()
    }

    /// FNIR and the threshold. `None` if the weights leave no probes of one kind.
    fn at_fpir(&self, fpir: f64, weights: &[f64]) -> Option<(f64, f64)> {
        let threshold = self.threshold(fpir, weights)?;
        let all: f64 = self.mated.iter().map(|(subject, _)| weights[*subject]).sum();
        let found = self.mated.iter().take_while(|(_, similarity)| *similarity >= threshold);
        let found: f64 = found.map(|(subject, _)| weights[*subject]).sum();
        (all > 0.0).then(|| (1.0 - found / all, f64::from(threshold)))
    }

    /// Just above the first stranger who is one too many.
    fn threshold(&self, fpir: f64, weights: &[f64]) -> Option<f32> {
        let all: f64 = self.strangers.iter().map(|(subject, _)| weights[*subject]).sum();
        let mut taken = 0.0;
        let one_too_many = self.strangers.iter().find(|(subject, _)| {
            taken += weights[*subject];
            taken > fpir * all * (1.0 + 1e-12)
        });
        (all > 0.0).then(|| one_too_many.map_or(-1.0, |(_, similarity)| similarity.next_up()))
    }

    fn missed(&self, people: usize, fpir: f64, subjects: usize) -> Missed {
        let threshold = self.threshold(fpir, &vec![1.0; subjects]).unwrap_or(1.0);
        let mut of_subject = vec![(0.0, 0.0); subjects];
        for (subject, similarity) in &self.mated {
            of_subject[*subject].0 += f64::from(u8::from(*similarity < threshold));
            of_subject[*subject].1 += 1.0;
        }
        Missed { people, fpir, of_subject }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::faces::made;

    fn plan(sizes: &[usize]) -> GrowthPlan {
        let resampling = Resampling { draws: 100, seed: 1 };
        GrowthPlan { sizes: sizes.to_vec(), fpirs: vec![0.1, 0.01], splits: 20, resampling }
    }

    #[test]
    fn the_larger_the_gallery_the_more_are_missed() {
        let faces = made::faces(400, 4, 1.1, 1);
        let (growth, missed) = growth(&faces, &plan(&[10, 50, 500])).unwrap();
        assert_eq!((growth.splits, growth.strangers), (20, 200));
        let sizes: Vec<usize> = growth.sizes.iter().map(|size| size.people).collect();
        assert_eq!(sizes, [10, 50, 200], "500 do not fit, and all but the strangers are added");
        assert_eq!(growth.sizes[0].mated_probes, 30);
        for (at, missed) in missed.iter().enumerate() {
            let points: Vec<&FpirReport> = growth.sizes.iter().map(|size| &size.at_fpir[at]).collect();
            let fnirs: Vec<f64> = points.iter().map(|point| point.fnir.unwrap().value).collect();
            assert!(fnirs.is_sorted() && fnirs[2] > fnirs[0] + 0.1, "{fnirs:?}");
            let thresholds: Vec<f64> = points.iter().map(|point| point.threshold.unwrap().value).collect();
            assert!(thresholds.is_sorted(), "{thresholds:?}");
            // Who is missed is the same figure, person by person.
            let sums = missed.of_subject.iter().fold((0.0, 0.0), |sums, one| (sums.0 + one.0, sums.1 + one.1));
            assert!((sums.0 / sums.1 - fnirs[2]).abs() < 1e-9 && missed.people == 200, "{sums:?}");
        }
        assert_eq!(missed.len(), 2);
        let fnir = growth.sizes[1].at_fpir[1].fnir.unwrap();
        assert!(fnir.low < fnir.value && fnir.value < fnir.high, "{fnir:?}");
    }

    #[test]
    fn one_threshold_lets_the_share_of_all_strangers_pass() {
        let strangers = (0..100).map(|n| (n % 50, 1.0 - n as f32 / 100.0)).collect();
        let mated = vec![(50, 0.95), (51, 0.9), (52, 0.8), (53, f32::NEG_INFINITY)];
        let pool = Pool { mated, strangers };
        let (fnir, threshold) = pool.at_fpir(0.1, &[1.0; 54]).unwrap();
        assert!((threshold - 0.9).abs() < 1e-6 && threshold > 0.9_f32.into(), "{threshold}");
        assert_eq!(fnir, 0.75, "0.9 is below what lets ten pass");
        let mut weights = [1.0; 54];
        weights[50] = 3.0;
        assert_eq!(pool.at_fpir(0.1, &weights).unwrap().0, 0.5);
        assert_eq!(pool.at_fpir(0.1, &[0.0; 54]), None);
    }

    #[test]
    fn what_does_not_fit_is_not_measured() {
        assert_eq!(growth(&made::faces(10, 3, 1.0, 1), &plan(&[50])), None);
        assert_eq!(growth(&made::faces(10, 1, 1.0, 1), &plan(&[5])), None, "nobody has two photos");
        let (few, missed) = growth(&made::faces(10, 3, 1.0, 1), &plan(&[2])).unwrap();
        assert_eq!((few.sizes.len(), few.strangers), (2, 5));
        assert!(few.sizes[0].at_fpir[0].fnir.is_none() && missed.is_empty(), "five strangers do not tell 0.1");
    }
}
