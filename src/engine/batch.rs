//! The loop of the inference thread: take what waits, group it, run it, answer.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::sync::mpsc;
use tracing::{debug, error};

use super::{DetectorInput, EngineError, Entry, Networks, Work};
use crate::nn::NetworkError;
use crate::types::{Chip, DetectorOutput, Embedding};

type DetectEntry = Entry<DetectorInput, DetectorOutput>;
type EmbedEntry = Entry<Vec<Chip>, Vec<Embedding>>;

/// Serves until every handle is gone. Never waits for a batch to fill: a lone request runs at once, and whatever
/// arrives meanwhile is the next batch.
pub(super) fn serve(networks: &Networks, mut queue: mpsc::Receiver<Work>, max_batch: usize) {
    while let Some(first) = queue.blocking_recv() {
        let (mut detects, mut embeds) = (Vec::new(), Vec::new());
        let mut waiting = Some(first);
        while let Some(work) = waiting {
            match work {
                Work::Detect(entry) if !entry.reply.is_closed() => detects.push(entry),
                Work::Embed(entry) if !entry.reply.is_closed() => embeds.push(entry),
                Work::Detect(_) | Work::Embed(_) => debug!("skipped work of a caller who left"),
            }
            let full = detects.len() >= max_batch || chips_of(&embeds) >= max_batch;
            waiting = if full { None } else { queue.try_recv().ok() };
        }
        // Embedding is a request's last step here, so it goes first.
        embed(networks, embeds, max_batch);
        detect(networks, detects, max_batch);
    }
}

fn chips_of(entries: &[EmbedEntry]) -> usize {
    entries.iter().map(|entry| entry.input.len()).sum()
}

fn embed(networks: &Networks, entries: Vec<EmbedEntry>, max_batch: usize) {
    if entries.is_empty() {
        return;
    }
    let chips: Vec<Chip> = entries.iter().flat_map(|entry| entry.input.iter().cloned()).collect();
    match guarded(|| embed_chips(networks, &chips, max_batch)) {
        Ok(rows) => {
            let mut rows = rows.into_iter();
            for entry in entries {
                let own: Result<Vec<_>, _> = rows.by_ref().take(entry.input.len()).map(normalised).collect();
                // A caller who left needs no answer.
                let _ = entry.reply.send(own);
            }
        }
        Err(_) if entries.len() > 1 => entries.into_iter().for_each(|e| embed(networks, vec![e], max_batch)),
        Err(error) => answer_all(entries, error),
    }
}

fn normalised(row: Vec<f32>) -> Result<Embedding, EngineError> {
    Ok(Embedding::normalised(row)?)
}

fn embed_chips(networks: &Networks, chips: &[Chip], max_batch: usize) -> Result<Vec<Vec<f32>>, NetworkError> {
    let mut rows = Vec::with_capacity(chips.len());
    for batch in chips.chunks(max_batch) {
        rows.extend(networks.embedder.forward(batch)?);
    }
    Ok(rows)
}

/// Images of one size share a pass.
fn detect(networks: &Networks, entries: Vec<DetectEntry>, max_batch: usize) {
    let mut by_size: HashMap<(u32, u32), Vec<DetectEntry>> = HashMap::new();
    for entry in entries {
        by_size.entry((entry.input.width, entry.input.height)).or_default().push(entry);
    }
    for ((width, height), mut group) in by_size {
        while !group.is_empty() {
            let rest = group.split_off(group.len().min(max_batch));
            detect_group(networks, width, height, group);
            group = rest;
        }
    }
}

fn detect_group(networks: &Networks, width: u32, height: u32, entries: Vec<DetectEntry>) {
    let images: Vec<&[u8]> = entries.iter().map(|entry| entry.input.rgb.as_slice()).collect();
    match guarded(|| networks.detector.forward(&images, width, height)) {
        Ok(outputs) => {
            for (entry, output) in entries.into_iter().zip(outputs) {
                let _ = entry.reply.send(Ok(output));
            }
        }
        Err(_) if entries.len() > 1 => {
            entries.into_iter().for_each(|e| detect_group(networks, width, height, vec![e]));
        }
        Err(error) => answer_all(entries, error),
    }
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

fn answer_all<I, O>(entries: Vec<Entry<I, O>>, failure: String) {
    for entry in entries {
        let _ = entry.reply.send(Err(EngineError::Inference(failure.clone())));
    }
}
