use proptest::prelude::*;
use prost::Message;
use sha2::{Digest, Sha256};

use super::*;
use crate::convert::strategies;
use crate::record::{Body, Gap, Kind, LogLine, Sample};

fn place() -> Place {
    Place {
        node: "node-1".parse().unwrap(),
        incarnation: Incarnation([7; 16]),
        stream: Stream::Evidence,
        previous: Hash::ZERO,
        start: None,
        receipt: None,
    }
}

fn salts() -> impl FnMut() -> [u8; 16] {
    let mut n = 0u8;
    move || {
        n = n.wrapping_add(1);
        [n; 16]
    }
}

fn line(source: &str, text: &str) -> Body {
    Body::Log(LogLine {
        source: source.to_owned(),
        offset: 0,
        inode: 1,
        line: text.as_bytes().to_vec(),
        truncated: false,
        rules: vec!["oom".to_owned()],
        ..LogLine::default()
    })
}

fn numbered(bodies: Vec<Body>) -> Vec<Record> {
    let at = |seq: u64| Moment { wall_ns: seq as i64 * 10, boot_ns: seq * 10 };
    bodies.into_iter().zip(1..).map(|(body, seq)| Record { seq, at: at(seq), body }).collect()
}

/// Of three sources, interleaved.
fn records() -> Vec<Record> {
    numbered(vec![
        line("/b", "one"),
        line("/a", "two"),
        Body::Sample(std::sync::Arc::default()),
        line("/b", "three"),
        line("/a", "four"),
        line("/b", "five"),
    ])
}

fn sealed(records: &[Record]) -> Block {
    Block::seal(place(), records, &mut salts()).unwrap()
}

const ALL: Kinds = Kinds(u32::MAX);

#[test]
fn sections_are_one_a_source_in_the_order_of_their_first_record() {
    let block = sealed(&records());
    let sources: Vec<_> = block.header().sections.iter().map(|s| (s.source.as_str(), s.records)).collect();
    assert_eq!(sources, [("log:/b", 3), ("log:/a", 2), ("sampler", 1)]);
    assert_eq!(block.records(ALL).unwrap(), records());
    let kinds = Kinds::default().with(Kind::Log).with(Kind::Sample);
    assert_eq!(
        (block.header().kinds, block.header().sections[0].kinds),
        (kinds, Kinds::default().with(Kind::Log))
    );
}

#[test]
fn the_hash_is_over_the_headers_bytes_and_survives_the_way() {
    let block = sealed(&records());
    assert_eq!(block.hash().0, Sha256::digest(block.to_wire().header)[..]);
    let again = Block::decode(block.encode().into()).unwrap();
    assert_eq!((again.hash(), again.header()), (block.hash(), block.header()));
    assert_eq!(again.encode(), block.encode());
}

#[test]
fn the_range_of_times_holds_both_clocks_though_the_wall_clock_jumped() {
    let mut jumped = records();
    jumped[3].at.wall_ns = -5;
    let header = sealed(&jumped).header().clone();
    assert_eq!(header.first_at, Moment { wall_ns: -5, boot_ns: 10 });
    assert_eq!(header.last_at, Moment { wall_ns: 60, boot_ns: 60 });
}

#[test]
fn a_withheld_section_leaves_the_hash_and_the_rest() {
    let block = sealed(&records());
    let thinner = block.clone().withhold(1);
    let read = Block::decode(thinner.encode().into()).unwrap();
    assert_eq!(read.hash(), block.hash());
    assert!(read.withheld(1) && !read.withheld(0));
    let left: Vec<_> = read.records(ALL).unwrap().iter().map(|r| r.seq).collect();
    assert_eq!(left, [1, 3, 4, 6]);
}

#[test]
fn only_wanted_kinds_are_read() {
    let gap = Body::Gap(Gap {
        stream: Stream::Recorder,
        source: "journal".to_owned(),
        after_seq: None,
        before_seq: None,
        count: None,
        from_wall_ns: 0,
        to_wall_ns: 0,
        reason: String::new(),
        incarnation: None,
    });
    let block = sealed(&numbered(vec![Body::Note("n".to_owned()), gap, line("/a", "x")]));
    let seqs = |kind| -> Vec<_> {
        block.records(Kinds::default().with(kind)).unwrap().iter().map(|r| r.seq).collect()
    };
    // The note shares a section with the gap and is not wanted.
    assert_eq!((seqs(Kind::Gap), seqs(Kind::Log), seqs(Kind::Finding)), (vec![2], vec![3], vec![]));
}

#[test]
fn what_cannot_be_sealed_says_why() {
    let none = Block::seal(place(), &[], &mut salts()).unwrap_err();
    assert_eq!(none.to_string(), "malformed block: there are no records to seal");
    let mut holed = records();
    holed.remove(2);
    let holed = Block::seal(place(), &holed, &mut salts()).unwrap_err();
    assert_eq!(holed.to_string(), "malformed block: record 4 does not follow record 2");

    let mut bad = Sample::default();
    bad.failed.push("x".repeat(crate::convert::MAX_TEXT_BYTES + 1));
    let unreadable =
        Block::seal(place(), &numbered(vec![Body::Sample(std::sync::Arc::new(bad))]), &mut salts());
    let Err(BlockError::Record { seq: 1, refused }) = unreadable else { panic!("{unreadable:?}") };
    assert_eq!(refused.path(), "record.sample.failed[0]");

    let start = Start { counter: 0, boot_id: [0; 16], predecessor: None, agent_version: String::new() };
    let unreadable = Block::seal(Place { start: Some(start), ..place() }, &records(), &mut salts());
    assert!(unreadable.unwrap_err().to_string().contains("header.start.counter"));
}

/// Bytes that do not compress, different for each `seed`.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let digest = |i: u64| Sha256::digest([seed.to_le_bytes(), i.to_le_bytes()].concat());
    (0..).flat_map(digest).take(bytes).collect()
}

fn noisy(count: u64, bytes: usize) -> Vec<Record> {
    let body = |seed| {
        let Body::Log(l) = line("/noise", "") else { unreachable!() };
        Body::Log(LogLine { line: noise(seed, bytes), ..l })
    };
    numbered((0..count).map(body).collect())
}

#[test]
fn too_large_a_block_is_refused_and_split_point_says_where_to_part_it() {
    let many = noisy(9, 64 * 1024);
    let whole = Block::seal(place(), &many, &mut salts());
    assert!(
        matches!(whole, Err(BlockError::TooLarge { what: "block", limit: MAX_BLOCK_BYTES, .. })),
        "{whole:?}"
    );
    let fitting = split_point(&many);
    assert_eq!(fitting, 7);
    assert!(sealed(&many[..fitting]).encode().len() <= MAX_BLOCK_BYTES);
    assert_eq!((split_point(&[]), split_point(&noisy(1, 600 * 1024))), (0, 1));

    let mut crowd = Vec::new();
    for i in 0..=MAX_SECTIONS {
        crowd.push(line(&format!("/{i}"), ""));
    }
    let crowd = numbered(crowd);
    assert!(matches!(Block::seal(place(), &crowd, &mut salts()), Err(BlockError::TooLarge { .. })));
    sealed(&crowd[..split_point(&crowd)]);
}

/// A block of one section of `raw` as a hostile writer would make it, stating `stated` raw bytes and `count` records.
fn hostile(raw: &[u8], stated: u32, count: u32) -> wire::Block {
    let mut section = vec![9; SALT_BYTES];
    section.extend(zstd::bulk::compress(raw, 19).unwrap());
    let mut header = wire::BlockHeader::from(sealed(&records()).header());
    header.last_seq = u64::from(count);
    header.kinds = u32::MAX;
    header.sections.truncate(1);
    let s = &mut header.sections[0];
    (s.stored_bytes, s.raw_bytes, s.records, s.kinds) = (section.len() as u32, stated, count, u32::MAX);
    s.sha256 = Bytes::copy_from_slice(&Sha256::digest(&section));
    wire::Block { header: header.encode_to_vec().into(), sections: vec![section.into()] }
}

fn raw(records: &[Record]) -> Vec<u8> {
    wire::Records { records: records.iter().map(Into::into).collect() }.encode_to_vec()
}

#[test]
fn a_bomb_is_refused_before_it_takes_memory() {
    let bomb = vec![0; 64 << 20];
    let small_claim = Block::from_wire(hostile(&bomb, 1000, 1)).unwrap();
    assert!(
        small_claim.records(ALL).unwrap_err().to_string().contains("does not decompress to the stated 1000")
    );
    let honest_claim = Block::from_wire(hostile(&bomb, 64 << 20, 1)).unwrap_err();
    assert!(matches!(honest_claim, BlockError::TooLarge { limit: MAX_SECTION_RAW_BYTES, .. }));

    // Two bytes for each empty mount would be 128 in memory.
    let sample = [wire::Records {
        records: vec![wire::Record {
            seq: 1,
            wall_ns: 10,
            boot_ns: 10,
            body: Some(wire::record::Body::Sample(wire::Sample {
                mounts: vec![wire::Mount::default(); 1_000_000],
                ..Default::default()
            })),
        }],
    }];
    let fields = sample[0].encode_to_vec();
    let block = Block::from_wire(hostile(&fields, fields.len() as u32, 1)).unwrap();
    assert!(block.records(ALL).unwrap_err().to_string().contains("more than 200100 fields"));
}

#[test]
fn records_that_the_header_does_not_describe_are_refused() {
    let good = records();
    let refused = |records: &[Record], count| {
        let raw = raw(records);
        let block = Block::from_wire(hostile(&raw, raw.len() as u32, count)).unwrap();
        block.records(ALL).unwrap_err().to_string()
    };
    assert!(refused(&good[..3], 2).contains("record 3 is outside the block's range"));
    assert!(refused(&good[..3], 4).contains("3 records where the header states 4"));
    let swapped = [good[1].clone(), good[0].clone()];
    assert!(refused(&swapped, 2).contains("record 1 stands after record 2"));
    let mut late = good[..2].to_vec();
    late[1].at.boot_ns = 1_000_000;
    assert!(refused(&late, 2).contains("record 2 lies outside the header's time range"));
}

#[test]
fn a_newer_writers_kind_is_kept_and_left_out() {
    let mut unknown = raw(&records()[..1]);
    // Record 2 with body field 20, which this version does not know.
    unknown.extend([0x0a, 9, 0x08, 2, 0x10, 20, 0x18, 20, 0xa2, 0x01, 0]);
    let block = Block::from_wire(hostile(&unknown, unknown.len() as u32, 2)).unwrap();
    assert_eq!(block.records(ALL).unwrap(), records()[..1]);
}

#[test]
fn headers_that_break_a_rule_are_refused_by_name() {
    let block = sealed(&records()).to_wire();
    let header = wire::BlockHeader::decode(block.header.clone()).unwrap();
    let with = |change: &dyn Fn(&mut wire::BlockHeader)| {
        let mut header = header.clone();
        change(&mut header);
        let changed = wire::Block { header: header.encode_to_vec().into(), ..block.clone() };
        Block::from_wire(changed).unwrap_err().to_string()
    };
    type Case<'a> = (&'a dyn Fn(&mut wire::BlockHeader), &'a str);
    let cases: [Case; 18] = [
        (&|h| h.version = 2, "header.version: 2 is unknown, must be 1"),
        (&|h| h.node = "UP".to_owned(), "header.node: must be a DNS subdomain"),
        (&|h| h.incarnation.clear(), "header.incarnation: must be 16 bytes"),
        (&|h| h.stream = 0, "header.stream: is unspecified"),
        (&|h| h.first_seq = 0, "is no range"),
        (&|h| h.last_seq = 0, "is no range"),
        (&|h| h.last_seq = u64::MAX, "leaves no seq for a next block"),
        (&|h| h.last_seq = 65_537, "more than 65536 records"),
        (&|h| h.last_seq = 7, "hold 6 records, the seqs are 7"),
        (&|h| h.last_boot_ns = 0, "latest record is before the earliest"),
        (&|h| h.kinds = 1, "header.kinds is not what"),
        (&|h| h.previous.clear(), "header.previous: must be 32 bytes"),
        (&|h| h.sections[0].records = 0, "header.sections[0].records"),
        (&|h| h.sections[0].stored_bytes = 16, "header.sections[0].stored_bytes"),
        (&|h| h.sections[1].source = "log:/b".to_owned(), "has log:/b twice"),
        (&|h| drop(h.sections.pop()), "hold 5 records"),
        (&|h| h.sections = vec![h.sections[0].clone(); MAX_SECTIONS + 1], "header.sections: 4097 items"),
        (&|h| h.receipt = Some(wire::SignedReceipt::default()), "header.receipt.signature: must be 64 bytes"),
    ];
    for (change, expected) in cases {
        let error = with(change);
        assert!(error.contains(expected), "{error} should hold {expected}");
    }
    let short = wire::Block { sections: vec![], ..block };
    assert!(
        Block::from_wire(short).unwrap_err().to_string().contains("0 sections where the header states 3")
    );
}

#[test]
fn a_changed_section_is_named() {
    let mut block = sealed(&records()).to_wire();
    let mut bytes = block.sections[1].to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    block.sections[1] = bytes.into();
    let error = Block::from_wire(block).unwrap_err();
    assert!(matches!(&error, BlockError::SectionHash { index: 1, origin } if origin == "log:/a"), "{error}");
}

#[test]
fn decoding_shares_the_memory() {
    let bytes = Bytes::from(sealed(&records()).encode());
    let inside = bytes.as_ptr_range();
    let block = Block::decode(bytes.clone()).unwrap();
    for section in block.to_wire().sections.iter().chain([&block.to_wire().header]) {
        assert!(inside.contains(&section.as_ptr()));
    }
}

proptest! {
    #[test]
    fn whatever_is_sealed_is_read_back(records in strategies::run_of_records()) {
        let block = Block::seal(place(), &records, &mut salts()).unwrap();
        let read = Block::decode(block.encode().into()).unwrap();
        prop_assert_eq!(read.records(ALL).unwrap(), records);
    }

    #[test]
    fn a_weight_is_never_too_low(records in strategies::run_of_records()) {
        let block = sealed(&records);
        let raw: usize = block.header().sections.iter().map(|s| s.raw_bytes as usize).sum();
        let mut weight = Weight::default();
        records.iter().for_each(|r| weight.add(r));
        prop_assert!(weight.raw_bytes() >= raw);
        prop_assert!(weight.fits());
        prop_assert_eq!(split_point(&records), records.len());
    }

    /// A flipped bit is refused, or it is in what surrounds header and sections and changes neither.
    #[test]
    fn no_flipped_bit_goes_unnoticed(records in strategies::run_of_records(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let block = sealed(&records);
        let mut bytes = block.encode();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(read) = Block::decode(bytes.into()) {
            let same_sections = read.to_wire().sections == block.to_wire().sections;
            let withheld = (0..read.header().sections.len()).any(|i| read.withheld(i));
            prop_assert!(read.hash() != block.hash() || same_sections || withheld);
        }
    }
}

/// Prints how fast blocks open beside SHA-256 alone, for whoever changes that path: `cargo test -p dogwatch
/// opening_speed -- --ignored --nocapture`.
#[test]
#[ignore = "prints figures, asserts nothing"]
fn opening_speed() {
    for kib in [64, 256] {
        let block = sealed(&noisy(kib / 4 - 1, 4096)).to_wire();
        let encoded = Bytes::from(block.encode_to_vec());
        let print = |what: &str, work: &dyn Fn()| {
            let rounds = (200 << 20) / encoded.len();
            let begun = cpu_seconds();
            (0..rounds).for_each(|_| work());
            let speed = (rounds * encoded.len()) as f64 / (cpu_seconds() - begun) / 1e6;
            println!("{kib} KiB, {what}: {speed:.0} MB per core-second");
        };
        print("from_wire", &|| drop(Block::from_wire(block.clone()).unwrap()));
        print("decode", &|| drop(Block::decode(encoded.clone()).unwrap()));
        print("SHA-256 alone", &|| {
            std::hint::black_box(Sha256::digest(&encoded));
        });
    }
}

fn cpu_seconds() -> f64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    t.tv_sec as f64 + t.tv_nsec as f64 / 1e9
}
