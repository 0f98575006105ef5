//! Gaps by class: few words for why records are missing, so that they can be counted.

use super::Gap;

/// Every class that [`Gap::class`] knows.
pub const GAP_CLASSES: [&str; 8] =
    ["restart", "journal", "queue", "budget", "refused", "ring", "rotated", "sampler"];

/// The reason of a gap that stands for gaps of many reasons of one `class`, none of which found room of its own;
/// [`Gap::class`] makes that class of it again (for `sampler`, where the source is the sampler's). For one that is not known
/// the reason has no class either.
pub fn several_of(class: &str) -> &'static str {
    match class {
        "restart" => "several reasons: an agent or its node stopped without closing the journal, or in order",
        "journal" => "several reasons: the journal could not take it",
        "queue" => "several reasons: it gave way to other records",
        "budget" => "several reasons: it was over a budget",
        "refused" => "several reasons: the collector refused it",
        "ring" => "several reasons: the node no longer holds it",
        "rotated" => "several reasons: its file was rotated, truncated or deleted before it was read",
        "sampler" => "several reasons: no sample was taken",
        _ => "several reasons",
    }
}

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
    fn several_reasons_of_a_class_are_of_that_class() {
        for class in GAP_CLASSES.into_iter().chain(["other"]) {
            let gap = Gap {
                stream: crate::record::Stream::Evidence,
                source: if class == "sampler" { class } else { "several" }.to_owned(),
                after_seq: None,
                before_seq: None,
                count: Some(7),
                from_wall_ns: 0,
                to_wall_ns: 0,
                reason: several_of(class).to_owned(),
                incarnation: None,
            };
            assert_eq!(gap.class(), class, "{}", gap.reason);
        }
    }

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
