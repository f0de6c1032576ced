//! Settings that come with the program, and those of a text.

use super::*;
use crate::types::without_mark;

impl TrainConfig {
    /// Another network's weights, adapted to photos of another kind within a minute or two. If it `keeps` its embeddings of
    /// some photos, each step may change more; without any, small steps and a quarter of the base's weights in the result hold
    /// forgetting down. To replay the photos that are to change would hold down what is to be learned.
    pub fn fine_tune(keeps: bool) -> Self {
        let learning_rate = if keeps { 3e-4 } else { 1e-4 };
        let fine_tuning = match keeps {
            true => FineTuning::default(),
            false => FineTuning { replay: 0, blend: 0.75, ..FineTuning::default() },
        };
        Self {
            steps: 60,
            network: Architecture::Base,
            loss: Loss::BatchHard { margin: 0.3 },
            batch: BatchShape { subjects: 8, photos: 4, singles: 0 },
            optimiser: Optimiser { learning_rate, weight_decay: 0.0, ..Optimiser::default() },
            augmentation: Augmentation { gamma: 0.2, ..Augmentation::GEOMETRY },
            stopping: Stopping { every: 10, patience: 4 },
            fine_tuning,
            ..Self::default()
        }
    }

    /// A MobileFaceNet of the published width for chips in colour: for many people, and a machine with time.
    pub fn mobile_face_net() -> Self {
        Self {
            network: Architecture::MobileFaceNet { input: Input::Rgb112, dimension: 128, width: 1.0 },
            ..Self::default()
        }
    }

    /// A perceptron with a sigmoid, random triplets and a mean-square distance, without averaging, schedule or changed
    /// chips: what the other recipes are compared with.
    pub fn plain() -> Self {
        Self {
            network: Architecture::Mlp { input: Input::Grey56, hidden: 512, dimension: 128 },
            loss: Loss::RandomMeanSquare { margin: 0.2 },
            optimiser: Optimiser {
                warm_up: 0.0,
                final_share: 1.0,
                weight_decay: 0.0,
                gradient_clip: 1e9,
                average_decay: 0.0,
                ..Optimiser::default()
            },
            augmentation: Augmentation::NONE,
            ..Self::default()
        }
    }

    /// Reads settings from TOML; what it leaves out has its default.
    pub fn parse(text: &str) -> Result<Self, TrainingError> {
        Self::default().changed_by(text)
    }

    /// These settings with those that a TOML text names in their place.
    pub fn changed_by(&self, text: &str) -> Result<Self, TrainingError> {
        let refused = |error: &dyn std::fmt::Display| TrainingError::Config(error.to_string());
        let text = without_mark(text);
        // For its message, which names the line.
        toml::from_str::<Self>(text).map_err(|error| refused(&error))?;
        let mut settings = toml::Table::try_from(self).map_err(|error| refused(&error))?;
        merge(&mut settings, text.parse::<toml::Table>().map_err(|error| refused(&error))?);
        let config: Self = settings.try_into().map_err(|error| refused(&error))?;
        config.check()?;
        Ok(config)
    }

    /// The settings as TOML, which keeps every digit.
    pub fn to_toml(&self) -> Result<String, TrainingError> {
        toml::to_string(self).map_err(|error| TrainingError::Config(error.to_string()))
    }
}

/// Puts values into a table; tables into tables, but for those of another kind, of which nothing is kept.
fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(known)), toml::Value::Table(given))
                if given.get("kind").is_none_or(|kind| known.get("kind") == Some(kind)) =>
            {
                merge(known, given);
            }
            (_, value) => drop(into.insert(key, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_survive_toml_to_the_last_digit() {
        let mut config = TrainConfig { seed: 77, ..TrainConfig::default() };
        config.optimiser.learning_rate = 0.1 + 0.2;
        assert_eq!(TrainConfig::parse(&config.to_toml().unwrap()).unwrap(), config);
        let plain = TrainConfig::plain();
        assert_eq!(TrainConfig::parse(&plain.to_toml().unwrap()).unwrap(), plain);
        assert_eq!(TrainConfig::parse("").unwrap(), TrainConfig::default());
    }

    #[test]
    fn settings_are_changed_where_a_text_names_them() {
        let base = TrainConfig::fine_tune(true);
        let changed =
            base.changed_by("steps = 7\n[optimiser]\nlearning_rate = 1e-4\n[loss]\nkind = \"batch-hard-soft\"");
        let optimiser = Optimiser { learning_rate: 1e-4, ..base.optimiser.clone() };
        assert_eq!(changed.unwrap(), TrainConfig { steps: 7, optimiser, loss: Loss::BatchHardSoft, ..base.clone() });
        assert_eq!(base.changed_by("").unwrap(), base);
        assert_eq!(base.changed_by("\u{feff}steps = 7").unwrap().steps, 7);
        assert_eq!(base.changed_by(&base.to_toml().unwrap()).unwrap(), base);
    }
}
