//! Which mounts are there, so that findings about one that went are cleared, and figures of one filesystem are never
//! held against another that took its place.

use std::collections::HashMap;

use dogwatch::record::Sample;

use crate::sample::mount_is_unknown;

/// Consecutive samples without a mount before it is taken for unmounted.
const GONE_AFTER: u32 = 2;

/// The same where the probe may be to blame: its failures can last, and findings must not outlive their mount forever.
const LOST_AFTER: u32 = 600;

/// A mount point whose state is to be forgotten.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Departure {
    /// The mount point.
    pub(super) path: String,
    /// What became of it, in words.
    pub(super) why: &'static str,
}

#[derive(Debug, Default)]
struct Known {
    /// Device numbers, once seen.
    device: Option<(u32, u32)>,
    absent: u32,
    unknown: u32,
    seen_at: u64,
}

/// Remembers which mounts there were.
#[derive(Debug, Default)]
pub(super) struct Presence {
    known: HashMap<String, Known>,
    samples: u64,
}

impl Presence {
    /// A mount that an earlier run has a finding about.
    pub(super) fn expect(&mut self, path: &str) {
        self.known.entry(path.to_owned()).or_default();
    }

    /// The mount points that lost their filesystem by this sample.
    pub(super) fn departures(&mut self, sample: &Sample) -> Vec<Departure> {
        self.samples += 1;
        let mut departures = Vec::new();
        for mount in &sample.mounts {
            let device = (mount.dev_major, mount.dev_minor);
            match self.known.get_mut(&mount.path) {
                Some(known) => {
                    if known.device.replace(device).is_some_and(|before| before != device) {
                        let why = "another filesystem is mounted there now";
                        departures.push(Departure { path: mount.path.clone(), why });
                    }
                    (known.absent, known.unknown, known.seen_at) = (0, 0, self.samples);
                }
                None => {
                    let known = Known { device: Some(device), seen_at: self.samples, ..Known::default() };
                    self.known.insert(mount.path.clone(), known);
                }
            }
        }
        self.known.retain(|path, known| {
            if known.seen_at == self.samples {
                return true;
            }
            if mount_is_unknown(sample, path) {
                known.unknown += 1;
            } else {
                known.absent += 1;
            }
            let why = if known.absent >= GONE_AFTER {
                "nothing is mounted there any more"
            } else if known.absent + known.unknown >= LOST_AFTER {
                "it could not be read for a long time"
            } else {
                return true;
            };
            departures.push(Departure { path: path.clone(), why });
            false
        });
        departures
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dogwatch::record::Mount;

    fn sample(mounts: &[(&str, u32)], failed: &[&str]) -> Sample {
        let mount = |(path, minor): &(&str, u32)| Mount {
            path: (*path).to_owned(),
            dev_minor: *minor,
            ..Mount::default()
        };
        Sample {
            mounts: mounts.iter().map(mount).collect(),
            failed: failed.iter().map(|f| (*f).to_owned()).collect(),
            ..Sample::default()
        }
    }

    #[test]
    fn one_missing_sample_is_nothing_and_two_are_a_departure() {
        let mut p = Presence::default();
        assert_eq!(p.departures(&sample(&[("/a", 1)], &[])), []);
        assert_eq!(p.departures(&sample(&[], &[])), []);
        assert_eq!(p.departures(&sample(&[("/a", 1)], &[])), []);
        assert_eq!(p.departures(&sample(&[], &[])), []);
        assert_eq!(p.departures(&sample(&[], &[])).len(), 1);
        assert_eq!(p.departures(&sample(&[], &[])), []);
    }

    #[test]
    fn a_failed_probe_is_no_departure_for_long() {
        let mut p = Presence::default();
        p.departures(&sample(&[("/a", 1)], &[]));
        let hung = sample(&[], &["mounts: /a: no answer"]);
        for _ in 1..LOST_AFTER {
            assert_eq!(p.departures(&hung), []);
        }
        assert_eq!(p.departures(&hung).len(), 1);
    }

    #[test]
    fn another_device_is_another_filesystem() {
        let mut p = Presence::default();
        p.expect("/a");
        assert_eq!(p.departures(&sample(&[("/a", 1)], &[])), [], "an earlier run's device is not known");
        assert_eq!(p.departures(&sample(&[("/a", 2)], &[])).len(), 1);
        assert_eq!(p.departures(&sample(&[("/a", 2)], &[])), []);
    }
}
