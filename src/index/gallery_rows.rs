//! The templates of one gallery, a row for each subject.

use std::collections::HashMap;
use std::sync::Arc;

use super::About;
use super::chunk::{Chunk, capacity};
use crate::types::{StoredEmbedding, SubjectId};

pub struct GalleryRows {
    dimension: usize,
    /// Rows of a full chunk.
    capacity: usize,
    /// All but the last are full, and none is empty.
    chunks: Vec<Arc<Chunk>>,
    /// Where each subject's row is, counted through all chunks.
    places: HashMap<SubjectId, usize>,
}

impl GalleryRows {
    pub fn new(dimension: usize) -> Self {
        Self { dimension, capacity: capacity(dimension), chunks: Vec::new(), places: HashMap::new() }
    }

    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// The rows as they are now; later changes do not show in them.
    pub fn rows(&self) -> Vec<Arc<Chunk>> {
        self.chunks.clone()
    }

    pub fn put(&mut self, about: About, embedding: &StoredEmbedding) {
        let subject = about.subject_id;
        if let Some(place) = self.places.get(&subject) {
            Arc::make_mut(&mut self.chunks[place / self.capacity]).set(
                place % self.capacity,
                about,
                embedding.as_slice(),
            );
            return;
        }
        if self.chunks.last().is_none_or(|last| last.len() == self.capacity) {
            self.chunks.push(Arc::default());
        }
        if let Some(last) = self.chunks.last_mut() {
            Arc::make_mut(last).push(about, embedding.as_slice());
            self.places.insert(subject, self.places.len());
        }
    }

    /// The last row takes the place of the one that goes.
    pub fn remove(&mut self, subject: SubjectId) {
        let Some(place) = self.places.remove(&subject) else { return };
        let Some(last) = self.chunks.last_mut() else { return };
        let popped = Arc::make_mut(last).pop(self.dimension);
        if last.len() == 0 {
            self.chunks.pop();
        }
        if let Some((about, embedding)) = popped.filter(|(about, _)| about.subject_id != subject) {
            self.places.insert(about.subject_id, place);
            Arc::make_mut(&mut self.chunks[place / self.capacity]).set(
                place % self.capacity,
                about,
                embedding.as_slice(),
            );
        }
    }
}
