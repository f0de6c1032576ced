//! The index against a plain loop over all rows.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::prelude::*;

use super::*;
use crate::evaluation::Random;
use crate::nn::Device;
use crate::types::Embedding;

const GALLERY: GalleryId = GalleryId(uuid::Uuid::from_u128(1));

fn subject(number: u128) -> SubjectId {
    SubjectId(uuid::Uuid::from_u128(number))
}

fn about(number: u128) -> About {
    About { subject_id: subject(number), name: format!("{number}").into(), faces: 1, face_id: None }
}

fn embedding(random: &mut Random, dimension: usize) -> StoredEmbedding {
    let raw = (0..dimension).map(|_| random.normal() as f32).collect();
    StoredEmbedding::from(&Embedding::normalised(raw).unwrap())
}

/// Searched by the processor, and by a device, as which tensors of the processor serve as well.
fn both(dimension: usize) -> [Index; 2] {
    [Index::new(dimension, None), by_device(dimension, 0)]
}

/// With as many rows in a block as the chunks have that fit, at least one.
fn by_device(dimension: usize, block_rows: usize) -> Index {
    Index::new(dimension, Some(DeviceSearch::with(0, block_rows, Device::Cpu)))
}

/// What [`Index::search`] finds by one thread, or by the device, which must not have failed.
fn search(index: &Index, queries: &[Query]) -> Hits {
    let hits = index.search(GALLERY, queries, 1);
    assert!(index.device().is_none_or(|device| !device.has_failed()));
    hits
}

fn query(probe: &StoredEmbedding, top_k: usize) -> Query {
    Query { probe: probe.clone(), top_k, min_similarity: None, except: None }
}

fn expected(rows: &BTreeMap<u128, StoredEmbedding>, query: &Query) -> Vec<(SubjectId, f64)> {
    let mut all: Vec<(SubjectId, f64)> =
        rows.iter().map(|(number, row)| (subject(*number), row.similarity(&query.probe))).collect();
    all.retain(|(id, similarity)| {
        Some(*id) != query.except && query.min_similarity.is_none_or(|least| *similarity >= least)
    });
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all.truncate(query.top_k);
    all
}

fn found(hits: Vec<Hit>) -> Vec<(SubjectId, f64)> {
    hits.into_iter().map(|hit| (hit.about.subject_id, hit.similarity)).collect()
}

#[test]
fn a_large_gallery_is_searched_exactly_by_any_number_of_threads() {
    let ([index, by_device], mut random) = (both(96), Random::new(3, 0));
    let mut rows = BTreeMap::new();
    for number in 0..20_000 {
        let row = embedding(&mut random, 96);
        index.put(GALLERY, about(number), &row);
        by_device.put(GALLERY, about(number), &row);
        rows.insert(number, row);
    }
    let queries: Vec<Query> = [1, 5, 100, 20_001].map(|top_k| query(&embedding(&mut random, 96), top_k)).into();
    for threads in [1, 2, 3] {
        for (hits, query) in index.search(GALLERY, &queries, threads).into_iter().zip(&queries) {
            assert_eq!(found(hits), expected(&rows, query));
        }
    }
    for (hits, query) in search(&by_device, &queries).into_iter().zip(&queries) {
        assert_eq!(found(hits), expected(&rows, query));
    }
    by_device.remove_gallery(GALLERY);
    assert!(search(&by_device, &queries).concat().is_empty());
}

#[test]
fn a_device_follows_a_gallery_of_several_blocks_that_grows_and_shrinks() {
    // A chunk has 10,922 rows, no multiple of what a device scans at once, and a block three chunks.
    let (dimension, chunk) = (130, 10_922);
    let (index, mut random) = (by_device(dimension, 3 * chunk), Random::new(5, 0));
    let mut rows = BTreeMap::new();
    // More queries than a scan takes, one of them for more than a chunk.
    let mut queries: Vec<Query> = (0..40).map(|_| query(&embedding(&mut random, dimension), 3)).collect();
    queries[1].top_k = 11_000;
    queries[2].except = Some(subject(1));
    for rounds in [0..chunk, chunk..4 * chunk + 5, 3 * chunk + 3..4 * chunk + 5, 100..4 * chunk, 100..101] {
        for number in rounds {
            let number = number as u128;
            // Whoever is there goes, and whoever is not comes.
            if rows.remove(&number).is_some() {
                index.remove(GALLERY, subject(number));
            } else {
                let row = embedding(&mut random, dimension);
                index.put(GALLERY, about(number), &row);
                rows.insert(number, row);
            }
        }
        for (hits, query) in search(&index, &queries).into_iter().zip(&queries).take(4) {
            assert_eq!(found(hits), expected(&rows, query), "{} rows", rows.len());
        }
    }
}

#[test]
fn equal_rows_are_ordered_by_subject() {
    let probe = embedding(&mut Random::new(1, 0), 64);
    for index in both(64) {
        for number in (0..3000).rev() {
            index.put(GALLERY, about(number), &probe);
        }
        let hits = search(&index, &[query(&probe, 7)]).remove(0);
        assert_eq!(
            hits.iter().map(|hit| hit.about.subject_id).collect::<Vec<_>>(),
            (0..7).map(subject).collect::<Vec<_>>()
        );
    }
}

#[test]
fn a_search_uses_only_threads_that_it_has_work_for() {
    let ([index, by_device], mut random) = (both(64), Random::new(9, 0));
    assert_eq!(index.most_threads(GALLERY), 1);
    let row = embedding(&mut random, 64);
    for number in 0..3 * 8192 {
        index.put(GALLERY, about(number), &row);
        by_device.put(GALLERY, about(number), &row);
    }
    assert_eq!(index.most_threads(GALLERY), 3);
    assert_eq!(by_device.most_threads(GALLERY), 1);
}

#[test]
fn a_search_that_panics_leaves_the_index_and_the_device_usable() {
    let mut random = Random::new(9, 0);
    let row = embedding(&mut random, 64);
    let of_another_model = query(&embedding(&mut random, 128), 1);
    for index in both(64) {
        for number in 0..2 * 8192 {
            index.put(GALLERY, about(number), &row);
        }
        let refused = || search(&index, &[query(&row, 1), of_another_model.clone()]);
        assert!(catch_unwind(AssertUnwindSafe(refused)).is_err());
        assert_eq!(search(&index, &[query(&row, 1)])[0][0].about, about(0));
        // Whichever thread of a scan panics, the caller hears of it.
        let rows = index.read().get(&GALLERY).map(GalleryRows::rows).unwrap();
        for threads in [1, 2] {
            let scan = || scan::search(&rows, 64, std::slice::from_ref(&of_another_model), threads);
            assert!(catch_unwind(AssertUnwindSafe(scan)).is_err());
        }
        assert_eq!(search(&index, &[query(&row, 1)])[0][0].about, about(0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is put, replaced and removed: the answers are those of a plain loop.
    #[test]
    fn answers_are_those_of_a_plain_loop(
        changes in prop::collection::vec((0_u128..40, prop::option::weighted(0.7, 0_u64..12)), 0..200),
        dimension in 1_usize..130,
        top_k in 0_usize..12,
        floor in prop::option::of(-0.5_f64..0.9),
        except in prop::option::of(0_u128..40),
    ) {
        let probes: Vec<Query> = (0..3)
            .map(|seed| Query {
                min_similarity: floor,
                except: except.map(subject),
                ..query(&embedding(&mut Random::new(seed + 5, 0), dimension), top_k)
            })
            .collect();
        let indexes = both(dimension);
        let mut rows = BTreeMap::new();
        let count = changes.len();
        for (change, (number, seed)) in changes.into_iter().enumerate() {
            for index in &indexes {
                match seed {
                    // Few seeds, so that many rows are equal.
                    Some(seed) => {
                        index.put(GALLERY, about(number), &embedding(&mut Random::new(seed + 1, 0), dimension));
                    }
                    None => index.remove(GALLERY, subject(number)),
                }
            }
            match seed {
                Some(seed) => _ = rows.insert(number, embedding(&mut Random::new(seed + 1, 0), dimension)),
                None => _ = rows.remove(&number),
            }
            // In between as well, so that what a device copied must follow.
            if change % 29 > 0 && change + 1 < count {
                continue;
            }
            for index in &indexes {
                prop_assert_eq!(index.len_of(GALLERY), rows.len());
                for (hits, query) in search(index, &probes).into_iter().zip(&probes) {
                    prop_assert_eq!(found(hits), expected(&rows, query));
                }
            }
        }
    }
}
