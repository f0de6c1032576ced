//! The settings of a training: a preset, changed by what was asked for.

use serde_json::{Map, Value};

use super::super::ServiceError;
use super::{RetrainBase, RetrainRequest, TEST_SHARE};
use crate::training::TrainConfig;

/// All settings of the training that is asked for, checked.
pub(super) fn of(request: &RetrainRequest) -> Result<Value, ServiceError> {
    let mut recipe = to_value(&preset(request.base))?;
    set(&mut recipe, &["held_out", "test_share"], TEST_SHARE.into());
    if let Some(changes) = &request.recipe {
        merge(&mut recipe, changes);
    }
    let said = [
        (&["steps"][..], request.steps.map(Value::from)),
        (&["seed"], request.seed.map(Value::from)),
        (&["held_out", "test_share"], request.test_share.map(Value::from)),
    ];
    for (path, value) in said {
        if let Some(value) = value {
            set(&mut recipe, path, value);
        }
    }
    to_value(&parse(recipe)?)
}

/// The recipe that [`of`] made, as `faceid train` reads it, for as many threads.
pub(super) fn to_toml(recipe: &Value, threads: usize) -> Result<String, ServiceError> {
    let mut config = parse(recipe.clone())?;
    config.threads = u16::try_from(threads).unwrap_or(u16::MAX);
    config.to_toml().map_err(|error| ServiceError::Internal(error.to_string()))
}

fn preset(base: RetrainBase) -> TrainConfig {
    match base {
        RetrainBase::Active => TrainConfig::default(),
        RetrainBase::Scratch => TrainConfig::default(),
    }
}

fn parse(recipe: Value) -> Result<TrainConfig, ServiceError> {
    let invalid = |reason: String| ServiceError::InvalidField { field: "recipe", reason };
    let config: TrainConfig = serde_json::from_value(recipe).map_err(|error| invalid(error.to_string()))?;
    config.check().map_err(|error| invalid(error.to_string()))?;
    Ok(config)
}

fn to_value(config: &TrainConfig) -> Result<Value, ServiceError> {
    serde_json::to_value(config).map_err(|error| ServiceError::Internal(error.to_string()))
}

/// Changes members of objects within objects. What has a `kind` is replaced as a whole: another kind has other members.
fn merge(recipe: &mut Value, changes: &Map<String, Value>) {
    let Value::Object(members) = recipe else { return };
    for (name, change) in changes {
        match (members.get_mut(name), change) {
            (Some(member @ Value::Object(_)), Value::Object(changes)) if !changes.contains_key("kind") => {
                merge(member, changes);
            }
            _ => _ = members.insert(name.clone(), change.clone()),
        }
    }
}

fn set(recipe: &mut Value, path: &[&str], value: Value) {
    let mut place = recipe;
    for name in path {
        place = &mut place[*name];
    }
    *place = value;
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
        let recipe = of(&request(changes)).unwrap();
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
            let refused = of(&request(changes.clone()));
            assert!(
                matches!(refused, Err(ServiceError::InvalidField { field: "recipe", .. })),
                "{changes}: {refused:?}"
            );
        }
    }
}
