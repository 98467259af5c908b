//! The network and the clock: connections whose bytes take time, and the queue of what happens when.
//!
//! A connection is what TCP is: bytes arrive in order or not at all. A partition holds them back (they
//! are sent again until it heals); a cut ends both ends at once; a machine that loses power leaves the
//! other end open. Damage (a flipped bit, a piece that is lost, doubled or swapped with the next) is
//! more than TCP allows: such a connection is cut soon after.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};

use bytes::BytesMut;
use quicksilver_protocol::{Decoded, Decoder, EncodedFrame, Frame, FrameError, Millis};
use rand::Rng;
use rand::rngs::StdRng;

use crate::plan::Plan;
use crate::record::Record;

/// A machine.
pub type NodeNumber = usize;
pub type ConnectionNumber = u64;

/// What happens when its time has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// A node looks at its deadlines.
    Wake(NodeNumber),
    /// Bytes of this connection reach this end of it.
    Arrive(ConnectionNumber, End),
    /// A connection that was damaged ends.
    Cut(ConnectionNumber),
    /// Somebody writes at the root.
    Write,
    /// Something goes wrong.
    Misfortune,
    /// A machine that was off is switched on.
    Start(NodeNumber),
    /// The operator makes the rounds.
    Round,
}

/// An end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    Dialler,
    Acceptor,
}

impl End {
    fn other(self) -> Self {
        match self {
            End::Dialler => End::Acceptor,
            End::Acceptor => End::Dialler,
        }
    }

    /// For the bytes that come at this end.
    fn decoder(self) -> Decoder {
        match self {
            End::Dialler => Decoder::of_source_bytes(),
            End::Acceptor => Decoder::of_follower_bytes(),
        }
    }
}

/// Bytes on their way to one end, and those that have come.
#[derive(Debug, Default)]
struct Pipe {
    /// `None`: the sender is gone.
    pieces: VecDeque<(Millis, Option<Vec<u8>>)>,
    buffer: BytesMut,
    arrived_bytes: usize,
    ended: bool,
}

#[derive(Debug)]
struct Connection {
    nodes: [NodeNumber; 2],
    to: [Pipe; 2],
    open: [bool; 2],
    /// Ends that have closed in good order, and listen to nothing more.
    closed: [bool; 2],
    damaged: bool,
}

/// What came of dialling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialled {
    Connected(ConnectionNumber),
    Refused,
    /// No answer: the caller waits for its deadline.
    Silence,
}

/// What comes next at an end of a connection.
#[derive(Debug)]
pub enum Came {
    Frame(Frame),
    /// Bytes that are no frame.
    Damage(FrameError),
    /// Not a whole frame yet.
    Nothing,
    /// Nothing more will come, and why.
    Ended(&'static str),
}

/// See the module.
#[derive(Debug)]
pub struct Net {
    pub now: Millis,
    pub rng: StdRng,
    pub plan: Plan,
    pub record: Record,
    /// Whether anything goes wrong.
    pub faulty: bool,
    queue: BinaryHeap<Reverse<(Millis, u64, Event)>>,
    sequence: u64,
    connections: BTreeMap<ConnectionNumber, Connection>,
    /// Connections that were made, for those who accept them.
    pub incoming: BTreeMap<NodeNumber, Vec<ConnectionNumber>>,
    /// Nodes that have something to look at.
    pub awake: BTreeSet<NodeNumber>,
    /// Whether a process runs, and whether its machine answers.
    pub running: Vec<bool>,
    pub powered: Vec<bool>,
    /// Until when nothing gets from one to another.
    blocked: BTreeMap<(NodeNumber, NodeNumber), Millis>,
}

impl Net {
    pub fn new(plan: Plan, rng: StdRng, nodes: usize) -> Self {
        Net {
            now: Millis::ZERO,
            rng,
            plan,
            record: Record::default(),
            faulty: true,
            queue: BinaryHeap::new(),
            sequence: 0,
            connections: BTreeMap::new(),
            incoming: BTreeMap::new(),
            awake: BTreeSet::new(),
            running: vec![false; nodes],
            powered: vec![true; nodes],
            blocked: BTreeMap::new(),
        }
    }

    pub fn chance(&mut self, per_thousand: u32) -> bool {
        per_thousand > 0 && self.rng.random_range(0..1_000) < per_thousand
    }

    pub fn within(&mut self, range: std::ops::Range<u64>) -> u64 {
        self.rng.random_range(range)
    }

    pub fn at(&mut self, when: Millis, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse((when.max(self.now), self.sequence, event)));
    }

    pub fn after(&mut self, ms: u64, event: Event) {
        self.at(self.now.plus_ms(ms), event);
    }

    /// The next thing that happens; time goes on to it.
    pub fn next(&mut self) -> Option<Event> {
        let Reverse((when, _, event)) = self.queue.pop()?;
        self.now = when;
        Some(event)
    }

    /// Nothing gets from one to the other for so long.
    pub fn block(&mut self, from: NodeNumber, to: NodeNumber, ms: u64) {
        self.blocked.insert((from, to), self.now.plus_ms(ms));
    }

    pub fn heal(&mut self) {
        self.blocked.clear();
    }

    fn blocked_until(&self, from: NodeNumber, to: NodeNumber) -> Option<Millis> {
        self.blocked.get(&(from, to)).copied().filter(|until| *until > self.now)
    }

    pub fn dial(&mut self, from: NodeNumber, to: NodeNumber) -> Dialled {
        let blocked =
            self.blocked_until(from, to).is_some() || self.blocked_until(to, from).is_some();
        if blocked || !self.powered[to] {
            return Dialled::Silence;
        }
        if !self.running[to] {
            return Dialled::Refused;
        }
        self.sequence += 1;
        let number = self.sequence;
        let connection = Connection {
            nodes: [from, to],
            to: [Pipe::default(), Pipe::default()],
            open: [true, true],
            closed: [false, false],
            damaged: false,
        };
        self.connections.insert(number, connection);
        self.incoming.entry(to).or_default().push(number);
        self.awake.insert(to);
        Dialled::Connected(number)
    }

    /// Sends a frame from `end`.
    pub fn send(&mut self, number: ConnectionNumber, end: End, frame: &EncodedFrame) {
        let mut bytes = BytesMut::new();
        frame.write_to(&mut bytes);
        let most = bytes.len();
        let cut_at =
            if most > 1 && self.chance(100) { self.rng.random_range(1..most) } else { most };
        let rest = bytes.split_off(cut_at);
        self.put(number, end, Some(bytes.to_vec()));
        if !rest.is_empty() {
            self.put(number, end, Some(rest.to_vec()));
        }
        if self.faulty && self.chance(self.plan.damage) {
            self.damage(number, end);
        }
    }

    fn put(&mut self, number: ConnectionNumber, end: End, piece: Option<Vec<u8>>) {
        let delay = self.rng.random_range(self.plan.delay_ms.0..=self.plan.delay_ms.1);
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let to = end.other();
        let pipe = &mut connection.to[to as usize];
        let earliest = pipe.pieces.back().map_or(self.now, |(at, _)| *at);
        let arrives = earliest.max(self.now.plus_ms(delay));
        pipe.pieces.push_back((arrives, piece));
        self.at(arrives, Event::Arrive(number, to));
    }

    fn damage(&mut self, number: ConnectionNumber, end: End) {
        let (kind, at) = (self.rng.random_range(0..4), self.rng.random::<u32>() as usize);
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let pieces = &mut connection.to[end.other() as usize].pieces;
        let last = pieces.len() - 1;
        match (kind, &mut pieces[last].1) {
            (0, Some(piece)) => {
                let n = at % piece.len();
                piece[n] ^= 1 << (at % 8);
            }
            (1, _) => drop(pieces.pop_back()),
            (2, _) => pieces.push_back(pieces[last].clone()),
            _ if last > 0 => {
                let (when, before) = (pieces[last].0, pieces[last - 1].0);
                pieces.swap(last - 1, last);
                pieces[last - 1].0 = before;
                pieces[last].0 = when;
            }
            _ => return,
        }
        if !std::mem::replace(&mut connection.damaged, true) {
            let soon = self.within(0..3_000);
            self.after(soon, Event::Cut(number));
        }
    }

    /// Whether what `end` sent last is on its way: more may be queued.
    pub fn is_flushed(&self, number: ConnectionNumber, end: End) -> bool {
        self.connections
            .get(&number)
            .is_none_or(|connection| connection.to[end.other() as usize].pieces.len() < 8)
    }

    /// Bytes have reached this end; who is to look at them.
    pub fn arrive(&mut self, number: ConnectionNumber, to: End) {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let (node, from) = (connection.nodes[to as usize], connection.nodes[to.other() as usize]);
        if let Some(until) = self.blocked_until(from, node) {
            return self.at(until, Event::Arrive(number, to));
        }
        let Some(connection) = self.connections.get_mut(&number) else { return };
        if !connection.open[to as usize] {
            // A machine that knows nothing of this connection says so.
            if self.powered[node] && !connection.closed[to as usize] {
                self.cut(number);
            }
            return;
        }
        let pipe = &mut connection.to[to as usize];
        while let Some((at, _)) = pipe.pieces.front()
            && *at <= now
        {
            match pipe.pieces.pop_front() {
                Some((_, Some(piece))) => {
                    pipe.arrived_bytes += piece.len();
                    pipe.buffer.extend_from_slice(&piece);
                }
                _ => pipe.ended = true,
            }
        }
        self.awake.insert(node);
    }

    /// Takes what comes next at this end.
    pub fn take(&mut self, number: ConnectionNumber, end: End) -> Came {
        let Some(connection) = self.connections.get_mut(&number) else {
            return Came::Ended("cut");
        };
        let pipe = &mut connection.to[end as usize];
        match end.decoder().decode(&mut pipe.buffer) {
            Ok(Decoded::Frame(frame)) => Came::Frame(frame),
            Ok(Decoded::Incomplete { .. }) if pipe.ended => Came::Ended("closed by the other end"),
            Ok(Decoded::Incomplete { .. }) => Came::Nothing,
            Err(e) => {
                self.record.meet("damage was refused");
                Came::Damage(e)
            }
        }
    }

    /// The kind of what comes next at this end, as soon as its bytes say so.
    pub fn kind_of_next(&self, number: ConnectionNumber, end: End) -> Option<u8> {
        let pipe = &self.connections.get(&number)?.to[end as usize];
        end.decoder().kind_of_first(&pipe.buffer)
    }

    /// Bytes that have come since the last call.
    pub fn new_bytes(&mut self, number: ConnectionNumber, end: End) -> usize {
        self.connections
            .get_mut(&number)
            .map_or(0, |c| std::mem::take(&mut c.to[end as usize].arrived_bytes))
    }

    /// This end is done: what it has sent still arrives.
    pub fn close(&mut self, number: ConnectionNumber, end: End) {
        self.put(number, end, None);
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.closed[end as usize] = true;
        }
        self.forget(number, end);
    }

    /// This end is gone without a word.
    pub fn forget(&mut self, number: ConnectionNumber, end: End) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        connection.open[end as usize] = false;
        if connection.open == [false, false] {
            self.connections.remove(&number);
        }
    }

    /// Both ends notice at once.
    pub fn cut(&mut self, number: ConnectionNumber) {
        if let Some(connection) = self.connections.remove(&number) {
            self.awake.extend(connection.nodes);
        }
    }

    pub fn cut_any(&mut self) -> bool {
        let numbers: Vec<ConnectionNumber> = self.connections.keys().copied().collect();
        if numbers.is_empty() {
            return false;
        }
        let n = self.rng.random_range(0..numbers.len());
        self.cut(numbers[n]);
        true
    }

    /// The process of `node` has ended: the kernel says so to everybody, or the machine is off and
    /// nobody does.
    pub fn gone(&mut self, node: NodeNumber, power: bool) {
        self.incoming.remove(&node);
        let mine: Vec<(ConnectionNumber, [NodeNumber; 2])> =
            self.connections.iter().map(|(n, c)| (*n, c.nodes)).collect();
        for (number, nodes) in mine {
            for (end, of) in [(End::Dialler, nodes[0]), (End::Acceptor, nodes[1])] {
                if of == node {
                    if power {
                        self.cut(number);
                    } else {
                        self.forget(number, end);
                    }
                }
            }
        }
    }
}
