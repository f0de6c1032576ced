//! The settings of a training: a preset, changed by what was asked for.

use serde_json::{Map, Value};

use super::{RetrainBase, RetrainRequest, TEST_SHARE};
use crate::service::ServiceError;
use crate::training::TrainConfig;

/// All settings of the training that is asked for, checked. `keeps` says whether there are faces on which the base is kept.
pub(super) fn of(request: &RetrainRequest, keeps: bool) -> Result<Value, ServiceError> {
    let mut config = match request.base {
        RetrainBase::Active => TrainConfig::fine_tune(keeps),
        RetrainBase::Scratch => TrainConfig::default(),
    };
    config.held_out.test_share = TEST_SHARE;
    if let Some(changes) = &request.recipe {
        config = config.changed_by(&as_toml(changes)?).map_err(invalid)?;
    }
    config.steps = request.steps.unwrap_or(config.steps);
    config.seed = request.seed.unwrap_or(config.seed);
    config.held_out.test_share = request.test_share.unwrap_or(config.held_out.test_share);
    config.check().map_err(invalid)?;
    serde_json::to_value(&config).map_err(|error| ServiceError::Internal(error.to_string()))
}

/// The recipe that [`of`] made, as `faceid train` reads it, for as many threads.
pub(super) fn to_toml(recipe: &Value, threads: usize) -> Result<String, ServiceError> {
    let mut config: TrainConfig = serde_json::from_value(recipe.clone()).map_err(invalid)?;
    config.threads = u16::try_from(threads).unwrap_or(u16::MAX);
    config.to_toml().map_err(invalid)
}

fn as_toml(changes: &Map<String, Value>) -> Result<String, ServiceError> {
    let table = toml::Table::try_from(changes).map_err(invalid)?;
    toml::to_string(&table).map_err(invalid)
}

fn invalid(reason: impl std::fmt::Display) -> ServiceError {
    ServiceError::InvalidField { field: "recipe", reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::types::Name;

    fn request(recipe: Value) -> RetrainRequest {
        RetrainRequest {
            gallery: Name::try_from("staff".to_owned()).unwrap(),
            base: RetrainBase::Scratch,
            protected: None,
            steps: Some(7),
            seed: Some(3),
            test_share: None,
            recipe: recipe.as_object().cloned(),
            name: None,
            promote: false,
        }
    }

    #[test]
    fn what_was_said_changes_the_preset() {
        let changes = json!({"loss": {"kind": "batch-hard-soft"}, "batch": {"subjects": 6}, "steps": 9});
        let recipe = of(&request(changes), false).unwrap();
        assert_eq!((&recipe["steps"], &recipe["seed"]), (&json!(7), &json!(3)));
        assert_eq!(recipe["loss"], json!({"kind": "batch-hard-soft"}));
        assert_eq!((&recipe["batch"]["subjects"], &recipe["batch"]["photos"]), (&json!(6), &json!(4)));
        assert_eq!(recipe["held_out"]["test_share"], json!(TEST_SHARE));
        let text = to_toml(&recipe, 3).unwrap();
        let read = TrainConfig::parse(&text).unwrap();
        assert_eq!((read.threads, read.steps, read.batch.subjects), (3, 7, 6));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for changes in [json!({"stepps": 1}), json!({"batch": 4}), json!({"batch": {"photos": 1}})] {
            let refused = of(&request(changes.clone()), false);
            assert!(
                matches!(refused, Err(ServiceError::InvalidField { field: "recipe", .. })),
                "{changes}: {refused:?}"
            );
        }
    }
}
