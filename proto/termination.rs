//! The termination message: why a daemon ended, where Kubernetes looks for it.
//!
//! The kubelet shows the file's text as the container's `lastState.terminated.message`
//! (<https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/>). It is named by
//! `TERMINATION_LOG`; without that it is [`DEFAULT`], if that is there, as it is in every container of a pod.
//!
//! Limits: the newest cause counts, cut to [`MAX_BYTES`]. A file that cannot be written at once is left alone: a daemon
//! that ends must not be held up by telling why.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The kubelet's own `terminationMessagePath`.
const DEFAULT: &str = "/dev/termination-log";
/// What the kubelet shows of a message at most.
pub const MAX_BYTES: usize = 4096;

/// What a panic said last.
static PANICKED: Mutex<Option<String>> = Mutex::new(None);

/// Remembers what panics say, besides what was done with them so far; and tells it at once, for a panic may be the last
/// that a process does.
pub fn watch_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let text = info.to_string();
        tell(&text);
        *PANICKED.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
        before(info);
    }));
}

/// Writes `cause`, and what panicked before it, if anything did.
pub fn tell(cause: &str) {
    let named = std::env::var_os("TERMINATION_LOG").filter(|p| !p.is_empty()).map(PathBuf::from);
    let create = named.is_some();
    let panicked = PANICKED.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let text = match panicked {
        Some(panicked) => format!("{cause}\n{panicked}"),
        None => cause.to_owned(),
    };
    write(&named.unwrap_or_else(|| DEFAULT.into()), create, &text);
}

fn write(path: &Path, create: bool, text: &str) {
    let mut options = OpenOptions::new();
    // A FIFO that nobody reads must not hold the end up.
    options
        .write(true)
        .truncate(true)
        .create(create)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32);
    let Ok(mut file) = options.open(path) else { return };
    // Where it cannot be written there is the log.
    let _ = file.write_all(&text.as_bytes()[..text.floor_char_boundary(MAX_BYTES)]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_cause_is_cut_between_characters_and_a_missing_file_is_made_only_where_it_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        write(&path, false, "x");
        assert!(!path.exists());
        write(&path, true, &format!("a{}", "é".repeat(MAX_BYTES)));
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.len(), MAX_BYTES - 1);
        assert!(text.ends_with('é'));
        write(&path, false, "later");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "later");
    }
}
