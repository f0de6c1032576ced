//! Who has a place among the connections, and who gives way when there are no more.
//!
//! A connection is a stranger's until it has shown a key that opens something (or asked a server that is open for what only keys
//! open elsewhere); from then on it is known. It is idle while it waits for its client: it has said nothing yet or only half a head, it is
//! between two requests, or all that goes on is that a body which nobody wants is thrown away.
//!
//! When every place is taken, somebody gives way to the next: the stranger who is idle longest; else the one who has been in work
//! longest, such as one that never reads its answer; and only if there is no stranger, the known one that is idle longest. Whoever
//! is known and in work stays. A newcomer keeps its place for a moment, unless somebody who shows a key needs it, so that even a
//! flood of others leaves it the time to show one; meanwhile those who come later wait before the door.
//!
//! Who shows a key takes the place of any stranger. When all places are of those who are known and in work, a few places more
//! are left, on which only probes of the server's health are answered: who watches a server that has all hands full must not take
//! it for dead.
//!
//! Over HTTP/2 a connection has several requests in work at a time; it is idle when it has none.

mod book;
mod limit;
mod pulse;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::response::Response;
use tokio::sync::{Notify, watch};

use self::book::{Book, For};
pub use self::limit::{has_place, refusal, refuse_beyond_limit};
use self::pulse::Pulse;
pub use self::pulse::{Heard, Overdue, Patience};
use super::holding::holding;

/// How long a newcomer keeps its place from other strangers: enough for a handshake and the head of a request from far away. While
/// nobody shows a key, this bounds how fast places change hands: at most twice `max_connections` a second.
const GRACE: Duration = Duration::from_millis(500);

/// How often those who wait look whether somebody has had their grace.
const LOOK: Duration = Duration::from_millis(50);

/// The connections of one server.
#[derive(Clone)]
pub struct Connections(Arc<Shared>);

struct Shared {
    book: Mutex<Book>,
    /// A place may have become free while [`Connections::admit`] waits.
    freed: Notify,
}

impl Connections {
    /// At most `limit` ordinary ones.
    pub fn new(limit: usize) -> Self {
        Self::with_grace(limit, GRACE)
    }

    fn with_grace(limit: usize, grace: Duration) -> Self {
        Self(Arc::new(Shared { book: Mutex::new(Book::new(limit, grace)), freed: Notify::new() }))
    }

    /// A place for a new connection, which is idle at first; somebody else's if need be.
    pub async fn admit(&self) -> Connection {
        loop {
            if let Some(connection) = self.admit_now() {
                return connection;
            }
            // Nobody tells when a grace is over.
            let _ = tokio::time::timeout(LOOK, self.0.freed.notified()).await;
        }
    }

    fn admit_now(&self) -> Option<Connection> {
        let (gives_way, told) = watch::channel(false);
        let mut book = self.0.book();
        let id = book.admit(gives_way);
        book.awaited = id.is_none();
        let seat = Seat { shared: Arc::clone(&self.0), id: id?, told, pulse: Pulse::new() };
        Some(Connection(Arc::new(seat)))
    }
}

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the book such that a place may have become free.
    fn free(&self, change: impl FnOnce(&mut Book)) {
        let mut book = self.book();
        change(&mut book);
        if std::mem::take(&mut book.awaited) {
            self.freed.notify_one();
        }
    }
}

/// A connection's place; given back when the last clone is dropped.
#[derive(Clone)]
pub struct Connection(Arc<Seat>);

struct Seat {
    shared: Arc<Shared>,
    id: u64,
    told: watch::Receiver<bool>,
    pulse: Pulse,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.shared.free(|book| book.remove(self.id));
    }
}

impl Connection {
    /// Waits until the connection is to give way.
    pub async fn gives_way(&self) {
        self.told(true).await;
    }

    /// Waits until one that was to give way may stay: it has got another place.
    pub async fn may_stay(&self) {
        self.told(false).await;
    }

    async fn told(&self, to_go: bool) {
        let mut told = self.0.told.clone();
        // The sender lives as long as this place.
        if told.wait_for(|gives_way| *gives_way == to_go).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Whether a request on it is being answered.
    pub fn is_in_work(&self) -> bool {
        self.0.shared.book().members.get(&self.0.id).is_some_and(|member| member.answered > 0)
    }

    /// Waits until its client was quiet for too long.
    pub async fn overdue(&self, patience: Patience) -> Overdue {
        self.0.pulse.overdue(patience).await
    }

    fn pulse(&self) -> &Pulse {
        &self.0.pulse
    }

    /// A request has arrived; it is in work until what this returns is dropped.
    pub fn begin(&self) -> InWork {
        self.0.pulse.enter();
        let mut book = self.0.shared.book();
        let whom = if book.is_known(self.0.id) { For::Known } else { For::Stranger };
        // Before it is in a place where it could be asked to go itself.
        let ordinary = book.raise(self.0.id, whom);
        book.want(self.0.id);
        if let Some(member) = book.members.get_mut(&self.0.id) {
            member.answered += 1;
        }
        drop(book);
        let state = Arc::new(RequestState { wanted: AtomicBool::new(true), answered: AtomicBool::new(false) });
        InWork { connection: self.clone(), ordinary, state }
    }
}

/// What becomes of a request; changed only while the book is locked.
struct RequestState {
    /// It counts as work of its connection.
    wanted: AtomicBool,
    /// Its answer is written.
    answered: AtomicBool,
}

/// A request in work.
pub struct InWork {
    connection: Connection,
    ordinary: bool,
    state: Arc<RequestState>,
}

impl Drop for InWork {
    fn drop(&mut self) {
        let Seat { shared, id, pulse, .. } = &*self.connection.0;
        shared.free(|book| {
            self.state.answered.store(true, Ordering::Relaxed);
            if let Some(member) = book.members.get_mut(id) {
                member.answered -= 1;
            }
            book.let_go(*id, &self.state.wanted);
        });
        pulse.leave();
    }
}

impl InWork {
    /// What handlers may know of it.
    pub fn admission(&self) -> Admission {
        let Self { connection, ordinary, state } = self;
        Admission { connection: connection.clone(), ordinary: *ordinary, state: Arc::clone(state) }
    }

    /// Keeps the request in work until its answer is written.
    pub fn until_written(self, answer: Response) -> Response {
        answer.map(|body| holding(body, self))
    }
}

/// A request that is being refused.
pub struct Refused(Admission);

impl Drop for Refused {
    fn drop(&mut self) {
        let Admission { connection, state, .. } = &self.0;
        let Seat { shared, id, pulse, .. } = &*connection.0;
        let mut book = shared.book();
        // Its answer may have been written long ago; then the connection waits for its client.
        if !state.answered.load(Ordering::Relaxed) {
            state.wanted.store(true, Ordering::Relaxed);
            book.want(*id);
        }
        drop(book);
        pulse.leave();
    }
}

/// How a request came in; an extension of it.
#[derive(Clone)]
pub struct Admission {
    connection: Connection,
    /// Or else only probes are answered.
    ordinary: bool,
    state: Arc<RequestState>,
}

impl Admission {
    /// Whether there is an ordinary place for the request. If not, only probes are answered.
    fn is_ordinary(&self) -> bool {
        self.ordinary
    }

    /// The client has shown a key: from now on its connection gives way to no stranger, and takes the place of one if it has none.
    /// Whether it has one; if not, all are of others who have shown theirs.
    fn know(&self) -> bool {
        let Seat { shared, id, .. } = &*self.connection.0;
        let mut book = shared.book();
        book.know(*id);
        book.raise(*id, For::Known)
    }

    /// For as long as what this returns lives, the connection may be asked to give way, unless it has other requests: nothing
    /// but a refusal is left of this one.
    pub fn refused(self) -> Refused {
        let Seat { shared, id, pulse, .. } = &*self.connection.0;
        pulse.enter();
        shared.free(|book| book.let_go(*id, &self.state.wanted));
        Refused(self)
    }
}

#[cfg(test)]
mod tests;
