//! What waits for the engine's threads, and what they take next.
//!
//! There are five lanes, in the order in which a photo passes them: `first` steps on pixels (decoding), detection,
//! `later` steps on pixels (alignment), embedding, search. Other work of the processor waits with the later steps. A lane
//! is bounded in entries and in age. A thread that is free takes
//!
//! 1. a search: it ends requests, is short beside a pass of a network, and need not wait for others to share it, since
//!    they gather while the threads are busy;
//! 2. else a batch that is full or has waited `max_wait`, of the later stage first, so that begun requests end;
//! 3. else work on pixels, later steps first, which fills the batches;
//! 4. else whatever batch there is: nothing waits while a thread has nothing better to do.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::Span;

use super::{DetectorInput, EngineError, LoadedEmbedder, Spent};
use crate::index::{Hits, Index, MOST_QUERIES, Query};
use crate::types::{Chip, DetectorOutput, Embedding, GalleryId};

/// Which step of a photo some work on pixels is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Bytes become pixels.
    Decode,
    /// Faces are cut out.
    Align,
    /// Chips become files, or come from them.
    Chips,
    /// Numbers are made of many numbers.
    Statistics,
}

impl Step {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Align => "align",
            Self::Chips => "chips",
            Self::Statistics => "statistics",
        }
    }
}

/// Entries that wait, by lane; in `detect` images, in `embed` chips, in `search` queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Depth {
    pub first: usize,
    pub detect: usize,
    pub later: usize,
    pub embed: usize,
    pub search: usize,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Most images or chips in one pass.
    pub max_batch: usize,
    /// How long a batch may wait to fill while there is other work.
    pub max_wait: Duration,
    /// Entries that waited longer are refused.
    pub max_age: Duration,
    /// Most entries in a lane.
    pub max_entries: usize,
}

/// What waits for a pass together with others: its input, and whom to tell.
pub(super) struct Entry<I, O> {
    pub input: I,
    pub queued: Instant,
    /// Of the request, for what is logged on the way.
    pub span: Span,
    pub spent: Option<Arc<Spent>>,
    reply: oneshot::Sender<Result<O, EngineError>>,
}

pub(super) type Answer<O> = oneshot::Receiver<Result<O, EngineError>>;
pub(super) type DetectEntry = Entry<DetectInput, Vec<DetectorOutput>>;
pub(super) type EmbedEntry = Entry<EmbedInput, Vec<Embedding>>;
pub(super) type SearchEntry = Entry<SearchInput, Hits>;

pub(super) trait Input {
    /// Images, chips or queries.
    fn items(&self) -> usize;

    /// Whether one pass can be for both.
    fn shares_pass_with(&self, other: &Self) -> bool;
}

/// Images of one size.
pub(super) struct DetectInput {
    pub size: (u32, u32),
    pub images: Vec<DetectorInput>,
}

impl Input for DetectInput {
    fn items(&self) -> usize {
        self.images.len()
    }

    fn shares_pass_with(&self, other: &Self) -> bool {
        self.size == other.size
    }
}

/// Chips, and what is to embed them.
pub(super) struct EmbedInput {
    pub embedder: LoadedEmbedder,
    pub chips: Vec<Chip>,
}

impl Input for EmbedInput {
    fn items(&self) -> usize {
        self.chips.len()
    }

    fn shares_pass_with(&self, other: &Self) -> bool {
        self.embedder.is(&other.embedder)
    }
}

/// What to look for in a gallery.
pub(super) struct SearchInput {
    pub index: Arc<Index>,
    pub gallery: GalleryId,
    pub queries: Vec<Query>,
    /// Threads that the search has work for, at least 1.
    pub most_threads: usize,
}

impl Input for SearchInput {
    fn items(&self) -> usize {
        self.queries.len()
    }

    fn shares_pass_with(&self, other: &Self) -> bool {
        self.gallery == other.gallery && Arc::ptr_eq(&self.index, &other.index)
    }
}

impl<I, O> Entry<I, O> {
    pub fn new(input: I) -> (Self, Answer<O>) {
        let (reply, answer) = oneshot::channel();
        (Self { input, queued: Instant::now(), span: Span::current(), spent: Spent::current(), reply }, answer)
    }

    /// A caller who left needs no answer.
    pub fn answer(self, result: Result<O, EngineError>) {
        let _ = self.reply.send(result);
    }

    fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }
}

/// Work on pixels: is given the time at which it was taken and says whether its caller was still there.
pub(super) struct Task {
    pub queued: Instant,
    pub spent: Option<Arc<Spent>>,
    run: Box<dyn FnOnce(Instant) -> bool + Send>,
}

impl Task {
    pub fn new(run: impl FnOnce(Instant) -> bool + Send + 'static) -> Self {
        Self { queued: Instant::now(), spent: Spent::current(), run: Box::new(run) }
    }

    pub fn run(self) -> bool {
        (self.run)(Instant::now())
    }
}

/// What a thread does next.
pub(super) enum Work {
    Pixels(Task),
    Detect(Vec<DetectEntry>),
    Embed(Vec<EmbedEntry>),
    Search(Vec<SearchEntry>),
}

impl Work {
    /// How many idle threads of the engine are taken by it, given the `threads` that it may use. A scan starts threads
    /// of its own, in whose place threads of the engine stay idle; those that help a network do not count.
    pub fn takes(&self, threads: usize) -> usize {
        if matches!(self, Self::Search(_)) { threads } else { 1 }
    }
}

/// Which lanes a thread takes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Everything,
    Pixels,
    Networks,
}

#[derive(Default)]
pub(super) struct Lanes {
    first: VecDeque<Task>,
    detect: VecDeque<DetectEntry>,
    later: VecDeque<Task>,
    embed: VecDeque<EmbedEntry>,
    search: VecDeque<SearchEntry>,
}

impl Lanes {
    pub fn depth(&self) -> Depth {
        Depth {
            first: self.first.len(),
            detect: items(&self.detect),
            later: self.later.len(),
            embed: items(&self.embed),
            search: items(&self.search),
        }
    }

    pub fn push_task(&mut self, step: Step, task: Task, limits: &Limits) -> Result<(), EngineError> {
        let lane = if step == Step::Decode { &mut self.first } else { &mut self.later };
        push(lane, task, limits)
    }

    pub fn push_detect(&mut self, entry: DetectEntry, limits: &Limits) -> Result<(), EngineError> {
        push(&mut self.detect, entry, limits)
    }

    pub fn push_embed(&mut self, entry: EmbedEntry, limits: &Limits) -> Result<(), EngineError> {
        push(&mut self.embed, entry, limits)
    }

    pub fn push_search(&mut self, entry: SearchEntry, limits: &Limits) -> Result<(), EngineError> {
        push(&mut self.search, entry, limits)
    }

    /// Drops entries whose callers left, and refuses those that are too old: how many of each.
    pub fn sweep(&mut self, limits: &Limits, now: Instant) -> (usize, usize) {
        let swept = [
            sweep(&mut self.detect, limits, now),
            sweep(&mut self.embed, limits, now),
            sweep(&mut self.search, limits, now),
        ];
        swept.into_iter().fold((0, 0), |sum, lane| (sum.0 + lane.0, sum.1 + lane.1))
    }

    /// The next work of a thread of `role`, and the threads that it may use; `idle` threads of that role, this one
    /// counted, have nothing to do now.
    pub fn take(&mut self, role: Role, idle: usize, limits: &Limits, now: Instant) -> Option<(Work, usize)> {
        let networks = role != Role::Pixels;
        let embeds_due = is_due(&self.embed, self.chips_for_next(), limits, now);
        let detects_due = is_due(&self.detect, items(&self.detect), limits, now);
        if role != Role::Networks
            && let Some(search) = self.take_search(idle)
        {
            return Some(search);
        }
        if networks && embeds_due {
            return self.take_embed(idle, limits);
        }
        if networks && detects_due {
            return self.take_detect(idle, limits);
        }
        if role != Role::Networks
            && let Some(task) = self.later.pop_front().or_else(|| self.first.pop_front())
        {
            return Some((Work::Pixels(task), 1));
        }
        if networks {
            return self.take_embed(idle, limits).or_else(|| self.take_detect(idle, limits));
        }
        None
    }

    /// Chips that could be in a batch with the oldest: those for its embedder.
    fn chips_for_next(&self) -> usize {
        like_oldest(&self.embed).map(|entry| entry.input.items()).sum()
    }

    fn take_embed(&mut self, idle: usize, limits: &Limits) -> Option<(Work, usize)> {
        let (most, threads) = share(like_oldest(&self.embed).count(), idle)?;
        Some((Work::Embed(take_batch(&mut self.embed, most, limits.max_batch)), threads))
    }

    fn take_detect(&mut self, idle: usize, limits: &Limits) -> Option<(Work, usize)> {
        let (most, threads) = share(self.detect.len(), idle)?;
        Some((Work::Detect(take_batch(&mut self.detect, most, limits.max_batch)), threads))
    }

    /// The oldest search and others of its gallery, for all idle threads that it has work for: of scans one after the
    /// other the first ends sooner than side by side, and the last no later.
    fn take_search(&mut self, idle: usize) -> Option<(Work, usize)> {
        let most_threads = self.search.front()?.input.most_threads;
        let batch = take_batch(&mut self.search, usize::MAX, MOST_QUERIES);
        Some((Work::Search(batch), idle.min(most_threads).max(1)))
    }
}

/// The oldest entry of a lane and those that could share its pass.
fn like_oldest<I: Input, O>(lane: &VecDeque<Entry<I, O>>) -> impl Iterator<Item = &Entry<I, O>> {
    let oldest = lane.front();
    lane.iter().filter(move |entry| oldest.is_some_and(|oldest| oldest.input.shares_pass_with(&entry.input)))
}

/// Takes the oldest entry of a lane and those that can share its pass, up to so many entries and items. An entry is
/// never split, so what belongs to one photo runs together.
fn take_batch<I: Input, O>(
    lane: &mut VecDeque<Entry<I, O>>,
    most_entries: usize,
    most_items: usize,
) -> Vec<Entry<I, O>> {
    let (mut batch, mut rest): (Vec<Entry<I, O>>, _) = (Vec::new(), VecDeque::new());
    let (mut items, mut full) = (0, false);
    for entry in lane.drain(..) {
        let own = batch.first().is_none_or(|oldest| oldest.input.shares_pass_with(&entry.input));
        let more = items + entry.input.items();
        // Once one does not fit, no later one goes before it.
        full |= own && !batch.is_empty() && (batch.len() >= most_entries || more > most_items);
        if own && !full {
            items = more;
            batch.push(entry);
        } else {
            rest.push_back(entry);
        }
    }
    *lane = rest;
    batch
}

fn push<T>(lane: &mut VecDeque<T>, entry: T, limits: &Limits) -> Result<(), EngineError> {
    if lane.len() >= limits.max_entries {
        return Err(EngineError::Overloaded);
    }
    lane.push_back(entry);
    Ok(())
}

fn sweep<I, O>(lane: &mut VecDeque<Entry<I, O>>, limits: &Limits, now: Instant) -> (usize, usize) {
    let before = lane.len();
    lane.retain(|entry| !entry.is_abandoned());
    let abandoned = before - lane.len();
    let mut late = 0;
    // The oldest are in front.
    while lane.front().is_some_and(|entry| now.duration_since(entry.queued) > limits.max_age) {
        late += 1;
        lane.pop_front().into_iter().for_each(|entry| entry.answer(Err(EngineError::Overloaded)));
    }
    (abandoned, late)
}

fn items<I: Input, O>(lane: &VecDeque<Entry<I, O>>) -> usize {
    lane.iter().map(|entry| entry.input.items()).sum()
}

fn is_due<I, O>(lane: &VecDeque<Entry<I, O>>, items: usize, limits: &Limits, now: Instant) -> bool {
    let waited = lane.front().map(|entry| now.duration_since(entry.queued));
    waited.is_some_and(|waited| items >= limits.max_batch || waited >= limits.max_wait)
}

/// How `waiting` entries are spread over `idle` threads: most entries for one of them, and the threads that its pass
/// may use. With fewer entries than threads, several threads work on one.
fn share(waiting: usize, idle: usize) -> Option<(usize, usize)> {
    let pieces = waiting.min(idle.max(1));
    (pieces > 0).then(|| (waiting.div_ceil(pieces), (idle / pieces).clamp(1, MOST_THREADS)))
}

/// Threads beyond which a pass over few images does not get faster.
const MOST_THREADS: usize = 4;
