//! What a run does, as data: saved beside the weights, so that a run can be repeated and resumed.

mod presets;

use serde::{Deserialize, Serialize};

use super::TrainingError;
use crate::nn::Precision;

/// All settings of a run. The same settings, photos and number of threads give the same weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// From which all that looks random follows. At most 2^63 - 1, for TOML has no more.
    pub seed: u64,
    /// Batches that are trained on.
    pub steps: u64,
    /// Threads of libtorch. Another number may round sums otherwise, so that it is part of what is repeatable.
    pub threads: u16,
    /// In which the network computes: fp32 or bf16. Weights are kept and changed in float32.
    pub precision: Precision,
    pub network: Architecture,
    pub loss: Loss,
    pub batch: BatchShape,
    pub optimiser: Optimiser,
    pub augmentation: Augmentation,
    pub stopping: Stopping,
    pub held_out: HeldOut,
    pub fine_tuning: FineTuning,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            seed: 1,
            steps: 300,
            threads: 1,
            precision: Precision::Fp32,
            network: Architecture::default(),
            loss: Loss::default(),
            batch: BatchShape::default(),
            optimiser: Optimiser::default(),
            augmentation: Augmentation::default(),
            stopping: Stopping::default(),
            held_out: HeldOut::default(),
            fine_tuning: FineTuning::default(),
        }
    }
}

/// What a network reads of a chip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Input {
    /// `1 x 56 x 56`: brightness, each value the mean of 2 x 2 pixels. Enough for faces of few people, and fast.
    Grey56,
    /// `3 x 112 x 112`: the chip.
    Rgb112,
}

impl Input {
    pub fn channels(self) -> i64 {
        match self {
            Self::Grey56 => 1,
            Self::Rgb112 => 3,
        }
    }

    pub fn side(self) -> i64 {
        match self {
            Self::Grey56 => 56,
            Self::Rgb112 => 112,
        }
    }
}

/// Which network is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Architecture {
    /// Four convolutions and a linear layer, about 1 M parameters.
    Cnn { input: Input, dimension: u16 },
    /// Chen et al. 2018, "MobileFaceNets", arXiv:1804.07573. `width` multiplies its channels; 1 is the published one.
    MobileFaceNet { input: Input, dimension: u16, width: f64 },
    /// Two linear layers, a sigmoid at the end: a usual first attempt, to compare with.
    Mlp { input: Input, hidden: u16, dimension: u16 },
    /// The network of a file, which is trained further.
    Base,
}

impl Default for Architecture {
    fn default() -> Self {
        Self::Cnn { input: Input::Grey56, dimension: 128 }
    }
}

impl Architecture {
    /// `None` if the file says it.
    pub fn input(&self) -> Option<Input> {
        match self {
            Self::Cnn { input, .. } | Self::MobileFaceNet { input, .. } | Self::Mlp { input, .. } => Some(*input),
            Self::Base => None,
        }
    }

    /// Of the embeddings. `None` if the file says it.
    pub fn dimension(&self) -> Option<u16> {
        match self {
            Self::Cnn { dimension, .. } | Self::MobileFaceNet { dimension, .. } | Self::Mlp { dimension, .. } => {
                Some(*dimension)
            }
            Self::Base => None,
        }
    }

    /// Whether distances are between embeddings of length 1.
    pub fn normalised(&self) -> bool {
        !matches!(self, Self::Mlp { .. })
    }
}

/// What is minimised. Distances are squared Euclidean, 0..=4 for embeddings of length 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Loss {
    /// Every pair of one subject with the nearest negative that is farther away than the positive (Schroff et al. 2015,
    /// "FaceNet", arXiv:1503.03832); without one, with the farthest negative.
    SemiHard { margin: f64 },
    /// Every face with its farthest positive and its nearest negative (Hermans et al. 2017, "In Defense of the
    /// Triplet Loss", arXiv:1703.07737).
    BatchHard { margin: f64 },
    /// The same with ln(1 + e^x) in place of the margin.
    BatchHardSoft,
    /// Every face with a positive and a negative by chance, and the mean over the dimensions in place of the sum.
    RandomMeanSquare { margin: f64 },
}

impl Default for Loss {
    fn default() -> Self {
        Self::BatchHard { margin: 0.3 }
    }
}

/// What a batch is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BatchShape {
    /// Subjects with two photos or more.
    pub subjects: u16,
    /// Photos of each of them; those who have fewer give all of theirs.
    pub photos: u16,
    /// Subjects with a single photo, who serve as negatives.
    pub singles: u16,
}

impl Default for BatchShape {
    fn default() -> Self {
        Self { subjects: 10, photos: 4, singles: 4 }
    }
}

/// AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) and its schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Optimiser {
    /// The highest one, after the warm-up.
    pub learning_rate: f64,
    /// Share of the steps over which the learning rate rises to it.
    pub warm_up: f64,
    /// What the learning rate falls to, by a half cosine, as a share of the highest.
    pub final_share: f64,
    /// Applies to the weights of convolutions and linear layers only.
    pub weight_decay: f64,
    /// Longer gradients are shortened to this.
    pub gradient_clip: f64,
    /// What the averaged weights, which are the result, keep of themselves in a step; less in the first ones.
    pub average_decay: f64,
}

impl Default for Optimiser {
    fn default() -> Self {
        Self {
            learning_rate: 1e-3,
            warm_up: 0.1,
            final_share: 0.01,
            weight_decay: 0.01,
            gradient_clip: 5.0,
            average_decay: 0.98,
        }
    }
}

/// How chips are varied. Probabilities are 0..=1; 0 leaves the change out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Augmentation {
    /// Probability of mirroring left and right.
    pub flip: f64,
    /// Largest shift in either direction, as a share of the side.
    pub shift: f64,
    /// Largest change of the size, as a share.
    pub scale: f64,
    /// Largest turn, in degrees.
    pub rotation: f64,
    /// Largest |ln| of the exponent by which brightness 0..1 is raised.
    pub gamma: f64,
    pub blur: f64,
    pub jpeg: f64,
    /// Probability of making the chip small and large again.
    pub low_resolution: f64,
    pub grey: f64,
    /// Probability of covering a rectangle.
    pub occlusion: f64,
}

impl Default for Augmentation {
    fn default() -> Self {
        Self {
            flip: 0.5,
            shift: 0.03,
            scale: 0.1,
            rotation: 5.0,
            gamma: 0.3,
            blur: 0.1,
            jpeg: 0.1,
            low_resolution: 0.1,
            grey: 0.1,
            occlusion: 0.1,
        }
    }
}

impl Augmentation {
    /// Chips as they are.
    pub const NONE: Self = Self {
        flip: 0.0,
        shift: 0.0,
        scale: 0.0,
        rotation: 0.0,
        gamma: 0.0,
        blur: 0.0,
        jpeg: 0.0,
        low_resolution: 0.0,
        grey: 0.0,
        occlusion: 0.0,
    };

    /// As another detector would have cut them out.
    pub const GEOMETRY: Self = Self { flip: 0.5, shift: 0.03, scale: 0.1, rotation: 5.0, ..Self::NONE };
}

/// When a run ends before its last step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Stopping {
    /// Steps between two looks at the subjects that are held out for this.
    pub every: u64,
    /// Looks without a better result after which the run ends.
    pub patience: u64,
}

impl Default for Stopping {
    fn default() -> Self {
        Self { every: 50, patience: 4 }
    }
}

/// Subjects that are not trained on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HeldOut {
    /// Names of those that the result is tested on. If none is named, a share of those with two photos is taken.
    pub test: Vec<String>,
    pub test_share: f64,
    /// Share of the others that decides when to stop; fewer than eight subjects decide nothing, and are trained on. They
    /// are not tested on: they have had a say in the result.
    pub validation_share: f64,
}

impl Default for HeldOut {
    fn default() -> Self {
        Self { test: Vec::new(), test_share: 0.1, validation_share: 0.1 }
    }
}

/// How a network that came in a file is trained further, and what keeps it from forgetting what it could do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FineTuning {
    /// Leading layers, convolutions and products with what follows them, that stay as they are: the larger of a number
    /// and a share of all.
    pub frozen_layers: u32,
    pub frozen_share: f64,
    /// Chips of each step that are to be embedded as before, unchanged: of a set of their own, else of those that are
    /// trained on.
    pub replay: u16,
    /// Of their mean squared distance to the embeddings of the base, beside the loss.
    pub replay_weight: f64,
    /// The share of the trained weights in the result; the rest is of the base.
    pub blend: f64,
}

impl Default for FineTuning {
    fn default() -> Self {
        Self { frozen_layers: 0, frozen_share: 0.0, replay: 8, replay_weight: 2.0, blend: 1.0 }
    }
}

impl TrainConfig {
    /// Refuses what cannot be trained.
    pub fn check(&self) -> Result<(), TrainingError> {
        let Optimiser { learning_rate, warm_up, final_share, weight_decay, gradient_clip, average_decay } =
            self.optimiser;
        let a = &self.augmentation;
        let HeldOut { test_share, validation_share, .. } = self.held_out;
        let FineTuning { frozen_share, replay_weight, blend, .. } = self.fine_tuning;
        let changes = [a.flip, a.blur, a.jpeg, a.low_resolution, a.grey, a.occlusion];
        let shares =
            [&changes[..], &[warm_up, final_share, test_share, validation_share, frozen_share, blend]].concat();
        let amounts = [a.shift, a.scale, a.rotation, a.gamma, weight_decay, replay_weight];
        let margin = match self.loss {
            Loss::SemiHard { margin } | Loss::BatchHard { margin } | Loss::RandomMeanSquare { margin } => margin,
            Loss::BatchHardSoft => 1.0,
        };
        let hidden = if let Architecture::Mlp { hidden, .. } = self.network { hidden } else { 1 };
        let width = if let Architecture::MobileFaceNet { width, .. } = self.network { width } else { 1.0 };
        let positive = |value: f64| value.is_finite() && value > 0.0;
        let rules = [
            (self.seed <= i64::MAX as u64, "seed: at most 2^63 - 1"),
            ((1..=10_000_000).contains(&self.steps), "steps: 1 to 10 million"),
            ((1..=256).contains(&self.threads), "threads: 1 to 256"),
            (self.precision != Precision::Fp16, "precision: fp32 or bf16"),
            (self.network.dimension().is_none_or(|dimension| (1..=4000).contains(&dimension)), "dimension: 1 to 4000"),
            (hidden > 0, "hidden: above 0"),
            (width.is_finite() && (0.1..=4.0).contains(&width), "width: 0.1 to 4"),
            (positive(margin), "margin: above 0"),
            ((2..=256).contains(&self.batch.subjects), "batch.subjects: 2 to 256"),
            ((2..=64).contains(&self.batch.photos), "batch.photos: 2 to 64"),
            (self.batch.singles <= 256, "batch.singles: at most 256"),
            (positive(learning_rate) && positive(gradient_clip), "learning_rate and gradient_clip: above 0"),
            ((0.0..1.0).contains(&average_decay), "average_decay: 0 or more, below 1"),
            (shares.iter().all(|share| (0.0..=1.0).contains(share)), "shares and probabilities: 0 to 1"),
            (amounts.iter().all(|amount| amount.is_finite() && *amount >= 0.0), "amounts: 0 or more"),
            (self.fine_tuning.replay <= 256, "fine_tuning.replay: at most 256"),
            (a.scale < 1.0 && a.shift < 1.0, "shift and scale: below 1"),
            (self.stopping.every > 0 && self.stopping.patience > 0, "stopping: above 0"),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, rule)) => Err(TrainingError::Config((*rule).to_owned())),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "steps = 0",
            "stepps = 1",
            "[loss]\nkind = \"semi-hard\"\nmargin = -1.0",
            "[batch]\nphotos = 1",
            "[optimiser]\nlearning_rate = nan",
            "[augmentation]\nflip = 2.0",
        ] {
            assert!(matches!(TrainConfig::parse(text), Err(TrainingError::Config(_))), "{text}");
        }
    }
}
