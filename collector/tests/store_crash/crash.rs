//! A collector that is killed: what it acked is there, once.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use dogwatch::record::{FindingState, Stream};
use dogwatch_collector::store::decision::What;

use crate::kit::{self, Node, SECOND, T0};

const DIR: &str = "DOGWATCH_TEST_STORE";
const ROUNDS: usize = 10;

/// Not a scenario by itself: the process that is killed. Does nothing unless it was started by the other test.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_that_commits_until_it_is_killed() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else { return };
    let store = kit::open(kit::config(&dir));
    let mut node = Node::new("n1", 1);
    for stream in [Stream::Urgent, Stream::Evidence] {
        node.set_head(stream, store.head(&node.chain(stream)).unwrap_or_default());
    }
    for _ in 0.. {
        let seq = node.head(Stream::Evidence).last_seq as i64;
        let logs = node.logs(T0 + seq * SECOND, 20, 300);
        store.commit(&logs).await.unwrap();
        println!("\nacked evidence {}", node.head(Stream::Evidence).last_seq);
        let seq = node.head(Stream::Urgent).last_seq as i64;
        let finding = node.finding(T0 + seq * SECOND, &format!("f-{seq}"), FindingState::Raised);
        store.commit(&finding).await.unwrap();
        println!("\nacked urgent {}", node.head(Stream::Urgent).last_seq);
        let spent = What::TokenSpent { token: "t".to_owned(), node: node.name.clone() };
        store.decide(kit::decision(T0, spent)).await.unwrap();
        println!("\nacked truth 1");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_was_acked_before_a_kill_is_there_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut acked = [0u64; 2];
    let mut spent = 0;
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::child_that_commits_until_it_is_killed", "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (mut seen, enough) = (0, 20 + round * 13);
        for line in lines.by_ref() {
            let line = line.unwrap();
            let words: Vec<&str> = line.split(' ').collect();
            if let ["acked", what, n] = words[..] {
                match what {
                    "urgent" => acked[0] = n.parse().unwrap(),
                    "evidence" => acked[1] = n.parse().unwrap(),
                    _ => spent += 1,
                }
                seen += 1;
            }
            if seen == enough {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(seen >= enough, "the child ended by itself after {seen} acks");

        let store = kit::open(kit::config(dir.path()));
        store.indexed(Duration::from_secs(30)).await.unwrap();
        let node = Node::new("n1", 1);
        for (stream, acked) in [(Stream::Urgent, acked[0]), (Stream::Evidence, acked[1])] {
            let have: Vec<u64> =
                kit::seqs(&store, &node.name, stream).await.into_iter().map(|(_, seq)| seq).collect();
            let last = have.last().copied().unwrap_or_default();
            assert!(last >= acked, "{stream}: acked up to {acked}, there is up to {last}");
            assert!(have.iter().copied().eq(1..=last), "{stream}: not every seq once");
        }
        let uses = store.token_uses("t").await.unwrap();
        assert!(uses.count >= spent && uses.count <= spent + ROUNDS as u64, "{} of {spent}", uses.count);
        for i in 0..acked[0] {
            assert!(
                store.finding(&format!("f-{i}")).await.unwrap().is_some(),
                "finding {i} is not in the index"
            );
        }
        assert_eq!(store.status().index.rebuilds, 0, "{:?}", store.status().index);
        store.close().await;
    }
}
