//! Large galleries in the memory of a device, which searches them as [`super::scan`] does on the processor.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::warn;

use super::chunk::{Chunk, capacity};
use super::quantised::{Estimator, Queries, stride};
use super::scan::{Candidate, floor, rerank};
use super::{Hits, MOST_QUERIES, Query};
use crate::nn::{Device, DeviceRows, NetworkError, RowQuery, scan_rows};
use crate::types::GalleryId;

/// Rows from which on a device is worth the trip: two threads take about a millisecond for as many.
const LEAST_ROWS: usize = 1 << 16;

/// Rows that a device multiplies at once, about; for 32 queries their products and bounds take 0.2 GB there.
const BLOCK_ROWS: usize = 1 << 18;

/// A device with copies of the galleries that it was asked to search, each as it was at its latest search.
pub struct DeviceSearch {
    device: Device,
    least_rows: usize,
    block_rows: usize,
    copies: Mutex<HashMap<GalleryId, Arc<Mutex<Blocks>>>>,
    /// It could not be used once, and is left alone since.
    failed: AtomicBool,
}

/// The rows of a gallery.
type Blocks = Vec<Block>;

/// A part of a gallery.
struct Block {
    rows: DeviceRows,
    /// Of the chunks that it is a copy of.
    revisions: Vec<u64>,
}

impl DeviceSearch {
    pub fn new(device: Device) -> Self {
        Self::with(LEAST_ROWS, BLOCK_ROWS, device)
    }

    pub(super) fn with(least_rows: usize, block_rows: usize, device: Device) -> Self {
        Self { device, least_rows, block_rows, copies: Mutex::default(), failed: AtomicBool::new(false) }
    }

    /// Whether it could not be used, and is left alone.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Whether it searches galleries of so many rows.
    pub fn takes(&self, rows: usize) -> bool {
        rows >= self.least_rows && !self.has_failed()
    }

    /// Searches a gallery whose rows are these. `None`: the processor should.
    pub fn search(&self, gallery: GalleryId, rows: &[Arc<Chunk>], dimension: usize, queries: &[Query]) -> Option<Hits> {
        let total: usize = rows.iter().map(|chunk| chunk.len()).sum();
        if total < self.least_rows {
            self.remove(gallery);
            return None;
        }
        if queries.is_empty() || self.has_failed() {
            return None;
        }
        // The gallery is held while it is copied and scanned, the others are not.
        let copy = Arc::clone(lock(&self.copies).entry(gallery).or_default());
        let searched = self.search_copy(&mut lock(&copy), rows, dimension, queries);
        match searched {
            Ok(hits) => Some(hits),
            Err(error) => {
                warn!(%error, "the device cannot search galleries; the processor does from now on");
                self.failed.store(true, Ordering::Relaxed);
                lock(&self.copies).clear();
                None
            }
        }
    }

    /// Forgets a gallery.
    pub fn remove(&self, gallery: GalleryId) {
        let copy = lock(&self.copies).remove(&gallery);
        // Gigabytes may be freed here, and not while others wait.
        drop(copy);
    }

    fn search_copy(
        &self,
        copy: &mut Blocks,
        rows: &[Arc<Chunk>],
        dimension: usize,
        queries: &[Query],
    ) -> Result<Hits, NetworkError> {
        let chunks_per_block = (self.block_rows / capacity(dimension)).max(1);
        copy.truncate(rows.len().div_ceil(chunks_per_block));
        for (number, chunks) in rows.chunks(chunks_per_block).enumerate() {
            if copy.len() == number {
                let rows = DeviceRows::new(self.device, stride(dimension), chunks_per_block * capacity(dimension))?;
                copy.push(Block { rows, revisions: Vec::new() });
            }
            copy[number].follow(chunks, dimension)?;
        }
        let blocks: Vec<&DeviceRows> = copy.iter().map(|block| &block.rows).collect();
        let mut hits = Vec::with_capacity(queries.len());
        // What a scan takes there grows with its queries.
        for queries in queries.chunks(MOST_QUERIES) {
            let open = near(&blocks, chunks_per_block * capacity(dimension), dimension, queries)?;
            hits.extend(queries.iter().zip(&open).map(|(query, open)| rerank(rows, dimension, query, open.iter())));
        }
        Ok(hits)
    }
}

/// What a scan of the blocks leaves open for each query.
fn near(
    blocks: &[&DeviceRows],
    block_rows: usize,
    dimension: usize,
    queries: &[Query],
) -> Result<Vec<Vec<Candidate>>, NetworkError> {
    let quantised = Queries::new(queries.iter().map(|query| query.probe.as_slice()));
    let asked = queries.iter().zip(&quantised.scales).map(|(query, scale)| RowQuery {
        scale: scale.scale,
        bound: Estimator::new(*scale).bound_terms(),
        // Whoever is left out may be among them.
        wanted: query.top_k + usize::from(query.top_k > 0 && query.except.is_some()),
        floor: floor(query),
    });
    let asked: Vec<RowQuery> = asked.collect();
    let mut open: Vec<Vec<Candidate>> = vec![Vec::new(); queries.len()];
    for near in scan_rows(blocks, &quantised.rows, &asked)? {
        let row = near.block * block_rows + near.row;
        let (chunk, row) = (row / capacity(dimension), row % capacity(dimension));
        open[near.query].push(Candidate { chunk, row, upper: near.upper });
    }
    Ok(open)
}

/// A panic while it was held leaves at worst a copy whose revisions are older than its rows, which are then written again.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Block {
    /// Copies the chunks that changed.
    fn follow(&mut self, chunks: &[Arc<Chunk>], dimension: usize) -> Result<(), NetworkError> {
        self.revisions.resize(chunks.len(), 0);
        for (number, chunk) in chunks.iter().enumerate().filter(|(_, chunk)| chunk.len() > 0) {
            if self.revisions[number] != chunk.revision() {
                let first = number * capacity(dimension);
                self.rows.write(first, &chunk.quantised, &chunk.scales, &chunk.errors)?;
                self.revisions[number] = chunk.revision();
            }
        }
        self.rows.set_len(chunks.iter().map(|chunk| chunk.len()).sum())
    }
}
