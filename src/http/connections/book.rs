//! Who has which place, and who gives way to whom.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// Places beyond the limit, for probes.
pub(super) const PROBES: usize = 16;

/// Connections that were told to give way and have not ended yet, at most.
const LEAVING: usize = 64;

/// Who has which place. All of it changes under one lock, and each change takes logarithmic time.
pub(super) struct Book {
    pub members: HashMap<u64, Member>,
    pub rooms: [Room; 2],
    /// Numbers members, and the moments from which on they wait or work.
    last: u64,
    /// How long a newcomer has its place for sure.
    grace: Duration,
    /// Somebody waits for a place.
    pub awaited: bool,
}

pub(super) struct Member {
    /// `None`: it gave way.
    pub place: Option<Place>,
    admitted: Instant,
    /// Has had its grace.
    settled: bool,
    /// Has shown a key that opens something.
    known: bool,
    /// The moment from which on it has been idle, or in work.
    since: u64,
    /// Where it waits to be told to go.
    queued: Option<(Queue, u64)>,
    /// Requests that are being answered.
    pub answered: usize,
    /// Those of them that are not just being refused.
    pub wanted: usize,
    pub gives_way: watch::Sender<bool>,
}

impl Member {
    /// Among whom it is to be found when somebody has to go; those in work for somebody known are nowhere.
    fn queue(&self) -> Option<Queue> {
        match (self.known, self.wanted == 0) {
            (true, true) => Some(Queue::Known),
            (true, false) => None,
            (false, _) if !self.settled => Some(Queue::Newcomers),
            (false, true) => Some(Queue::Idle),
            (false, false) => Some(Queue::Busy),
        }
    }
}

/// The index of a room.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Ordinary = 0,
    ForProbes = 1,
}

/// Those who may have to go, in the order in which they do: strangers first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Queue {
    /// Strangers that are idle.
    Idle = 0,
    /// Strangers with a request in work, such as those who never read the answer.
    Busy = 1,
    /// Strangers within their grace.
    Newcomers = 2,
    /// Idle ones that have shown a key.
    Known = 3,
}

/// For whom somebody has to go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum For {
    /// Who has shown no key.
    Stranger,
    Known,
}

/// Places of one kind.
pub(super) struct Room {
    size: usize,
    pub taken: usize,
    /// Members by the moment from which on they are there, by the index of the queue.
    queues: [BTreeMap<u64, u64>; 4],
}

impl Room {
    fn new(size: usize) -> Self {
        Self { size, taken: 0, queues: Default::default() }
    }

    fn first(&self, queue: Queue) -> Option<u64> {
        self.queues[queue as usize].first_key_value().map(|(_, id)| *id)
    }

    /// Who has to go, if somebody has to.
    fn next_to_go(&self, whom: For) -> Option<u64> {
        let settled = self.first(Queue::Idle).or_else(|| self.first(Queue::Busy));
        match (whom, self.first(Queue::Newcomers)) {
            (For::Known, newcomer) => settled.or(newcomer).or_else(|| self.first(Queue::Known)),
            // As long as there are strangers, one takes the place of another.
            (For::Stranger, Some(_)) => settled,
            (For::Stranger, None) => settled.or_else(|| self.first(Queue::Known)),
        }
    }
}

impl Book {
    pub fn new(limit: usize, grace: Duration) -> Self {
        let rooms = [Room::new(limit), Room::new(PROBES)];
        Self { members: HashMap::new(), rooms, last: 0, grace, awaited: false }
    }

    /// Where there may be a place for a newcomer. Where strangers are within their grace, others wait for them, and leave probes theirs.
    fn doors(&self) -> &'static [Place] {
        let crowded = self.rooms[Place::Ordinary as usize].first(Queue::Newcomers).is_some();
        if crowded { &[Place::Ordinary] } else { &[Place::Ordinary, Place::ForProbes] }
    }

    /// Gives a new connection a place, if there is one: its number.
    pub fn admit(&mut self, gives_way: watch::Sender<bool>) -> Option<u64> {
        self.settle();
        // Those who give way still hold a socket for a moment.
        if self.members.len() >= self.rooms.iter().map(|room| room.size).sum::<usize>() + LEAVING {
            return None;
        }
        let place = self.doors().iter().copied().find(|place| self.take(*place, For::Stranger))?;
        self.last += 1;
        let id = self.last;
        let member = Member {
            place: Some(place),
            admitted: Instant::now(),
            settled: false,
            known: false,
            since: id,
            queued: None,
            answered: 0,
            wanted: 0,
            gives_way,
        };
        self.members.insert(id, member);
        self.sort(id);
        Some(id)
    }

    /// Ends the grace of those who have had it.
    fn settle(&mut self) {
        for room in [Place::Ordinary, Place::ForProbes] {
            while let Some(id) = self.rooms[room as usize].first(Queue::Newcomers) {
                match self.members.get_mut(&id) {
                    Some(member) if member.admitted.elapsed() < self.grace => break,
                    Some(member) => member.settled = true,
                    None => break,
                }
                self.sort(id);
            }
        }
    }

    /// Puts a member where it belongs now.
    fn sort(&mut self, id: u64) {
        let Some(member) = self.members.get_mut(&id) else { return };
        let Some(place) = member.place else { return };
        let room = &mut self.rooms[place as usize];
        if let Some((queue, key)) = member.queued.take() {
            room.queues[queue as usize].remove(&key);
        }
        if let Some(queue) = member.queue() {
            // Newcomers come in the order of their arrival, whatever they do.
            let key = if queue == Queue::Newcomers { id } else { member.since };
            room.queues[queue as usize].insert(key, id);
            member.queued = Some((queue, key));
        }
    }

    /// Takes a member out of its room.
    fn clear(&mut self, id: u64) -> Option<Place> {
        let member = self.members.get_mut(&id)?;
        let place = member.place.take()?;
        if let Some((queue, key)) = member.queued.take() {
            self.rooms[place as usize].queues[queue as usize].remove(&key);
        }
        Some(place)
    }

    /// A free place of a room, or that of whoever has to go.
    fn take(&mut self, place: Place, whom: For) -> bool {
        let room = &mut self.rooms[place as usize];
        if room.taken < room.size {
            room.taken += 1;
            return true;
        }
        let Some(id) = room.next_to_go(whom) else { return false };
        self.clear(id);
        if let Some(member) = self.members.get_mut(&id) {
            member.gives_way.send_replace(true);
        }
        true
    }

    /// Gives the member an ordinary place, if there is one; whether it has one.
    pub fn raise(&mut self, id: u64, whom: For) -> bool {
        self.settle();
        if self.members.get(&id).is_none_or(|member| member.place == Some(Place::Ordinary)) {
            return true;
        }
        if !self.take(Place::Ordinary, whom) {
            return false;
        }
        if let Some(former) = self.clear(id) {
            self.rooms[former as usize].taken -= 1;
        }
        if let Some(member) = self.members.get_mut(&id) {
            member.place = Some(Place::Ordinary);
            member.gives_way.send_replace(false);
        }
        self.sort(id);
        true
    }

    /// Who has shown a key has it from now on.
    pub fn know(&mut self, id: u64) {
        if let Some(member) = self.members.get_mut(&id).filter(|member| !member.known) {
            member.known = true;
            self.sort(id);
        }
    }

    pub fn is_known(&self, id: u64) -> bool {
        self.members.get(&id).is_some_and(|member| member.known)
    }

    /// One more request is wanted.
    pub fn want(&mut self, id: u64) {
        let Some(member) = self.members.get_mut(&id) else { return };
        member.wanted += 1;
        if member.wanted == 1 {
            self.turn(id);
        }
    }

    /// A request is not wanted any more, or its answer is written.
    pub fn let_go(&mut self, id: u64, wanted: &AtomicBool) {
        if wanted.swap(false, Ordering::Relaxed)
            && let Some(member) = self.members.get_mut(&id)
        {
            member.wanted -= 1;
            if member.wanted == 0 {
                self.turn(id);
            }
        }
    }

    /// From idle to work, or back.
    fn turn(&mut self, id: u64) {
        self.last += 1;
        if let Some(member) = self.members.get_mut(&id) {
            member.since = self.last;
            self.sort(id);
        }
    }

    /// A member has left.
    pub fn remove(&mut self, id: u64) {
        if let Some(place) = self.clear(id) {
            self.rooms[place as usize].taken -= 1;
        }
        self.members.remove(&id);
    }
}
