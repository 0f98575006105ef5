//! A scribe: somebody who writes numbered lines into a log, so that it can be told which of them arrived.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Writes lines `… seq=N …`, counted from 1, until dropped.
#[derive(Debug)]
pub struct Scribe {
    path: PathBuf,
    written: Arc<AtomicU64>,
    extra: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Scribe {
    /// Writes `per_second` lines a second to `path`, in tens of batches.
    ///
    /// # Panics
    /// When the log cannot be made.
    pub fn start(path: &Path, per_second: u64) -> Self {
        Self::wordy(path, per_second, 0)
    }

    /// The same with `noise` bytes in each line that do not compress well, so that few of them fill a ring.
    ///
    /// # Panics
    /// When the log cannot be made.
    pub fn wordy(path: &Path, per_second: u64, noise: usize) -> Self {
        let mut file = OpenOptions::new().create(true).append(true).open(path).expect("the log can be made");
        let (written, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let extra = Arc::new(AtomicU64::new(0));
        let (count, more, ending) = (written.clone(), extra.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            while !ending.load(Ordering::Relaxed) {
                let lines = per_second.div_ceil(20) + more.swap(0, Ordering::Relaxed);
                write_some(&mut file, &count, lines, noise);
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        Self { path: path.to_owned(), written, extra, stop, thread: Some(thread) }
    }

    /// Writes `lines` more at once.
    pub fn burst(&self, lines: u64) {
        self.extra.fetch_add(lines, Ordering::Relaxed);
    }

    /// Lines written so far.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// The rules under which its lines are evidence, as a rules file.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn rules(folder: &Path) -> PathBuf {
        let path = folder.join("rules.yaml");
        let text = "rules:\n  - name: numbered\n    match: 'seq=[0-9]+'\n    severity: medium\n    summary: \"A numbered line\"\n    \
                    context_before: 0\n    context_after: 0\n";
        std::fs::write(&path, text).expect("a rules file can be written");
        path
    }

    /// The log.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where each line of a log of a scribe's begins, the first line first, and the log's length at the end.
    ///
    /// # Panics
    /// When the log cannot be read.
    pub fn offsets(log: &Path) -> Vec<u64> {
        let bytes = std::fs::read(log).expect("the log can be read");
        let ends = bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| i as u64 + 1);
        std::iter::once(0).chain(ends).collect()
    }

    /// Ends, and says how many lines were written.
    pub fn end(mut self) -> u64 {
        self.halt();
        self.written.load(Ordering::Relaxed)
    }

    fn halt(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Scribe {
    fn drop(&mut self) {
        self.halt();
    }
}

fn write_some(file: &mut File, count: &AtomicU64, lines: u64, noise: usize) {
    let first = count.load(Ordering::Relaxed) + 1;
    let mut text = String::new();
    for n in first..first + lines {
        text += &format!("app[7]: something to keep seq={n} of a run that may end at any moment");
        text.extend(words(n).take(noise));
        text.push('\n');
    }
    file.write_all(text.as_bytes()).expect("the log can be written");
    count.store(first + lines - 1, Ordering::Relaxed);
}

/// Words without a meaning, others for each line.
fn words(line: u64) -> impl Iterator<Item = char> {
    let mut state = line.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0usize..).map(move |at| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        if at.is_multiple_of(9) { ' ' } else { char::from(b'a' + (state >> 32) as u8 % 26) }
    })
}
