use super::*;

const MIB: u64 = 1 << 20;
const FILE: Id = (1, 5);

/// A descriptor of a file that is as long as `size`.
fn open(pid: u32, inode: u64, trace: Trace) -> OpenFile {
    OpenFile {
        device: 1,
        inode,
        pid,
        path: "/data/a".into(),
        upper: None,
        is_deleted: false,
        is_written: true,
        bytes: 0,
        born_ns: None,
        trace: Trace { descriptor: inode as u32, ..trace },
    }
}

fn at(position: u64, size: u64) -> Trace {
    Trace { position: Some(position), size, ..Trace::default() }
}

fn wrote(called: u64, dirtied: u64) -> Written {
    Written { called, dirtied, ..Written::default() }
}

/// Something that a process did in the time in which the file grew by 10 MiB.
#[derive(Clone, Copy)]
struct Did {
    pid: u32,
    from: Trace,
    to: Trace,
    written: Written,
}

/// It appended, or is carried along by whom it shares the descriptor with.
fn moves(pid: u32, written: Written) -> Did {
    let appends = |trace| Trace { appends: true, ..trace };
    Did { pid, from: appends(at(MIB, MIB)), to: appends(at(11 * MIB, 11 * MIB)), written }
}

fn stands(pid: u32, written: Written) -> Did {
    Did { pid, from: at(0, MIB), to: at(0, 11 * MIB), written }
}

fn files(all: &[Did]) -> (Vec<OpenFile>, Vec<OpenFile>) {
    let before = |d: &Did| open(d.pid, 5, Trace { written: Some(Written::default()), ..d.from });
    let after = |d: &Did| open(d.pid, 5, Trace { written: Some(d.written), ..d.to });
    (all.iter().map(before).collect(), all.iter().map(after).collect())
}

fn said_of(before: &[OpenFile], after: &[OpenFile], others: &[(Id, u64)], in_memory: bool) -> Vec<u32> {
    let mut grown: HashMap<Id, u64> = others.iter().copied().collect();
    grown.insert(FILE, 10 * MIB);
    let pids = after.iter().map(|f| f.pid).collect();
    let writers = Writers::of(before, after, &grown, in_memory);
    writers.among(FILE, &pids).into_iter().collect()
}

fn among(all: &[Did]) -> Vec<u32> {
    let (before, after) = files(all);
    said_of(&before, &after, &[], false)
}

fn in_memory(all: &[Did]) -> Vec<u32> {
    let (before, after) = files(all);
    said_of(&before, &after, &[], true)
}

const ALL: Written = Written { called: 10 * MIB, dirtied: 10 * MIB, read: 0, elsewhere: 0 };

#[test]
fn who_wrote_as_much_as_it_grew_is_its_writer() {
    assert_eq!(among(&[moves(7, ALL)]), [7]);
    assert_eq!(among(&[stands(7, ALL)]), [7]);
    // Beside one that only has it open, as inherited or as one's own.
    assert_eq!(among(&[moves(7, ALL), moves(8, wrote(0, 0)), stands(9, wrote(90 * MIB, 0))]), [7]);
    // To sockets as well, and line by line, each brought to the disk.
    assert_eq!(among(&[moves(7, wrote(90 * MIB, 10 * MIB))]), [7]);
    assert_eq!(among(&[moves(7, wrote(10 * MIB, 90 * MIB))]), [7]);
}

#[test]
fn room_that_is_taken_before_it_is_written_is_nobodys_and_hides_nobody() {
    let (before, after) = files(&[moves(1, ALL)]);
    let said = |had: u64, has: u64| {
        let on_disk =
            |files: &[OpenFile], bytes| files.iter().map(|f| OpenFile { bytes, ..f.clone() }).collect();
        let (before, after): (Vec<OpenFile>, Vec<OpenFile>) = (on_disk(&before, had), on_disk(&after, has));
        let writers = Writers::of(&before, &after, &HashMap::from([(FILE, has - had)]), false);
        writers.among(FILE, &BTreeSet::from([1]))
    };
    assert_eq!(said(MIB, 64 * MIB), BTreeSet::from([1]), "53 MiB of it lie beyond the end");
    assert_eq!(said(MIB / 2, 64 * MIB), BTreeSet::new(), "it had holes, which may have been filled");
    assert_eq!(said(32 * MIB, 64 * MIB), BTreeSet::from([1]));
}

#[test]
fn who_shares_a_descriptor_and_writes_to_sockets_is_not() {
    assert_eq!(among(&[moves(7, wrote(100 * MIB, 0))]), Vec::<u32>::new());
    assert_eq!(among(&[moves(7, wrote(100 * MIB, 0)), moves(8, ALL)]), [8]);
    // To a disk, too: it was one of both, and which is not known.
    assert_eq!(among(&[moves(7, wrote(0, 8 * MIB)), moves(8, ALL)]), [7, 8]);
    assert_eq!(among(&[moves(7, wrote(MIB * 9, 90 * MIB)), moves(8, ALL)]), Vec::<u32>::new());
}

#[test]
fn who_reads_as_it_moves_may_be_copying() {
    let reads = |did: Did, read| {
        let to = Trace { reads: true, appends: false, ..did.to };
        let from = Trace { reads: true, appends: false, ..did.from };
        Did { to, from, written: Written { read, ..did.written }, ..did }
    };
    assert_eq!(among(&[reads(moves(7, ALL), 10 * MIB)]), Vec::<u32>::new());
    assert_eq!(among(&[reads(stands(7, ALL), 10 * MIB)]), Vec::<u32>::new());
    assert_eq!(among(&[reads(moves(7, ALL), MIB)]), [7]);
    assert_eq!(in_memory(&[reads(moves(7, wrote(10 * MIB, 0)), 10 * MIB)]), Vec::<u32>::new());
    // What cannot be read does not move by reading.
    let fed = Written { read: 90 * MIB, ..ALL };
    assert_eq!(among(&[moves(7, fed)]), [7]);
}

#[test]
fn who_adds_a_line_to_what_another_fills_lags() {
    let mut did = moves(7, ALL);
    did.to.position = Some(10 * MIB);
    assert_eq!(among(&[did]), Vec::<u32>::new());
    // A write is under way.
    did.to.position = Some(11 * MIB - 65_536);
    assert_eq!(among(&[did]), [7]);
    // It stands still: it wrote nothing.
    did.to.position = did.from.position;
    assert_eq!(among(&[did]), Vec::<u32>::new());
}

#[test]
fn one_that_stands_still_must_have_written_just_that() {
    for dirtied in [MIB, 5 * MIB, 14 * MIB, 90 * MIB] {
        assert_eq!(among(&[stands(7, wrote(dirtied, dirtied))]), Vec::<u32>::new(), "{dirtied}");
    }
    // It is known where that went.
    let elsewhere = Written { elsewhere: 9 * MIB, ..ALL };
    assert_eq!(among(&[stands(7, elsewhere)]), Vec::<u32>::new());
    assert_eq!(in_memory(&[stands(7, wrote(10 * MIB, 0))]), Vec::<u32>::new());
}

#[test]
fn what_its_other_files_took_did_not_go_into_this() {
    let other: Id = (1, 6);
    let with_other = |did: Did, grew: u64| {
        let (mut before, mut after) = files(&[did]);
        before.push(open(7, 6, Trace { written: Some(Written::default()), ..at(0, 0) }));
        after.push(open(7, 6, Trace { written: Some(did.written), ..at(grew, grew) }));
        said_of(&before, &after, &[(other, grew)], false)
    };
    assert_eq!(with_other(moves(7, ALL), 10 * MIB), Vec::<u32>::new());
    assert_eq!(with_other(moves(7, wrote(0, 40 * MIB)), 30 * MIB), [7]);
    assert_eq!(with_other(stands(7, wrote(0, 40 * MIB)), 40 * MIB), Vec::<u32>::new());
}

#[test]
fn where_no_page_counts_all_that_was_written_must_be_in_it() {
    assert_eq!(in_memory(&[moves(7, wrote(10 * MIB, 0))]), [7]);
    for called in [0, 8 * MIB, 12 * MIB, 90 * MIB] {
        assert_eq!(in_memory(&[moves(7, wrote(called, 0))]), Vec::<u32>::new(), "{called}");
    }
    assert_eq!(in_memory(&[moves(7, wrote(90 * MIB, 0)), moves(8, wrote(10 * MIB, 0))]), Vec::<u32>::new());
}

#[test]
fn of_one_that_was_not_seen_before_its_life_says_nothing() {
    let (before, after) = files(&[moves(7, ALL), moves(8, ALL)]);
    assert_eq!(said_of(&[], &after[..1], &[], false), Vec::<u32>::new());
    // It may be the one, so the other is not sure either.
    assert_eq!(said_of(&before[..1], &after, &[], false), Vec::<u32>::new());
    let unread = OpenFile { trace: Trace { written: None, ..after[1].trace }, ..after[1].clone() };
    assert_eq!(said_of(&before, &[after[0].clone(), unread], &[], false), Vec::<u32>::new());
}
