//! Exact search in memory: the templates of one model, gallery by gallery.
//!
//! Rows are kept twice: in 8-bit integers, which a scan reads, and in the 16-bit floats that are stored. A scan bounds
//! each row's similarity from above and below by what rounding to 8 bits can have changed, and whatever the bounds leave
//! open is compared exactly. So the answers are those of an exact search, equal similarities included, for a third of the
//! memory traffic of 16-bit floats and their queries' share of the processor's integer units. A device that searches keeps
//! the 8-bit rows a third time and bounds alike; what it leaves open is compared by the processor.

mod chunk;
mod device;
mod gallery_rows;
mod pages;
mod quantised;
mod scan;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

pub use device::DeviceSearch;

use crate::types::{FaceId, GalleryId, StoredEmbedding, SubjectId};
use gallery_rows::GalleryRows;

/// Queries that share a scan: more make it no cheaper for each, and wait longer for the first.
pub const MOST_QUERIES: usize = 32;

/// What is known of a subject beside its template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    pub subject_id: SubjectId,
    /// The subject's name.
    pub name: Box<str>,
    /// How many faces its template is the mean of.
    pub faces: u32,
    /// The only one of them; `None` if there are several.
    pub face_id: Option<FaceId>,
}

/// What to look for in a gallery.
#[derive(Debug, Clone)]
pub struct Query {
    pub probe: StoredEmbedding,
    /// Subjects at most.
    pub top_k: usize,
    /// Only subjects at least this similar.
    pub min_similarity: Option<f64>,
    /// A subject to leave out.
    pub except: Option<SubjectId>,
}

/// A subject that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    pub about: About,
    /// [`StoredEmbedding::similarity`] of probe and template.
    pub similarity: f64,
}

/// For each query its hits: most similar first, equally similar ones by id.
pub type Hits = Vec<Vec<Hit>>;

/// Galleries of more subjects are freed by a thread of their own: a million names take a tenth of a second, and whoever deletes
/// them should not wait for that.
const FREED_BESIDE: usize = 10_000;

/// The templates of one model. Searches see each change whole or not at all, and never wait for one.
pub struct Index {
    dimension: usize,
    galleries: RwLock<HashMap<GalleryId, GalleryRows>>,
    device: Option<DeviceSearch>,
}

impl Index {
    /// Templates of so many components. Large galleries are searched by the device, if one is given.
    pub fn new(dimension: usize, device: Option<DeviceSearch>) -> Self {
        Self { dimension, galleries: RwLock::default(), device }
    }

    /// Memory that a subject takes, in bytes, about: vectors, numbers, name and the place in the index.
    pub fn bytes_per_subject(dimension: usize) -> u64 {
        (quantised::stride(dimension) + 2 * dimension + 192) as u64
    }

    /// Puts a template in, in place of the subject's former one. An embedding of another dimension is left out.
    pub fn put(&self, gallery: GalleryId, about: About, embedding: &StoredEmbedding) {
        if embedding.dimension() == self.dimension {
            self.write().entry(gallery).or_insert_with(|| GalleryRows::new(self.dimension)).put(about, embedding);
        }
    }

    pub fn remove(&self, gallery: GalleryId, subject: SubjectId) {
        if let Some(rows) = self.write().get_mut(&gallery) {
            rows.remove(subject);
        }
    }

    pub fn remove_gallery(&self, gallery: GalleryId) {
        // Bound, so that the lock is given back before anything is freed.
        let rows = self.write().remove(&gallery);
        if let Some(rows) = rows.filter(|rows| rows.len() > FREED_BESIDE) {
            // If there is no thread for it, it is freed here.
            let _ = std::thread::Builder::new().name("free".to_owned()).spawn(move || drop(rows));
        }
        self.device.iter().for_each(|device| device.remove(gallery));
    }

    /// Templates of one gallery.
    pub fn len_of(&self, gallery: GalleryId) -> usize {
        self.read().get(&gallery).map_or(0, GalleryRows::len)
    }

    /// Templates of all galleries.
    pub fn len(&self) -> usize {
        self.read().values().map(GalleryRows::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The device that searches large galleries, if there is one.
    pub fn device(&self) -> Option<&DeviceSearch> {
        self.device.as_ref()
    }

    /// Threads that a search of the gallery has work for, at least 1: the device needs no others.
    pub fn most_threads(&self, gallery: GalleryId) -> usize {
        let rows = self.len_of(gallery);
        if self.device.as_ref().is_some_and(|device| device.takes(rows)) { 1 } else { scan::most_threads(rows) }
    }

    /// Searches a gallery, scanning it once for all queries: on the device, or with up to `threads` threads, the
    /// caller's counted.
    ///
    /// Panics if a probe has another dimension than the templates: to find nobody would be a wrong answer.
    pub fn search(&self, gallery: GalleryId, queries: &[Query], threads: usize) -> Hits {
        let is_comparable = |query: &Query| query.probe.dimension() == self.dimension;
        assert!(queries.iter().all(is_comparable), "a probe of another model");
        let rows = self.read().get(&gallery).map(GalleryRows::rows).unwrap_or_default();
        let Some(device) = &self.device else { return scan::search(&rows, self.dimension, queries, threads) };
        let hits = device.search(gallery, &rows, self.dimension, queries);
        if !self.read().contains_key(&gallery) {
            // It went meanwhile.
            device.remove(gallery);
        }
        hits.unwrap_or_else(|| scan::search(&rows, self.dimension, queries, threads))
    }

    // A panic while one of these was held leaves data that is whole: rows are added and taken away last.
    fn read(&self) -> RwLockReadGuard<'_, HashMap<GalleryId, GalleryRows>> {
        self.galleries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<GalleryId, GalleryRows>> {
        self.galleries.write().unwrap_or_else(PoisonError::into_inner)
    }
}
