//! How well faces are told apart: statistics on similarities. Plain numbers in, plain numbers out.
//!
//! Words are those of ISO/IEC 19795-1. A pair is *genuine* if both faces show one subject, else *impostor*; a pair matches
//! if its similarity reaches the threshold. FMR (false match rate, here the same as FAR) is the share of impostor pairs that
//! match, FNMR that of genuine pairs that do not, TAR = 1 - FNMR. A stranger is a subject who is not enrolled: FPIR is
//! the share of strangers' probes that are taken for somebody, FNIR that of the others' that are not taken for
//! themselves.

mod bootstrap;
mod comparisons;
mod curve;
mod exhaustive;
mod faces;
mod gate;
mod groups;
mod growth;
mod identification;
mod logistic;
mod nonmated;
mod random;
mod report;
mod tail;
mod verification;
mod worth;

use thiserror::Error;

pub use bootstrap::{Estimate, Resampling, estimate};
pub use comparisons::{Comparisons, Pair};
pub use curve::{FmrCurve, FmrPoint, any_of, each_of};
pub use faces::Faces;
pub use gate::{Change, Figures, Gate, GateOutcome, GateRate, GateSet, Judged, RatesInUse, Shown, Verdict};
pub use groups::{
    ErrorRate, FixedThreshold, Group, GroupFnir, GroupPlan, GroupRates, GroupReport, Grouping, Worst, by_group,
};
pub use growth::{Growth, GrowthPlan, GrowthSize, Missed, growth};
pub use identification::{FpirPoint, OneShot, OpenSet, one_shot, open_set};
pub use logistic::LogisticFit;
pub use nonmated::{GenuineCurve, GenuinePoint, LEAST_OBSERVATIONS, SPREAD, Strangers};
pub use random::Random;
pub use report::{
    AtThreshold, Basis, Curve, FarPoint, FpirReport, Identification, OpenSetReport, Rank, Report, ReportPlan,
    ThresholdPoint, Verification, identify, verify,
};
pub use tail::Tail;
pub use verification::{ErrorRates, measure};
pub use worth::{Claim, Worth};

/// Why nothing can be measured.
#[derive(Debug, Error, Clone, PartialEq)]
pub enum EvaluationError {
    #[error("no two faces show one person: at least one person needs two photos with a face")]
    NoGenuinePair,
    #[error("all faces show one person: at least two people are needed")]
    NoImpostorPair,
    #[error("a similarity is a finite number; that of subjects {0} and {1} is not")]
    NotFinite(usize, usize),
    #[error("{vectors} vectors of {subjects} subjects, or vectors of different lengths")]
    Shape { vectors: usize, subjects: usize },
}
