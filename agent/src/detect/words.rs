//! Figures in words, for summaries.

/// `12.3 GiB`: binary units, one decimal above bytes.
pub(crate) fn bytes(n: f64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let (mut value, mut unit) = (n.max(0.0), 0);
    // 1023.95 would print as 1024.0.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{value:.0} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// `87.5 %` of a fraction of 1.
pub(super) fn percent(fraction: f64) -> String {
    format!("{:.1} %", fraction * 100.0)
}

/// `45 s`, `12 min`, `3.5 h`, `2.1 d`.
pub(super) fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.1} d", s / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        assert_eq!(bytes(0.0), "0 B");
        assert_eq!(bytes(1023.0), "1023 B");
        assert_eq!(bytes(1_073_741_823.0), "1.0 GiB");
        assert_eq!(bytes(1.5 * 1024.0 * 1024.0), "1.5 MiB");
        assert_eq!(bytes(f64::MAX).chars().last(), Some('B'));
        assert_eq!(percent(0.1234), "12.3 %");
        assert_eq!(duration(45.4), "45 s");
        assert_eq!(duration(720.0), "12 min");
        assert_eq!(duration(7200.0), "2.0 h");
        assert_eq!(duration(259_200.0), "3.0 d");
    }
}
