//! The thread around the tailer: hints, batches, durable marks, stopping.

mod tail_rig;

use std::sync::mpsc::{Receiver, channel, sync_channel};
use std::time::{Duration, Instant};

use dogwatch::record::Moment;
use dogwatch_agent::tail::{Batch, CheckpointStore, CheckpointWriter, Resume, TailEvent, Tailer, run};
use tail_rig::{append, config, mark, numbered};

const SOON: Duration = Duration::from_secs(60);

fn clock() -> impl Fn() -> Moment + Send + 'static {
    let started = Instant::now();
    move || Moment { wall_ns: 0, boot_ns: started.elapsed().as_nanos() as u64 + 1_000_000_000 }
}

fn wait_for(batches: &Receiver<Batch>, lines: usize) -> Batch {
    let mut events = Batch::new();
    let count = |e: &Batch| e.iter().filter(|e| matches!(e, TailEvent::Line { .. })).count();
    while count(&events) < lines {
        events.extend(batches.recv_timeout(SOON).expect("lines come soon"));
    }
    assert_eq!(count(&events), lines);
    events
}

#[test]
fn hints_alone_bring_lines_and_durable_marks_reach_the_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let state = tempfile::tempdir().unwrap();
    let path = state.path().join("tail-checkpoint.json");
    append(&root.join("a.log"), "one\n");
    let mut config = config(&root, "*.log");
    // Once begun, only hints make it look: the looks by the clock come too late for this test.
    (config.poll, config.sweep) = (Duration::from_secs(3600), Duration::from_secs(3600));
    let tailer = Tailer::new(config, Resume::default()).unwrap();
    let (writer, _) = CheckpointWriter::start(path.clone(), 4096).unwrap();
    let (sender, batches) = sync_channel(4);
    let (durable, marks) = channel();
    let handle = run(tailer, sender, marks, Some(writer), clock()).unwrap();
    wait_for(&batches, 1);
    append(&root.join("a.log"), "two\n");
    wait_for(&batches, 1);
    append(&root.join("b.log"), "three\n");
    let events = wait_for(&batches, 1);
    durable.send(events.iter().filter_map(mark).collect()).unwrap();
    assert_eq!(handle.stats().lines, 3);
    drop(handle);
    let checkpoint = CheckpointStore::open(&path, 4096).unwrap().1.unwrap();
    let b = checkpoint.files.iter().find(|f| f.source.ends_with("b.log")).unwrap();
    assert_eq!(b.offset, 6);
}

#[test]
fn a_folder_that_another_one_replaced_gives_hints_again() {
    let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let root = dir.path().canonicalize().unwrap();
    std::fs::create_dir(root.join("pod")).unwrap();
    append(&root.join("pod/a.log"), "one\n");
    let mut config = config(&root, "*/*.log");
    // Once begun, only hints make it look.
    (config.poll, config.sweep) = (Duration::from_secs(3600), Duration::from_secs(3600));
    let tailer = Tailer::new(config, Resume::default()).unwrap();
    let (sender, batches) = sync_channel(4);
    let (_durable, marks) = channel();
    let _handle = run(tailer, sender, marks, None, clock()).unwrap();
    wait_for(&batches, 1);
    std::fs::rename(root.join("pod"), elsewhere.path().join("pod")).unwrap();
    std::fs::create_dir(root.join("pod")).unwrap();
    append(&root.join("pod/a.log"), "two\n");
    wait_for(&batches, 1);
    append(&root.join("pod/a.log"), "three\n");
    wait_for(&batches, 1);
}

#[test]
fn a_full_channel_holds_reading_back_and_not_the_stop() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    append(&root.join("a.log"), &numbered(0..20_000));
    let tailer = Tailer::new(config(&root, "*.log"), Resume::default()).unwrap();
    let (sender, batches) = sync_channel(1);
    let (_durable, marks) = channel();
    let handle = run(tailer, sender, marks, None, clock()).unwrap();
    let first = batches.recv_timeout(SOON).unwrap();
    assert!(first.len() <= 1024);
    let (told, stopped) = channel();
    std::thread::spawn(move || {
        drop(handle);
        let _ = told.send(());
    });
    // While nobody takes from the channel.
    stopped.recv_timeout(SOON).expect("it stops");
    drop(batches);
}
