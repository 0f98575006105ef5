//! Keys of the index: a table's byte, then parts that keep their order.
//!
//! Names from nodes may hold any characters and any length, so each is written with its length before it; one that is
//! longer than [`MAX_PART`] stands as its hash. Times stand inverted, so that scans come newest first.

use dogwatch::record::{Incarnation, NodeName};
use sha2::{Digest, Sha256};

use super::decision::Piece;

/// Longest name that stands in a key as it is, in bytes.
const MAX_PART: usize = 200;
/// In place of a length: a hash follows.
const HASHED: u8 = 255;

/// The tables, by the first byte of their keys; 0 is the checkpoint's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Table {
    /// Incarnation of a node → how far its urgent records are folded.
    Chain = 1,
    /// Finding id, origin → [`super::view::Life`].
    Finding = 2,
    /// Time of newest step, id, origin → the row's key, as in every table by time.
    FindingTime = 3,
    /// Like `FindingTime`, of findings that are not cleared.
    FindingActive = 4,
    /// Action id, origin → [`super::view::Life`].
    Action = 5,
    /// Time of newest step, id, origin → the row's key.
    ActionTime = 6,
    /// Incident id → `Incident`.
    Incident = 7,
    /// Time of opening, id → the row's key.
    IncidentTime = 8,
    /// Node → enrolments.
    Node = 9,
    /// Token id → uses.
    Token = 10,
    /// Command id → command.
    Command = 11,
    /// Time of order, id → the row's key.
    CommandTime = 12,
    /// Piece and node → incident id.
    Joined = 13,
    /// Time of first step, piece and origin → the row's key: pieces that belong to no incident.
    Loose = 14,
    /// First urgent segment, table, id, origin → nothing: what expiry must look at.
    Segment = 15,
    /// Hold id → the hold.
    Hold = 16,
    /// Hold id, node → the node's name: it confirmed.
    HoldConfirmed = 17,
    /// Nothing → what the fleet brake stands on.
    Brake = 18,
    /// Revision and lineage of the fleet brake → nothing: nodes were told it, or it was dealt with.
    BrakeTold = 19,
}

/// Who said a finding or made an action.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Origin {
    /// The collector itself.
    Collector,
    /// A node.
    Node(NodeName),
}

impl Origin {
    /// How the collector stands in a key.
    pub(super) const OF_COLLECTOR: &'static [u8] = &[0];
}

/// Builds one key.
#[derive(Debug, Clone)]
pub(super) struct Key(Vec<u8>);

impl Key {
    pub(super) fn of(table: Table) -> Self {
        Self(vec![table as u8])
    }

    pub(super) fn text(mut self, s: &str) -> Self {
        if s.len() <= MAX_PART {
            self.0.push(s.len() as u8);
            self.0.extend_from_slice(s.as_bytes());
        } else {
            self.0.push(HASHED);
            self.0.extend_from_slice(&Sha256::digest(s.as_bytes()));
        }
        self
    }

    pub(super) fn newest_first(mut self, wall_ns: i64) -> Self {
        self.0.extend_from_slice(&inverted(wall_ns).to_be_bytes());
        self
    }

    pub(super) fn number(mut self, n: u64) -> Self {
        self.0.extend_from_slice(&n.to_be_bytes());
        self
    }

    pub(super) fn byte(mut self, b: u8) -> Self {
        self.0.push(b);
        self
    }

    pub(super) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(super) fn origin(self, origin: &Origin) -> Self {
        match origin {
            Origin::Collector => self.byte(0),
            Origin::Node(n) => self.byte(1).text(n.as_str()),
        }
    }

    pub(super) fn incarnation(self, i: Incarnation) -> Self {
        self.raw(&i.0)
    }

    pub(super) fn piece(self, piece: &Piece) -> Self {
        match piece {
            Piece::Finding(id) => self.byte(Table::Finding as u8).text(id),
            Piece::Action(id) => self.byte(Table::Action as u8).text(id),
        }
    }

    pub(super) fn bytes(self) -> Vec<u8> {
        self.0
    }
}

/// What a finding's or action's key ends with: who said it.
pub(super) fn origin_part(origin: &Origin) -> Vec<u8> {
    Key(Vec::new()).origin(origin).bytes()
}

/// The [`origin_part`] of a finding's or action's key, by which rows are told apart that need not be read.
pub(super) fn origin_of(life_key: &[u8]) -> Option<&[u8]> {
    behind_text(life_key.get(1..)?)
}

/// What stands behind a text that a part of a key begins with, if anything.
fn behind_text(part: &[u8]) -> Option<&[u8]> {
    let (length, rest) = part.split_first()?;
    let length = if *length == HASHED { Sha256::output_size() } else { usize::from(*length) };
    rest.get(length..).filter(|behind| !behind.is_empty())
}

/// Later times are smaller numbers.
fn inverted(wall_ns: i64) -> u64 {
    !((wall_ns as u64) ^ (1 << 63))
}

/// The time in a key of a table that begins with one, and the rest after it.
pub(super) fn split_time(key: &[u8]) -> Option<(i64, &[u8])> {
    let time: [u8; 8] = key.get(1..9)?.try_into().ok()?;
    Some(((!u64::from_be_bytes(time) ^ (1 << 63)) as i64, &key[9..]))
}

/// Who said the finding or action that a key of a table by time points at, as it stands there: bytes that differ where the
/// origins do.
pub(super) fn origin_in(table: Table, key: &[u8]) -> Option<&[u8]> {
    let (_, rest) = split_time(key)?;
    behind_text(if table == Table::Loose { rest.get(1..)? } else { rest })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_times_sort_first_and_come_back() {
        let times = [i64::MIN, -1, 0, 1, 1_700_000_000_000_000_000, i64::MAX];
        let keys: Vec<_> =
            times.iter().map(|t| Key::of(Table::Loose).newest_first(*t).raw(b"x").bytes()).collect();
        assert!(keys.windows(2).all(|w| w[0] > w[1]));
        for (t, k) in times.iter().zip(&keys) {
            assert_eq!(split_time(k), Some((*t, &b"x"[..])));
        }
    }

    #[test]
    fn a_key_tells_whose_row_it_points_at() {
        let nodes =
            ["a".to_owned(), vec!["b".repeat(60); 4].join(".")].map(|n| Origin::Node(n.parse().unwrap()));
        for origin in nodes.into_iter().chain([Origin::Collector]) {
            let alone = Key(Vec::new()).origin(&origin).bytes();
            assert_eq!(origin == Origin::Collector, alone == Origin::OF_COLLECTOR);
            for id in ["f-1".to_owned(), "x".repeat(MAX_PART), "x".repeat(5000)] {
                let active = Key::of(Table::FindingActive).newest_first(7).text(&id).origin(&origin).bytes();
                assert_eq!(origin_in(Table::FindingActive, &active), Some(&*alone));
                let loose = Key::of(Table::Loose).newest_first(7).byte(2).text(&id).origin(&origin).bytes();
                assert_eq!(origin_in(Table::Loose, &loose), Some(&*alone));
                assert_eq!(origin_in(Table::Loose, &loose[..12]), None);
            }
        }
    }

    #[test]
    fn who_said_something_is_told_by_its_key() {
        for origin in [Origin::Collector, Origin::Node("n1".parse().unwrap())] {
            for id in ["", "f-1", &"x".repeat(MAX_PART), &"x".repeat(5000)] {
                let key = Key::of(Table::Finding).text(id).origin(&origin).bytes();
                assert_eq!(origin_of(&key), Some(&origin_part(&origin)[..]));
            }
        }
        assert_eq!([origin_of(b""), origin_of(b"x"), origin_of(b"x\x01y")], [None; 3]);
    }

    #[test]
    fn names_never_run_into_each_other() {
        let key = |a: &str, b: &str| Key::of(Table::Finding).text(a).text(b).bytes();
        assert_ne!(key("ab", "c"), key("a", "bc"));
        assert_ne!(key("a\0", ""), key("a", "\0"));
        let long = "x".repeat(5000);
        assert!(key(&long, "").len() < 64);
        assert_ne!(key(&long, ""), key(&format!("{long}y"), ""));
    }
}
