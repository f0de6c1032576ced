//! The files of a job on this machine.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::types::JobId;

/// Where a job keeps its files while it runs.
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new(root: &Path, job: JobId) -> Self {
        Self(root.join(job.to_string()))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn chips(&self) -> PathBuf {
        self.0.join("chips")
    }

    /// Of faces on which the base is kept.
    pub(super) fn kept(&self) -> PathBuf {
        self.0.join("kept")
    }

    pub(super) fn recipe(&self) -> PathBuf {
        self.0.join("recipe.toml")
    }

    pub(super) fn checkpoint(&self) -> PathBuf {
        self.0.join("checkpoint.safetensors")
    }

    /// The network that training begins with; its manifest is beside it.
    pub(super) fn base(&self) -> PathBuf {
        self.0.join("base.onnx")
    }

    /// The network that is trained; manifest and card will be beside it.
    pub(super) fn network(&self) -> PathBuf {
        self.0.join("candidate.onnx")
    }
}

/// When a file was written, and how long it is.
pub(super) fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let file = std::fs::metadata(path).ok()?;
    Some((file.modified().ok()?, file.len()))
}
