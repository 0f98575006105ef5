//! Refusals become findings: the first of its kind at once, then folded.
//!
//! Pure: no clock, no task; time comes in as an argument. A refusal's key is (address, reason, claimed name). Its first
//! finding is said at once, later ones are counted and said after a minute, then ever more seldom up to [`LONGEST_PAUSE_NS`], and after ten quiet minutes the
//! finding is cleared. Whoever is refused need not be known to anyone, so all that they can make us keep or say is
//! bounded: [`MAX_KEYS`] keys (the longest quiet is dropped, and cleared), [`MAX_NAMES_PER_ADDRESS`] names for each
//! address, [`SAID_PER_MINUTE`] findings a minute and [`SAID_PER_DAY`] a day over all; what exceeds that is counted in one finding of its own.

mod reason;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dogwatch::identity::Identity;
use dogwatch::record::{Fact, Finding, FindingState, NodeName, Subject};
use dogwatch::tls::{HandshakeRefusal, OnRefusal, RefusedHandshake};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::shown_time;
pub use reason::Reason;

/// Keys that are remembered: about 5 MB.
pub const MAX_KEYS: usize = 10_000;
/// Names that one address may claim before they are folded into one: claims are free.
pub const MAX_NAMES_PER_ADDRESS: usize = 16;
/// Findings said in a minute, first ones and folded ones together: each is a durable decision.
pub const SAID_PER_MINUTE: u32 = 120;
/// Findings said in a day: they stay in a journal that never expires, and strangers must not be able to fill it. At 1 KB
/// each this is 3 MB a day, under attack every day of the year.
pub const SAID_PER_DAY: u32 = 2_880;
/// Refusals between those who refuse and the one who folds: a second of a flood.
pub const QUEUE: usize = 4_096;
const MINUTE_NS: u64 = 60_000_000_000;
const QUIET_NS: u64 = 10 * MINUTE_NS;
const DAY_NS: u64 = 24 * 60 * MINUTE_NS;
/// The longest that what goes on is not said again; shorter than what counts as quiet.
const LONGEST_PAUSE_NS: u64 = 8 * MINUTE_NS;
/// Texts of strangers are cut to this many characters.
const MAX_TEXT: usize = 300;

/// Someone was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// From where.
    pub address: IpAddr,
    /// Why.
    pub reason: Reason,
    /// Whom they said to be.
    pub claimed: Option<String>,
    /// The node that this is about, where a certificate of our CA says so; never by a mere claim.
    pub node: Option<NodeName>,
    /// In words.
    pub detail: String,
}

impl From<RefusedHandshake> for Refusal {
    fn from(r: RefusedHandshake) -> Self {
        let reason = match r.reason {
            HandshakeRefusal::Expired => Reason::ExpiredCertificate,
            HandshakeRefusal::NotValidYet => Reason::EarlyCertificate,
            HandshakeRefusal::UnknownIssuer => Reason::UntrustedCertificate,
            HandshakeRefusal::NoIdentity | HandshakeRefusal::BadCertificate => Reason::BadCertificate,
            HandshakeRefusal::RefusedByPeer => Reason::RefusedByPeer,
            HandshakeRefusal::Protocol | HandshakeRefusal::Timeout => Reason::NotTls,
            HandshakeRefusal::Overloaded => Reason::Overloaded,
        };
        let node = match &r.claim {
            Some(claim) if claim.chained => match &claim.identity {
                Some(Identity::Node(node)) => Some(node.clone()),
                _ => None,
            },
            _ => None,
        };
        let ended = r.claim.as_ref().and_then(|c| c.not_after_wall_ns).map(shown_time);
        let detail = match ended {
            Some(at) if reason == Reason::ExpiredCertificate => format!("it ended at {at}"),
            _ => r.detail,
        };
        Self { address: r.peer, reason, claimed: r.claim.map(|c| c.name), node, detail }
    }
}

/// The way from those who refuse to the one who folds. Never blocks; what does not fit is counted.
#[derive(Debug, Clone)]
pub struct RefusalSender {
    queue: mpsc::Sender<Refusal>,
    dropped: Arc<AtomicU64>,
    counts: Arc<[AtomicU64; Reason::ALL.len()]>,
}

/// A bounded queue of refusals.
pub fn refusal_queue() -> (RefusalSender, mpsc::Receiver<Refusal>) {
    let (queue, receiver) = mpsc::channel(QUEUE);
    (RefusalSender { queue, dropped: Arc::default(), counts: Arc::default() }, receiver)
}

impl RefusalSender {
    /// Hands one over, or counts it.
    pub fn report(&self, refusal: Refusal) {
        if let Some(count) = self.counts.get(refusal.reason as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        if self.queue.try_send(refusal).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many there were for each reason, those that did not fit included.
    pub fn counts(&self) -> [(Reason, u64); Reason::ALL.len()] {
        Reason::ALL.map(|r| (r, self.counts.get(r as usize).map_or(0, |n| n.load(Ordering::Relaxed))))
    }

    /// How many did not fit; for metrics and [`Refusals::lost`].
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// For `ServerTls::new`.
    pub fn on_handshake(&self) -> OnRefusal {
        let this = self.clone();
        Arc::new(move |refused| this.report(refused.into()))
    }
}

/// A finding to say: in the terms of `What::FindingSaid`.
#[derive(Debug, Clone, PartialEq)]
pub struct Said {
    /// About which node, where that is certain.
    pub node: Option<NodeName>,
    /// The finding, in its newest state.
    pub finding: Finding,
    /// How many refusals it stands for so far.
    pub count: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    /// `None` for [`Reason::Flood`].
    address: Option<IpAddr>,
    reason: Reason,
    claimed: Option<String>,
}

#[derive(Debug)]
struct Entry {
    node: Option<NodeName>,
    detail: String,
    first_wall_ns: i64,
    last_wall_ns: i64,
    said_wall_ns: i64,
    pause_ns: u64,
    total: u64,
    unsaid: u64,
}

/// The fold.
#[derive(Debug, Default)]
pub struct Refusals {
    entries: HashMap<Key, Entry>,
    keys_of: HashMap<IpAddr, usize>,
    minute_began_ns: i64,
    said_in_minute: u32,
    day_began_ns: i64,
    said_in_day: u32,
    evicted: u64,
}

impl Refusals {
    /// Nothing refused yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Keys that were dropped for newer ones.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Takes a refusal in; returns what is to be said now: mostly nothing, or one finding.
    pub fn refuse(&mut self, refusal: Refusal, now_wall_ns: i64) -> Vec<Said> {
        let address = refusal.address.to_canonical();
        let mut key =
            Key { address: Some(address), reason: refusal.reason, claimed: refusal.claimed.map(|c| cut(&c)) };
        let crowded = self.keys_of.get(&address).is_some_and(|n| *n >= MAX_NAMES_PER_ADDRESS);
        if crowded && key.claimed.is_some() && !self.entries.contains_key(&key) {
            key.claimed = Some("many names".to_owned());
        }
        self.take_in(key, 1, refusal.node, cut(&refusal.detail), now_wall_ns)
    }

    /// Takes in that `count` refusals never reached the fold, as the queue was full.
    pub fn lost(&mut self, count: u64, now_wall_ns: i64) -> Vec<Said> {
        if count == 0 { Vec::new() } else { self.flood(count, now_wall_ns) }
    }

    /// To be called about once a second: says what was folded, clears what has been quiet.
    pub fn tick(&mut self, now_wall_ns: i64) -> Vec<Said> {
        let mut said = Vec::new();
        let due: Vec<Key> = self
            .entries
            .iter()
            .filter(|(_, e)| match e.unsaid {
                0 => now_wall_ns.abs_diff(e.last_wall_ns) >= QUIET_NS,
                _ => now_wall_ns.abs_diff(e.said_wall_ns) >= e.pause_ns,
            })
            .map(|(k, _)| k.clone())
            .collect();
        for key in due {
            if key.reason != Reason::Flood && !self.may_say(now_wall_ns) {
                continue;
            }
            let state = match self.entries.get(&key) {
                Some(e) if e.unsaid == 0 => FindingState::Cleared,
                _ => FindingState::Updated,
            };
            said.extend(self.say(&key, state, now_wall_ns));
        }
        said
    }

    fn flood(&mut self, count: u64, now_wall_ns: i64) -> Vec<Said> {
        let key = Key { address: None, reason: Reason::Flood, claimed: None };
        let detail = "they are counted, not listed".to_owned();
        self.take_in(key, count, None, detail, now_wall_ns)
    }

    fn take_in(
        &mut self,
        key: Key,
        count: u64,
        node: Option<NodeName>,
        detail: String,
        now_wall_ns: i64,
    ) -> Vec<Said> {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.total += count;
            entry.unsaid += count;
            entry.last_wall_ns = now_wall_ns;
            entry.detail = detail;
            let due = now_wall_ns.abs_diff(entry.said_wall_ns) >= entry.pause_ns;
            if due && (key.reason == Reason::Flood || self.may_say(now_wall_ns)) {
                return self.say(&key, FindingState::Updated, now_wall_ns).into_iter().collect();
            }
            return Vec::new();
        }
        // The flood's own finding is one key and so needs no leave: a flood would keep it from being said.
        if key.reason != Reason::Flood && !self.may_say(now_wall_ns) {
            return self.flood(count, now_wall_ns);
        }
        let mut said: Vec<Said> = self.make_room(now_wall_ns).into_iter().collect();
        if let Some(address) = key.address {
            *self.keys_of.entry(address).or_default() += 1;
        }
        let entry = Entry {
            node,
            detail,
            first_wall_ns: now_wall_ns,
            last_wall_ns: now_wall_ns,
            said_wall_ns: now_wall_ns,
            pause_ns: MINUTE_NS,
            total: count,
            unsaid: count,
        };
        self.entries.insert(key.clone(), entry);
        said.extend(self.say(&key, FindingState::Raised, now_wall_ns));
        said
    }

    /// Counts against the minute's bound and the day's.
    fn may_say(&mut self, now_wall_ns: i64) -> bool {
        if now_wall_ns.abs_diff(self.minute_began_ns) >= MINUTE_NS {
            self.minute_began_ns = now_wall_ns;
            self.said_in_minute = 0;
        }
        if now_wall_ns.abs_diff(self.day_began_ns) >= DAY_NS {
            self.day_began_ns = now_wall_ns;
            self.said_in_day = 0;
        }
        if self.said_in_minute >= SAID_PER_MINUTE || self.said_in_day >= SAID_PER_DAY {
            return false;
        }
        self.said_in_minute += 1;
        self.said_in_day += 1;
        true
    }

    fn make_room(&mut self, now_wall_ns: i64) -> Option<Said> {
        if self.entries.len() < MAX_KEYS {
            return None;
        }
        let oldest = self.entries.iter().min_by_key(|(_, e)| e.last_wall_ns).map(|(k, _)| k.clone())?;
        self.evicted += 1;
        self.say(&oldest, FindingState::Cleared, now_wall_ns)
    }

    /// Words the finding; a cleared one is forgotten.
    fn say(&mut self, key: &Key, state: FindingState, now_wall_ns: i64) -> Option<Said> {
        let entry = self.entries.get_mut(key)?;
        entry.unsaid = 0;
        entry.said_wall_ns = now_wall_ns;
        if state == FindingState::Updated {
            entry.pause_ns = (entry.pause_ns * 2).min(LONGEST_PAUSE_NS);
        }
        let said = Said { node: entry.node.clone(), finding: worded(key, entry, state), count: entry.total };
        if state == FindingState::Cleared {
            self.entries.remove(key);
            if let Some(address) = key.address
                && let Some(n) = self.keys_of.get_mut(&address)
            {
                *n -= 1;
                if *n == 0 {
                    self.keys_of.remove(&address);
                }
            }
        }
        Some(said)
    }
}

fn worded(key: &Key, entry: &Entry, state: FindingState) -> Finding {
    let place = key.address.map_or_else(|| "many".to_owned(), |a| a.to_string());
    let who = match &key.claimed {
        // A name without the node beside it is only what a stranger said.
        Some(name) if entry.node.is_none() => format!("{place} (claims to be {name})"),
        Some(name) => format!("{place} ({name})"),
        None => place.clone(),
    };
    let times = match entry.total {
        1 => "once".to_owned(),
        n => format!("{n} times"),
    };
    let mut facts = vec![
        Fact::new("address", &place),
        Fact::new("refused_total", entry.total),
        Fact::new("first_wall_ns", entry.first_wall_ns),
        Fact::new("last_wall_ns", entry.last_wall_ns),
    ];
    facts.extend(key.claimed.as_ref().map(|c| Fact::new("claimed", c)));
    Finding {
        id: finding_id(key, entry.first_wall_ns),
        rule: key.reason.rule().to_owned(),
        severity: key.reason.severity(),
        state,
        subject: Subject::new("address", place),
        summary: format!("{who} was refused {times}: {}", key.reason.what()),
        explanation: format!(
            "Refused {times} between {} and {}; last: {}. {}",
            shown_time(entry.first_wall_ns),
            shown_time(entry.last_wall_ns),
            entry.detail,
            key.reason.remedy()
        ),
        citations: Vec::new(),
        facts,
        raised_wall_ns: entry.first_wall_ns,
        pod: None,
    }
}

fn finding_id(key: &Key, first_wall_ns: i64) -> String {
    let text = format!("{:?}|{}|{:?}|{first_wall_ns}", key.address, key.reason.rule(), key.claimed);
    let hash = Sha256::digest(text.as_bytes());
    hash.iter().take(8).fold("f-".to_owned(), |id, b| id + &format!("{b:02x}"))
}

/// Printable and short, whatever a stranger sent.
fn cut(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).take(MAX_TEXT).collect()
}

#[cfg(test)]
mod tests;
