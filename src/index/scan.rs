//! One pass over the rows of a gallery for a batch of queries.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::chunk::Chunk;
use super::quantised::{Estimator, Queries, stride};
use super::{Hit, Hits, Query};
use crate::nn::dots_i8;
use crate::types::exact_similarity;

/// Rows that are multiplied before their products are looked at: those products stay in the cache.
const BLOCK: usize = 256;

/// Rows for which another thread is worth starting.
const ROWS_PER_THREAD: usize = 8192;

/// Open candidates from which on those that fell behind are cleared away.
const CLEAR_AT: usize = 4096;

/// Threads that a scan of so many rows has work for, at least 1.
pub fn most_threads(rows: usize) -> usize {
    (rows / ROWS_PER_THREAD).max(1)
}

/// Searches `rows` for all queries, with up to `threads` threads.
pub fn search(rows: &[Arc<Chunk>], dimension: usize, queries: &[Query], threads: usize) -> Hits {
    let quantised = Queries::new(queries.iter().map(|query| query.probe.as_slice()));
    let scan = Scan { rows, dimension, queries, quantised, next: AtomicUsize::new(0) };
    let total: usize = rows.iter().map(|chunk| chunk.len()).sum();
    let threads = threads.clamp(1, most_threads(total));
    let found = if threads == 1 {
        vec![scan.work()]
    } else {
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(|| scan.work())).collect();
            let mut found = vec![scan.work()];
            // A panic of a thread becomes one of ours, which the caller of the search survives.
            found.extend(others.into_iter().map(|other| match other.join() {
                Ok(found) => found,
                Err(panic) => std::panic::resume_unwind(panic),
            }));
            found
        })
    };
    (0..queries.len()).map(|number| scan.rerank_of(number, &found)).collect()
}

/// What a query asks for at least, rounded down, so that nothing is lost that is exactly as similar.
pub fn floor(query: &Query) -> f32 {
    query.min_similarity.map_or(f32::NEG_INFINITY, |least| (least as f32).next_down())
}

/// Ranks what a scan left open by exact similarities.
pub fn rerank<'a>(
    rows: &[Arc<Chunk>],
    dimension: usize,
    query: &Query,
    open: impl Iterator<Item = &'a Candidate>,
) -> Vec<Hit> {
    let about = |open: &Candidate| &rows[open.chunk].about[open.row];
    let mut ranked: Vec<(f64, &Candidate)> = open
        .filter(|open| Some(about(open).subject_id) != query.except)
        .map(|open| (exact_similarity(rows[open.chunk].exact(open.row, dimension), query.probe.as_slice()), open))
        .filter(|(similarity, _)| query.min_similarity.is_none_or(|least| *similarity >= least))
        .collect();
    ranked
        .sort_unstable_by(|(a, x), (b, y)| b.total_cmp(a).then_with(|| about(x).subject_id.cmp(&about(y).subject_id)));
    ranked.truncate(query.top_k);
    ranked.into_iter().map(|(similarity, open)| Hit { about: about(open).clone(), similarity }).collect()
}

struct Scan<'a> {
    rows: &'a [Arc<Chunk>],
    dimension: usize,
    queries: &'a [Query],
    quantised: Queries,
    /// The next chunk that nobody works on.
    next: AtomicUsize,
}

/// A row that may belong to the answer.
#[derive(Clone, Copy)]
pub struct Candidate {
    pub chunk: usize,
    pub row: usize,
    /// What its similarity is at most.
    pub upper: f32,
}

/// What a thread found for one query.
struct Found {
    candidates: Vec<Candidate>,
    /// The highest lower bounds, as many as subjects are wanted: the least of them is what others must reach.
    lower: BinaryHeap<Reverse<Ordered>>,
    wanted: usize,
    /// What is asked for at least.
    floor: f32,
    clear_at: usize,
}

/// A float in its total order.
#[derive(Clone, Copy, PartialEq)]
struct Ordered(f32);

impl Eq for Ordered {}

impl Ord for Ordered {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Found {
    fn new(query: &Query) -> Self {
        let (wanted, floor) = (query.top_k, floor(query));
        Self { candidates: Vec::new(), lower: BinaryHeap::new(), wanted, floor, clear_at: CLEAR_AT }
    }

    /// Rows below this cannot belong to the answer.
    fn bar(&self) -> f32 {
        match self.lower.peek() {
            Some(Reverse(least)) if self.lower.len() >= self.wanted => least.0.max(self.floor),
            _ => self.floor,
        }
    }

    fn add(&mut self, candidate: Candidate, lower: f32) {
        self.candidates.push(candidate);
        self.lower.push(Reverse(Ordered(lower)));
        if self.lower.len() > self.wanted {
            self.lower.pop();
        }
        if self.candidates.len() >= self.clear_at {
            let bar = self.bar();
            self.candidates.retain(|candidate| candidate.upper >= bar);
            self.clear_at = CLEAR_AT.max(2 * self.candidates.len());
        }
    }
}

impl Scan<'_> {
    /// Works through chunks until none is left.
    fn work(&self) -> Vec<Found> {
        let mut found: Vec<Found> = self.queries.iter().map(Found::new).collect();
        if self.queries.iter().all(|query| query.top_k == 0) {
            return found;
        }
        let stride = stride(self.dimension);
        let mut products = vec![0; BLOCK * self.queries.len()];
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(chunk) = self.rows.get(number) else { return found };
            for first in (0..chunk.len()).step_by(BLOCK) {
                let count = BLOCK.min(chunk.len() - first);
                let products = &mut products[..count * self.queries.len()];
                let rows = &chunk.quantised[first * stride..][..count * stride];
                dots_i8(rows, &chunk.sums[first..][..count], stride, &self.quantised.rows, products);
                for (query, products) in products.chunks_exact(count).enumerate() {
                    self.weigh(&mut found[query], query, (number, first), products);
                }
            }
        }
    }

    /// Keeps of a block of rows those that may belong to the answer of a query.
    fn weigh(&self, found: &mut Found, query: usize, (chunk, first): (usize, usize), products: &[i32]) {
        let estimator = Estimator::new(self.quantised.scales[query]);
        let except = self.queries[query].except;
        let rows = &self.rows[chunk];
        let mut bar = found.bar();
        // Nearly always, none of a block comes near.
        let largest = estimator.largest(&rows.scales[first..][..products.len()], products);
        if largest + estimator.bound(rows.worst_error) < bar || found.wanted == 0 {
            return;
        }
        for (row, product) in (first..).zip(products) {
            let estimate = estimator.estimate(rows.scales[row], *product);
            let bound = estimator.bound(rows.errors[row]);
            if estimate + bound >= bar && Some(rows.about[row].subject_id) != except {
                found.add(Candidate { chunk, row, upper: estimate + bound }, estimate - bound);
                bar = found.bar();
            }
        }
    }

    /// Compares what the threads left open exactly.
    fn rerank_of(&self, number: usize, found: &[Vec<Found>]) -> Vec<Hit> {
        let query = &self.queries[number];
        let mut all = Found::new(query);
        for Reverse(lower) in found.iter().flat_map(|found| &found[number].lower) {
            all.lower.push(Reverse(*lower));
            if all.lower.len() > all.wanted {
                all.lower.pop();
            }
        }
        let bar = all.bar();
        let open = found.iter().flat_map(|found| &found[number].candidates).filter(|open| open.upper >= bar);
        rerank(self.rows, self.dimension, query, open)
    }
}
