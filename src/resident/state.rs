//! What is known of the memory by those who use it and by the task that keeps it true.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use super::View;

/// Everything about one memory. Whoever waits for a write to be in it draws a ticket; a round of reading the log serves all
/// tickets that were drawn before it began.
#[derive(Default)]
pub(super) struct Shared {
    state: RwLock<State>,
    wake: Notify,
    /// Up to which ticket nobody needs to wait any more: a round served it, or failed.
    answered: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    view: Option<Arc<View>>,
    /// When the state of the database was taken that the view shows; `None` while it is filled.
    taken: Option<Instant>,
    /// Whether the view has once held every write of this server.
    is_used: bool,
    /// The last ticket that was drawn.
    drawn: u64,
    /// The last ticket that the view serves.
    served: u64,
    /// The last ticket that nobody waits for any more: until a round serves it, the view lacks a write of this server.
    required: u64,
}

/// What a round of reading the log is for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Round {
    /// The last ticket that was drawn before it began.
    ticket: u64,
    /// Whether somebody waits for it.
    pub is_awaited: bool,
}

impl Shared {
    /// The view once it is in use, the age of what it shows, and whether it holds every write of this server.
    pub fn look(&self) -> Option<(Arc<View>, Duration, bool)> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let age = state.taken.filter(|_| state.is_used)?.elapsed();
        Some((state.view.clone()?, age, state.served >= state.required))
    }

    /// The view, even while it is filled.
    pub fn view(&self) -> Option<Arc<View>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).view.clone()
    }

    /// Waits until a round that began after this call is over, for `patience` at most. If none served it, the view counts as
    /// lacking a write until one does.
    pub async fn catch_up(&self, patience: Duration) {
        let ticket = {
            let mut state = self.write();
            state.drawn += 1;
            if state.taken.is_none() {
                // What is being filled must not be used before this write is in it.
                state.required = state.drawn;
                return;
            }
            state.drawn
        };
        let mut answered = self.answered.subscribe();
        self.wake.notify_one();
        let heard = tokio::time::timeout(patience, answered.wait_for(|answered| *answered >= ticket)).await;
        if !matches!(heard, Ok(Ok(_))) {
            self.require(ticket);
        }
    }

    /// Waits until somebody waits for a round.
    pub async fn wanted(&self) {
        self.wake.notified().await;
    }

    /// Whoever draws a ticket from here on waits for the next round.
    pub fn begin_round(&self) -> Round {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        Round { ticket: state.drawn, is_awaited: state.drawn > state.served }
    }

    /// All that the database held at `taken` is in the view. `false`: it is not used yet, as somebody wrote while it was filled.
    pub fn end_round(&self, round: Round, taken: Instant) -> bool {
        let is_used = {
            let mut state = self.write();
            (state.taken, state.served) = (Some(taken), round.ticket);
            state.is_used |= state.served >= state.required;
            state.is_used
        };
        self.answered.send_replace(round.ticket);
        is_used
    }

    /// The round failed. Nobody waits for it any more, and the view lacks what they wrote.
    pub fn fail_round(&self, round: Round) {
        self.require(round.ticket);
        self.answered.send_replace(round.ticket);
    }

    /// Another view, which is to be filled, or none.
    pub fn replace(&self, view: Option<Arc<View>>) {
        let _former = {
            let mut state = self.write();
            (state.taken, state.is_used) = (None, false);
            std::mem::replace(&mut state.view, view)
        };
        // Gigabytes may be freed here, and not while others wait.
    }

    fn require(&self, ticket: u64) {
        let mut state = self.write();
        state.required = state.required.max(ticket);
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}
