//! Embedders that are loaded: several at once, each on every device of the engine.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::device::cpu_target;
use super::{EngineError, InputNormalisation};
use crate::config::{KernelsChoice, PrecisionChoice};
use crate::nn::{Embedder, Format, NetworkError, Target};

/// Loads a file's content onto the CPU, makes the trial runs of every embedder, and lets it go again: the components of its
/// embeddings.
pub fn try_embedder(
    content: Bytes,
    format: Format,
    normalisation: InputNormalisation,
    precision: PrecisionChoice,
    kernels: KernelsChoice,
) -> Result<usize, EngineError> {
    let target = cpu_target(precision, kernels)?;
    let embedder = Embedder::from_bytes(content, format, &target, normalisation).map_err(EngineError::Embedder)?;
    Ok(embedder.dimension())
}

/// A handle to an embedder that an engine has loaded. Cloning is cheap; the weights are freed when the last handle is
/// gone, those of work that waits included.
#[derive(Clone)]
pub struct LoadedEmbedder(Arc<OnDevices>);

struct OnDevices {
    /// By the number of the device.
    embedders: Vec<Embedder>,
    dimension: usize,
}

impl LoadedEmbedder {
    pub(super) fn new(embedders: Vec<Embedder>) -> Self {
        let dimension = embedders.first().map_or(0, Embedder::dimension);
        Self(Arc::new(OnDevices { embedders, dimension }))
    }

    /// Loads a file onto each device.
    pub(super) fn load(
        path: &Path,
        targets: &[Target],
        normalisation: InputNormalisation,
    ) -> Result<Self, EngineError> {
        let load = |target| Embedder::load(path, target, normalisation);
        let loaded: Result<Vec<_>, NetworkError> = targets.iter().map(load).collect();
        loaded.map(Self::new).map_err(|source| EngineError::Network { path: path.to_owned(), source })
    }

    /// Loads a file's content onto each device.
    pub(super) fn from_bytes(
        content: &Bytes,
        format: Format,
        targets: &[Target],
        normalisation: InputNormalisation,
    ) -> Result<Self, EngineError> {
        let load = |target| Embedder::from_bytes(content.clone(), format, target, normalisation);
        let loaded: Result<Vec<_>, NetworkError> = targets.iter().map(load).collect();
        loaded.map(Self::new).map_err(EngineError::Embedder)
    }

    /// Components of its embeddings.
    pub fn dimension(&self) -> usize {
        self.0.dimension
    }

    /// The network on a device.
    pub(super) fn on(&self, device: usize) -> Option<&Embedder> {
        self.0.embedders.get(device)
    }

    /// Whether both are handles to the same weights.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}
