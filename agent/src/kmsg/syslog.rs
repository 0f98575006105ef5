//! The text that syslog(2) gives: `<prio>[seconds.micros] text` a line.
//!
//! It has no numbers, so one is made of each line's time: µs × 1024, or one more than the line before it where that is
//! no less (lines of one time, CPUs whose clocks differ a little). The numbers are the same each time that the text is
//! asked for, unless the line that others were counted from was overwritten between.

use std::io;

use memchr::memchr;

use super::record::{Message, number};

/// Numbers from one µs to the next.
const SEQS_A_MICROSECOND: u64 = 1024;
const READ_ALL: libc::c_int = 3;
const SIZE_BUFFER: libc::c_int = 10;
/// The largest ring that is read, in bytes; kernels are given up to 32 MiB (`log_buf_len=`).
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// The whole ring.
///
/// # Errors
/// EPERM without the rights of syslog(2), ENOSYS where the kernel keeps no log.
pub(super) fn read_all() -> io::Result<Vec<u8>> {
    // SAFETY: this action takes no buffer.
    let size = unsafe { libc::klogctl(SIZE_BUFFER, std::ptr::null_mut(), 0) };
    let size = usize::try_from(size).map_err(|_| io::Error::last_os_error())?.min(MAX_BYTES);
    let mut text = vec![0u8; size];
    // SAFETY: the buffer is `size` bytes long, and no more are written to it.
    let read = unsafe { libc::klogctl(READ_ALL, text.as_mut_ptr().cast(), size as libc::c_int) };
    text.truncate(usize::try_from(read).map_err(|_| io::Error::last_os_error())?);
    Ok(text)
}

/// The messages in `text`, oldest first; lines without a time are left out.
pub(super) fn parse(text: &[u8]) -> Vec<Message> {
    let mut out: Vec<Message> = Vec::new();
    for line in text.split(|b| *b == b'\n') {
        let Some((priority, at_us, text)) = parse_line(line) else { continue };
        let least = out.last().map_or(0, |m| m.seq.saturating_add(1));
        let seq = at_us.saturating_mul(SEQS_A_MICROSECOND).max(least);
        out.push(Message { seq, priority, at_us, text: text.to_vec() });
    }
    out
}

fn parse_line(line: &[u8]) -> Option<(u32, u64, &[u8])> {
    let rest = line.strip_prefix(b"<")?;
    let (prefix, rest) = split(rest, b'>')?;
    let (time, rest) = split(rest.strip_prefix(b"[")?, b']')?;
    let (seconds, micros) = split(time.trim_ascii_start(), b'.')?;
    let at_us = number(seconds)?.checked_mul(1_000_000)?.checked_add(number(micros)?)?;
    // `[   T12] ` or `[    C0] `, where the kernel was built to say who spoke.
    let rest = match rest.strip_prefix(b"[").and_then(|r| split(r, b']')) {
        Some((caller, after)) if matches!(caller.trim_ascii_start(), [b'T' | b'C', id @ ..] if number(id).is_some()) => {
            after
        }
        _ => rest,
    };
    Some(((number(prefix)? & 7) as u32, at_us, rest.strip_prefix(b" ").unwrap_or(rest)))
}

fn split(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    memchr(at, text).map(|i| (&text[..i], &text[i + 1..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_are_read_and_numbered_in_order() {
        let text = b"<6>[    1.000002] one\n<12>[    1.000002] two [x]\n<4>[    1.000001][    T7] late\n\
            no prefix\n<4>no time\n<3>[ 12.000000] sd 0:0:0:0: [sda] gone\n<6>[   13.5]\n";
        let got: Vec<(u64, u32, u64, String)> = parse(text)
            .into_iter()
            .map(|m| (m.seq, m.priority, m.at_us, String::from_utf8(m.text).unwrap()))
            .collect();
        assert_eq!(
            got,
            [
                (1_000_002 * 1024, 6, 1_000_002, "one".into()),
                (1_000_002 * 1024 + 1, 4, 1_000_002, "two [x]".into()),
                (1_000_002 * 1024 + 2, 4, 1_000_001, "late".into()),
                (12_000_000 * 1024, 3, 12_000_000, "sd 0:0:0:0: [sda] gone".into()),
                (13_000_005 * 1024, 6, 13_000_005, String::new()),
            ]
        );
    }

    proptest! {
        #[test]
        fn garbage_does_no_harm_and_numbers_rise(
            text in prop::collection::vec(prop::sample::select(b"<>[]. 0123456789TCx\n\xff".to_vec()), 0..300),
            lines in prop::collection::vec((0u64..5, 0u64..3), 0..20),
        ) {
            let mut text = text;
            for (seconds, micros) in lines {
                text.extend_from_slice(format!("\n<6>[{seconds:5}.{micros:06}] x").as_bytes());
            }
            let got = parse(&text);
            prop_assert!(got.windows(2).all(|w| w[0].seq < w[1].seq));
        }
    }

    #[test]
    fn the_ring_of_this_kernel_is_read() {
        let text = read_all().expect("these tests run as root, who may read the kernel's log");
        assert!(!parse(&text).is_empty(), "{}", String::from_utf8_lossy(&text[..text.len().min(400)]));
    }
}
