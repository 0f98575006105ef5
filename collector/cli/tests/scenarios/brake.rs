//! The fleet brake's verbs against canned answers.

use serde_json::Value;

use crate::running::{How, desk};

#[tokio::test]
async fn the_brake_is_shown_stopped_and_released() {
    let desk = desk().await;
    let shown = desk.run(&["brake", "status"]).await;
    assert_eq!(shown.code, 0, "{}", shown.err);
    let first = shown.out.lines().next().unwrap();
    assert_eq!(first, "open: 1 of 3 nodes that may clean at a time do or are watched after it, 1 waiting");
    assert!(shown.out.contains("\n  note  node node-7 alone stays stopped"), "{}", shown.out);
    assert!(shown.out.contains("acting  node-1") && shown.out.contains("watched  node-1"), "{}", shown.out);
    assert!(shown.out.contains("waits 1  node-2 /var  critical, full in"), "{}", shown.out);
    assert!(!shown.out.contains('\u{1b}') && !shown.out.contains('\u{202e}'), "a mount's name fools nobody");

    let paused = desk.run(&["brake", "pause", "-m", "let me look"]).await;
    assert_eq!(paused.code, 0, "{}", paused.err);
    assert!(paused.out.starts_with("paused by ada: let me look"), "{}", paused.out);
    let tripped = desk.run(&["brake", "trip", "--node", "node-1", "--reason", "wrong", "-o", "json"]).await;
    let json: Value = serde_json::from_str(&tripped.out).unwrap();
    assert_eq!(
        (&json["state"], &json["node"], &json["reason"]),
        (&"tripped".into(), &"node-1".into(), &"wrong".into())
    );
    assert_eq!(json["permits"].as_array().unwrap().len(), 2);
    assert_eq!(json["pause"]["reason"], "let me look");
    let released = desk.run(&["brake", "release", "--yes", "-m", "mended"]).await;
    assert!(released.out.starts_with("open: 0 of 3"), "{}", released.out);

    for (args, words) in [
        (&["brake", "pause", "-m", " "][..], "-m is empty"),
        (&["brake", "status", "-o", "name"], "have no names"),
        (&["brake", "pause"], "--message"),
    ] {
        let ran = desk.run(args).await;
        assert_eq!(ran.code, 2, "{args:?}: {}", ran.err);
        assert!(ran.err.contains(words), "{args:?}: {}", ran.err);
    }
}

#[tokio::test]
async fn a_release_shows_what_it_ends_and_asks_where_a_cleanup_went_wrong() {
    let desk = desk().await;
    let release = ["brake", "release", "-m", "maintenance over"];
    desk.run(&["brake", "pause", "-m", "maintenance"]).await;
    // A pause alone is what scripts end.
    let over = desk.run(&release).await;
    assert_eq!(over.code, 0, "{}", over.err);
    assert!(over.err.contains("this ends: paused by ada: maintenance"), "{}", over.err);

    // Something went wrong after it was paused and looked at.
    desk.run(&["brake", "pause", "-m", "maintenance"]).await;
    desk.run(&["brake", "trip", "-m", "mount-read-only after its cleanup"]).await;
    let shown = desk.run(&["brake", "status"]).await;
    assert!(shown.out.starts_with("tripped by ada: mount-read-only"), "{}", shown.out);
    assert!(
        shown.out.contains("\n  also paused since 2026-11-21T02:10:00Z by ada: maintenance\n"),
        "{}",
        shown.out
    );
    let refused = desk.run(&release).await;
    assert_eq!((refused.code, refused.out.as_str()), (1, ""), "{}", refused.err);
    for told in ["this ends: tripped by ada: mount-read-only", "this ends: paused", "--yes"] {
        assert!(refused.err.contains(told), "{told}: {}", refused.err);
    }
    let no = desk.run_as(How { answer: Some("\n"), ..How::default() }, &release).await;
    assert_eq!(no.code, 1);
    assert!(no.err.contains("Let nodes clean again? [y/N]") && no.err.contains("stay stopped"), "{}", no.err);
    let yes = desk.run_as(How { answer: Some("y\n"), ..How::default() }, &release).await;
    assert_eq!(yes.code, 0, "{}", yes.err);
    assert!(yes.out.starts_with("open"), "{}", yes.out);
}

#[tokio::test]
async fn a_release_shows_the_nodes_that_are_stopped_alone_and_asks_for_them() {
    let desk = desk().await;
    let release = ["brake", "release", "-m", "it was put back"];
    let refused = desk.run(&release).await;
    assert_eq!((refused.code, refused.out.as_str()), (1, ""), "{}", refused.err);
    for told in ["this ends: node node-7 alone", "these nodes stay stopped", "--yes"] {
        assert!(refused.err.contains(told), "{told}: {}", refused.err);
    }
    assert!(!refused.err.contains('\u{1b}') && !refused.err.contains('\u{202e}'), "a reason fools nobody");
    let no = desk.run_as(How { answer: Some("\n"), ..How::default() }, &release).await;
    assert_eq!(no.code, 1);
    assert!(no.err.contains("nothing was changed"), "{}", no.err);
    let yes = desk.run_as(How { answer: Some("y\n"), ..How::default() }, &release).await;
    assert_eq!(yes.code, 0, "{}", yes.err);
    let shown = desk.run(&["brake", "status", "-o", "json"]).await;
    let json: Value = serde_json::from_str(&shown.out).unwrap();
    assert_eq!(json["alone"].as_array().map(Vec::len), Some(0), "{json}");
}

#[tokio::test]
async fn a_node_that_is_stopped_alone_keeps_no_script_from_ending_a_pause() {
    for (args, left) in [(&[][..], 1), (&["--yes"], 0)] {
        let desk = desk().await;
        desk.run(&["brake", "pause", "-m", "beside one that is alone"]).await;
        let done = desk.run(&[&["brake", "release", "-m", "over"], args].concat()).await;
        assert_eq!(done.code, 0, "{}", done.err);
        assert!(done.err.contains("this ends: paused by ada"), "{}", done.err);
        let words =
            if left == 1 { "this does not end: node node-7 alone" } else { "this ends: node node-7 alone" };
        assert!(done.err.contains(words), "{}", done.err);
        let shown = desk.run(&["brake", "status", "-o", "json"]).await;
        let json: Value = serde_json::from_str(&shown.out).unwrap();
        assert_eq!((&json["state"], json["alone"].as_array().map(Vec::len)), (&"open".into(), Some(left)));
    }
}

#[tokio::test]
async fn where_nothing_is_stopped_a_release_orders_nothing() {
    let desk = desk().await;
    let done = desk.run(&["brake", "release", "--yes", "-m", "it was put back"]).await;
    assert_eq!(done.code, 0, "{}", done.err);
    for args in [&["-o", "json"][..], &[]] {
        let again = desk.run(&[&["brake", "release", "-m", "nothing stands"], args].concat()).await;
        assert_eq!(again.code, 0, "{}", again.err);
        assert!(again.err.contains("nothing is stopped; nothing to release"), "{}", again.err);
        let shown = desk.run(&["brake", "status", "-o", "json"]).await;
        let json: Value = serde_json::from_str(&shown.out).unwrap();
        assert_eq!((&json["state"], &json["revision"]), (&"open".into(), &1.into()), "of the first alone");
    }
}

#[tokio::test]
async fn a_release_that_ends_nothing_of_what_is_noted_is_no_success() {
    let desk = desk().await;
    desk.run(&["brake", "release", "--yes", "-m", "it notes"]).await;
    for args in [&["-o", "json"][..], &["--yes"], &[]] {
        let done = desk.run(&[&["brake", "release", "-m", "go on"], args].concat()).await;
        assert_eq!(done.code, 1, "{}", done.err);
        assert!(done.out.contains("node node-7 alone stays stopped"), "{}", done.out);
        assert!(done.err.contains("nothing that a release ends"), "{}", done.err);
        assert!(!done.err.contains("nothing is stopped"), "{}", done.err);
    }
    let shown = desk.run(&["brake", "status", "-o", "json"]).await;
    let json: Value = serde_json::from_str(&shown.out).unwrap();
    assert_eq!(json["revision"], 1, "nothing was ordered");
}

#[tokio::test]
async fn what_was_not_as_ordered_is_said_beside_the_answer() {
    let desk = desk().await;
    let done = desk.run(&["brake", "trip", "--action", "a-both", "-m", "wrong", "-o", "json"]).await;
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(done.err.contains("node-1 and node-2 have an action a-both"), "{}", done.err);
    assert!(!done.err.contains('\u{1b}') && !done.err.contains('\u{202e}'), "{}", done.err);
    let json: Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!(json["state"], "tripped");
}
