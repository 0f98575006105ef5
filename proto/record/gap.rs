//! Gaps by class: few words for why records are missing, so that they can be counted.

use super::Gap;

/// Every class that [`Gap::class`] knows.
pub const GAP_CLASSES: [&str; 8] =
    ["restart", "journal", "queue", "budget", "refused", "ring", "rotated", "sampler"];

impl Gap {
    /// The class of a gap's reason, for counting: one of [`GAP_CLASSES`], or `other`. By the agent's words, of which a newer
    /// agent may have others.
    pub fn class(&self) -> &'static str {
        const WORDS: [(&str, &str); 15] = [
            ("agent was not running; it had", "restart"),
            ("stopped without closing", "restart"),
            ("while the agent was not running", "rotated"),
            ("budget", "budget"),
            ("queue to the journal", "queue"),
            ("refused", "refused"),
            ("no longer holds", "ring"),
            ("ring was full", "ring"),
            ("ring is nearly full", "ring"),
            ("gave way", "queue"),
            ("does not fit", "journal"),
            ("journal", "journal"),
            ("truncated", "rotated"),
            ("deleted", "rotated"),
            ("rotated", "rotated"),
        ];
        // Its own holes lack no seq; samples that were taken and given up do.
        if self.source == "sampler" && self.after_seq.is_none() {
            return "sampler";
        }
        WORDS.iter().find(|(word, _)| self.reason.contains(word)).map_or("other", |(_, class)| class)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_of_gaps_fall_into_few_classes() {
        let class = |source: &str, reason: &str| {
            Gap {
                stream: crate::record::Stream::Evidence,
                source: source.into(),
                after_seq: (!reason.starts_with("no sample")).then_some(7),
                before_seq: None,
                count: None,
                from_wall_ns: 0,
                to_wall_ns: 0,
                reason: reason.into(),
                incarnation: None,
            }
            .class()
        };
        for (source, reason, expected) in [
            ("journal", "the agent was not running; it had stopped in order", "restart"),
            ("/a.log", "over the evidence stream's budget of bytes in a second (5 lines)", "budget"),
            ("/a.log", "the queue to the journal was full and this gave way", "queue"),
            ("sampler", "no sample for 9.0 s; the node was suspended", "sampler"),
            ("journal", "the collector refused the block: x", "refused"),
            ("journal", "the node no longer holds them", "ring"),
            ("/a.log", "deleted or truncated while the agent was not running", "rotated"),
            (
                "log:/a",
                "the ring was full of what the collector had not acknowledged; the oldest was given up",
                "ring",
            ),
            (
                "sampler",
                "the evidence ring is nearly full of what the collector has not acknowledged; samples give way to logs",
                "ring",
            ),
            ("sampler", "the queue to the journal was full", "queue"),
            ("/a.log", "a comet", "other"),
        ] {
            let found = class(source, reason);
            assert_eq!(found, expected, "{reason}");
            assert!(found == "other" || GAP_CLASSES.contains(&found));
        }
    }
}
