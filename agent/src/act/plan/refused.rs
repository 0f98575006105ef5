//! Why objects stay: as many by name as a record takes, in the order in which they come up; the rest is counted, and costs
//! no memory meanwhile.

use std::path::Path;

use dogwatch::record::Refusal;

/// Most bytes for the refusals.
const MAX_BYTES: usize = 64 * 1024;
/// Most refusals by name, and most that name nothing; the rest is counted.
pub(super) const MAX_REFUSALS: usize = 200;

/// What stays, while a plan is made.
#[derive(Debug, Default)]
pub(super) struct Refused {
    named: Vec<Refusal>,
    bytes: usize,
    general: Vec<Refusal>,
    left: usize,
}

impl Refused {
    /// The object at `path` stays, for this `reason`.
    pub(super) fn stays(&mut self, path: &Path, reason: &str) {
        self.bytes += path.as_os_str().len() + reason.len();
        // Behind the first that does not fit nothing is kept: what is told is the first of all.
        if self.left == 0 && self.named.len() < MAX_REFUSALS && self.bytes <= MAX_BYTES {
            self.named.push(Refusal { path: Some(path.to_owned()), reason: reason.to_owned() });
        } else {
            self.left += 1;
        }
    }

    /// Something that concerns no one object.
    pub(super) fn general(&mut self, reason: String) {
        if self.general.len() < MAX_REFUSALS {
            self.general.push(Refusal { path: None, reason });
        }
    }

    /// What somebody said before.
    pub(super) fn again(&mut self, refusal: &Refusal) {
        match &refusal.path {
            Some(path) => self.stays(path, &refusal.reason),
            None => self.general(refusal.reason.clone()),
        }
    }

    /// Puts `named` before all others.
    pub(super) fn first(&mut self, named: Vec<Refusal>) {
        self.named.splice(0..0, named);
    }

    /// As many as fit a record; the rest counted.
    pub(super) fn bounded(self) -> Vec<Refusal> {
        let all = self.named.len() + self.left;
        let mut bytes = 0;
        let fits = |r: &Refusal| {
            bytes += r.reason.len() + r.path.as_ref().map_or(0, |p| p.as_os_str().len());
            bytes <= MAX_BYTES
        };
        let mut kept: Vec<Refusal> = self.named.into_iter().take(MAX_REFUSALS).take_while(fits).collect();
        let left = all - kept.len();
        kept.extend(self.general);
        if left > 0 {
            kept.push(Refusal { path: None, reason: format!("{left} more stay, for reasons like these") });
        }
        kept
    }
}

/// As many of `refused` as fit a record; the rest counted.
pub(in crate::act) fn bounded(refused: Vec<Refusal>) -> Vec<Refusal> {
    let mut all = Refused::default();
    refused.iter().for_each(|refusal| all.again(refusal));
    all.bounded()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_counted_and_not_kept_while_it_comes_up() {
        let mut refused = Refused::default();
        let long = "n".repeat(1_000);
        for n in 0..20_000 {
            refused.stays(Path::new(&format!("/{n:05}/{long}")), "it is young");
        }
        refused.general("in all".to_owned());
        assert!(refused.named.len() <= MAX_BYTES / 1_000, "{} are kept", refused.named.len());
        let named = refused.named.len();
        refused.first(vec![Refusal { path: Some("/first".into()), reason: "budget".to_owned() }]);
        let told = refused.bounded();
        assert_eq!(told[0].path.as_deref(), Some(Path::new("/first")));
        let by_name = told.iter().filter(|r| r.path.is_some()).count();
        assert!(by_name == named || by_name == named + 1, "{by_name} of {named}");
        assert_eq!(told[by_name].reason, "in all");
        assert_eq!(
            told[by_name + 1].reason,
            format!("{} more stay, for reasons like these", 20_001 - by_name)
        );
    }
}
