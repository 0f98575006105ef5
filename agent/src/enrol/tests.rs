//! What needs no collector; scenarios with one are in the project's `tests`.

use super::credentials::{RETRY_AT_LEAST, RETRY_AT_MOST};
use super::*;
use dogwatch::identity::KeyFileError;

const DAY_NS: i64 = 86_400 * NS;

fn options(state: &Path) -> EnrolOptions {
    EnrolOptions::new("127.0.0.1:1", "worker-1".parse().unwrap(), state)
}

#[test]
fn renewal_falls_between_two_thirds_and_four_fifths_of_the_life() {
    let day = Validity { not_before_wall_ns: 0, not_after_wall_ns: DAY_NS };
    assert_eq!(day.renewal_wall_ns(0.0), 16 * 3600 * NS);
    let latest = day.renewal_wall_ns(1.0);
    assert!(latest > 18 * 3600 * NS && latest < 19 * 3600 * NS, "{latest}");
    let broken = Validity { not_before_wall_ns: DAY_NS, not_after_wall_ns: 0 };
    assert_eq!(broken.renewal_wall_ns(1.0), DAY_NS, "no panic on nonsense");
}

#[test]
fn retries_are_denser_towards_the_end_and_bounded() {
    let day = Validity { not_before_wall_ns: 0, not_after_wall_ns: DAY_NS };
    assert_eq!(retry_after(day, 0, 0.0), RETRY_AT_MOST);
    assert_eq!(retry_after(day, DAY_NS - 100 * NS, 0.0), Duration::from_secs(10));
    assert_eq!(retry_after(day, DAY_NS - NS, 0.0), RETRY_AT_LEAST);
    assert_eq!(retry_after(day, 2 * DAY_NS, 0.0), Duration::from_secs(60));
    assert!(retry_after(day, 0, 1.0) <= RETRY_AT_MOST * 3 / 2);
}

#[tokio::test]
async fn without_certificate_and_token_the_remedy_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = ensure_enrolled(&options(dir.path())).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("worker-1 has no certificate yet") && text.contains("dogwatch-collector token"),
        "{text}"
    );
    assert!(!error.is_transient());
    assert!(dir.path().join("identity/signing.key").exists(), "made once, before anything else");
}

#[tokio::test]
async fn a_bad_token_and_a_missing_token_file_say_so_and_hide_the_secret() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.token = Some(TokenSource::Text("dwj1.secretsecret".to_owned()));
    assert!(!format!("{options:?}").contains("secretsecret"));
    let error = ensure_enrolled(&options).await.unwrap_err().to_string();
    assert!(error.contains("dogwatch-collector token") && !error.contains("secretsecret"), "{error}");
    let path = dir.path().join("absent");
    options.token = Some(TokenSource::File(path.clone()));
    let error = ensure_enrolled(&options).await.unwrap_err().to_string();
    assert!(error.contains(&path.display().to_string()), "{error}");
}

#[tokio::test]
async fn an_unreachable_collector_is_worth_another_attempt() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    let zeros = "0".repeat(64);
    options.token = Some(TokenSource::Text(format!("dwj1.0000000000000000.{zeros}.{zeros}")));
    let error = ensure_enrolled(&options).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("127.0.0.1:1"), "{error}");
}

#[tokio::test]
async fn a_damaged_or_exposed_signing_key_stops_everything() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("identity/signing.key");
    identity::create_private_dir(path.parent().unwrap()).unwrap();
    identity::write_private_file(&path, b"nonsense").unwrap();
    let error = ensure_enrolled(&options(dir.path())).await.unwrap_err();
    assert!(matches!(error, EnrolError::File(KeyFileError::Corrupt { .. })), "{error}");
}

#[test]
fn damaged_credentials_are_said_and_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path());
    identity::create_private_dir(&options.identity_dir()).unwrap();
    for bytes in [&b"{}"[..], b"", b"{\"version\":2}"] {
        identity::write_private_file(&options.credentials_path(), bytes).unwrap();
        let why = load(&options, 0).err().unwrap();
        assert!(why.contains("damaged credentials"), "{why}");
    }
}
