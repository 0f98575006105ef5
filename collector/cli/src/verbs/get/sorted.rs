//! `--sort-by`: rows in the order of one field of their JSON form, as kubectl's, and `--limit` after it.

use std::cmp::Ordering;

use serde_json::Value;

use crate::error::CliError;
use crate::output::Listed;

/// Figures of which less is worse; of all others more is.
const LESS_IS_WORSE: [&str; 3] = ["seconds_to_full", "available_bytes", "inodes_free"];

/// The rows that are shown, in their order: the first `limit` by `field`, or the newest where nothing sorts. Rows come in
/// with the newest last.
pub(super) fn shown<T: Listed>(
    rows: &mut Vec<T>,
    field: Option<&str>,
    limit: Option<u32>,
) -> Result<(), CliError> {
    let limit = limit.map_or(usize::MAX, |n| n as usize);
    match field {
        Some(field) => {
            by(rows, field)?;
            rows.truncate(limit);
        }
        None => drop(rows.drain(..rows.len().saturating_sub(limit))),
    }
    Ok(())
}

/// Sorts `rows` by `field`, dotted where it lies deeper; kubectl's `.a.b` and `{.a.b}` are taken too. Severities and figures
/// have the worst first, names and times ascend, rows without the field come last; equal ones stay as they were.
fn by<T: Listed>(rows: &mut Vec<T>, field: &str) -> Result<(), CliError> {
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
    let less_is_worse = path.rsplit('.').next().is_some_and(|name| LESS_IS_WORSE.contains(&name));
    match (a, b) {
        (Some(Value::Number(a)), Some(Value::Number(b))) => {
            let ascending = a.as_f64().unwrap_or(0.0).total_cmp(&b.as_f64().unwrap_or(0.0));
            if less_is_worse { ascending } else { ascending.reverse() }
        }
        (Some(Value::String(a)), Some(Value::String(b))) if path.ends_with("severity") => {
            rank(b).cmp(&rank(a))
        }
        (Some(Value::String(a)), Some(Value::String(b))) => a.cmp(b),
        (Some(Value::Array(a)), Some(Value::Array(b))) => b.len().cmp(&a.len()),
        (Some(Value::Bool(a)), Some(Value::Bool(b))) => b.cmp(a),
        (a, b) => {
            let there = |v: Option<&Value>| v.is_some_and(|v| !v.is_null());
            there(b).cmp(&there(a))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sorted(path: &str, mut values: Vec<Value>) -> Vec<Value> {
        values.sort_by(|a, b| compare(path, Some(a), Some(b)));
        values
    }

    #[test]
    fn the_worst_comes_first_names_ascend_and_what_is_not_there_is_last() {
        let severities = vec![json!("info"), json!(null), json!("critical"), json!("medium")];
        assert_eq!(
            sorted("severity", severities),
            [json!("critical"), json!("medium"), json!("info"), json!(null)]
        );
        for path in ["cpu_percent", "mounts.used_bytes", "freed_bytes"] {
            let figures = vec![json!(1), json!(null), json!(30.5), json!(7)];
            assert_eq!(sorted(path, figures), [json!(30.5), json!(7), json!(1), json!(null)], "{path}");
        }
        let soonest = vec![json!(900.0), json!(null), json!(60.0)];
        assert_eq!(sorted("seconds_to_full", soonest), [json!(60.0), json!(900.0), json!(null)]);
        assert_eq!(
            sorted("name", vec![json!("b"), json!(null), json!("a")]),
            [json!("a"), json!("b"), json!(null)]
        );
        let times = vec![json!("2026-11-21T02:10:02Z"), json!("2026-11-21T02:10:01Z")];
        assert_eq!(sorted("opened_at", times.clone()), [times[1].clone(), times[0].clone()]);
    }
}
