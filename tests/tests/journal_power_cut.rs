//! The journal when the power goes: what was synced is there, once, and nothing that was not appended.
//!
//! A child process (this very binary, which runs [`writer_process`] alone) appends and syncs on an ext4 of its own and
//! says so, line by line, on a pipe. At a random moment the filesystem is shut down as a power cut does, mounted again
//! and compared with what the child had said. Twenty times over on the same folder, also while it is being opened.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dogwatch::chain::ChainId;
use dogwatch::journal::{BlockInfo, FrameKind, Journal, JournalError, Options, Position, Reader};
use dogwatch::record::{Hash, Incarnation, Kinds, Stream};
use dogwatch_e2e::loopfs::LoopFs;

const ROUNDS: u8 = 20;
const OPTIONS: Options = Options { segment_bytes: 256 * 1024, max_segments: 6, preallocate_segments: 3 };
const DIR: &str = "DOGWATCH_TEST_JOURNAL";
const ROUND: &str = "DOGWATCH_TEST_ROUND";

fn info(round: u8, seq: u64) -> BlockInfo {
    let chain = ChainId {
        node: "node-1".parse().unwrap(),
        incarnation: Incarnation([round; 16]),
        stream: Stream::Evidence,
    };
    let mut hash = [round; 32];
    hash[..8].copy_from_slice(&seq.to_le_bytes());
    BlockInfo {
        chain,
        first_seq: seq,
        last_seq: seq,
        first_wall_ns: 0,
        last_wall_ns: 0,
        kinds: Kinds(1),
        hash: Hash(hash),
    }
}

/// Round, seq, and then up to 30 KB that both tell.
fn payload(round: u8, seq: u64) -> Vec<u8> {
    let mut random = Random(u64::from(round) << 32 ^ seq.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let length = random.below(if seq.is_multiple_of(5) { 30_000 } else { 900 }) as usize;
    let mut out = vec![round];
    out.extend_from_slice(&seq.to_le_bytes());
    out.extend((0..length).map(|_| random.below(256) as u8));
    out
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// Not a test of its own: the child of the one below, and nothing without its environment.
#[test]
fn writer_process() {
    let (Ok(dir), Ok(round)) = (std::env::var(DIR), std::env::var(ROUND)) else { return };
    let round: u8 = round.parse().unwrap();
    let mut random = Random(u64::from(round) * 0x517c_c1b7 + 1);
    let say = |line: String| {
        let mut out = std::io::stdout().lock();
        // A parent that is gone needs no ledger.
        out.write_all(line.as_bytes()).and_then(|()| out.flush()).ok();
    };
    say("ledger begun 0\n".to_owned());
    let Ok((mut journal, _)) = Journal::open(Path::new(&dir), OPTIONS) else { return };
    say("ledger opened 0\n".to_owned());
    let mut places: Vec<Position> = Vec::new();
    let mut seq = 0;
    loop {
        for _ in 0..1 + random.below(8) {
            seq += 1;
            let appended = loop {
                match journal.append_block(&info(round, seq), &payload(round, seq), seq as i64) {
                    Err(JournalError::Full { .. }) => {
                        // Let go of the oldest segment: said before it is done.
                        let oldest = journal.segments()[0].number;
                        let kept = places.partition_point(|p| p.segment <= oldest);
                        say(format!("ledger released {kept}\n"));
                        journal.release_before(oldest + 1);
                    }
                    other => break other,
                }
            };
            match appended {
                Ok(at) => places.push(at),
                Err(_) => return,
            }
        }
        if journal.sync().is_err() {
            return;
        }
        say(format!("ledger synced {seq}\n"));
    }
}

/// A child that does not outlive its parent's panic.
struct Writer(Child);

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// What is known of one round's blocks.
#[derive(Debug, Default, Clone)]
struct Known {
    synced: u64,
    /// Seqs up to this one may be gone.
    released: u64,
}

/// What the folder holds, by round; every payload checked, none twice.
fn read(dir: &Path) -> BTreeMap<u8, Vec<u64>> {
    let mut found: BTreeMap<u8, Vec<u64>> = BTreeMap::new();
    let reader = Reader::open(dir).unwrap();
    let mut last = Position::default();
    for entry in reader.scan(Position::default()) {
        let entry = entry.unwrap();
        assert_eq!(entry.kind, FrameKind::Block);
        assert!(entry.at > last, "positions ascend");
        last = entry.at;
        let (round, seq) = (entry.payload[0], u64::from_le_bytes(entry.payload[1..9].try_into().unwrap()));
        assert!(entry.payload == payload(round, seq), "round {round} seq {seq}: not what was appended");
        found.entry(round).or_default().push(seq);
    }
    for (round, seqs) in &found {
        assert!(seqs.is_sorted_by(|a, b| a < b), "round {round}: out of order or twice");
    }
    let listed = reader.blocks().unwrap();
    assert_eq!(listed.len(), found.values().map(Vec::len).sum::<usize>());
    assert!(listed.iter().all(|(_, i)| *i == info(i.chain.incarnation.0[0], i.first_seq)));
    found
}

#[test]
fn what_was_synced_survives_twenty_power_cuts_exactly_once() {
    let mut seed = [0u8; 8];
    getrandom::fill(&mut seed).unwrap();
    let seed = u64::from_le_bytes(seed) | 1;
    eprintln!("seed {seed}");
    let mut random = Random(seed);
    let fs = LoopFs::create(32 << 20, "ext4", &[]).unwrap();
    let dir = fs.path().join("journal");
    let mut known: BTreeMap<u8, Known> = BTreeMap::new();
    let mut survived: BTreeMap<u8, Vec<u64>> = BTreeMap::new();
    let mut synced_in_all = 0;
    for round in 1..=ROUNDS {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writer_process", "--nocapture", "--test-threads=1"])
            .env(DIR, &dir)
            .env(ROUND, round.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut writer = Writer(child);
        let mut lines = BufReader::new(writer.0.stdout.take().unwrap()).lines();
        let mut now = Known::default();
        let mut oldest_released = 0;
        let mut take = |line: &str, now: &mut Known| {
            let Some(at) = line.find("ledger ") else { return false };
            let mut words = line[at..].split(' ').skip(1);
            let (word, seq) = (words.next().unwrap(), words.next().unwrap().trim().parse().unwrap());
            match word {
                "synced" => now.synced = seq,
                "released" => {
                    now.released = seq;
                    oldest_released += 1;
                }
                _ => {}
            }
            true
        };
        let mut until = 1 + random.below(if round % 4 == 0 { 2 } else { 120 });
        while until > 0 {
            let line = lines.next().expect("the writer ended by itself").unwrap();
            until -= u64::from(take(&line, &mut now));
        }
        let pause = Duration::from_micros(random.below(4_000));
        let began = Instant::now();
        while began.elapsed() < pause {
            std::hint::spin_loop();
        }
        fs.shutdown().unwrap();
        lines.for_each(|line| {
            take(&line.unwrap(), &mut now);
        });
        writer.0.wait().unwrap();
        drop(writer);
        fs.remount().unwrap();

        if !dir.exists() {
            // The cut came before the folder itself was durable, so nothing was promised.
            assert_eq!(now.synced, 0);
            continue;
        }
        synced_in_all += now.synced;
        known.insert(round, now);
        let found = read(&dir);
        let any_release = oldest_released > 0;
        for (r, k) in &known {
            let seqs = found.get(r).cloned().unwrap_or_default();
            let promised = k.released + 1..=k.synced;
            // Segments of earlier rounds go first, so whatever this round released may have taken them along.
            if *r == round || !any_release {
                let missing: Vec<_> = promised.filter(|s| !seqs.contains(s)).collect();
                assert!(missing.is_empty(), "round {round}: of {r} {k:?} lost {missing:?}; seed {seed}");
            }
            if *r < round {
                // Nothing came back, and what remains is the newer end of what was there.
                let before = survived.get(r).cloned().unwrap_or_default();
                assert!(
                    before.ends_with(&seqs),
                    "round {round}: {r} had {before:?}, has {seqs:?}; seed {seed}"
                );
            }
        }
        // Opening changes nothing that readers see, and knows every chain's newest block.
        let (journal, recovered) = Journal::open(&dir, OPTIONS).unwrap();
        assert!(!recovered.clean || now_nothing(&known, round), "round {round}");
        assert_eq!(read(&dir), found, "round {round}: opening changed what is there; seed {seed}");
        for (r, seqs) in &found {
            let head = journal.head(&info(*r, 1).chain).map(|h| h.last_seq);
            assert!(head >= seqs.last().copied(), "round {round}: head of {r} is {head:?}; seed {seed}");
        }
        drop(journal);
        for (r, k) in &mut known {
            if *r < round && any_release {
                k.released = found.get(r).and_then(|s| s.first()).map_or(u64::MAX - 1, |s| s - 1);
            }
        }
        survived = found;
    }
    assert!(synced_in_all > 500, "only {synced_in_all} blocks were synced in all rounds");
    eprintln!(
        "{synced_in_all} blocks synced in {ROUNDS} rounds, {} left",
        survived.values().map(Vec::len).sum::<usize>()
    );
}

/// A cut before the writer noted that it has the journal open leaves the word of the one before.
fn now_nothing(known: &BTreeMap<u8, Known>, round: u8) -> bool {
    known.get(&round).is_none_or(|k| k.synced == 0)
}

#[test]
fn a_sync_that_fails_is_never_taken_back_and_the_next_opening_believes_the_disk() {
    let fs = LoopFs::create(32 << 20, "ext4", &[]).unwrap();
    let dir = fs.path().join("journal");
    let (mut journal, _) = Journal::open(&dir, OPTIONS).unwrap();
    journal.append_block(&info(1, 1), &payload(1, 1), 1).unwrap();
    journal.sync().unwrap();
    journal.append_block(&info(1, 2), &payload(1, 2), 1).unwrap();
    fs.shutdown().unwrap();
    assert!(matches!(journal.sync(), Err(JournalError::Failed { .. })));
    assert!(matches!(journal.sync(), Err(JournalError::Failed { .. })));
    let refused = journal.append_block(&info(1, 3), &payload(1, 3), 1);
    assert!(matches!(refused, Err(JournalError::Failed { .. })), "{refused:?}");
    assert!(journal.close().is_err());
    fs.remount().unwrap();
    let (journal, recovered) = Journal::open(&dir, OPTIONS).unwrap();
    assert!(!recovered.clean);
    assert_eq!(journal.head(&info(1, 1).chain).unwrap().last_seq, 1);
    assert_eq!(read(&dir), BTreeMap::from([(1, vec![1])]));
}
