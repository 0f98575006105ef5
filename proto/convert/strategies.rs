//! Arbitrary domain values, within the limits of the way in.

mod vitals;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;

use crate::block::{Header, Predecessor, SectionHeader, Start};
use crate::chain::{ChainId, Head, HeadStatement, ReceiptStatement, SignedHead, SignedReceipt};
use crate::record::*;

use vitals::{cgroup, clock_state, core_cpu, disk, interface, limits, net_stack, pod, tasks};

pub(crate) fn text() -> impl Strategy<Value = String> + Clone {
    vec(any::<char>(), 0..12).prop_map(|c| c.into_iter().collect())
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    vec(text(), 0..4)
}

fn number() -> impl Strategy<Value = f64> + Clone {
    prop_oneof![Just(0.0), Just(-0.0), -1e300..1e300f64, 0.0..100.0f64]
}

/// Absolute, of any bytes but NUL.
fn path() -> impl Strategy<Value = PathBuf> {
    vec(1..=255u8, 0..20).prop_map(|bytes| {
        let mut path = vec![b'/'];
        path.extend(bytes);
        PathBuf::from(OsString::from_vec(path))
    })
}

pub(crate) fn node() -> impl Strategy<Value = NodeName> {
    vec(select(b"abcxyz0189".to_vec()), 1..20).prop_map(|b| String::from_utf8(b).unwrap().parse().unwrap())
}

pub(crate) fn incarnation() -> impl Strategy<Value = Incarnation> {
    any::<[u8; 16]>().prop_map(Incarnation)
}

pub(crate) fn hash() -> impl Strategy<Value = Hash> {
    any::<[u8; 32]>().prop_map(Hash)
}

pub(crate) fn stream() -> impl Strategy<Value = Stream> {
    select(Stream::ALL.to_vec())
}

fn pressure() -> impl Strategy<Value = Pressure> {
    (number(), number(), any::<u64>(), number(), number(), any::<u64>()).prop_map(
        |(some_avg10, some_avg60, some_total_us, full_avg10, full_avg60, full_total_us)| Pressure {
            some_avg10,
            some_avg60,
            some_total_us,
            full_avg10,
            full_avg60,
            full_total_us,
        },
    )
}

fn mount() -> impl Strategy<Value = Mount> {
    ((text(), text(), text()), any::<[u32; 2]>(), any::<[u64; 5]>(), any::<bool>()).prop_map(
        |((path, fs, device), [dev_major, dev_minor], n, read_only)| Mount {
            path,
            fs,
            device,
            dev_major,
            dev_minor,
            total_bytes: n[0],
            free_bytes: n[1],
            available_bytes: n[2],
            inodes_total: n[3],
            inodes_free: n[4],
            read_only,
        },
    )
}

fn memory() -> impl Strategy<Value = Memory> {
    (any::<[u64; 12]>(), any::<[Option<u64>; 4]>(), of(pressure())).prop_map(|(n, o, pressure)| Memory {
        total_bytes: n[0],
        available_bytes: n[1],
        free_bytes: n[2],
        cached_bytes: n[3],
        dirty_bytes: n[4],
        slab_bytes: n[5],
        swap_total_bytes: n[6],
        swap_free_bytes: n[7],
        oom_kills_total: o[0],
        pressure,
        buffers_bytes: n[8],
        shmem_bytes: n[9],
        writeback_bytes: n[10],
        slab_unreclaimable_bytes: n[11],
        swapped_in_bytes_total: o[1],
        swapped_out_bytes_total: o[2],
        major_faults_total: o[3],
    })
}

fn cpu() -> impl Strategy<Value = Cpu> {
    (any::<u32>(), any::<[u64; 12]>(), (number(), number(), number()), of(pressure()), of(pressure()))
        .prop_map(|(online, n, (load1, load5, load15), pressure, io_pressure)| Cpu {
            online,
            user_us: n[0],
            nice_us: n[1],
            system_us: n[2],
            idle_us: n[3],
            iowait_us: n[4],
            irq_us: n[5],
            softirq_us: n[6],
            steal_us: n[7],
            load1,
            load5,
            load15,
            pressure,
            io_pressure,
            context_switches_total: n[8],
            forks_total: n[9],
            running: n[10],
            blocked: n[11],
        })
}

fn process() -> impl Strategy<Value = Process> {
    let more = (any::<u32>(), any::<u64>(), of(number()), of(number()), any::<Option<u64>>(), of(pod()));
    (any::<u32>(), any::<[u64; 2]>(), number(), text(), text(), text(), more).prop_map(
        |(pid, [start_ticks, resident_bytes], cpu_percent, name, state, cgroup, more)| Process {
            pid,
            name,
            start_ticks,
            cpu_percent,
            resident_bytes,
            state,
            cgroup,
            ppid: more.0,
            threads: more.1,
            read_bytes_per_s: more.2,
            written_bytes_per_s: more.3,
            open_files: more.4,
            pod: more.5,
        },
    )
}

fn sample() -> BoxedStrategy<Sample> {
    (
        vec(mount(), 0..3),
        of(memory()),
        of(cpu()),
        vec(process(), 0..3),
        any::<[u64; 4]>(),
        any::<u64>(),
        texts(),
        (vec(core_cpu(), 0..3), vec(disk(), 0..3), vec(interface(), 0..3), vec(cgroup(), 0..3)),
        (of(net_stack()), of(limits()), of(tasks()), of(clock_state()), any::<u32>(), any::<bool>()),
    )
        .prop_map(|(mounts, memory, cpu, processes, c, late_ticks, failed, lists, parts)| Sample {
            mounts,
            memory,
            cpu,
            processes,
            self_cost: SelfCost {
                cpu_us: c[0],
                resident_bytes: c[1],
                queue_bytes: c[2],
                dropped_records: c[3],
                saving: parts.5,
            },
            late_ticks,
            failed,
            cores: lists.0,
            disks: lists.1,
            interfaces: lists.2,
            net: parts.0,
            limits: parts.1,
            tasks: parts.2,
            cgroups: lists.3,
            clock: parts.3,
            every_ms: parts.4,
        })
        .boxed()
}

fn log() -> impl Strategy<Value = LogLine> {
    (
        select(vec!["/a", "/b", "kmsg"]),
        any::<[u64; 2]>(),
        vec(any::<u8>(), 0..80),
        any::<bool>(),
        texts(),
        of(pod()),
        any::<(u32, Option<i64>, Option<u32>)>(),
    )
        .prop_map(
            |(source, [offset, inode], line, truncated, rules, pod, (parts, written_wall_ns, priority))| {
                LogLine {
                    source: source.to_owned(),
                    offset,
                    inode,
                    line,
                    truncated,
                    rules,
                    pod,
                    output: "stderr".to_owned(),
                    parts,
                    written_wall_ns,
                    priority,
                }
            },
        )
}

pub(crate) fn record_ref() -> impl Strategy<Value = RecordRef> {
    (node(), incarnation(), stream(), any::<u64>()).prop_map(|(node, incarnation, stream, seq)| RecordRef {
        node,
        incarnation,
        stream,
        seq,
    })
}

fn finding() -> impl Strategy<Value = Finding> {
    let states = vec![FindingState::Raised, FindingState::Updated, FindingState::Cleared];
    (
        (text(), text(), text(), text(), text(), text()),
        select(Severity::ALL.to_vec()),
        select(states),
        vec(record_ref(), 0..4),
        vec((text(), text()), 0..4),
        any::<i64>(),
    )
        .prop_map(
            |((id, rule, kind, name, summary, explanation), severity, state, citations, facts, at)| Finding {
                id,
                rule,
                severity,
                state,
                subject: Subject { kind, name },
                summary,
                explanation,
                citations,
                facts: facts.into_iter().map(|(key, value)| Fact { key, value }).collect(),
                raised_wall_ns: at,
                pod: None,
            },
        )
}

fn object() -> impl Strategy<Value = PlannedObject> {
    use ObjectOutcome::*;
    (
        path(),
        any::<[u64; 5]>(),
        any::<[i64; 2]>(),
        any::<[u32; 4]>(),
        (text(), text()),
        select(vec![Pending, Removed, Skipped, Failed, Cut]),
        of(hash()),
        (
            any::<bool>(),
            of(image()),
            of((any::<u32>(), 1..u32::MAX, vec(any::<u8>(), 0..64))),
            (of(any::<i64>()), of(any::<i64>()), of(any::<u64>())),
        ),
    )
        .prop_map(
            |(
                path,
                n,
                [mtime_ns, ctime_ns],
                m,
                (cleaner, why_safe),
                outcome,
                sha256,
                (digest_partial, image, cut, rest),
            )| {
                PlannedObject {
                    path,
                    device: n[0],
                    inode: n[1],
                    size_bytes: n[2],
                    allocated_bytes: n[3],
                    mtime_ns,
                    ctime_ns,
                    uid: m[0],
                    gid: m[1],
                    mode: m[2],
                    links: n[4],
                    cleaner,
                    tier: m[3],
                    why_safe,
                    outcome,
                    sha256,
                    digest_partial,
                    image: image.map(Box::new),
                    cut: cut.map(|(from, length, tail)| crate::record::Cut {
                        from: u64::from(from),
                        to: u64::from(from) + u64::from(length),
                        tail,
                    }),
                    atime_ns: rest.0,
                    btime_ns: rest.1,
                    preserved_bytes: rest.2,
                }
            },
        )
}

fn image() -> impl Strategy<Value = PlannedImage> {
    (text().prop_filter("absent", |t| !t.is_empty()), vec(text(), 0..3), vec(text(), 0..3), any::<u64>())
        .prop_map(|(id, tags, digests, inodes)| PlannedImage { id, tags, digests, inodes })
}

fn image_store() -> impl Strategy<Value = ImageStore> {
    (text(), any::<[u64; 3]>(), any::<[Option<u64>; 2]>()).prop_map(|(mount_point, n, after)| ImageStore {
        mount_point,
        listed_bytes: n[0],
        used_before_bytes: n[1],
        used_after_bytes: after[0],
        inodes_before: n[2],
        inodes_after: after[1],
    })
}

fn action() -> impl Strategy<Value = Action> {
    use ActionState::*;
    (
        (text(), text(), text(), text(), text()),
        select(vec![CleanupMode::Off, CleanupMode::Plan, CleanupMode::Auto]),
        select(vec![Planned, Started, Done, Failed, Refused]),
        of(text().prop_filter("absent", |t| !t.is_empty())),
        any::<[u64; 2]>(),
        any::<[Option<u64>; 3]>(),
        of((any::<i64>(), text())),
        vec(object(), 0..4),
        vec((of(path()), text()), 0..4),
        (any::<i64>(), of(image_store())),
    )
        .prop_map(
            |(
                (id, mount, reason, actor, detail),
                mode,
                state,
                finding_id,
                n,
                o,
                un,
                objects,
                refused,
                (at, image_store),
            )| {
                Action {
                    id,
                    mount,
                    mode,
                    state,
                    reason,
                    finding_id,
                    actor,
                    planned_bytes: n[0],
                    freed_bytes: o[0],
                    available_before_bytes: o[1],
                    available_after_bytes: o[2],
                    unexplained: un.map(|(bytes, reason)| Unexplained { bytes, reason }),
                    target_available_bytes: n[1],
                    objects,
                    refused: refused.into_iter().map(|(path, reason)| Refusal { path, reason }).collect(),
                    expires_wall_ns: at,
                    detail,
                    image_store: image_store.map(Box::new),
                }
            },
        )
}

fn gap() -> impl Strategy<Value = Gap> {
    (stream(), text(), any::<[Option<u64>; 3]>(), any::<[i64; 2]>(), text(), of(incarnation())).prop_map(
        |(stream, source, [after_seq, before_seq, count], [from, to], reason, incarnation)| Gap {
            stream,
            source,
            after_seq,
            before_seq,
            count,
            from_wall_ns: from,
            to_wall_ns: to,
            reason,
            incarnation,
        },
    )
}

fn file() -> impl Strategy<Value = FileSeen> {
    let piece = (path(), any::<[u64; 4]>(), 0..=MAX_PIECE_BYTES as u64, vec(any::<u8>(), 0..64));
    let content = piece.prop_map(|(path, [device, inode, offset, size_bytes], length, zstd)| FileContent {
        path,
        device,
        inode,
        offset,
        length,
        size_bytes,
        zstd,
    });
    (text(), vec(object(), 0..4), of(content)).prop_map(|(cause, objects, content)| FileSeen {
        cause,
        objects,
        content,
    })
}

pub(crate) fn body() -> impl Strategy<Value = Body> {
    prop_oneof![
        sample().prop_map(|s| Body::Sample(std::sync::Arc::new(s))),
        log().prop_map(Body::Log),
        finding().prop_map(|f| Body::Finding(Box::new(f))),
        action().prop_map(|a| Body::Action(Box::new(a))),
        gap().prop_map(Body::Gap),
        text().prop_map(Body::Note),
        file().prop_map(|f| Body::File(Box::new(f))),
    ]
}

pub(crate) fn moment() -> impl Strategy<Value = Moment> {
    any::<(i64, u64)>().prop_map(|(wall_ns, boot_ns)| Moment { wall_ns, boot_ns })
}

pub(crate) fn record() -> impl Strategy<Value = Record> {
    (1..u64::MAX, moment(), body()).prop_map(|(seq, at, body)| Record { seq, at, body })
}

/// Records as a recorder hands them to be sealed.
pub(crate) fn run_of_records() -> impl Strategy<Value = Vec<Record>> {
    (1..u64::MAX / 2, vec((moment(), body()), 1..30)).prop_map(|(first, bodies)| {
        let number = |(i, (at, body))| Record { seq: first + i as u64, at, body };
        bodies.into_iter().enumerate().map(number).collect()
    })
}

pub(crate) fn head() -> impl Strategy<Value = Head> {
    of((1..u64::MAX, any::<[u8; 31]>())).prop_map(|some| match some {
        None => Head::default(),
        Some((last_seq, rest)) => {
            let mut hash = [1; 32];
            hash[1..].copy_from_slice(&rest);
            Head { last_seq, hash: Hash(hash) }
        }
    })
}

fn chain() -> impl Strategy<Value = ChainId> {
    (node(), incarnation(), stream()).prop_map(|(node, incarnation, stream)| ChainId {
        node,
        incarnation,
        stream,
    })
}

pub(crate) fn head_statement() -> impl Strategy<Value = HeadStatement> {
    (chain(), head(), any::<i64>(), any::<u64>()).prop_map(|(chain, head, wall_ns, blocks)| HeadStatement {
        chain,
        head,
        wall_ns,
        blocks,
    })
}

pub(crate) fn receipt_statement() -> impl Strategy<Value = ReceiptStatement> {
    (chain(), head(), any::<i64>()).prop_map(|(chain, head, received_wall_ns)| ReceiptStatement {
        chain,
        head,
        received_wall_ns,
    })
}

pub(crate) fn signed_head() -> impl Strategy<Value = SignedHead> {
    (vec(any::<u8>(), 0..100), any::<[u8; 32]>(), any::<[u8; 32]>())
        .prop_map(|(statement, a, b)| SignedHead { statement, signature: joined(a, b) })
}

pub(crate) fn signed_receipt() -> impl Strategy<Value = SignedReceipt> {
    signed_head().prop_map(|h| SignedReceipt { statement: h.statement, signature: h.signature })
}

fn joined(a: [u8; 32], b: [u8; 32]) -> [u8; 64] {
    let mut all = [0; 64];
    all[..32].copy_from_slice(&a);
    all[32..].copy_from_slice(&b);
    all
}

pub(crate) fn start() -> impl Strategy<Value = Start> {
    (1..u64::MAX, any::<[u8; 16]>(), of((incarnation(), head())), text()).prop_map(
        |(counter, boot_id, before, agent_version)| Start {
            counter,
            boot_id,
            predecessor: before.map(|(incarnation, head)| Predecessor {
                incarnation,
                last_seq: head.last_seq,
                head: head.hash,
            }),
            agent_version,
        },
    )
}

fn section() -> impl Strategy<Value = SectionHeader> {
    (text(), hash(), any::<[u32; 4]>()).prop_map(|(source, sha256, n)| SectionHeader {
        source,
        sha256,
        stored_bytes: n[0],
        raw_bytes: n[1],
        records: n[2],
        kinds: Kinds(n[3]),
    })
}

pub(crate) fn header() -> impl Strategy<Value = Header> {
    (
        chain(),
        any::<[u64; 2]>(),
        (moment(), moment()),
        any::<u32>(),
        hash(),
        vec(section(), 0..4),
        of(start()),
        of(signed_receipt()),
    )
        .prop_map(
            |(
                chain,
                [first_seq, last_seq],
                (first_at, last_at),
                kinds,
                previous,
                sections,
                start,
                receipt,
            )| {
                Header {
                    node: chain.node,
                    incarnation: chain.incarnation,
                    stream: chain.stream,
                    first_seq,
                    last_seq,
                    first_at,
                    last_at,
                    kinds: Kinds(kinds),
                    previous,
                    sections,
                    start,
                    receipt,
                }
            },
        )
}
