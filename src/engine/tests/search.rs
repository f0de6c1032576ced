//! Searches in memory: who shares a pass, on how many threads, and whom a failure costs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::{LIMITS, chips, engine, hold_up, image, take};
use crate::engine::lanes::{Answer, Entry, Lanes, Limits, Role, SearchEntry, SearchInput, Task, Work};
use crate::engine::pool::Pool;
use crate::engine::{Engine, EngineError, Step};
use crate::index::{About, Hits, Index, Query};
use crate::types::{Embedding, GalleryId, StoredEmbedding, SubjectId};

const DIMENSION: usize = 64;

fn gallery(number: u128) -> GalleryId {
    GalleryId(uuid::Uuid::from_u128(number))
}

/// The unit vector along one axis.
fn axis(number: usize, dimension: usize) -> StoredEmbedding {
    let raw = (0..dimension).map(|place| if place == number { 1.0 } else { 0.0 }).collect();
    StoredEmbedding::from(&Embedding::normalised(raw).unwrap())
}

/// Asks for the subject nearest to an axis.
fn query(number: usize) -> Query {
    Query { probe: axis(number, DIMENSION), top_k: 1, min_similarity: None, except: None }
}

/// A gallery with a subject on each axis, and as many elsewhere as make work for three threads.
fn index() -> Arc<Index> {
    let index = Index::new(DIMENSION, None);
    let elsewhere = StoredEmbedding::from(&Embedding::normalised(vec![1.0; DIMENSION]).unwrap());
    for number in 0..3 * 8192 {
        let subject_id = SubjectId(uuid::Uuid::from_u128(number as u128));
        let about = About { subject_id, name: "".into(), faces: 1, face_id: None };
        let template = if number < DIMENSION { axis(number, DIMENSION) } else { elsewhere.clone() };
        index.put(gallery(1), about, &template);
    }
    Arc::new(index)
}

/// The only subject that was found for each query.
fn subjects(hits: Hits) -> Vec<u128> {
    hits.into_iter().map(|hits| hits[0].about.subject_id.0.as_u128()).collect()
}

fn entry(index: &Arc<Index>, number: u128, queries: usize, most_threads: usize) -> (SearchEntry, Answer<Hits>) {
    let queries = vec![query(0); queries];
    Entry::new(SearchInput { index: Arc::clone(index), gallery: gallery(number), queries, most_threads })
}

#[test]
fn queries_of_one_gallery_share_a_pass_that_keeps_its_limit() {
    let (mut lanes, mut answers) = (Lanes::default(), Vec::new());
    let [a, b] = [(); 2].map(|()| Arc::new(Index::new(DIMENSION, None)));
    for (index, number, queries) in
        [(&a, 1, 20), (&a, 2, 1), (&a, 1, 12), (&b, 1, 1), (&a, 1, 3), (&a, 1, 1), (&a, 1, 40)]
    {
        let (entry, answer) = entry(index, number, queries, 1);
        lanes.push_search(entry, &LIMITS).unwrap();
        answers.push(answer);
    }
    assert_eq!(lanes.depth().search, 78);
    let mut next = || match lanes.take(Role::Everything, 1, &LIMITS, Instant::now()) {
        Some((Work::Search(entries), 1)) => entries.iter().map(|entry| entry.input.queries.len()).collect(),
        _ => Vec::new(),
    };
    let passes = [vec![20, 12], vec![1], vec![1], vec![3, 1], vec![40], vec![]];
    assert_eq!(std::array::from_fn(|_| next()), passes);
}

#[test]
fn a_search_goes_first_and_takes_the_idle_threads_that_it_has_work_for() {
    let (mut lanes, mut answers) = (Lanes::default(), Vec::new());
    let index = Arc::new(Index::new(DIMENSION, None));
    let ((face, _a), (photo, _b)) = (chips(LIMITS.max_batch), image(10));
    lanes.push_embed(face, &LIMITS).unwrap();
    lanes.push_detect(photo, &LIMITS).unwrap();
    lanes.push_task(Step::Align, Task::new(|_| true), &LIMITS).unwrap();
    for (number, most_threads) in [(1, 3), (2, 3), (3, 1)] {
        let (entry, answer) = entry(&index, number, 1, most_threads);
        lanes.push_search(entry, &LIMITS).unwrap();
        answers.push(answer);
    }
    let now = Instant::now();
    assert_eq!(take(&mut lanes, Role::Everything, 4, now), Some(("search", 1, 3)));
    // Beside the networks of a GPU, other threads scan.
    assert_eq!(take(&mut lanes, Role::Networks, 1, now).unwrap().0, "embed");
    assert_eq!(take(&mut lanes, Role::Pixels, 2, now), Some(("search", 1, 2)));
    assert_eq!(take(&mut lanes, Role::Pixels, 2, now), Some(("search", 1, 1)));
    assert_eq!(take(&mut lanes, Role::Pixels, 2, now), Some(("pixels", 1, 1)));
}

#[test]
fn the_lane_is_bounded_in_entries_and_in_age() {
    let (mut lanes, mut answers) = (Lanes::default(), Vec::new());
    let index = Arc::new(Index::new(DIMENSION, None));
    for n in 0..=LIMITS.max_entries {
        let (entry, answer) = entry(&index, 1, 1, 1);
        assert_eq!(lanes.push_search(entry, &LIMITS).is_err(), n == LIMITS.max_entries);
        answers.push(answer);
    }
    drop(answers.remove(1));
    let now = Instant::now();
    assert_eq!(lanes.sweep(&LIMITS, now), (1, 0));
    assert_eq!(lanes.sweep(&LIMITS, now + LIMITS.max_age * 2), (0, LIMITS.max_entries - 1));
    assert!(matches!(answers[0].try_recv(), Ok(Err(EngineError::Overloaded))));
    assert_eq!(lanes.depth().search, 0);
}

#[test]
fn many_searches_at_once_run_on_no_more_threads_than_the_engine_has() {
    const THREADS: usize = 4;
    const SEARCHES: usize = 100;
    let pool = Pool::new(Limits { max_entries: SEARCHES, ..LIMITS }, THREADS, 0);
    let index = Arc::new(Index::new(DIMENSION, None));
    let (running, most, tasks) = (AtomicUsize::new(0), AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let (mut answers, mut pushed) = (Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some((work, threads)) = pool.take(Role::Everything) {
                    let taken = work.takes(threads);
                    most.fetch_max(running.fetch_add(threads, Ordering::SeqCst) + threads, Ordering::SeqCst);
                    // Time for others to come in between.
                    std::thread::sleep(Duration::from_millis(1));
                    match work {
                        Work::Search(entries) => entries.into_iter().for_each(|entry| entry.answer(Ok(Vec::new()))),
                        Work::Pixels(task) => _ = task.run(),
                        Work::Detect(_) | Work::Embed(_) => {}
                    }
                    running.fetch_sub(threads, Ordering::SeqCst);
                    pool.done(Role::Everything, taken);
                }
            });
        }
        for n in 0..SEARCHES {
            let (entry, answer) = entry(&index, n as u128, 1, 1 + n % 7);
            let tasks = Arc::clone(&tasks);
            let task = Task::new(move |_| tasks.fetch_add(1, Ordering::SeqCst) < SEARCHES);
            answers.push(answer);
            pushed.push(pool.push_search(entry).and_then(|()| pool.push_task(Step::Align, task)));
        }
        pool.close();
    });
    assert!(most.load(Ordering::SeqCst) <= THREADS, "{most:?} threads at once");
    assert_eq!(tasks.load(Ordering::SeqCst), SEARCHES);
    assert!(pushed.iter().all(Result::is_ok));
    assert!(answers.iter_mut().all(|answer| matches!(answer.try_recv(), Ok(Ok(_)))));
}

/// Begins a search and waits until it is in its lane as the `place`th.
async fn begin(
    engine: &Engine,
    index: &Arc<Index>,
    query: Query,
    place: usize,
) -> JoinHandle<Result<Hits, EngineError>> {
    let search = {
        let (engine, index) = (engine.clone(), Arc::clone(index));
        tokio::spawn(async move { engine.search(&index, gallery(1), vec![query]).await })
    };
    while engine.depth().search < place {
        tokio::task::yield_now().await;
    }
    search
}

#[tokio::test]
async fn a_caller_who_leaves_takes_nobodys_answer() {
    let (engine, _threads, _embedder) = engine(|_| ()).await;
    let (index, release) = (index(), hold_up(&engine).await);
    let left = begin(&engine, &index, query(1), 1).await;
    let stayed = begin(&engine, &index, query(2), 2).await;
    let left_too = begin(&engine, &index, query(3), 3).await;
    for left in [left, left_too] {
        left.abort();
        assert!(left.await.unwrap_err().is_cancelled());
    }
    drop(release);
    assert_eq!(subjects(stayed.await.unwrap().unwrap()), [2]);
    assert_eq!(engine.depth().search, 0);
}

#[tokio::test]
async fn a_search_that_panics_costs_only_its_own_request() {
    let (engine, _threads, _embedder) = engine(|_| ()).await;
    let (index, release) = (index(), hold_up(&engine).await);
    let first = begin(&engine, &index, query(1), 1).await;
    let of_another_model = Query { probe: axis(2, 2 * DIMENSION), ..query(2) };
    let panics = begin(&engine, &index, of_another_model, 2).await;
    let last = begin(&engine, &index, query(3), 3).await;
    drop(release);
    assert_eq!(subjects(first.await.unwrap().unwrap()), [1]);
    assert!(matches!(panics.await.unwrap(), Err(EngineError::Panicked)));
    assert_eq!(subjects(last.await.unwrap().unwrap()), [3]);
}

#[tokio::test]
async fn everyone_gets_the_hits_of_their_own_queries() {
    for threads in [1, 4] {
        let (engine, _threads, _embedder) = engine(|config| config.threads = threads).await;
        let index = index();
        // More queries than a pass takes, in one search and in all of them together.
        let asked = |n: usize| (0..[1, 5, 40][n % 3]).map(move |more| (n + more) % DIMENSION);
        let searches = (0..12).map(|n| engine.search(&index, gallery(1), asked(n).map(query).collect()));
        let found = futures_util::future::try_join_all(searches).await.unwrap();
        for (n, hits) in found.into_iter().enumerate() {
            assert_eq!(subjects(hits), asked(n).map(|axis| axis as u128).collect::<Vec<_>>());
        }
        assert_eq!(engine.search(&index, gallery(2), vec![query(0)]).await.unwrap(), [[]]);
        assert!(engine.search(&index, gallery(1), Vec::new()).await.unwrap().is_empty());
    }
}
