//! The runbook's list of what stays, which its readers trust: for the tests of those who keep the lists.

const PAGE: &str = include_str!("../../../deploy/README.md");

/// Those of `names` that the runbook does not have as a word of its own.
pub(super) fn lacks<'n>(names: impl IntoIterator<Item = &'n str>) -> Vec<&'n str> {
    let is_between = |c: char| c.is_whitespace() || "`,;|()".contains(c);
    names.into_iter().filter(|name| !PAGE.split(is_between).any(|word| word == *name)).collect()
}
