//! What waits for the engine's threads, and what they take next.
//!
//! There are four lanes, in the order in which a photo passes them: `first` steps on pixels (decoding), detection,
//! `later` steps on pixels (alignment), embedding. Other work of the processor waits with the later steps. A lane is bounded in entries and in age. A thread that is free takes
//!
//! 1. a batch that is full or has waited `max_wait`, of the latest stage first, so that begun requests end;
//! 2. else work on pixels, later steps first, which fills the batches;
//! 3. else whatever batch there is: nothing waits while a thread has nothing better to do.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::Span;

use super::{DetectorInput, EngineError, LoadedEmbedder};
use crate::types::{Chip, DetectorOutput, Embedding};

/// Which step of a photo some work on pixels is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Bytes become pixels.
    Decode,
    /// Faces are cut out.
    Align,
    /// Chips become files, or come from them.
    Chips,
    /// Embeddings are compared with galleries.
    Search,
    /// Numbers are made of many numbers.
    Statistics,
}

impl Step {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Align => "align",
            Self::Chips => "chips",
            Self::Search => "scan",
            Self::Statistics => "statistics",
        }
    }
}

/// Entries that wait, by lane; in `detect` images, in `embed` chips.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Depth {
    pub first: usize,
    pub detect: usize,
    pub later: usize,
    pub embed: usize,
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

/// What waits for a network: its input, and whom to tell.
pub(super) struct Entry<I, O> {
    pub input: I,
    pub queued: Instant,
    /// Of the request, for what is logged on the way.
    pub span: Span,
    reply: oneshot::Sender<Result<O, EngineError>>,
}

pub(super) type Answer<O> = oneshot::Receiver<Result<O, EngineError>>;
pub(super) type DetectEntry = Entry<DetectInput, Vec<DetectorOutput>>;
pub(super) type EmbedEntry = Entry<EmbedInput, Vec<Embedding>>;

/// Images of one size.
pub(super) struct DetectInput {
    pub size: (u32, u32),
    pub images: Vec<DetectorInput>,
}

/// Chips, and what is to embed them.
pub(super) struct EmbedInput {
    pub embedder: LoadedEmbedder,
    pub chips: Vec<Chip>,
}

impl<I, O> Entry<I, O> {
    pub fn new(input: I) -> (Self, Answer<O>) {
        let (reply, answer) = oneshot::channel();
        (Self { input, queued: Instant::now(), span: Span::current(), reply }, answer)
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
    run: Box<dyn FnOnce(Instant) -> bool + Send>,
}

impl Task {
    pub fn new(run: impl FnOnce(Instant) -> bool + Send + 'static) -> Self {
        Self { queued: Instant::now(), run: Box::new(run) }
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
}

impl Lanes {
    pub fn depth(&self) -> Depth {
        Depth {
            first: self.first.len(),
            detect: images_of(&self.detect),
            later: self.later.len(),
            embed: chips_of(&self.embed),
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

    /// Drops entries whose callers left, and refuses those that are too old: how many of each.
    pub fn sweep(&mut self, limits: &Limits, now: Instant) -> (usize, usize) {
        let (a, b) = (sweep(&mut self.detect, limits, now), sweep(&mut self.embed, limits, now));
        (a.0 + b.0, a.1 + b.1)
    }

    /// The next work of a thread of `role`, and the threads that it may use; `idle` threads, this one counted, could
    /// run networks now.
    pub fn take(&mut self, role: Role, idle: usize, limits: &Limits, now: Instant) -> Option<(Work, usize)> {
        let networks = role != Role::Pixels;
        let embeds_due = is_due(&self.embed, self.chips_for_next(), limits, now);
        let detects_due = is_due(&self.detect, images_of(&self.detect), limits, now);
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
        let Some(oldest) = self.embed.front() else { return 0 };
        let together = self.embed.iter().filter(|entry| entry.input.embedder.is(&oldest.input.embedder));
        together.map(|entry| entry.input.chips.len()).sum()
    }

    /// The oldest entry and as many others for its embedder as make a batch; an entry is never split, so its chips run
    /// together.
    fn take_embed(&mut self, idle: usize, limits: &Limits) -> Option<(Work, usize)> {
        let embedder = self.embed.front()?.input.embedder.clone();
        let waiting = self.embed.iter().filter(|entry| entry.input.embedder.is(&embedder)).count();
        let (most, threads) = share(waiting, idle)?;
        let (mut batch, mut rest): (Vec<EmbedEntry>, _) = (Vec::new(), VecDeque::new());
        let (mut chips, mut full) = (0, false);
        for entry in self.embed.drain(..) {
            let own = entry.input.embedder.is(&embedder);
            let more = chips + entry.input.chips.len();
            // Once one does not fit, no later one goes before it.
            full |= own && !batch.is_empty() && (batch.len() >= most || more > limits.max_batch);
            if own && !full {
                chips = more;
                batch.push(entry);
            } else {
                rest.push_back(entry);
            }
        }
        self.embed = rest;
        Some((Work::Embed(batch), threads))
    }

    /// The oldest entry and others with images of its size: only those fit into one pass. An entry is never split.
    fn take_detect(&mut self, idle: usize, limits: &Limits) -> Option<(Work, usize)> {
        let (most, threads) = share(self.detect.len(), idle)?;
        let size = self.detect.front()?.input.size;
        let (mut batch, mut rest): (Vec<DetectEntry>, _) = (Vec::new(), VecDeque::new());
        let (mut images, mut full) = (0, false);
        for entry in self.detect.drain(..) {
            let own = entry.input.size == size;
            let more = images + entry.input.images.len();
            full |= own && !batch.is_empty() && (batch.len() >= most || more > limits.max_batch);
            if own && !full {
                images = more;
                batch.push(entry);
            } else {
                rest.push_back(entry);
            }
        }
        self.detect = rest;
        Some((Work::Detect(batch), threads))
    }
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

fn chips_of(entries: &VecDeque<EmbedEntry>) -> usize {
    entries.iter().map(|entry| entry.input.chips.len()).sum()
}

fn images_of(entries: &VecDeque<DetectEntry>) -> usize {
    entries.iter().map(|entry| entry.input.images.len()).sum()
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
