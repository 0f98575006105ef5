//! `cleanup.preserve`: how much of the content of what goes is kept.

use dogwatch::config::Section;

use crate::act::witness::{MAX_OBJECT_BYTES, PreserveBudget};

/// Reads the section. Content may take half of an evidence ring of `evidence_bytes` in an hour: without a collector that
/// takes it over, more would wash away the lines and samples that say why it went.
pub(super) fn preserve(s: &mut Section, evidence_bytes: u64) -> PreserveBudget {
    let d = PreserveBudget::default();
    let most = evidence_bytes / 2;
    PreserveBudget {
        max_bytes_per_object: s.bytes("max_bytes_per_object", d.max_bytes_per_object, 1..=MAX_OBJECT_BYTES),
        max_bytes_per_hour: s.bytes("max_bytes_per_hour", d.max_bytes_per_hour.min(most), 1..=most),
        overflow: s.parse("overflow", d.overflow),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;
    use crate::act::witness::Overflow;

    fn load(environment: &[(&str, &str)]) -> Result<Config, String> {
        let given = [("NODE_NAME", "n1")].iter().chain(environment);
        Config::load(None, given.map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))).map_err(|e| e.to_string())
    }

    #[test]
    fn content_never_takes_more_than_half_the_ring() {
        assert_eq!(load(&[]).unwrap().preserve, PreserveBudget::default());
        let small = load(&[("DOGWATCH_STATE__EVIDENCE_BYTES", "8MiB")]).unwrap().preserve;
        assert_eq!(small.max_bytes_per_hour, 4 << 20);
        let given = load(&[("DOGWATCH_CLEANUP__PRESERVE__OVERFLOW", "digest")]).unwrap().preserve;
        assert_eq!(given.overflow, Overflow::Digest);
        for (key, value) in [
            ("DOGWATCH_CLEANUP__PRESERVE__MAX_BYTES_PER_HOUR", "33MiB"),
            ("DOGWATCH_CLEANUP__PRESERVE__MAX_BYTES_PER_OBJECT", "65MiB"),
            ("DOGWATCH_CLEANUP__PRESERVE__OVERFLOW", "drop"),
        ] {
            let told = load(&[(key, value)]).unwrap_err();
            let name = key.rsplit("__").next().unwrap().to_lowercase();
            assert!(told.contains(&format!("cleanup.preserve.{name}")), "{told}");
        }
    }
}
