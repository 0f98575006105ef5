//! Pressure stall information: `/proc/pressure/{memory,cpu,io}` (kernel doc `accounting/psi`).
//!
//! A kernel without PSI has no such files, or answers EOPNOTSUPP when booted with `psi=0`: that is a `None`, not a
//! failure.

use std::path::PathBuf;

use dogwatch::record::Pressure;

use super::Failures;
use super::procfile::{ProcFile, fields, fraction, lines, number};

/// Reader of one pressure file.
pub(super) struct PressureFile(ProcFile);

impl PressureFile {
    /// The pressure file at `path`.
    pub(super) fn new(path: PathBuf) -> Self {
        Self(ProcFile::new(path, 4096))
    }

    /// The reading; `None` where the kernel has none. Another error goes to `failed` under `probe`.
    pub(super) fn read(&mut self, probe: &str, failed: &mut Failures) -> Option<Pressure> {
        match self.0.read() {
            Ok(text) => match parse(text) {
                Some(pressure) => Some(pressure),
                None => {
                    failed.push(probe, &self.0.malformed("no line `some avg10=… avg60=… avg300=… total=…`"));
                    None
                }
            },
            Err(e) if e.is_absent() => None,
            Err(e) => {
                failed.push(probe, &e);
                None
            }
        }
    }
}

/// The figures of a pressure file. `full` is absent for CPU on kernels before 5.13 and is then 0.
pub(super) fn parse(text: &[u8]) -> Option<Pressure> {
    let mut pressure = Pressure::default();
    let mut some = false;
    for line in lines(text) {
        let mut words = fields(line);
        let full = match words.next() {
            Some(b"some") => false,
            Some(b"full") => true,
            _ => continue,
        };
        let (mut avg10, mut avg60, mut total) = (None, None, None);
        for word in words {
            let mut pair = word.splitn(2, |&b| b == b'=');
            match (pair.next(), pair.next()) {
                (Some(b"avg10"), Some(v)) => avg10 = fraction(v),
                (Some(b"avg60"), Some(v)) => avg60 = fraction(v),
                (Some(b"total"), Some(v)) => total = number(v),
                _ => {}
            }
        }
        let (avg10, avg60, total) = (avg10?, avg60?, total?);
        if full {
            (pressure.full_avg10, pressure.full_avg60, pressure.full_total_us) = (avg10, avg60, total);
        } else {
            (pressure.some_avg10, pressure.some_avg60, pressure.some_total_us) = (avg10, avg60, total);
            some = true;
        }
    }
    some.then_some(pressure)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_lines_are_read() {
        let p = parse(
            b"some avg10=1.50 avg60=0.25 avg300=0.00 total=1234\nfull avg10=0.75 avg60=0.10 avg300=0.00 total=567\n",
        )
        .unwrap();
        assert_eq!((p.some_avg10, p.some_avg60, p.some_total_us), (1.5, 0.25, 1234));
        assert_eq!((p.full_avg10, p.full_avg60, p.full_total_us), (0.75, 0.10, 567));
    }

    #[test]
    fn a_missing_full_line_is_zero_and_nonsense_is_refused() {
        assert_eq!(parse(b"some avg10=1.00 avg60=0.00 avg300=0.00 total=1\n").unwrap().full_total_us, 0);
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"some avg10=x avg60=0 avg300=0 total=1\n"), None);
    }

    proptest! {
        #[test]
        fn no_words_make_it_panic(
            words in prop::collection::vec("some|full|\n|(avg10|avg60|total)=?|=|[0-9.]{1,24}|\\PC", 0..30),
            bytes in prop::collection::vec(any::<u8>(), 0..256),
        ) {
            parse(words.join(" ").replace("= ", "=").replace(" \n ", "\n").as_bytes());
            parse(&bytes);
        }
    }
}
