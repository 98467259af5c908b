//! Every way in which up to four relays can be told to follow each other, themselves, the root or
//! nobody.
//!
//! The story it guards: a configuration that goes in circles is refused before anything is
//! applied, whatever the order in which the connections come up, and does not harm the relays
//! that hang off it. Each relay dials once and gives up when its session ends; messages are
//! delivered in a random order. When nothing is left to deliver, no circle is left, the relays
//! that lead to the root say so, with the right path, and only sessions on a circle have ended.

mod model;

use std::collections::VecDeque;

use bytes::BytesMut;
use model::{DB, HISTORY, node};
use quicksilver_format::Position;
use quicksilver_protocol::follower::FollowOptions;
use quicksilver_protocol::{
    Deadlines, Decoded, Decoder, EncodedFrame, EndCause, FollowerAction, FollowerSession, Frame,
    Lineage, LocalNode, LogFact, Millis, SourceAction, SourceSession, SourceState, Start,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const NOW: Millis = Millis::ZERO;
const ROOT: usize = 0;

struct Edge {
    source: SourceSession,
    follower: FollowerSession,
    up: VecDeque<Frame>,
    down: VecDeque<Frame>,
    end: Option<EndCause>,
}

struct Tree {
    nodes: Vec<LocalNode>,
    /// Whom each node follows; the root and lonely relays follow nobody.
    upstream: Vec<Option<usize>>,
    lineages: Vec<Lineage>,
    /// The session of each node with its upstream.
    edges: Vec<Option<Edge>>,
}

fn decode(frame: &EncodedFrame, decoder: &Decoder) -> Frame {
    let mut bytes = BytesMut::new();
    frame.write_to(&mut bytes);
    match decoder.decode(&mut bytes) {
        Ok(Decoded::Frame(frame)) => frame,
        other => panic!("{other:?}"),
    }
}

impl Tree {
    fn new(upstream: Vec<Option<usize>>) -> Self {
        let nodes: Vec<LocalNode> = (0..upstream.len())
            .map(|n| node(&format!("node-{n}"), u8::try_from(n).expect("few nodes")))
            .collect();
        let lineage = |(n, node): (usize, &LocalNode)| match n {
            ROOT => Lineage::root(node, "root:6379".to_owned()),
            _ => Lineage::orphan(node, String::new()),
        };
        let lineages = nodes.iter().enumerate().map(lineage).collect();
        let edges = upstream.iter().map(|_| None).collect();
        Tree { nodes, upstream, lineages, edges }
    }

    fn dial(&mut self, n: usize) {
        let Some(upstream) = self.upstream[n] else { return };
        let options = FollowOptions {
            start: Start::After(Position::genesis(DB)),
            stop: None,
            path: self.lineages[n].path.clone(),
            deadlines: Deadlines::default(),
        };
        let lineage = self.lineages[upstream].clone();
        self.edges[n] = Some(Edge {
            source: SourceSession::new(
                self.nodes[upstream].clone(),
                lineage,
                options.deadlines,
                NOW,
            ),
            follower: FollowerSession::new(self.nodes[n].clone(), options, NOW),
            up: VecDeque::new(),
            down: VecDeque::new(),
            end: None,
        });
        self.act(n);
    }

    /// Carries out what both ends of `n`'s session want, short of delivering anything.
    fn act(&mut self, n: usize) {
        let Some(edge) = self.edges[n].as_mut() else { return };
        while let Some(action) = edge.source.poll(NOW) {
            match action {
                SourceAction::Send(frame) => {
                    edge.down.push_back(decode(&frame, &Decoder::of_source_bytes()));
                }
                SourceAction::LookUp(_) => {
                    let position = Position::genesis(DB);
                    let state = SourceState {
                        history: HISTORY,
                        position,
                        oldest: position.index.next(),
                        heartbeat: None,
                    };
                    edge.source.looked_up(NOW, state, LogFact::Boundary(position.hash));
                }
                SourceAction::Stream { .. } | SourceAction::Close(_) => {}
            }
        }
        let mut lineage = None;
        while let Some(action) = edge.follower.poll() {
            match action {
                FollowerAction::Send(frame) => {
                    edge.up.push_back(decode(&frame, &Decoder::of_follower_bytes()));
                }
                FollowerAction::Path(path) => lineage = Some(path.extended_to(&self.nodes[n])),
                FollowerAction::Close(end) => {
                    edge.end = Some(end.cause);
                    edge.source.disconnected("closed");
                    edge.up.clear();
                    edge.down.clear();
                    lineage = Some(Lineage::orphan(&self.nodes[n], String::new()));
                }
                FollowerAction::Deliver(_) => panic!("there is nothing to deliver"),
                FollowerAction::Welcomed(_)
                | FollowerAction::Quota(_)
                | FollowerAction::AdoptHistory(_)
                | FollowerAction::DeliverControl(_) => {}
            }
        }
        if let Some(lineage) = lineage {
            self.set_lineage(n, lineage);
        }
    }

    fn set_lineage(&mut self, n: usize, lineage: Lineage) {
        self.lineages[n] = lineage.clone();
        for downstream in 0..self.nodes.len() {
            if self.upstream[downstream] == Some(n)
                && let Some(edge) = self.edges[downstream].as_mut()
            {
                edge.source.path_changed(lineage.clone());
                self.act(downstream);
            }
        }
    }

    /// Delivers one frame somewhere; `false` when there is none.
    fn deliver_one(&mut self, rng: &mut StdRng) -> bool {
        let waiting: Vec<(usize, bool)> = (0..self.nodes.len())
            .filter_map(|n| self.edges[n].as_ref().map(|edge| (n, edge)))
            .flat_map(|(n, edge)| {
                [(n, true, !edge.up.is_empty()), (n, false, !edge.down.is_empty())]
            })
            .filter_map(|(n, up, waits)| waits.then_some((n, up)))
            .collect();
        if waiting.is_empty() {
            return false;
        }
        let (n, up) = waiting[rng.random_range(0..waiting.len())];
        if let Some(edge) = self.edges[n].as_mut() {
            if up && let Some(frame) = edge.up.pop_front() {
                edge.source.frame(NOW, &frame);
            } else if let Some(frame) = edge.down.pop_front() {
                edge.follower.frame(NOW, &frame);
            }
        }
        self.act(n);
        true
    }

    fn run(&mut self, rng: &mut StdRng) {
        let mut to_dial: Vec<usize> = (0..self.nodes.len()).collect();
        let mut steps = 0;
        loop {
            let dials = !to_dial.is_empty() && rng.random_range(0..3) == 0;
            if dials {
                let n = to_dial.swap_remove(rng.random_range(0..to_dial.len()));
                self.dial(n);
            } else if !self.deliver_one(rng) && to_dial.is_empty() {
                return;
            }
            steps += 1;
            assert!(steps < 10_000, "announcements go round for ever");
        }
    }

    /// From `n` upwards as configured: the nodes met, and whether the way ends in a circle that
    /// `n` is part of.
    fn is_on_circle(&self, n: usize) -> bool {
        let mut at = n;
        for _ in 0..self.nodes.len() {
            match self.upstream[at] {
                None => return false,
                Some(next) => at = next,
            }
            if at == n {
                return true;
            }
        }
        false
    }

    fn leads_to_root(&self, n: usize) -> bool {
        let mut at = n;
        for _ in 0..self.nodes.len() {
            match self.upstream[at] {
                None => return at == ROOT,
                Some(next) => at = next,
            }
        }
        false
    }

    fn alive_upstream(&self, n: usize) -> Option<usize> {
        let edge = self.edges[n].as_ref()?;
        edge.end.is_none().then_some(self.upstream[n]).flatten()
    }

    fn check(&self) {
        for n in 0..self.nodes.len() {
            let end = self.edges[n].as_ref().and_then(|edge| edge.end.as_ref());
            let at = format!("node {n} in {:?}", self.upstream);
            match end {
                Some(EndCause::Cycle { .. }) => assert!(self.is_on_circle(n), "{at}"),
                Some(EndCause::SelfConnection) => assert_eq!(self.upstream[n], Some(n), "{at}"),
                Some(other) => panic!("{at}: {other}"),
                None => {}
            }
            assert_eq!(self.lineages[n].connected_to_root, self.leads_to_root(n), "{at}");
            let mut path = vec![self.nodes[n].hop()];
            let mut up = n;
            while let Some(next) = self.alive_upstream(up) {
                assert!(path.len() <= self.nodes.len(), "{at}: a circle is left");
                path.insert(0, self.nodes[next].hop());
                up = next;
            }
            assert_eq!(self.lineages[n].path, path, "{at}");
        }
    }
}

#[test]
fn no_graph_of_four_relays_keeps_a_circle() {
    let base = std::env::var("QS_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0u64);
    let mut graphs = 0;
    for relays in 1..=4usize {
        // Each relay follows nobody (0) or one of the root and the relays (1..): a number in
        // base `relays + 2` with one digit for each relay.
        let choices = relays + 2;
        for code in 0..choices.pow(u32::try_from(relays).expect("few relays")) {
            let mut upstream = vec![None];
            let mut rest = code;
            for _ in 0..relays {
                upstream.push((rest % choices).checked_sub(1));
                rest /= choices;
            }
            for order in 0..5 {
                let seed = base.wrapping_mul(1_000_003) + (code * 5 + order) as u64;
                let mut rng = StdRng::seed_from_u64(seed);
                let mut tree = Tree::new(upstream.clone());
                tree.run(&mut rng);
                tree.check();
                graphs += 1;
            }
        }
    }
    assert_eq!(graphs, (3 + 16 + 125 + 1_296) * 5);
}
