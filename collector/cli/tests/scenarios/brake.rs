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
