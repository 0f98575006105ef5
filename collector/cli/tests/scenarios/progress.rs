//! What is told of a cleanup while it runs.

use crate::running::{How, desk};

/// What is told at a look, but for how long it takes: a look comes when it can, a second after the start or later.
const TOLD: [&str; 2] = [
    "1 of 3 objects, 1.0 GiB freed: a-0000000000000003 cleans /var on slow since ",
    " s, 1.0 GiB → 6.0 GiB available of 7.0 GiB wanted",
];

/// Whether `text` begins with what is told at a look, of a cleanup that takes a second or more.
fn tells(text: &str) -> bool {
    let since = text.strip_prefix(TOLD[0]).and_then(|rest| rest.split_once(TOLD[1]));
    // From a minute on it has minutes before its seconds: `1 min 5`.
    since.is_some_and(|(since, _)| {
        since.split(" min ").all(|figure| figure.parse::<u64>().is_ok()) && since != "0"
    })
}

#[tokio::test]
async fn a_cleanup_that_takes_its_time_is_told_of_while_it_runs() {
    let desk = desk().await;
    let clean = ["clean", "slow", "--mount", "/var"];
    let ended = "2 of 3 objects went, 6.0 GiB freed: a-0000000000000003 ended after ";
    let piped = desk.run(&[&clean[..], &["--yes"]].concat()).await;
    assert_eq!(piped.code, 0, "{}", piped.err);
    let lines: Vec<&str> = piped.err.lines().collect();
    assert_eq!(lines.len(), 2, "a plain line, and not one for each look, and one at the end: {lines:?}");
    let first = lines[0].strip_prefix("dogwatch: ").unwrap();
    assert!(tells(first) && first.ends_with(TOLD[1]), "{first}");
    assert!(lines[1].contains(ended), "{}", lines[1]);
    let drawn = desk.run_as(How { answer: Some("y\n"), columns: Some(200), ..How::default() }, &clean).await;
    assert_eq!(drawn.code, 0, "{}", drawn.err);
    assert!(drawn.err.split("\r| ").skip(1).any(tells), "{:?}", drawn.err);
    let last = drawn.err.rsplit('\r').next().unwrap();
    assert!(last.contains(ended) && !drawn.err.contains('\u{1b}'), "what was drawn is gone: {:?}", drawn.err);
    let narrow = desk.run_as(How { answer: Some("y\n"), columns: Some(20), ..How::default() }, &clean).await;
    assert!(narrow.err.contains("\r| 1 of 3 objects, "), "{:?}", narrow.err);
    let (drawn, _) = narrow.err.rsplit_once('\r').unwrap();
    assert!(drawn.split('\r').skip(1).all(|l| l.chars().count() < 20), "{:?}", narrow.err);
    assert!(piped.out.contains("\n  … and 27 more for the like reason: it changed 1 s ago"), "{}", piped.out);
    assert!(
        piped.out.contains("\n  /var/log/app.3: open in pid 77\n"),
        "what is rare is not hidden: {}",
        piped.out
    );
    assert!(!piped.out.contains("young.4:") && !piped.out.contains("lists them all"), "{}", piped.out);
}
