//! What a connection is at, and how long it may be.

use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::Connection;

/// What a client that knows HTTP/2 says first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long a connection may be at what it is at.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For the head of a request, from its first byte; for that of the first one, from the beginning.
    pub head: Duration,
    /// Between requests.
    pub rest: Duration,
}

/// What took too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overdue {
    Head,
    Rest,
}

/// Told what happens on a connection, says when it was quiet for too long.
pub struct Pulse {
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    phase: Phase,
    /// HTTP/2: bytes may belong to any stream or none, so they say nothing of a head.
    multiplexed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Head(Instant),
    /// So many requests are in work, or what is left of them is thrown away.
    Busy(usize),
    Rest(Instant),
}

impl Pulse {
    /// Of a connection whose client is expected to say something.
    pub fn new() -> Self {
        let state = State { phase: Phase::Head(Instant::now()), multiplexed: false };
        Self { state: Mutex::new(state), changed: Notify::new() }
    }

    /// A request is in work until [`Self::leave`].
    pub fn enter(&self) {
        self.change(|state| match state.phase {
            Phase::Busy(requests) => Phase::Busy(requests + 1),
            Phase::Head(_) | Phase::Rest(_) => Phase::Busy(1),
        });
    }

    pub fn leave(&self) {
        self.change(|state| match state.phase {
            Phase::Busy(requests) if requests > 1 => Phase::Busy(requests - 1),
            _ => Phase::Rest(Instant::now()),
        });
    }

    /// Something was read.
    fn heard(&self) {
        self.change(|state| match state.phase {
            Phase::Rest(_) if !state.multiplexed => Phase::Head(Instant::now()),
            phase => phase,
        });
    }

    /// The client speaks HTTP/2.
    fn multiplexed(&self) {
        self.change(|state| {
            state.multiplexed = true;
            Phase::Rest(Instant::now())
        });
    }

    /// Waits until something takes longer than it may.
    pub async fn overdue(&self, patience: Patience) -> Overdue {
        loop {
            let Some((until, what)) = self.due(patience) else {
                self.changed.notified().await;
                continue;
            };
            tokio::select! {
                biased;
                () = self.changed.notified() => {}
                () = sleep_until(until) => return what,
            }
        }
    }

    /// When something will have taken too long, unless it ends.
    fn due(&self, patience: Patience) -> Option<(Instant, Overdue)> {
        match self.state().phase {
            Phase::Head(since) => Some((since + patience.head, Overdue::Head)),
            Phase::Rest(since) => Some((since + patience.rest, Overdue::Rest)),
            Phase::Busy(_) => None,
        }
    }

    fn change(&self, next: impl FnOnce(&mut State) -> Phase) {
        let mut state = self.state();
        let before = state.phase;
        state.phase = next(&mut state);
        let changed = state.phase != before;
        drop(state);
        if changed {
            self.changed.notify_one();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream that tells its connection when something was read.
pub struct Heard<S> {
    stream: S,
    connection: Connection,
    /// How much of [`PREFACE`] the client has said; `None` once it is clear whether it says it.
    preface: Option<usize>,
}

impl<S> Heard<S> {
    pub fn new(stream: S, connection: Connection) -> Self {
        Self { stream, connection, preface: Some(0) }
    }

    fn note(&mut self, bytes: &[u8]) {
        let pulse = self.connection.pulse();
        if let Some(said) = self.preface {
            let expected = &PREFACE[said..];
            let both = expected.len().min(bytes.len());
            self.preface = (expected[..both] == bytes[..both]).then_some(said + both);
            if self.preface == Some(PREFACE.len()) {
                self.preface = None;
                pulse.multiplexed();
            }
        }
        pulse.heard();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if buffer.filled().len() > before {
            self.note(&buffer.filled()[before..]);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize, std::io::Error>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[std::io::IoSlice<'_>],
    ) -> Poll<Result<usize, std::io::Error>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), std::io::Error>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), std::io::Error>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const PATIENCE: Patience = Patience { head: Duration::from_secs(30), rest: Duration::from_secs(75) };

    /// What becomes due, and whether its time began since `earliest`.
    fn due(pulse: &Pulse, earliest: Instant) -> Option<(Overdue, bool)> {
        pulse.due(PATIENCE).map(|(until, what)| {
            let time = if what == Overdue::Head { PATIENCE.head } else { PATIENCE.rest };
            (what, until - time >= earliest)
        })
    }

    /// A moment after what came before.
    fn later() -> Instant {
        std::thread::sleep(Duration::from_millis(2));
        Instant::now()
    }

    #[test]
    fn heads_and_rests_have_times_of_their_own() {
        let began = Instant::now();
        let pulse = Pulse::new();
        assert_eq!(due(&pulse, began), Some((Overdue::Head, true)));
        pulse.enter();
        // What is read meanwhile is a body.
        pulse.heard();
        assert_eq!(due(&pulse, began), None);
        let written = later();
        pulse.leave();
        assert_eq!(due(&pulse, written), Some((Overdue::Rest, true)));
        let next = later();
        pulse.heard();
        assert_eq!(due(&pulse, next), Some((Overdue::Head, true)));
        // The time of a head is counted from its first byte, whatever trickles in later.
        let trickle = later();
        pulse.heard();
        assert_eq!(due(&pulse, trickle), Some((Overdue::Head, false)));
    }

    #[test]
    fn frames_of_http_2_are_no_heads() {
        let pulse = Pulse::new();
        let began = later();
        pulse.multiplexed();
        assert_eq!(due(&pulse, began), Some((Overdue::Rest, true)));
        let frame = later();
        pulse.heard();
        assert_eq!(due(&pulse, frame), Some((Overdue::Rest, false)));
        pulse.enter();
        pulse.enter();
        pulse.leave();
        assert_eq!(due(&pulse, frame), None);
        pulse.leave();
        assert_eq!(due(&pulse, frame), Some((Overdue::Rest, true)));
    }

    #[tokio::test]
    async fn who_waits_hears_of_a_change() {
        let pulse = Pulse::new();
        let brief = Patience { rest: Duration::from_millis(1), ..PATIENCE };
        pulse.enter();
        let overdue = pulse.overdue(brief);
        tokio::pin!(overdue);
        assert_eq!(overdue.as_mut().now_or_never(), None);
        pulse.leave();
        assert_eq!(overdue.await, Overdue::Rest);
    }
}
