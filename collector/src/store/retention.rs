//! Retention: which segments may go. Pure; by the time of receipt and by size, never by a node's clock.

use dogwatch::journal::SegmentInfo;

/// How much and how long a journal keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Most bytes of segment files.
    pub max_bytes: u64,
    /// Age by time of receipt after which a segment goes, ns; `None`: only size decides.
    pub max_age_ns: Option<i64>,
}

impl Retention {
    /// Segments of `segment_bytes` that may exist; at least two, so that one can be written while the other is kept.
    pub fn max_segments(&self, segment_bytes: u64) -> u32 {
        u32::try_from(self.max_bytes / segment_bytes.max(1)).unwrap_or(u32::MAX).max(2)
    }

    /// The first segment to keep, if any must go. The one being written stays; one whose time of receipt is unknown
    /// goes by size only.
    pub fn keep_from(&self, segments: &[SegmentInfo], segment_bytes: u64, now_wall_ns: i64) -> Option<u64> {
        let (writing, old) = segments.split_last()?;
        let most = self.max_segments(segment_bytes) as usize;
        let too_many = segments.len().saturating_sub(most);
        let expired = |s: &SegmentInfo| {
            s.last_append_wall_ns > 0
                && self.max_age_ns.is_some_and(|age| s.last_append_wall_ns < now_wall_ns.saturating_sub(age))
        };
        // Order matters: a segment goes only when everything before it goes.
        let too_old = old.iter().take_while(|s| expired(s)).count();
        let go = too_many.max(too_old);
        if go == 0 {
            return None;
        }
        Some(old.get(go).map_or(writing.number, |s| s.number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments(times: &[i64]) -> Vec<SegmentInfo> {
        let number = |(i, t): (usize, &i64)| SegmentInfo {
            number: 10 + i as u64,
            used_bytes: 5,
            first_append_wall_ns: *t,
            last_append_wall_ns: *t,
        };
        times.iter().enumerate().map(number).collect()
    }

    #[test]
    fn age_goes_by_receipt_and_spares_the_segment_being_written() {
        let r = Retention { max_bytes: 100 << 20, max_age_ns: Some(50) };
        assert_eq!(r.keep_from(&segments(&[10, 20, 90]), 1 << 20, 100), Some(12));
        assert_eq!(r.keep_from(&segments(&[10, 60, 20, 90]), 1 << 20, 100), Some(11));
        assert_eq!(r.keep_from(&segments(&[10]), 1 << 20, 1000), None);
        assert_eq!(r.keep_from(&segments(&[0, 0]), 1 << 20, 1000), None);
        assert_eq!(r.keep_from(&[], 1 << 20, 1000), None);
    }

    #[test]
    fn size_drops_the_oldest() {
        let r = Retention { max_bytes: 3 << 20, max_age_ns: None };
        assert_eq!(r.keep_from(&segments(&[1, 2, 3]), 1 << 20, 100), None);
        assert_eq!(r.keep_from(&segments(&[1, 2, 3, 4, 5]), 1 << 20, 100), Some(12));
    }
}
