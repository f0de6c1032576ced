//! Exact search in memory against what reading the memory costs: `cargo bench --bench search -- [ROWS] [DIMENSION] [cuda]`
//!
//! Fills an index with made templates (1,000,000 of 512 dimensions by default) and searches it with 1, 8 and 32 queries at
//! once, by one and by two threads. The floor of a scan is the time in which as many threads read the 8-bit rows once.
//! With `cuda` the first GPU searches, whatever the threads.

use std::hint::black_box;
use std::time::Instant;

use faceid::evaluation::Random;
use faceid::index::{About, DeviceSearch, Index, Query};
use faceid::nn::{Device, load_cuda};
use faceid::types::{Embedding, GalleryId, StoredEmbedding, SubjectId};
use uuid::Uuid;

const ROUNDS: usize = 15;
const GALLERY: GalleryId = GalleryId(Uuid::nil());

fn embedding(random: &mut Random, dimension: usize) -> StoredEmbedding {
    let raw = (0..dimension).map(|_| random.normal() as f32).collect();
    StoredEmbedding::from(&Embedding::normalised(raw).expect("random numbers are no zero vector"))
}

/// The median of some rounds, in milliseconds.
fn median(mut round: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let began = Instant::now();
            round();
            began.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[ROUNDS / 2]
}

/// Reads all bytes with some threads.
fn read(bytes: &[u64], threads: usize) -> u64 {
    let sum = |part: &[u64]| part.iter().fold(0_u64, |sum, value| sum.wrapping_add(*value));
    if threads == 1 {
        return sum(bytes);
    }
    std::thread::scope(|scope| {
        let parts = bytes.chunks(bytes.len().div_ceil(threads));
        let readers: Vec<_> = parts.map(|part| scope.spawn(move || sum(part))).collect();
        readers.into_iter().map(|reader| reader.join().expect("a sum does not panic")).fold(0, u64::wrapping_add)
    })
}

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse::<usize>().ok());
    let (rows, dimension) = (numbers.next().unwrap_or(1_000_000), numbers.next().unwrap_or(512));
    let device = std::env::args().any(|argument| argument == "cuda").then(|| {
        load_cuda(None).expect("there is a GPU, and CUDA's part of libtorch is on the library path");
        DeviceSearch::new(Device::Cuda(0))
    });
    let (index, mut random) = (Index::new(dimension, device), Random::new(1, 0));
    let began = Instant::now();
    for number in 0..rows {
        let subject_id = SubjectId(Uuid::from_u128(number as u128));
        let about = About { subject_id, name: format!("subject {number}").into(), faces: 1, face_id: None };
        index.put(GALLERY, about, &embedding(&mut random, dimension));
    }
    println!("{rows} rows of {dimension} dimensions, made and put in {:.1} s", began.elapsed().as_secs_f64());
    println!("| threads | reading the rows, ms | queries | ms | of the floor | ms a query | GMAC/s |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    let bytes = vec![1_u64; rows * dimension / 8];
    for threads in [1, 2] {
        let floor = median(|| _ = black_box(read(black_box(&bytes), threads)));
        for count in [1, 8, 32] {
            let query =
                |_| Query { probe: embedding(&mut random, dimension), top_k: 5, min_similarity: None, except: None };
            let queries: Vec<Query> = (0..count).map(query).collect();
            let time = median(|| _ = black_box(index.search(GALLERY, &queries, threads)));
            assert!(index.device().is_none_or(|device| !device.has_failed()), "the device cannot search");
            let rate = (rows * dimension * count) as f64 / time / 1e6;
            println!(
                "| {threads} | {floor:.1} | {count} | {time:.1} | {:.2} | {:.2} | {rate:.0} |",
                time / floor,
                time / count as f64
            );
        }
    }
}
