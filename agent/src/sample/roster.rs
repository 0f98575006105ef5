//! What is remembered of the things that a file of `/proc` lists: devices, interfaces.
//!
//! The kernel lists them in the same order each time, so that what is remembered of a line is nearly always found where
//! the line before stopped, without hashing or allocating. A thing that is not listed any more is forgotten.
//!
//! Deliberately absent: identity. A device that goes and another that takes its name between two ticks are one here;
//! whoever reads rarely changing files by a roster reads them again every now and then.

/// How many things are remembered; what is listed beyond that is not looked at. Hosts with thousands of paths to disks
/// exist, such with more do not.
pub(super) const MAX_KNOWN: usize = 4_096;

/// The things listed by one file.
pub(super) struct Roster<T> {
    known: Vec<(Box<[u8]>, T)>,
    /// Things of the present listing; what stands behind was listed the last time.
    listed: usize,
}

impl<T> Roster<T> {
    /// Nobody known yet.
    pub(super) fn new() -> Self {
        Self { known: Vec::new(), listed: 0 }
    }

    /// Begins a listing.
    pub(super) fn begin(&mut self) {
        self.listed = 0;
    }

    /// What is remembered of the next in the listing, made by `make` of a new one, and its place; `None` beyond
    /// [`MAX_KNOWN`].
    pub(super) fn next(&mut self, name: &[u8], make: impl FnOnce() -> T) -> Option<(usize, &mut T)> {
        let at = self.listed;
        if at >= MAX_KNOWN {
            return None;
        }
        match self.known[at..].iter().position(|(n, _)| **n == *name) {
            Some(0) => {}
            Some(ahead) => self.known.swap(at, at + ahead),
            None => self.known.insert(at, (name.into(), make())),
        }
        self.listed += 1;
        Some((at, &mut self.known[at].1))
    }

    /// Ends a listing: forgets whom it did not name.
    pub(super) fn end(&mut self) {
        self.known.truncate(self.listed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(roster: &mut Roster<u32>, names: &[&str], made: &mut u32) -> Vec<u32> {
        roster.begin();
        let mut seen = Vec::new();
        for name in names {
            let make = || {
                *made += 1;
                *made
            };
            seen.push(*roster.next(name.as_bytes(), make).unwrap().1);
        }
        roster.end();
        seen
    }

    #[test]
    fn each_is_made_once_and_forgotten_when_gone() {
        let (mut roster, mut made) = (Roster::new(), 0);
        assert_eq!(list(&mut roster, &["a", "b", "c", "d"], &mut made), [1, 2, 3, 4]);
        assert_eq!(list(&mut roster, &["b", "c", "d"], &mut made), [2, 3, 4], "the first has gone");
        assert_eq!(list(&mut roster, &["d", "x", "b", "c"], &mut made), [4, 5, 2, 3], "in another order");
        assert_eq!(list(&mut roster, &["a"], &mut made), [6], "one that comes back is new");
    }

    #[test]
    fn no_more_than_the_bound_are_known() {
        let mut roster = Roster::new();
        roster.begin();
        for i in 0..MAX_KNOWN {
            assert!(roster.next(&i.to_be_bytes(), || ()).is_some());
        }
        assert!(roster.next(b"one more", || ()).is_none());
    }
}
