//! Whether a network may take the place of another: not because it looks better on a few people, but because it is
//! better on people whom it never saw, and still good where the other one was.
//!
//! Each gallery is judged by itself, at the rates of strangers at which it decides: TAR at its FMR, FNIR at its FPIR. Where
//! people are too few for either answer, that is said, and is an outcome of its own.

mod change;
mod search;
mod set;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::EvaluationError;
use super::bootstrap::Estimate;
pub use change::{Change, Figures, GateRate};
pub use set::{GateSet, RatesInUse, Shown};

/// What came of a comparison. In the order of what decides if there are several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum GateOutcome {
    /// Surely no better where it should be, or surely worse where it must not be.
    Refused,
    /// Too few people to tell.
    NotEnoughEvidence,
    Passed,
}

/// What a candidate must show.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gate {
    /// By how much TAR, and 1 - FNIR, may fall: in a gallery that decides well, two of a hundred photos.
    pub fall: f64,
    /// By how much they may fall with other people, at the far end of the interval, so that the candidate passes.
    pub worst: f64,
    /// Subjects with two photos that it takes to tell anything.
    pub least_mated: usize,
    /// Draws of subjects, and from which seed.
    pub draws: usize,
    pub seed: u64,
    /// Impostor pairs of a set that are looked at; of more, as many are chosen at random.
    pub most_impostors: usize,
}

impl Default for Gate {
    fn default() -> Self {
        Self { fall: 0.02, worst: 0.05, least_mated: Self::LEAST_MATED, draws: 1000, seed: 1, most_impostors: 200_000 }
    }
}

/// Room for rounding where a change is just what is allowed.
const ROUNDING: f64 = 1e-9;

/// What came of one set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// Of the gallery.
    pub name: String,
    pub outcome: GateOutcome,
    /// Why it did not pass.
    pub reasons: Vec<String>,
    /// `None` if nothing can be compared.
    #[serde(flatten)]
    pub change: Option<Change>,
}

/// What the gate decided, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    pub outcome: GateOutcome,
    /// Whether it passed.
    pub promote: bool,
    /// Why not, what decided first; empty if it passed.
    pub reasons: Vec<String>,
    /// What weakens the decision.
    pub notes: Vec<String>,
    /// On subjects of the kind that the candidate was made for.
    pub target: Judged,
    /// On subjects whom it must not be worse for, gallery by gallery.
    pub protected: Vec<Judged>,
    /// The rules that were applied.
    pub gate: Gate,
}

impl Gate {
    /// With fewer subjects who have two photos nothing is said. Intervals know no others than those who were there: with few,
    /// what is called the 95 % interval of a mean holds the truth less often (of 5 normal variates in 85 %, of 10 in 90 %).
    pub const LEAST_MATED: usize = 10;

    /// Compares on subjects whom the candidate never saw: refused if it is refused anywhere, else passed if it passed
    /// everywhere.
    pub fn decide(&self, target: &GateSet, protected: &[GateSet]) -> Result<Verdict, EvaluationError> {
        let target = self.judge(target, |change| self.improvement(change))?;
        let protected: Vec<Judged> = protected
            .iter()
            .map(|set| self.judge(set, |change| self.losses(&set.name, change)))
            .collect::<Result<_, _>>()?;
        let mut all: Vec<&Judged> = std::iter::once(&target).chain(&protected).collect();
        all.sort_by_key(|judged| judged.outcome);
        let outcome = all[0].outcome;
        let reasons = all.iter().flat_map(|judged| judged.reasons.clone()).collect();
        let mut notes = Vec::new();
        if protected.is_empty() {
            notes.push("no protected set: what the candidate has forgotten is not known".to_owned());
        }
        let promote = outcome == GateOutcome::Passed;
        Ok(Verdict { outcome, promote, reasons, notes, target, protected, gate: self.clone() })
    }

    /// `rules` say what speaks against passing.
    fn judge(
        &self,
        set: &GateSet,
        rules: impl Fn(&Change) -> Vec<(GateOutcome, String)>,
    ) -> Result<Judged, EvaluationError> {
        let change = match Change::of(set, self) {
            Ok(change) => Some(change),
            Err(EvaluationError::NoGenuinePair | EvaluationError::NoImpostorPair) => None,
            Err(error) => return Err(error),
        };
        let against = match &change {
            Some(change) if change.mated >= self.least_mated => rules(change),
            _ => {
                let reason = format!(
                    "too few to tell: {} people of {:?} with two photos are there to compare on, {} are needed",
                    set.mated(),
                    set.name,
                    self.least_mated
                );
                vec![(GateOutcome::NotEnoughEvidence, reason)]
            }
        };
        let outcome = against.iter().map(|(outcome, _)| *outcome).min().unwrap_or(GateOutcome::Passed);
        let reasons = against.into_iter().map(|(_, reason)| reason).collect();
        Ok(Judged { name: set.name.clone(), outcome, reasons, change })
    }

    /// TAR must rise, and who is found must not surely become fewer.
    fn improvement(&self, change: &Change) -> Vec<(GateOutcome, String)> {
        let [(tar, rise), (found, loss)] = change.judged_by();
        let people = format!("on {} people whom the candidate never saw", change.mated);
        let Estimate { value, low, high } = rise;
        let first = if high <= ROUNDING {
            let reason = format!(
                "no improvement shown: {tar} changes by {value:+.4} {people}, and with other people by {high:+.4} at most"
            );
            Some((GateOutcome::Refused, reason))
        } else if low <= 0.0 {
            let reason = format!(
                "not enough evidence of an improvement: {tar} changes by {value:+.4} {people}, and with other people that \
                 may be {low:+.4} to {high:+.4}"
            );
            Some((GateOutcome::NotEnoughEvidence, reason))
        } else {
            None
        };
        let worse = self.is_surely_worse(&loss).then(|| (GateOutcome::Refused, self.refused(&found, &loss, &people)));
        first.into_iter().chain(worse).collect()
    }

    /// Neither TAR nor who is found may fall by more than is allowed, nor perhaps by much more.
    fn losses(&self, name: &str, change: &Change) -> Vec<(GateOutcome, String)> {
        let people = format!("on {} people of {name:?}", change.mated);
        let loss = |(what, change): (String, Estimate)| {
            let Estimate { value, low, high } = change;
            if self.is_surely_worse(&change) {
                return Some((GateOutcome::Refused, self.refused(&what, &change, &people)));
            }
            let passes = -value <= self.fall + ROUNDING && -low <= self.worst + ROUNDING;
            (!passes).then(|| {
                let reason = format!(
                    "not enough evidence that nothing is forgotten: {what} changes by {value:+.4} {people}, and with other \
                     people that may be {low:+.4} to {high:+.4}; a fall by {} is allowed, and by {} with other people",
                    self.fall, self.worst
                );
                (GateOutcome::NotEnoughEvidence, reason)
            })
        };
        change.judged_by().into_iter().filter_map(loss).collect()
    }

    /// Whether the fall is more than allowed, and a fall with other people too.
    fn is_surely_worse(&self, change: &Estimate) -> bool {
        -change.value > self.fall + ROUNDING && change.high < 0.0
    }

    fn refused(&self, what: &str, change: &Estimate, people: &str) -> String {
        format!(
            "forgetting: {what} falls by {:.4} {people}, and with other people by {:.4} at least; by {} is allowed",
            -change.value, -change.high, self.fall
        )
    }
}
