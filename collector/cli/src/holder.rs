//! Whose certificate the collector is asked with: read to name what is wrong with it, trusted for nothing.

use std::io::Read as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use dogwatch::identity::{CertificateFacts, certificate_facts};

use crate::time::Utc;

/// Largest certificate file that is looked at: a chain of a few.
const MAX_PEM_BYTES: u64 = 256 * 1024;

/// The first certificate of the file, if it can be read.
pub(crate) fn facts(path: &Path) -> Option<CertificateFacts> {
    let mut pem = Vec::new();
    std::fs::File::open(path).ok()?.take(MAX_PEM_BYTES).read_to_end(&mut pem).ok()?;
    let chain = dogwatch::tls::certificates_from_pem("certificate", &pem).ok()?;
    certificate_facts(chain.first()?).ok()
}

/// A person's name and role as the certificate's URI has them: `alice, role responder`.
pub(crate) fn name(facts: &CertificateFacts) -> Option<String> {
    let uri = facts.uris.first()?;
    let (_, person) = uri.split_once("/person/")?;
    let (name, role) = person.split_once("/role/")?;
    Some(format!("{name}, role {role}"))
}

/// What to try after a connection failed with `why`, where the certificate is to blame for it.
pub(crate) fn blame(path: &Path, why: &str) -> Option<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    blame_at(path, why, i64::try_from(now.as_nanos()).unwrap_or(i64::MAX))
}

fn blame_at(path: &Path, why: &str, now_ns: i64) -> Option<String> {
    let facts = facts(path)?;
    let shown = path.display();
    if facts.expired_at(now_ns) {
        let end = Utc(facts.not_after_wall_ns).to_the_second();
        return Some(format!(
            "a new certificate: yours ({shown}) expired at {end}; whoever runs the collector issues one with \
             `dogwatch-collector person`"
        ));
    }
    if now_ns < facts.not_before_wall_ns {
        let begin = Utc(facts.not_before_wall_ns).to_the_second();
        return Some(format!(
            "this machine's clock: your certificate ({shown}) begins at {begin}, which is yet to come"
        ));
    }
    if name(&facts).is_none() {
        return Some(format!(
            "a person's certificate: {shown} names {}, and the collector's desk is for people",
            facts.uris.first().map_or("nobody", String::as_str)
        ));
    }
    let lower = why.to_ascii_lowercase();
    let theirs = lower.contains("alert") || lower.contains("decrypterror");
    theirs.then(|| {
        format!(
            "a certificate that this collector's authority issued: the collector refused yours ({shown}: {})",
            name(&facts).unwrap_or_default()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, SanType};

    fn certificate(uri: &str) -> tempfile::NamedTempFile {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2026, 6, 1);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), params.self_signed(&key).unwrap().pem()).unwrap();
        file
    }

    #[test]
    fn what_is_wrong_with_a_certificate_is_named() {
        let at = |text: &str| crate::time::parse(text, 0).unwrap();
        let alice = certificate("spiffe://dogwatch/person/alice/role/viewer");
        let blamed =
            |file: &tempfile::NamedTempFile, why: &str, when: &str| blame_at(file.path(), why, at(when));
        assert_eq!(blamed(&alice, "connection refused", "2026-02-01"), None);
        assert!(blamed(&alice, "received fatal alert", "2026-02-01").unwrap().contains("alice, role viewer"));
        assert!(blamed(&alice, "", "2026-06-02").unwrap().contains("expired at 2026-06-01"));
        assert!(blamed(&alice, "", "2025-06-02").unwrap().contains("yet to come"));
        let node = certificate("spiffe://dogwatch/node/node-1");
        assert!(blamed(&node, "", "2026-02-01").unwrap().contains("for people"));
        assert_eq!(blame_at(Path::new("/nonexistent"), "alert", 0), None);
    }
}
