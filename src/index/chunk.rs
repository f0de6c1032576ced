//! A part of a gallery's rows. Parts are shared with the scans that read them and copied before they change.

use std::sync::atomic::{AtomicU64, Ordering};

use half::f16;

use super::About;
use super::pages::{PAGE, Rows};
use super::quantised::{Scale, quantise, stride};
use crate::types::StoredEmbedding;

/// The latest revision of any chunk.
static REVISIONS: AtomicU64 = AtomicU64::new(0);

/// Rows of a full chunk, whose quantised ones fill a page.
pub fn capacity(dimension: usize) -> usize {
    PAGE / stride(dimension)
}

#[derive(Clone, Default)]
pub struct Chunk {
    /// `stride` bytes a row.
    pub quantised: Rows,
    /// Of each row of `quantised`, for the kernels.
    pub sums: Vec<i32>,
    pub scales: Vec<f32>,
    pub errors: Vec<f32>,
    /// What no error of a row exceeds.
    pub worst_error: f32,
    /// `dimension` values a row.
    exact: Vec<f16>,
    pub about: Vec<About>,
    revision: u64,
}

impl Chunk {
    pub fn len(&self) -> usize {
        self.about.len()
    }

    /// Chunks of one revision have the same rows; 0: none.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    fn touch(&mut self) {
        self.revision = REVISIONS.fetch_add(1, Ordering::Relaxed) + 1;
    }

    pub fn push(&mut self, about: About, embedding: &[f16]) {
        let mut quantised = Vec::with_capacity(stride(embedding.len()));
        let Scale { scale, error } = quantise(embedding, &mut quantised);
        self.scales.push(scale);
        self.errors.push(error);
        self.worst_error = self.worst_error.max(error);
        self.sums.push(quantised.iter().map(|value| i32::from(*value)).sum());
        self.quantised.push(&quantised);
        self.exact.extend_from_slice(embedding);
        self.about.push(about);
        self.touch();
    }

    pub fn set(&mut self, row: usize, about: About, embedding: &[f16]) {
        let mut quantised = Vec::with_capacity(stride(embedding.len()));
        let Scale { scale, error } = quantise(embedding, &mut quantised);
        (self.scales[row], self.errors[row]) = (scale, error);
        self.worst_error = self.worst_error.max(error);
        self.sums[row] = quantised.iter().map(|value| i32::from(*value)).sum();
        self.quantised[row * quantised.len()..][..quantised.len()].copy_from_slice(&quantised);
        self.exact[row * embedding.len()..][..embedding.len()].copy_from_slice(embedding);
        self.about[row] = about;
        self.touch();
    }

    /// Takes the last row off.
    pub fn pop(&mut self, dimension: usize) -> Option<(About, StoredEmbedding)> {
        let about = self.about.pop()?;
        self.scales.pop();
        self.errors.pop();
        self.sums.pop();
        self.quantised.truncate(self.about.len() * stride(dimension));
        let embedding = self.exact.split_off(self.about.len() * dimension);
        self.touch();
        Some((about, StoredEmbedding::new(embedding)))
    }

    /// The vector of a row as it is stored.
    pub fn exact(&self, row: usize, dimension: usize) -> &[f16] {
        &self.exact[row * dimension..][..dimension]
    }
}
