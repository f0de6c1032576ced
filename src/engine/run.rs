//! What the engine's threads do: take work, run it, answer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use tracing::{error, trace};

use super::lanes::{DetectEntry, EmbedEntry, Entry, Input, SearchEntry, Work};
use super::pool::{Pool, Role};
use super::{EngineError, LoadedEmbedder, Networks, Spent};
use crate::index::{Hits, MOST_QUERIES, Query};
use crate::nn::{self, NetworkError};
use crate::types::{Chip, Embedding};

/// Serves until every handle is gone and the lanes are empty.
pub(super) fn serve(pool: &Pool, role: Role, networks: Option<&Networks>) {
    while let Some((work, threads)) = pool.take(role) {
        let taken = work.takes(threads);
        match (work, networks) {
            (Work::Pixels(task), _) => pixels(task),
            (Work::Search(entries), _) => search(entries, threads),
            (Work::Detect(entries), Some(networks)) => {
                nn::use_threads(threads);
                detect(networks, entries);
            }
            (Work::Embed(entries), Some(networks)) => {
                nn::use_threads(threads);
                embed(networks.device, entries, pool.max_batch());
            }
            // A thread without networks takes none of their work.
            (Work::Detect(_) | Work::Embed(_), None) => {}
        }
        pool.done(role, taken);
    }
}

fn pixels(task: super::Task) {
    let waited = task.queued.elapsed();
    if let Some(spent) = &task.spent {
        spent.add_wait(waited);
    }
    if task.run() {
        metrics::histogram!("faceid_queue_wait_seconds", "stage" => "pixels").record(waited);
    } else {
        metrics::counter!("faceid_dropped_total", "reason" => "abandoned").increment(1);
    }
}

/// Notes how long a stage took.
pub(super) fn measured(stage: &'static str, began: Instant) {
    metrics::histogram!("faceid_stage_seconds", "stage" => stage).record(began.elapsed());
}

/// Notes how long a pass of a network took, also for each request in it.
fn inferred<I, O>(stage: &'static str, began: Instant, entries: &[Entry<I, O>], add: fn(&Spent, Duration)) {
    let time = began.elapsed();
    metrics::histogram!("faceid_stage_seconds", "stage" => stage).record(time);
    for spent in entries.iter().filter_map(|entry| entry.spent.as_ref()) {
        add(spent, time);
    }
}

/// `None` if the work panicked: that must cost nobody but its caller.
pub(super) fn caught<T>(work: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(value) => Some(value),
        Err(_) => {
            error!("work of a request panicked");
            None
        }
    }
}

/// Entries for one gallery of one index.
fn search(entries: Vec<SearchEntry>, threads: usize) {
    let queries: Vec<Query> = entries.iter().flat_map(|entry| entry.input.queries.iter().cloned()).collect();
    let began = note_waits("search", &entries);
    match caught(|| scan(&entries, &queries, threads)) {
        Some(hits) => {
            measured("scan", began);
            let mut hits = hits.into_iter();
            for entry in entries {
                let own = hits.by_ref().take(entry.input.queries.len()).collect();
                entry.answer(Ok(own));
            }
        }
        None if entries.len() > 1 => entries.into_iter().for_each(|entry| search(vec![entry], threads)),
        None => entries.into_iter().for_each(|entry| entry.answer(Err(EngineError::Panicked))),
    }
}

/// Only a photo with more faces than a pass may have needs several.
fn scan(entries: &[SearchEntry], queries: &[Query], threads: usize) -> Hits {
    let Some(first) = entries.first().map(|first| &first.input) else { return Vec::new() };
    let pass = |queries| first.index.search(first.gallery, queries, threads);
    queries.chunks(MOST_QUERIES).flat_map(pass).collect()
}

/// Entries for one embedder.
fn embed(device: usize, entries: Vec<EmbedEntry>, max_batch: usize) {
    let Some(embedder) = entries.first().map(|first| first.input.embedder.clone()) else { return };
    let chips: Vec<Chip> = entries.iter().flat_map(|entry| entry.input.chips.iter().cloned()).collect();
    let began = begin("embed", &entries);
    match guarded(|| embed_chips(&embedder, device, &chips, max_batch)) {
        Ok(rows) => {
            inferred("embed", began, &entries, Spent::add_embedding);
            metrics::counter!("faceid_faces_total").increment(rows.len() as u64);
            let mut rows = rows.into_iter();
            for entry in entries {
                let own: Result<Vec<_>, _> = rows.by_ref().take(entry.input.chips.len()).map(normalised).collect();
                entry.answer(own);
            }
        }
        Err(_) if entries.len() > 1 => entries.into_iter().for_each(|e| embed(device, vec![e], max_batch)),
        Err(failure) => answer_all(entries, &failure),
    }
}

fn normalised(row: Vec<f32>) -> Result<Embedding, EngineError> {
    Ok(Embedding::normalised(row)?)
}

/// Only a photo with more faces than a batch may have needs several passes.
fn embed_chips(
    embedder: &LoadedEmbedder,
    device: usize,
    chips: &[Chip],
    max_batch: usize,
) -> Result<Vec<Vec<f32>>, NetworkError> {
    let reason = "it was loaded by another engine".to_owned();
    let embedder = embedder.on(device).ok_or(NetworkError::Contract { role: "embedder", reason })?;
    let mut rows = Vec::with_capacity(chips.len());
    for batch in chips.chunks(max_batch) {
        rows.extend(embedder.forward(batch)?);
    }
    Ok(rows)
}

/// Entries of one size.
fn detect(networks: &Networks, entries: Vec<DetectEntry>) {
    let Some((width, height)) = entries.first().map(|first| first.input.size) else {
        return;
    };
    let images: Vec<&[u8]> =
        entries.iter().flat_map(|entry| entry.input.images.iter().map(|image| image.rgb.as_slice())).collect();
    let began = begin("detect", &entries);
    match guarded(|| networks.detector.forward(&images, width, height)) {
        Ok(outputs) => {
            inferred("detect", began, &entries, Spent::add_detection);
            let mut outputs = outputs.into_iter();
            for entry in entries {
                let own = outputs.by_ref().take(entry.input.images.len()).collect();
                entry.answer(Ok(own));
            }
        }
        Err(_) if entries.len() > 1 => entries.into_iter().for_each(|e| detect(networks, vec![e])),
        Err(failure) => answer_all(entries, &failure),
    }
}

/// Notes what a pass through a network is about to do.
fn begin<I: Input, O>(stage: &'static str, entries: &[Entry<I, O>]) -> Instant {
    metrics::histogram!("faceid_batch_size", "network" => stage).record(items(entries) as f64);
    note_waits(stage, entries)
}

/// Notes how long the entries of a pass that begins now have waited, also in the story of each request in it.
fn note_waits<I: Input, O>(stage: &'static str, entries: &[Entry<I, O>]) -> Instant {
    let (now, items) = (Instant::now(), items(entries));
    for entry in entries {
        let waited = now.duration_since(entry.queued);
        metrics::histogram!("faceid_queue_wait_seconds", "stage" => stage).record(waited);
        if let Some(spent) = &entry.spent {
            spent.add_wait(waited);
        }
        trace!(parent: &entry.span, stage, batch = items, waited_ms = waited.as_secs_f64() * 1e3, "a pass begins");
    }
    now
}

/// Images, chips or queries in a pass.
fn items<I: Input, O>(entries: &[Entry<I, O>]) -> usize {
    entries.iter().map(|entry| entry.input.items()).sum()
}

/// One failed pass, or a panic in it, must neither end the thread nor leave a caller without an answer.
fn guarded<T>(pass: impl FnOnce() -> Result<T, NetworkError>) -> Result<T, String> {
    let failure = match catch_unwind(AssertUnwindSafe(pass)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "the network panicked".to_owned(),
    };
    error!(%failure, "a pass through a network failed");
    Err(failure)
}

fn answer_all<I, O>(entries: Vec<Entry<I, O>>, failure: &str) {
    for entry in entries {
        entry.answer(Err(EngineError::Inference(failure.to_owned())));
    }
}
