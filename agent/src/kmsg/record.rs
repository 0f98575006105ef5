//! One message of the kernel, and how `/dev/kmsg` writes it.
//!
//! `prio,seq,timestamp_us,flags[,more];text\n`, then lines of ` KEY=value` (Documentation/ABI/testing/dev-kmsg). Bytes
//! that do not print, those above 126 and the backslash are written `\xNN`.

use memchr::memchr;

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    /// Its number since boot; from syslog(2) a number made of its time, see [`super::syslog`].
    pub(super) seq: u64,
    /// 0 (emergency) to 7 (debug).
    pub(super) priority: u32,
    /// The scheduler's clock, µs since boot.
    pub(super) at_us: u64,
    /// Without newline.
    pub(super) text: Vec<u8>,
}

/// Reads one record of `/dev/kmsg`; `None` if it is none.
pub(super) fn parse(record: &[u8]) -> Option<Message> {
    let head_end = memchr(b';', record)?;
    let (head, body) = (&record[..head_end], &record[head_end + 1..]);
    let mut fields = head.split(|b| *b == b',');
    let prefix = number(fields.next()?)?;
    let seq = number(fields.next()?)?;
    let at_us = number(fields.next()?)?;
    // Flags, and what later kernels add, say nothing that is used here.
    let text = &body[..memchr(b'\n', body).unwrap_or(body.len())];
    Some(Message { seq, priority: (prefix & 7) as u32, at_us, text: unescape(text) })
}

/// A decimal number with nothing around it.
pub(super) fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Undoes `\xNN`, except for control characters: a message is one line, and stays one.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..at]);
        rest = &rest[at..];
        let byte = match rest {
            [b'\\', b'x', high, low, ..] => hex(*high).zip(hex(*low)).map(|(h, l)| h << 4 | l),
            _ => None,
        };
        let taken = match byte {
            Some(byte) if byte == b'\t' || !byte.is_ascii_control() => {
                out.push(byte);
                4
            }
            _ => {
                out.push(b'\\');
                1
            }
        };
        rest = &rest[taken..];
    }
    out.extend_from_slice(rest);
    out
}

fn hex(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).map(|d| d as u8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(seq: u64, priority: u32, at_us: u64, text: &[u8]) -> Option<Message> {
        Some(Message { seq, priority, at_us, text: text.to_vec() })
    }

    #[test]
    fn the_documented_forms_are_read() {
        for (record, want) in [
            (
                &b"7,160,424069,-;pci_root PNP0A03:00: host bridge window [io  0x0000-0x0cf7] (ignored)\n SUBSYSTEM=acpi\n DEVICE=+acpi:PNP0A03:00\n"[..],
                message(160, 7, 424_069, b"pci_root PNP0A03:00: host bridge window [io  0x0000-0x0cf7] (ignored)"),
            ),
            (b"6,339,5140900,-;NET: Registered protocol family 10\n", message(339, 6, 5_140_900, b"NET: Registered protocol family 10")),
            (b"30,340,5690716,-;udevd[80]: starting version 181\n", message(340, 6, 5_690_716, b"udevd[80]: starting version 181")),
            // A fragment, and a later kernel's caller.
            (b"4,341,5690717,c,caller=T12;more;of it\n", message(341, 4, 5_690_717, b"more;of it")),
            // Line feed and escape stay written out; text in UTF-8, a tab and a backslash come back.
            (b"3,1,2,-;a\\x0ab\\x1b[2J \\xc3\\xa9\\x09\\x5cn \\x zz\n", message(1, 3, 2, b"a\\x0ab\\x1b[2J \xc3\xa9\t\\n \\x zz")),
            (b"4,1,2,-;", message(1, 4, 2, b"")),
        ] {
            assert_eq!(parse(record), want, "{}", String::from_utf8_lossy(record));
        }
        for garbage in
            [&b""[..], b";", b"6,1;x", b"a,1,2,-;x", b"6,-1,2,-;x", b"6,1,2", b"6,99999999999999999999,2,-;x"]
        {
            assert_eq!(parse(garbage), None);
        }
    }

    proptest! {
        #[test]
        fn garbage_is_refused_or_read_as_one_line(bytes in prop::collection::vec(any::<u8>(), 0..200), head in any::<bool>()) {
            let record = if head { [b"6,1,2,-;", &bytes[..]].concat() } else { bytes };
            if let Some(message) = parse(&record) {
                prop_assert!(!message.text.contains(&b'\n'));
                prop_assert!(message.text.len() <= record.len());
            } else {
                prop_assert!(!head);
            }
        }

        #[test]
        fn what_the_kernel_escapes_comes_back(text in prop::collection::vec(any::<u8>(), 0..100)) {
            // msg_add_ext_text() of kernel/printk/printk.c.
            let mut record = b"4,7,8,-;".to_vec();
            for byte in &text {
                match byte {
                    b' '..127 if *byte != b'\\' => record.push(*byte),
                    _ => record.extend_from_slice(format!("\\x{byte:02x}").as_bytes()),
                }
            }
            record.extend_from_slice(b"\n SUBSYSTEM=x\n");
            let mut want = Vec::new();
            for byte in &text {
                if byte.is_ascii_control() && *byte != b'\t' {
                    want.extend_from_slice(format!("\\x{byte:02x}").as_bytes());
                } else {
                    want.push(*byte);
                }
            }
            prop_assert_eq!(parse(&record).unwrap().text, want);
        }
    }
}
