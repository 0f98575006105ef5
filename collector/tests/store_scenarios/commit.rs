//! What becomes of a block: stored, known, rewound, an equivocation.

use dogwatch::chain::Head;
use dogwatch::record::{Hash, Stream};
use dogwatch_collector::store::{CommitError, Stored};

use crate::kit::{self, Node, SECOND, T0};

#[tokio::test]
async fn a_block_is_acked_with_a_receipt_and_known_when_it_comes_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = kit::open(kit::config(dir.path()));
    let mut node = Node::new("n1", 1);
    let (a, b) = (node.logs(T0, 3, 50), node.logs(T0 + 9 * SECOND, 3, 50));
    let first = store.commit(&a).await.unwrap();
    assert_eq!(first.stored, Stored::Now);
    let said = first.receipt.verify(&kit::receipt_key().verifying_key()).unwrap();
    assert_eq!((said.chain, said.head), (node.chain(Stream::Evidence), Head { last_seq: 3, hash: a.hash() }));
    assert_eq!(store.commit(&b).await.unwrap().stored, Stored::Now);
    for again in [&a, &b] {
        let c = store.commit(again).await.unwrap();
        assert_eq!((c.stored, c.head), (Stored::Known, node.head(Stream::Evidence)));
    }
    assert_eq!(kit::seqs(&store, &node.name, Stream::Evidence).await.len(), 6);
    store.close().await;

    // The same after a restart, when only the journal knows.
    let store = kit::open(kit::config(dir.path()));
    assert_eq!(store.head(&node.chain(Stream::Evidence)), Some(node.head(Stream::Evidence)));
    assert_eq!(store.heads(&node.name, Stream::Urgent, &[node.incarnation]), [None]);
    for again in [&a, &b] {
        assert_eq!(store.commit(again).await.unwrap().stored, Stored::Known);
    }
    let c = node.logs(T0 + 20 * SECOND, 1, 50);
    assert_eq!(store.commit(&c).await.unwrap().stored, Stored::Now);
    assert_eq!(kit::seqs(&store, &node.name, Stream::Evidence).await.len(), 7);
    store.close().await;
}

#[tokio::test]
async fn what_lacks_its_predecessor_is_rewound_or_taken_when_the_node_lost_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = kit::open(kit::config(dir.path()));
    let mut node = Node::new("n1", 1);
    let blocks: Vec<_> = (0..5).map(|i| node.logs(T0 + i * 9 * SECOND, 2, 50)).collect();
    assert_eq!(store.commit(&blocks[1]).await, Err(CommitError::Rewind { expected_seq: 1 }));
    store.commit(&blocks[0]).await.unwrap();
    assert_eq!(store.commit(&blocks[3]).await, Err(CommitError::Rewind { expected_seq: 3 }));
    // The node says that it still has blocks 2 and later (seq 5 on).
    assert_eq!(store.commit_held(&blocks[3], Some(5)).await, Err(CommitError::Rewind { expected_seq: 5 }));
    let taken = store.commit_held(&blocks[2], Some(5)).await.unwrap();
    assert_eq!(taken.stored, Stored::AfterLoss { expected_seq: 3 });
    for b in &blocks[3..] {
        assert_eq!(store.commit(b).await.unwrap().stored, Stored::Now);
    }
    let have: Vec<_> =
        kit::seqs(&store, &node.name, Stream::Evidence).await.into_iter().map(|(_, s)| s).collect();
    assert_eq!(have, [1, 2, 5, 6, 7, 8, 9, 10]);
    store.close().await;
}

#[tokio::test]
async fn two_histories_are_an_equivocation_and_the_second_is_kept_aside() {
    let dir = tempfile::tempdir().unwrap();
    let store = kit::open(kit::config(dir.path()));
    let mut node = Node::new("n1", 1);
    let first = node.logs(T0, 2, 50);
    let mut twin = Node::new("n1", 1);
    let other = twin.logs(T0 + SECOND, 2, 60);
    let other_next = twin.logs(T0 + 9 * SECOND, 2, 60);
    store.commit(&first).await.unwrap();
    let second = node.logs(T0 + 20 * SECOND, 2, 50);
    store.commit(&second).await.unwrap();
    // At a seq before the head, and denying the head.
    for (offered, seq) in [(&other, 1), (&other_next, 3)] {
        match store.commit(offered).await {
            Err(CommitError::Equivocation { chain, seq: at, offered: hash, aside, .. }) => {
                assert_eq!((*chain, at, hash), (node.chain(Stream::Evidence), seq, offered.hash()));
                assert_eq!(std::fs::read(aside.unwrap()).unwrap(), offered.encode());
            }
            outcome => panic!("{outcome:?}"),
        }
    }
    assert_eq!(kit::seqs(&store, &node.name, Stream::Evidence).await.len(), 4);
    // A signed head that names another block at a known seq is the node's word against its word.
    store.commit_head(&node.signed_head(Stream::Evidence)).await.unwrap();
    node.set_head(Stream::Evidence, Head { last_seq: 4, hash: Hash([7; 32]) });
    let denied = store.commit_head(&node.signed_head(Stream::Evidence)).await;
    assert!(matches!(denied, Err(CommitError::Equivocation { seq: 4, .. })), "{denied:?}");
    store.close().await;
}

#[tokio::test]
async fn many_senders_share_syncs_and_every_stream_has_its_own_chain() {
    let dir = tempfile::tempdir().unwrap();
    let store = kit::open(kit::config(dir.path()));
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..20u8 {
        let store = store.clone();
        tasks.spawn(async move {
            let mut node = Node::new(&format!("n{n}"), n);
            for i in 0..10 {
                let block = node.logs(T0 + i * SECOND, 1, 200);
                assert_eq!(store.commit(&block).await.unwrap().stored, Stored::Now);
            }
            let block = node.finding(T0, "f-0000000000000001", dogwatch::record::FindingState::Raised);
            store.commit(&block).await.unwrap();
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let status = store.status();
    let stats = &status.streams[Stream::Evidence.index()];
    assert_eq!(stats.stored_blocks, 200);
    assert!(stats.syncs < 200, "{} syncs for 200 blocks", stats.syncs);
    store.close().await;
}
