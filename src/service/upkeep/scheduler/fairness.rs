//! Whose turn it is: start-time fair queueing (Goyal, Vin and Cheng 1996) among kinds of jobs by weight, and round robin within
//! a kind.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::jobs::JobKind;

/// How much of the time a kind gets while others want it as well: as much more as its weight is larger.
fn weight(kind: JobKind) -> f64 {
    match kind {
        // Whom somebody wants erased is erased soon; a face without an embedding is found by nobody.
        JobKind::Erase | JobKind::Merge | JobKind::Embed => 4.0,
        JobKind::Retire | JobKind::Review => 2.0,
        _ => 1.0,
    }
}

/// What each kind has had of the time.
#[derive(Default)]
pub(super) struct Fairness {
    /// Seconds by weight.
    used: HashMap<JobKind, f64>,
    /// Of the kind that was chosen last: whoever wanted no time until now begins here.
    clock: f64,
}

impl Fairness {
    /// Which of those who are ready goes next, by kind and by when it went last.
    pub fn next(&self, ready: impl Iterator<Item = (JobKind, Instant)>) -> Option<usize> {
        let by_turn = ready.enumerate().map(|(place, (kind, last))| (self.start(kind), last, place));
        let first = by_turn.min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        first.map(|(.., place)| place)
    }

    /// A kind went for so long.
    pub fn charge(&mut self, kind: JobKind, time: Duration) {
        let start = self.start(kind);
        self.clock = start;
        self.used.insert(kind, start + time.as_secs_f64() / weight(kind));
    }

    fn start(&self, kind: JobKind) -> f64 {
        self.used.get(&kind).copied().unwrap_or_default().max(self.clock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(fairness: &mut Fairness, jobs: &mut [(JobKind, Instant)], steps: usize) -> Vec<usize> {
        let mut turns = vec![0; jobs.len()];
        for step in 0..steps {
            let next = fairness.next(jobs.iter().copied()).unwrap();
            turns[next] += 1;
            jobs[next].1 += Duration::from_secs(1 + step as u64);
            fairness.charge(jobs[next].0, Duration::from_millis(100));
        }
        turns
    }

    #[test]
    fn kinds_share_by_weight_and_jobs_of_a_kind_alike() {
        let now = Instant::now();
        let mut jobs = [(JobKind::Erase, now), (JobKind::Erase, now), (JobKind::Review, now), (JobKind::Measure, now)];
        let turns = run(&mut Fairness::default(), &mut jobs, 700);
        assert!((198..=202).contains(&turns[0]) && (198..=202).contains(&turns[1]), "{turns:?}");
        assert!((198..=202).contains(&turns[2]) && (98..=102).contains(&turns[3]), "{turns:?}");
    }

    #[test]
    fn who_wanted_nothing_for_long_has_no_claim_on_the_past() {
        let now = Instant::now();
        let mut fairness = Fairness::default();
        run(&mut fairness, &mut [(JobKind::Review, now)], 1000);
        let turns = run(&mut fairness, &mut [(JobKind::Review, now), (JobKind::Measure, now)], 300);
        assert!((98..=102).contains(&turns[1]), "{turns:?}");
    }

    #[test]
    fn nobody_ready_is_nobody_chosen() {
        assert_eq!(Fairness::default().next(std::iter::empty()), None);
    }
}
