//! Who has a place among the connections, and who gives way when there are no more.
//!
//! A connection is idle while it waits for its client: it has said nothing yet or only half a head, it is between two requests, or
//! all that goes on is that a body which nobody wants is thrown away. When every place is taken, the one that is idle longest gives way
//! to the next. When no connection is idle, a few places more are left, on which only probes of the server's health are
//! answered: who watches a server that has all hands full must not take it for dead.
//!
//! Over HTTP/2 a connection has several requests in work at a time; it is idle when it has none.

mod pulse;

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::body::{Frame, SizeHint};
use tokio::sync::{Notify, watch};

use self::pulse::Pulse;
pub use self::pulse::{Heard, Overdue, Patience};
use super::problem::{Code, Problem};

/// Places beyond the limit, for probes.
const PROBES: usize = 16;

/// Connections that were told to give way and have not ended yet, at most.
const LEAVING: usize = 64;

/// The connections of one server.
#[derive(Clone)]
pub struct Connections(Arc<Shared>);

struct Shared {
    book: Mutex<Book>,
    /// A place may have become free while [`Connections::room`] waits.
    freed: Notify,
}

/// Who has which place. All of it changes under one lock, and each change takes logarithmic time.
struct Book {
    members: HashMap<u64, Member>,
    rooms: [Room; 2],
    /// Numbers members, and the moments in which they became idle.
    last: u64,
    awaited: bool,
}

struct Member {
    /// `None`: it gave way.
    place: Option<Place>,
    /// When it became idle; its key in its room.
    idle_since: Option<u64>,
    /// Requests that are being answered.
    answered: usize,
    /// Those of them that are not just being refused.
    wanted: usize,
    gives_way: watch::Sender<bool>,
}

/// The index of a room.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Ordinary = 0,
    ForProbes = 1,
}

/// Places of one kind.
struct Room {
    size: usize,
    taken: usize,
    /// Members by the moment in which they became idle.
    idle: BTreeMap<u64, u64>,
}

impl Room {
    fn new(size: usize) -> Self {
        Self { size, taken: 0, idle: BTreeMap::new() }
    }
}

impl Book {
    fn has_place(&self) -> bool {
        self.rooms.iter().any(|room| room.taken < room.size || !room.idle.is_empty())
    }

    /// A free place of a room, or that of its member who is idle longest.
    fn take(&mut self, place: Place) -> bool {
        let room = &mut self.rooms[place as usize];
        if room.taken < room.size {
            room.taken += 1;
            return true;
        }
        let Some((_, id)) = room.idle.pop_first() else { return false };
        if let Some(member) = self.members.get_mut(&id) {
            member.place = None;
            member.idle_since = None;
            member.gives_way.send_replace(true);
        }
        true
    }

    fn rest(&mut self, id: u64) {
        self.last += 1;
        if let Some(member) = self.members.get_mut(&id)
            && let Some(place) = member.place
            && member.idle_since.is_none()
        {
            member.idle_since = Some(self.last);
            self.rooms[place as usize].idle.insert(self.last, id);
        }
    }

    fn wake(&mut self, id: u64) {
        if let Some(member) = self.members.get_mut(&id)
            && let (Some(place), Some(since)) = (member.place, member.idle_since.take())
        {
            self.rooms[place as usize].idle.remove(&since);
        }
    }

    /// A request is not wanted any more, or its answer is written.
    fn let_go(&mut self, id: u64, wanted: &AtomicBool) {
        if wanted.swap(false, Ordering::Relaxed)
            && let Some(member) = self.members.get_mut(&id)
        {
            member.wanted -= 1;
            if member.wanted == 0 {
                self.rest(id);
            }
        }
    }

    /// Gives the member an ordinary place, if there is one; whether it has one.
    fn raise(&mut self, id: u64) -> bool {
        let former = self.members.get(&id).and_then(|member| member.place);
        if former == Some(Place::Ordinary) {
            return true;
        }
        if !self.take(Place::Ordinary) {
            return false;
        }
        if former == Some(Place::ForProbes) {
            self.rooms[Place::ForProbes as usize].taken -= 1;
        }
        if let Some(member) = self.members.get_mut(&id) {
            member.place = Some(Place::Ordinary);
            member.gives_way.send_replace(false);
        }
        true
    }
}

impl Connections {
    /// At most `limit` ordinary ones.
    pub fn new(limit: usize) -> Self {
        let book =
            Book { members: HashMap::new(), rooms: [Room::new(limit), Room::new(PROBES)], last: 0, awaited: false };
        Self(Arc::new(Shared { book: Mutex::new(book), freed: Notify::new() }))
    }

    /// Whether the next connection would find a place. If not, [`Self::freed`] says when to ask again.
    pub fn has_room(&self) -> bool {
        let mut book = self.0.book();
        // Those who give way still hold a socket for a moment.
        let most: usize = book.rooms.iter().map(|room| room.size).sum::<usize>() + LEAVING;
        let room = book.has_place() && book.members.len() < most;
        book.awaited = !room;
        room
    }

    pub async fn freed(&self) {
        self.0.freed.notified().await;
    }

    /// A place for a new connection, which is idle at first; somebody else's if need be.
    pub fn admit(&self) -> Option<Connection> {
        let mut book = self.0.book();
        let places = [Place::Ordinary, Place::ForProbes];
        let place = places.into_iter().find(|place| book.take(*place))?;
        book.last += 1;
        let id = book.last;
        let (gives_way, told) = watch::channel(false);
        let member = Member { place: Some(place), idle_since: None, answered: 0, wanted: 0, gives_way };
        book.members.insert(id, member);
        book.rest(id);
        Some(Connection(Arc::new(Seat { shared: Arc::clone(&self.0), id, told, pulse: Pulse::new() })))
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
        self.shared.free(|book| {
            book.wake(self.id);
            if let Some(place) = book.members.remove(&self.id).and_then(|member| member.place) {
                book.rooms[place as usize].taken -= 1;
            }
        });
    }
}

impl Connection {
    /// Waits until the connection is to give way.
    pub async fn gives_way(&self) {
        let mut told = self.0.told.clone();
        // The sender lives as long as this place.
        if told.wait_for(|gives_way| *gives_way).await.is_err() {
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
        book.wake(self.0.id);
        let ordinary = book.raise(self.0.id);
        if let Some(member) = book.members.get_mut(&self.0.id) {
            member.answered += 1;
            member.wanted += 1;
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
        answer.map(|body| Body::new(Answer { body, _in_work: self }))
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
        if !state.answered.load(Ordering::Relaxed)
            && let Some(member) = book.members.get_mut(id)
        {
            state.wanted.store(true, Ordering::Relaxed);
            member.wanted += 1;
            book.wake(*id);
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
    /// For as long as what this returns lives, the connection may be asked to give way, unless it has other requests: nothing
    /// but a refusal is left of this one.
    pub fn refused(self) -> Refused {
        let Seat { shared, id, pulse, .. } = &*self.connection.0;
        pulse.enter();
        shared.free(|book| book.let_go(*id, &self.state.wanted));
        Refused(self)
    }
}

/// A body whose end is the end of its request.
struct Answer {
    body: Body,
    _in_work: InWork,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Refuses what came in beyond the limit and is no probe.
pub async fn refuse_beyond_limit(request: Request, next: Next) -> Response {
    let beyond = request.extensions().get::<Admission>().is_some_and(|admission| !admission.ordinary);
    if !beyond || is_probe(&request) {
        return next.run(request).await;
    }
    metrics::counter!("faceid_rejected_total", "at" => "connections").increment(1);
    let problem = Problem::new(Code::Overloaded, "all connections of the server are in use; try again shortly");
    let mut response = problem.into_response();
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// What costs next to nothing and says how the server is.
fn is_probe(request: &Request) -> bool {
    let read = matches!(*request.method(), Method::GET | Method::HEAD);
    read && matches!(request.uri().path(), "/healthz" | "/readyz" | "/metrics")
}

#[cfg(test)]
mod tests;
