//! The owner of holds over a real store.

use super::*;
use crate::store::specimen::open;

#[tokio::test]
async fn a_node_that_kept_a_hold_and_cannot_any_more_is_not_holding() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.indexed(Duration::from_secs(30)).await.unwrap();
    let (casework, mut kept) = mpsc::channel(8);
    let say = Say::new(casework.clone());
    let (mut keeper, _holds) =
        Keeper::open(store.clone(), Nodes::default(), casework, say, Some(dogwatch::record::Severity::High))
            .await
            .unwrap();
    let node: NodeName = "a".parse().unwrap();
    let row = HoldRow {
        id: "hold-00000001".to_owned(),
        node: Some(node.clone()),
        target: HoldTarget::Node,
        reason: "r".to_owned(),
        actor: "rita".to_owned(),
        added_wall_ns: 1,
        released: None,
    };
    let scope = Scope::of(&store, &row).await.unwrap();
    let active =
        Active { row: row.clone(), confirmed: BTreeSet::new(), absent: BTreeSet::new(), scope, looks: LOOKS };
    keeper.active.insert(row.id.clone(), active);
    let state = |keeper: &Keeper| keeper.view(&row.id, &Figures::default()).unwrap().state;
    let holds = vec![row.id.clone()];
    let told = Told { session: 1, holds: holds.clone(), kept: false, retry_at: None, failed: None };
    keeper.told.insert(node.clone(), told);
    assert_eq!(state(&keeper), "pending");

    let answer = |result| push::Answer { node: node.clone(), session: 1, holds: holds.clone(), result };
    // Casework makes its word durable.
    let durable = tokio::spawn(async move {
        let Some(Ask::Keep { reply, .. }) = kept.recv().await else { panic!("nothing to keep") };
        reply.send(Ok(())).unwrap();
    });
    keeper.answered(answer(Ok(Vec::new()))).await;
    durable.await.unwrap();
    assert_eq!(state(&keeper), "holding");

    keeper.answered(answer(Err("its disk is full".to_owned()))).await;
    let view = keeper.view(&row.id, &Figures::default()).unwrap();
    assert_eq!((view.state, view.confirmed.contains(&node)), ("pending", true), "it did, and does not");
    keeper.answered(answer(Ok(Vec::new()))).await;
    assert_eq!(state(&keeper), "holding", "it does again");
    drop(keeper);
    store.close().await;
}
