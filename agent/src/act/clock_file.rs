//! The file `clock` in the state folder: how the wall clock stood against CLOCK_BOOTTIME, over restarts and boots.
//!
//! Of fixed size and written in place ([`Slots`]): every ten minutes, and when the clock stepped. A thread of its own does
//! that, since a disk may not answer. One that is gone or torn costs what was known: the clock of now is believed.

use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use dogwatch::clock;
use dogwatch::record::Moment;
use serde::{Deserialize, Serialize};

use super::age_clock::{AgeClock, Before, Left, Spells, Stood, not_known};
use crate::record::Slots;

/// Its name in the state folder.
pub const CLOCK_FILE: &str = "clock";
const VERSION: u32 = 1;
/// Between two looks at the clock.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Looks between two writes.
const WRITE_EVERY: u32 = 10;
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

#[derive(Debug, Serialize, Deserialize)]
struct Written {
    v: u32,
    /// The kernel's id of the boot.
    boot: String,
    wall_ns: i64,
    clock: AgeClock,
    /// What the clock showed; absent in files of before, which had what was believed alone.
    #[serde(default)]
    shown_ns: Option<i64>,
    #[serde(default)]
    stood_ns: u64,
    /// How far it was ahead before, for another boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ahead: Option<Stood>,
    /// When it was behind, for another boot; within `clock`, for this one.
    #[serde(default, skip_serializing_if = "Spells::is_empty")]
    spells: Spells,
    #[serde(default = "not_known")]
    since_ns: i64,
}

/// What the file in `state_dir` says of the clock.
pub(super) fn read(state_dir: &Path) -> Before {
    read_on(state_dir, &boot_id())
}

fn read_on(state_dir: &Path, boot: &str) -> Before {
    let path = state_dir.join(CLOCK_FILE);
    // Opening makes it.
    let bytes = path.exists().then(|| Slots::open(&path).ok()).flatten().and_then(|(_, value)| value);
    match bytes.and_then(|bytes| serde_json::from_slice::<Written>(&bytes).ok()) {
        Some(written) if written.v != VERSION => Before::Nothing,
        Some(written) if !boot.is_empty() && written.boot == boot => Before::ThisBoot(written.clock),
        Some(Written { wall_ns, shown_ns, stood_ns, ahead, spells, since_ns, clock, .. }) => {
            // Where nobody can tell the boot, it may be the same one: what was written in a spell is then younger.
            let spells = if boot.is_empty() { clock.spells() } else { spells };
            let shown_ns = shown_ns.unwrap_or(wall_ns);
            Before::EarlierBoot(Left { wall_ns, shown_ns, stood_ns, ahead, spells, since_ns })
        }
        None => Before::Nothing,
    }
}

fn boot_id() -> String {
    std::fs::read_to_string(BOOT_ID).map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// Looks at the clock from now on and keeps how it stands in `state_dir`, until what this gives is dropped.
///
/// # Errors
/// When there can be no thread.
pub(super) fn start(state_dir: &Path) -> std::io::Result<Sender<()>> {
    let (end_tx, end) = channel();
    let (path, boot) = (state_dir.join(CLOCK_FILE), boot_id());
    let mut ages = AgeClock::begin(read_on(state_dir, &boot), clock::now());
    std::thread::Builder::new().name("clock".to_owned()).spawn(move || {
        let (mut left, mut failed) = (0, false);
        loop {
            let (now, before) = (clock::now(), ages);
            ages.look(now);
            if left == 0 || !ages.stands_as(&before) {
                let kept = write(&path, &boot, now, ages);
                if let (Err(error), false) = (&kept, failed) {
                    tracing::warn!(path = %path.display(), %error, "how the clock stands cannot be kept over a restart");
                }
                (left, failed) = (WRITE_EVERY, kept.is_err());
            }
            left -= 1;
            if end.recv_timeout(LOOK_EVERY) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    })?;
    Ok(end_tx)
}

fn write(path: &Path, boot: &str, now: Moment, clock: AgeClock) -> std::io::Result<()> {
    let Left { wall_ns, shown_ns, stood_ns, ahead, spells, since_ns } = clock.left_at(now);
    let (boot, shown_ns) = (boot.to_owned(), Some(shown_ns));
    let written = Written { v: VERSION, boot, wall_ns, clock, shown_ns, stood_ns, ahead, spells, since_ns };
    Slots::open(path)?.0.write(&serde_json::to_vec(&written).map_err(std::io::Error::other)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_the_clock_stood_outlasts_a_restart_and_golden_bytes_stay_readable() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read_on(dir.path(), "b"), Before::Nothing);
        assert!(!dir.path().join(CLOCK_FILE).exists(), "reading makes nothing");
        let path = dir.path().join(CLOCK_FILE);
        let now = Moment { wall_ns: 1_000, boot_ns: 400 };
        let clock = AgeClock::begin(Before::Nothing, now);
        write(&path, "b", now, clock).unwrap();
        assert_eq!(read_on(dir.path(), "b"), Before::ThisBoot(clock));
        assert_eq!(
            read_on(dir.path(), "c"),
            Before::EarlierBoot(Left {
                wall_ns: 1_000,
                shown_ns: 1_000,
                stood_ns: 0,
                ahead: None,
                spells: Spells::default(),
                since_ns: not_known()
            })
        );
        assert_eq!(
            read_on(dir.path(), ""),
            Before::EarlierBoot(Left {
                wall_ns: 1_000,
                shown_ns: 1_000,
                stood_ns: 0,
                ahead: None,
                spells: Spells::default(),
                since_ns: not_known()
            })
        );
        // Of a version that knew no spells.
        let golden = r#"{"v":1,"boot":"b","wall_ns":1000,"clock":{"believed_ns":600,"moved":null}}"#;
        Slots::open(&path).unwrap().0.write(golden.as_bytes()).unwrap();
        let Before::ThisBoot(found) = read_on(dir.path(), "b") else { panic!("another boot") };
        assert_eq!(AgeClock::begin(Before::ThisBoot(found), now), clock);
        let golden = r#"{"v":1,"boot":"b","wall_ns":1000,"clock":{"believed_ns":600,"moved":{"to_ns":100,"since_boot_ns":300},
            "looked":{"offset_ns":100,"boot_ns":400},
            "spells":[{"offset_ns":100,"from_wall_ns":350,"until_wall_ns":500},null,null,null]},"shown_ns":500,"stood_ns":100,
            "spells":[{"offset_ns":500,"from_wall_ns":350,"until_wall_ns":500},null,null,null]}"#;
        Slots::open(&path).unwrap().0.write(golden.as_bytes()).unwrap();
        let written = |boot| match read_on(dir.path(), boot) {
            Before::EarlierBoot(left) => serde_json::to_value(left.spells).unwrap()[0]["offset_ns"].as_i64(),
            _ => None,
        };
        assert_eq!(
            (written("c"), written("")),
            (Some(500), Some(100)),
            "it may be this boot where nobody knows"
        );
        Slots::open(&path).unwrap().0.write(b"song").unwrap();
        assert_eq!(read_on(dir.path(), "b"), Before::Nothing);
    }

    #[test]
    fn it_is_kept_from_the_start_on() {
        let dir = tempfile::tempdir().unwrap();
        let _end = start(dir.path()).unwrap();
        let since = std::time::Instant::now();
        while !matches!(read(dir.path()), Before::ThisBoot(_)) {
            assert!(since.elapsed() < Duration::from_secs(60), "it was not kept");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
