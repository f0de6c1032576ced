//! A run in a file: weights, averages, moments, history and settings, as safetensors. What looks random is a function of
//! seed and step, so nothing else is needed to go on as if nothing had been.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use serde::{Deserialize, Serialize};
use tch::{Tensor, no_grad};

use super::TrainingError;
use super::config::TrainConfig;
use super::files::write_atomically;
use super::model::Setup;
use super::params::{Params, numbers};
use super::trainer::{Best, Record, Trainer, Validation};

/// Changes with the meaning of the file.
const FORMAT: u32 = 2;

/// The key of [`Header`] in the metadata.
const HEADER: &str = "faceid";

/// Larger files are refused: five times the weights of the largest base, and room for the history.
const MAX_BYTES: u64 = 6 << 30;

/// Numbers of a row of the history, and of a look at validation subjects.
const RECORD: usize = 7;
const LOOK: usize = 2;

/// What is not a tensor, as JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: u32,
    step: u64,
    stopped: bool,
    /// Whether there are weights that were the best on validation subjects.
    has_best: bool,
    /// Which photos the run sees.
    data: String,
    /// sha256 of the file of the network that the run began with.
    base: Option<String>,
    /// TOML, which keeps every digit.
    config: String,
}

/// A tensor as it is in the file.
struct Stored {
    kind: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Stored {
    fn float(tensor: &Tensor) -> Self {
        let shape = tensor.size().iter().map(|side| *side as usize).collect();
        let bytes = numbers(tensor).iter().flat_map(|number| number.to_le_bytes()).collect();
        Self { kind: Dtype::F32, shape, bytes }
    }

    fn rows<const N: usize>(rows: impl Iterator<Item = [f64; N]>) -> Self {
        let bytes: Vec<u8> = rows.flatten().flat_map(f64::to_le_bytes).collect();
        Self { kind: Dtype::F64, shape: vec![bytes.len() / 8 / N, N], bytes }
    }
}

impl Trainer {
    /// Writes the run to a file, whole or not at all. `data` says which photos it sees, by [`super::Dataset::digest`].
    pub fn save(&self, path: &Path, data: &str) -> Result<(), TrainingError> {
        let header = Header {
            format: FORMAT,
            step: self.step,
            stopped: self.stopped,
            has_best: self.best.is_some(),
            data: data.to_owned(),
            base: self.base.clone(),
            config: self.config.to_toml()?,
        };
        let refused = |reason: String| TrainingError::Checkpoint { path: path.to_owned(), reason };
        let header = serde_json::to_string(&header).map_err(|error| refused(error.to_string()))?;
        let stored = self.stored();
        let mut views = Vec::with_capacity(stored.len());
        for (name, Stored { kind, shape, bytes }) in &stored {
            let view = TensorView::new(*kind, shape.clone(), bytes);
            views.push((name.as_str(), view.map_err(|error| refused(format!("{error:?}")))?));
        }
        let metadata = Some(HashMap::from([(HEADER.to_owned(), header)]));
        let content = serialize(views, &metadata).map_err(|error| refused(format!("{error:?}")))?;
        write_atomically(path, &content)
    }

    /// All tensors of the run, by name.
    fn stored(&self) -> BTreeMap<String, Stored> {
        let mut stored = BTreeMap::new();
        for (part, params) in self.parts() {
            stored.extend(params.iter().map(|param| (format!("{part}/{}", param.name), Stored::float(&param.tensor))));
        }
        for (part, moments) in [("first", &self.optimiser.first), ("second", &self.optimiser.second)] {
            let named = self.params.parts(moments);
            stored.extend(named.map(|(name, moment)| (format!("{part}/{name}"), Stored::float(&moment))));
        }
        let looks = |looks: &[Validation]| Stored::rows::<LOOK>(looks.iter().map(Validation::numbers));
        stored.insert("history".to_owned(), Stored::rows::<RECORD>(self.history.iter().map(Record::numbers)));
        stored.insert("validations".to_owned(), looks(&self.validations));
        if let Some(best) = &self.best {
            stored.insert("best-validation".to_owned(), looks(&[best.validation]));
        }
        stored
    }

    fn parts(&self) -> Vec<(&'static str, &Params)> {
        let best = self.best.as_ref().map(|best| ("best", &best.params));
        [("weights", &self.params), ("averages", &self.averages)].into_iter().chain(best).collect()
    }

    /// The settings of a run that [`Self::save`] wrote, by which its photos are chosen.
    pub fn settings_of(path: &Path) -> Result<TrainConfig, TrainingError> {
        let (_, header) = read(path)?;
        settings(path, &header)
    }

    /// Reads a run that [`Self::save`] wrote while it trained on the same photos.
    ///
    /// Every tensor must be there, under its name, in its shape and type, and no other.
    pub fn resume(path: &Path, data: &str, setup: &Setup) -> Result<Self, TrainingError> {
        let refused = |reason: String| TrainingError::Checkpoint { path: path.to_owned(), reason };
        let (content, header) = read(path)?;
        if header.data != data {
            return Err(refused("it belongs to other photos, or to another choice of people".to_owned()));
        }
        let base = setup.base.map(|base| base.sha256());
        if header.base != base {
            let reason = match (&header.base, base) {
                (Some(sha256), None) => format!("it began with a network of sha256 {sha256}, which is needed again"),
                _ => "it began with another network".to_owned(),
            };
            return Err(refused(reason));
        }
        let mut trainer = Self::begin(settings(path, &header)?, setup)?;
        if header.step > trainer.config.steps {
            return Err(refused(format!("it has made {} steps of {}", header.step, trainer.config.steps)));
        }
        (trainer.step, trainer.stopped) = (header.step, header.stopped);
        if header.has_best {
            let validation = Validation { step: 0, auc: 0.0 };
            trainer.best = Some(Best { validation, params: trainer.params.detached_copy() });
        }
        let tensors = SafeTensors::deserialize(&content).map_err(|error| refused(format!("{error:?}")))?;
        trainer.restore(&tensors).map_err(refused)?;
        Ok(trainer)
    }

    /// Takes over every tensor of the file after it was checked against what a new run has.
    fn restore(&mut self, tensors: &SafeTensors) -> Result<(), String> {
        let rows = |name: &str, width: usize| -> Result<Vec<f64>, String> {
            let view = tensors.tensor(name).map_err(|_| format!("{name} is missing"))?;
            if view.dtype() != Dtype::F64 || view.shape().len() != 2 || view.shape()[1] != width {
                return Err(format!("{name} has the shape {:?} and the type {:?}", view.shape(), view.dtype()));
            }
            Ok(view.data().as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect())
        };
        let history = rows("history", RECORD)?;
        self.history = history.as_chunks::<RECORD>().0.iter().map(Record::of_numbers).collect();
        let validations = rows("validations", LOOK)?;
        self.validations = validations.as_chunks::<LOOK>().0.iter().map(Validation::of_numbers).collect();
        if self.history.len() as u64 != self.step {
            return Err(format!("its history has {} steps of {}", self.history.len(), self.step));
        }
        if let Some(best) = &mut self.best {
            let look = rows("best-validation", LOOK)?;
            let look = look.as_chunks::<LOOK>().0.first().ok_or("best-validation is empty")?;
            best.validation = Validation::of_numbers(look);
            if best.validation.step > self.step {
                return Err("best-validation is of a later step".to_owned());
            }
        }
        let expected = self.stored();
        if let Some(name) = tensors.names().into_iter().find(|name| !expected.contains_key(name.as_str())) {
            return Err(format!("{name:?} belongs to no part of the network"));
        }
        for (part, params) in self.parts() {
            for param in params.iter() {
                take(tensors, &format!("{part}/{}", param.name), &param.tensor)?;
            }
        }
        for (part, moments) in [("first", &self.optimiser.first), ("second", &self.optimiser.second)] {
            for (name, moment) in self.params.parts(moments) {
                take(tensors, &format!("{part}/{name}"), &moment)?;
            }
        }
        Ok(())
    }
}

/// The file, and what it says of itself.
fn read(path: &Path) -> Result<(Vec<u8>, Header), TrainingError> {
    let failed = |source| TrainingError::Io { action: "read", path: path.to_owned(), source };
    let refused = |reason: String| TrainingError::Checkpoint { path: path.to_owned(), reason };
    if std::fs::metadata(path).map_err(failed)?.len() > MAX_BYTES {
        return Err(refused(format!("it has more than {MAX_BYTES} bytes")));
    }
    let content = std::fs::read(path).map_err(failed)?;
    let header = read_header(&content).map_err(refused)?;
    Ok((content, header))
}

fn settings(path: &Path, header: &Header) -> Result<TrainConfig, TrainingError> {
    let refused = |reason: String| TrainingError::Checkpoint { path: path.to_owned(), reason };
    TrainConfig::parse(&header.config).map_err(|error| refused(error.to_string()))
}

fn read_header(content: &[u8]) -> Result<Header, String> {
    let (_, metadata) = SafeTensors::read_metadata(content).map_err(|error| format!("{error:?}"))?;
    let entry = metadata.metadata().as_ref().and_then(|entries| entries.get(HEADER));
    let text = entry.ok_or("it does not say what it is")?;
    let header: Header = serde_json::from_str(text).map_err(|error| error.to_string())?;
    match header.format {
        FORMAT => Ok(header),
        other => Err(format!("it has format {other}; this version reads {FORMAT}")),
    }
}

/// Copies a tensor of the file into one of the same shape and type.
fn take(tensors: &SafeTensors, name: &str, into: &Tensor) -> Result<(), String> {
    let view = tensors.tensor(name).map_err(|_| format!("{name} is missing"))?;
    let shape: Vec<usize> = into.size().iter().map(|side| *side as usize).collect();
    if view.dtype() != Dtype::F32 || view.shape() != shape {
        let (kind, given) = (view.dtype(), view.shape());
        return Err(format!("{name} has the shape {given:?} and the type {kind:?}; {shape:?} and F32 are expected"));
    }
    let numbers: Vec<f32> = view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    if numbers.iter().any(|number| !number.is_finite()) {
        return Err(format!("{name} holds numbers that are not finite"));
    }
    no_grad(|| into.detach().copy_(&Tensor::from_slice(&numbers).reshape(into.size())));
    Ok(())
}

impl Record {
    fn numbers(&self) -> [f64; RECORD] {
        [self.step as f64, self.loss, self.active, self.gradient, self.distance, self.drift, self.learning_rate]
    }

    fn of_numbers(&[step, loss, active, gradient, distance, drift, learning_rate]: &[f64; RECORD]) -> Self {
        Self { step: step as u64, loss, active, gradient, distance, drift, learning_rate }
    }
}

impl Validation {
    fn numbers(&self) -> [f64; LOOK] {
        [self.step as f64, self.auc]
    }

    fn of_numbers(&[step, auc]: &[f64; LOOK]) -> Self {
        Self { step: step as u64, auc }
    }
}

#[cfg(test)]
mod tests;
