//! The fit on made galleries whose truth is known.

use super::*;
use crate::evaluation::Random;
use crate::evaluation::curve::any_of;

/// A model whose false match rate falls tenfold each 0.06, and its pairs of one person.
fn prior() -> FmrCurve {
    let point = |n: i32| {
        let threshold = 0.2 + 0.06 * n as f32;
        FmrPoint { rate: 0.1_f64.powi(n + 1), threshold, low: threshold - 0.01, high: threshold + 0.01 }
    };
    FmrCurve::new((0..6).map(point).collect()).unwrap()
}

fn genuine() -> GenuineCurve {
    let shares = [0.01, 0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99];
    let similarities = [0.42, 0.51, 0.55, 0.63, 0.68, 0.73, 0.81, 0.9];
    let points = shares.into_iter().zip(similarities);
    let points: Vec<_> = points.map(|(share, similarity)| GenuinePoint { share, similarity }).collect();
    GenuineCurve::new(&points).unwrap()
}

/// Largest similarities in a gallery of `subjects` whose people match `ratio` times as often as the model expects, and of
/// whom a share meets itself.
fn largest(count: usize, subjects: f64, ratio: f64, twice: f64, random: &mut Random) -> Vec<f32> {
    let prior = prior();
    let one = |random: &mut Random| {
        let rate = -random.unit().max(1e-12).ln() / (subjects * ratio);
        let stranger = prior.at(rate.min(1.0)).threshold;
        let again = 0.68 + 0.1 * random.normal() as f32;
        if random.unit() < twice { stranger.max(again) } else { stranger }
    };
    (0..count).map(|_| one(random)).collect()
}

/// The rate of strangers that the fit expects where `rate` is the truth, over the truth.
fn off(count: usize, subjects: f64, ratio: f64, twice: f64, rate: f64, seed: u64) -> f64 {
    let seen = largest(count, subjects, ratio, twice, &mut Random::new(seed, 0));
    let fitted = Strangers::fit(&prior(), Some(&genuine()), &seen, subjects as u64).unwrap();
    let threshold = f64::from(fitted.curve().unwrap().at(each_of(subjects, rate)).threshold);
    any_of(subjects, prior().rate(threshold) * ratio) / rate
}

#[test]
fn a_gallery_that_differs_from_the_model_corrects_it() {
    for (count, subjects) in [(1000, 1000.0), (10_000, 20_000.0), (10_000, 1e6)] {
        for ratio in [0.3, 1.0, 3.0] {
            for rate in [0.03, 0.01, 0.003] {
                let off = off(count, subjects, ratio, 0.0, rate, 1);
                assert!((0.6..1.6).contains(&off), "{count} of {subjects}, {ratio}, {rate}: {off}");
            }
        }
    }
}

/// Galleries that differ as much as was known beforehand, of few faces each.
#[test]
fn small_galleries_name_no_more_than_asked_on_average() {
    let (subjects, asked, galleries) = (50.0, 0.03, 400);
    let (mut named, mut most_likely) = (0.0, 0.0);
    for seed in 0..galleries {
        let mut random = Random::new(seed, 1);
        let ratio = (SHIFT * random.normal()).exp();
        let seen = largest(50, subjects, ratio, 0.0, &mut random);
        let fitted = Strangers::fit(&prior(), None, &seen, subjects as u64).unwrap();
        let sure = Strangers { open: Open { shift: 0.0, width: 0.0, both: 0.0 }, ..fitted.clone() };
        let rate = |fitted: &Strangers| {
            let threshold = f64::from(fitted.curve().unwrap().at(each_of(subjects, asked)).threshold);
            any_of(subjects, prior().rate(threshold) * ratio) / asked / galleries as f64
        };
        named += rate(&fitted);
        most_likely += rate(&sure);
    }
    println!("{named} times as many as asked, {most_likely} by the most likely rate");
    assert!((0.96..1.03).contains(&named) && named < most_likely, "{named}, {most_likely}");
}

#[test]
fn few_faces_leave_the_model_as_it_is() {
    for seed in 0..20 {
        let off = off(50, 50.0, 1.0, 0.0, 0.003, seed);
        assert!((0.5..1.7).contains(&off), "{seed}: {off}");
    }
    let few = largest(LEAST_OBSERVATIONS, 10.0, 1.0, 0.0, &mut Random::new(1, 0));
    assert_eq!(Strangers::fit(&prior(), None, &few, 10), None);
}

#[test]
fn people_enrolled_twice_neither_spoil_the_tail_nor_cut_it() {
    for twice in [0.02, 0.2] {
        for rate in [0.01, 0.003] {
            let off = off(10_000, 20_000.0, 1.0, twice, rate, 3);
            assert!((0.5..1.7).contains(&off), "{twice}, {rate}: {off}");
        }
        let seen = largest(10_000, 20_000.0, 1.0, twice, &mut Random::new(3, 0));
        let found = Strangers::fit(&prior(), Some(&genuine()), &seen, 20_000).unwrap().twice();
        assert!((found / twice - 1.0).abs() < 0.35, "{twice}: {found}");
    }
    // In a million strangers reach what one person does; nobody is enrolled twice.
    let seen = largest(10_000, 1e6, 1.0, 0.0, &mut Random::new(4, 0));
    assert!(Strangers::fit(&prior(), Some(&genuine()), &seen, 1_000_000).unwrap().twice() < 0.01);
}

#[test]
fn a_curve_of_a_gallery_is_one_that_can_be_kept() {
    let seen = largest(300, 300.0, 1.0, 0.0, &mut Random::new(1, 0));
    let curve = Strangers::fit(&prior(), Some(&genuine()), &seen, 300).unwrap().curve().unwrap();
    assert!(curve.points().windows(2).all(|p| p[0].rate > p[1].rate && p[0].threshold < p[1].threshold));
    assert!(curve.points().iter().all(|p| p.low <= p.threshold && p.threshold <= p.high), "{curve:?}");
    assert!(curve.points().last().unwrap().high > curve.points().last().unwrap().low);
}
