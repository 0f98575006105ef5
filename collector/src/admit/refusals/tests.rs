//! The fold, second by second.

use super::*;
use std::net::Ipv4Addr;

const SECOND: i64 = 1_000_000_000;
const MINUTE: i64 = 60 * SECOND;

fn from(last: u32, claimed: Option<&str>) -> Refusal {
    Refusal {
        address: Ipv4Addr::from_bits(0x0a00_0000 + last).into(),
        reason: Reason::UntrustedCertificate,
        claimed: claimed.map(str::to_owned),
        node: None,
        detail: "unknown issuer".to_owned(),
    }
}

#[test]
fn the_first_is_said_at_once_and_the_rest_once_a_minute() {
    let mut fold = Refusals::new();
    let first = fold.refuse(from(1, Some("node a")), 0);
    assert_eq!(first.len(), 1);
    assert_eq!((first[0].count, first[0].finding.state), (1, FindingState::Raised));
    assert_eq!(first[0].finding.rule, "refused-untrusted-certificate");
    assert_eq!(first[0].finding.subject, Subject::new("address", "10.0.0.1"));
    assert!(first[0].finding.summary.contains("claims to be node a"), "{}", first[0].finding.summary);
    for i in 1..1000 {
        assert!(fold.refuse(from(1, Some("node a")), i * SECOND / 100).is_empty());
    }
    assert!(fold.tick(59 * SECOND).is_empty());
    let folded = fold.tick(MINUTE);
    assert_eq!(folded.len(), 1);
    assert_eq!((folded[0].count, folded[0].finding.state), (1000, FindingState::Updated));
    assert_eq!(folded[0].finding.id, first[0].finding.id);
    assert!(fold.tick(2 * MINUTE).is_empty(), "nothing new, nothing said");
    let cleared = fold.tick(15 * MINUTE);
    assert_eq!(cleared[0].finding.state, FindingState::Cleared);
    assert_ne!(fold.refuse(from(1, Some("node a")), 16 * MINUTE)[0].finding.id, first[0].finding.id);
}

#[test]
fn address_reason_and_name_tell_refusals_apart() {
    let mut fold = Refusals::new();
    assert_eq!(fold.refuse(from(1, Some("node a")), 0).len(), 1);
    assert_eq!(fold.refuse(from(1, Some("node b")), 0).len(), 1);
    assert_eq!(fold.refuse(from(2, Some("node a")), 0).len(), 1);
    let other = Refusal { reason: Reason::NotTls, ..from(1, Some("node a")) };
    assert_eq!(fold.refuse(other, 0).len(), 1);
    assert!(fold.refuse(from(1, Some("node a")), 0).is_empty());
}

#[test]
fn one_address_cannot_claim_names_without_end() {
    let mut fold = Refusals::new();
    let mut said = 0;
    for i in 0..1000 {
        said += fold.refuse(from(1, Some(&format!("node n{i}"))), i).len();
    }
    assert_eq!(said, MAX_NAMES_PER_ADDRESS + 1, "the names, and one for all others");
    let later = fold.tick(MINUTE + SECOND);
    assert_eq!(later.len(), 1);
    assert_eq!(later[0].count, 1000 - MAX_NAMES_PER_ADDRESS as u64);
}

#[test]
fn many_addresses_cannot_make_us_say_without_end() {
    let mut fold = Refusals::new();
    let said: Vec<Said> = (0..5000).flat_map(|i| fold.refuse(from(i, None), i64::from(i))).collect();
    assert_eq!(said.len(), SAID_PER_MINUTE as usize + 1);
    assert_eq!(said.last().unwrap().finding.rule, "refused-flood");
    let after = fold.tick(MINUTE + SECOND);
    assert_eq!(after[0].finding.rule, "refused-flood");
    assert_eq!(after[0].count, 5000 - u64::from(SAID_PER_MINUTE));
}

#[test]
fn the_map_is_bounded_and_what_it_drops_is_cleared_and_counted() {
    let mut fold = Refusals::new();
    let mut cleared = 0;
    let (mut now, mut i) = (0, 0);
    while fold.evicted() < 5 {
        for _ in 0..SAID_PER_MINUTE {
            let said = fold.refuse(from(i, None), now);
            cleared += said.iter().filter(|s| s.finding.state == FindingState::Cleared).count();
            i += 1;
        }
        now += MINUTE;
    }
    assert!(fold.entries.len() <= MAX_KEYS);
    let addresses = fold.entries.keys().filter(|k| k.address.is_some()).count();
    assert_eq!(addresses, fold.keys_of.len());
    assert_eq!(cleared as u64, fold.evicted());
}

#[test]
fn hostile_text_is_printable_and_short() {
    let mut fold = Refusals::new();
    let said = fold.refuse(from(1, Some(&"\x1b[31m\n".repeat(1000))), 0);
    let f = &said[0].finding;
    assert!(f.summary.chars().count() < 500 && !f.summary.contains(['\x1b', '\n']));
}

#[test]
fn a_clock_that_jumps_back_does_not_silence_it() {
    let mut fold = Refusals::new();
    assert_eq!(fold.refuse(from(1, None), 1000 * MINUTE).len(), 1);
    assert_eq!(fold.refuse(from(1, None), 10 * MINUTE).len(), 1);
}

#[test]
fn a_day_of_flood_is_a_bounded_number_of_decisions() {
    let mut fold = Refusals::new();
    let mut said = 0;
    for second in 0..86_400 {
        let now = i64::from(second) * SECOND;
        // A new address each second, one that never stops, and more than a minute may say.
        said += fold.refuse(from(second as u32 + 10, None), now).len();
        said += fold.refuse(from(1, None), now).len();
        if second % 60 == 0 {
            said += (0..200)
                .map(|i| fold.refuse(from(1_000_000 + second as u32 * 200 + i, None), now).len())
                .sum::<usize>();
        }
        if second % 10 == 0 {
            said += fold.tick(now).len();
        }
    }
    let floods = 24 * 60 / 8 + 4;
    assert!(said <= SAID_PER_DAY as usize + floods, "{said}");
}
