//! `--sort-by`: rows in the order of one field of their JSON form, as kubectl's.

use std::cmp::Ordering;

use serde_json::Value;

use crate::error::CliError;
use crate::output::Listed;

/// Sorts `rows` by `field`, dotted where it lies deeper; kubectl's `.a.b` and `{.a.b}` are taken too. Rows without it
/// come first; equal ones stay as they were. Severities sort by rank.
pub(super) fn by<T: Listed>(rows: &mut Vec<T>, field: &str) -> Result<(), CliError> {
    let path = field.trim().trim_start_matches('{').trim_end_matches('}').trim_start_matches('.');
    let mut keyed = Vec::with_capacity(rows.len());
    for row in rows.drain(..) {
        let value = serde_json::to_value(&row).map_err(|e| CliError::failed("cannot sort", &e))?;
        keyed.push((at(&value, path).cloned(), row));
    }
    if !keyed.is_empty() && keyed.iter().all(|(key, _)| key.is_none()) {
        let known = keyed.first().and_then(|(_, row)| serde_json::to_value(row).ok());
        let names = known.as_ref().and_then(Value::as_object);
        let names: Vec<_> = names.into_iter().flat_map(|o| o.keys().cloned()).collect();
        return Err(CliError::Usage(format!(
            "--sort-by {field:?}: {} have no such field; there are {}",
            T::PLURAL,
            names.join(", ")
        )));
    }
    keyed.sort_by(|(a, _), (b, _)| compare(path, a.as_ref(), b.as_ref()));
    rows.extend(keyed.into_iter().map(|(_, row)| row));
    Ok(())
}

fn at<'v>(value: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.').try_fold(value, |v, key| v.get(key))
}

fn compare(path: &str, a: Option<&Value>, b: Option<&Value>) -> Ordering {
    let rank = |text: &str| text.parse::<dogwatch::record::Severity>().ok();
    match (a, b) {
        (Some(Value::Number(a)), Some(Value::Number(b))) => {
            a.as_f64().unwrap_or(0.0).total_cmp(&b.as_f64().unwrap_or(0.0))
        }
        (Some(Value::String(a)), Some(Value::String(b))) if path.ends_with("severity") => {
            rank(a).cmp(&rank(b))
        }
        (Some(Value::String(a)), Some(Value::String(b))) => a.cmp(b),
        (Some(Value::Array(a)), Some(Value::Array(b))) => a.len().cmp(&b.len()),
        (Some(Value::Bool(a)), Some(Value::Bool(b))) => a.cmp(b),
        (a, b) => {
            let there = |v: Option<&Value>| v.is_some_and(|v| !v.is_null());
            there(a).cmp(&there(b))
        }
    }
}
