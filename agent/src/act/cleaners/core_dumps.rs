//! Core dumps: what the kernel or systemd-coredump wrote of a process that crashed, apport's reports, and kdump's images
//! of a crashed kernel.
//!
//! A file counts only if name *and* content say so: an uncompressed core is an ELF file of type `ET_CORE` (elf(5)),
//! whatever its name; a compressed one bears systemd-coredump's whole name
//! (`core.COMM.UID.BOOTID.PID.TIMESTAMP.{zst,lz4,xz}`, coredump.conf(5)) and its compression's magic. A source file
//! called `core.c` is neither.
//!
//! Deliberately absent: naming a pattern of one's own (a program that writes other names wants a custom cleaner), and
//! the journal's entry of a dump, which stays.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{Kind, Look, Mistake, Taken, names_are_fixed};
use crate::act::policy::{RootPolicy, RootRules};
use crate::act::rotation;

/// Names that a dump may have, as core(5), coredump.conf(5), apport and kdump write them.
pub const CORE_PATTERNS: &[&str] = &["core", "core.*", "core-*", "*.core", "vmcore", "*.crash"];

/// How much of a file is read to know what it is: an ELF header up to `e_version`.
const HEAD_BYTES: usize = 24;
/// `e_type` of a core.
const ET_CORE: u16 = 4;
/// The compressions that systemd-coredump uses: the name's end, and what such a file begins with.
const COMPRESSED: &[(&[u8], &[u8])] = &[
    (b".zst", &[0x28, 0xB5, 0x2F, 0xFD]),
    (b".lz4", &[0x04, 0x22, 0x4D, 0x18]),
    (b".xz", &[0xFD, b'7', b'z', b'X', b'Z', 0]),
];

/// The kind.
pub(super) struct CoreDumps;

impl Kind for CoreDumps {
    fn defaults(&self, root: &mut RootPolicy) {
        root.tier = 1;
        root.patterns = CORE_PATTERNS.iter().map(|p| (*p).to_owned()).collect();
        root.sibling_patterns = Vec::new();
        // Long enough for somebody to have looked at it after a weekend.
        root.min_age_seconds = 3 * 86_400;
        root.keep_newest = 1;
        root.max_depth = 2;
        root.by_access = false;
    }

    fn mistakes(&self, root: &RootPolicy) -> Vec<Mistake> {
        names_are_fixed(root, CORE_PATTERNS)
    }

    fn takes(&self, rules: &RootRules, relative: &Path) -> Option<Taken> {
        let name = relative.file_name()?;
        if compression(name.as_bytes()).is_some() && systemd_program(name.as_bytes()).is_none() {
            return None;
        }
        let pattern = rules.pattern_of(Path::new(name))?.to_owned();
        Some(Taken { pattern, beside: None })
    }

    fn demand_content(&self, look: &Look<'_>, file: &OwnedFd) -> Result<(), String> {
        let name = look.relative.file_name().unwrap_or_default().as_bytes();
        let head =
            head_of(file).map_err(|e| format!("it cannot be read to see whether it is a core: {e}"))?;
        let is_one = match compression(name) {
            Some(magic) => head.starts_with(magic),
            None if name == b"vmcore" => {
                is_elf_core(&head) || head.starts_with(b"KDUMP   ") || head.starts_with(b"makedumpfile\0")
            }
            None if name.ends_with(b".crash") => head.starts_with(b"ProblemType:"),
            None => is_elf_core(&head),
        };
        if is_one { Ok(()) } else { Err("its name is a core's and its content is not".to_owned()) }
    }

    fn family<'n>(&self, name: &'n [u8]) -> &'n [u8] {
        let bare = name.strip_suffix(b".core").or_else(|| name.strip_suffix(b".crash")).unwrap_or(name);
        systemd_program(name).unwrap_or_else(|| rotation::without_numbers(bare))
    }

    fn family_word(&self) -> &'static str {
        "its program's dumps"
    }

    fn why_safe(&self, _: &RootPolicy, pattern: &str) -> String {
        format!("core dump ({pattern}, and its content is a dump's)")
    }
}

fn head_of(file: &OwnedFd) -> std::io::Result<Vec<u8>> {
    let file = File::from(file.try_clone()?);
    let mut head = [0; HEAD_BYTES];
    let mut have = 0;
    while have < HEAD_BYTES {
        match file.read_at(&mut head[have..], have as u64) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(head[..have].to_vec())
}

fn is_elf_core(head: &[u8]) -> bool {
    let (Some(ident), Some(kind)) = (head.get(..7), head.get(16..18)) else { return false };
    let [0x7F, b'E', b'L', b'F', class, order, version] = *ident else { return false };
    let kind = match (order, kind) {
        (1, &[a, b]) => u16::from_le_bytes([a, b]),
        (2, &[a, b]) => u16::from_be_bytes([a, b]),
        _ => return false,
    };
    matches!(class, 1 | 2) && version == 1 && kind == ET_CORE
}

/// The magic of the compression that the name's end promises.
fn compression(name: &[u8]) -> Option<&'static [u8]> {
    COMPRESSED.iter().find(|(end, _)| name.ends_with(end)).map(|(_, magic)| *magic)
}

/// `core.COMM` of systemd-coredump's whole name, whose last four parts are UID, boot id, PID and time.
fn systemd_program(name: &[u8]) -> Option<&[u8]> {
    let bare = COMPRESSED.iter().find_map(|(end, _)| name.strip_suffix(*end)).unwrap_or(name);
    let mut parts = bare.rsplitn(5, |b| *b == b'.');
    let mut digits = || parts.next().is_some_and(|p| !p.is_empty() && p.iter().all(u8::is_ascii_digit));
    let numbered = digits() && digits();
    let boot = parts.next()?;
    let uid = parts.next()?;
    let program = parts.next()?;
    let whole = numbered
        && boot.len() == 32
        && boot.iter().all(u8::is_ascii_hexdigit)
        && !uid.is_empty()
        && uid.iter().all(u8::is_ascii_digit)
        && program.len() > b"core.".len()
        && program.starts_with(b"core.");
    whole.then_some(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn a_compressed_core_bears_systemds_whole_name() {
        let whole = format!("core.nginx.33.{BOOT}.4711.1718180000000000.zst");
        assert_eq!(systemd_program(whole.as_bytes()), Some(&b"core.nginx"[..]));
        let dotted = format!("core.a.b.0.{BOOT}.1.2.xz");
        assert_eq!(systemd_program(dotted.as_bytes()), Some(&b"core.a.b"[..]));
        for not in [
            "core.zst".to_owned(),
            "core.backup.tar.xz".to_owned(),
            format!("core.nginx.33.{}.4711.1.zst", &BOOT[1..]),
            format!("core.nginx.33.{BOOT}.x.1.zst"),
            format!("nginx.33.{BOOT}.4711.1.zst"),
            format!("core.33.{BOOT}.4711.1.zst"),
        ] {
            assert_eq!(systemd_program(not.as_bytes()), None, "{not}");
        }
    }

    #[test]
    fn dumps_of_one_program_are_one_family() {
        for (name, family) in [
            ("core", "core"),
            ("core.4711", "core"),
            ("core-nginx-4711-1718180000", "core-nginx"),
            ("nginx.4711.core", "nginx"),
            ("_usr_sbin_nginx.33.crash", "_usr_sbin_nginx"),
            (&*format!("core.nginx.33.{BOOT}.4711.1718180000000000.zst"), "core.nginx"),
            (&*format!("core.nginx.33.{BOOT}.4712.1718180000000009"), "core.nginx"),
        ] {
            assert_eq!(CoreDumps.family(name.as_bytes()), family.as_bytes(), "{name}");
        }
    }

    #[test]
    fn only_an_elf_file_of_type_core_is_a_core() {
        let mut head = vec![0; HEAD_BYTES];
        head[..7].copy_from_slice(&[0x7F, b'E', b'L', b'F', 2, 1, 1]);
        head[16] = 4;
        assert!(is_elf_core(&head));
        assert!(!is_elf_core(&head[..17]), "cut short");
        for kind in [0, 1, 2, 3, 5] {
            head[16] = kind;
            assert!(!is_elf_core(&head), "an executable or a library (type {kind}) is no core");
        }
        (head[5], head[16], head[17]) = (2, 0, 4);
        assert!(is_elf_core(&head), "of a machine of the other byte order");
        assert!(!is_elf_core(b"#!/bin/sh\nexec core\n"));
    }
}
