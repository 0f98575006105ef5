//! YAML of the same objects as the JSON: keys sorted as `kubectl` sorts them, every string that could be anything else
//! (a number, a word of YAML, a directive) in double quotes, nothing that a terminal might obey.

use std::io::Write;

use serde::Serialize;
use serde_json::Value;

use super::text::is_dangerous;
use crate::error::CliError;

/// Writes `value` as a document of its own.
pub(crate) fn document(out: &mut dyn Write, value: &impl Serialize) -> Result<(), CliError> {
    let value = of(value)?;
    if scalar(&value) {
        writeln!(out, "{}", inline(&value))?;
        return Ok(());
    }
    block(out, &value, 0)
}

/// Writes `value` as the next item of a list.
pub(crate) fn item(out: &mut dyn Write, value: &impl Serialize) -> Result<(), CliError> {
    entry(out, &of(value)?, 0)
}

fn of(value: &impl Serialize) -> Result<Value, CliError> {
    serde_json::to_value(value).map_err(|e| CliError::failed("cannot write YAML", &e))
}

/// Whether it stands on the line of its key.
fn scalar(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => true,
    }
}

fn inline(value: &Value) -> String {
    match value {
        Value::Array(_) => "[]".to_owned(),
        Value::Object(_) => "{}".to_owned(),
        Value::String(text) => string(text),
        other => other.to_string(),
    }
}

fn block(out: &mut dyn Write, value: &Value, depth: usize) -> Result<(), CliError> {
    match value {
        Value::Array(items) => items.iter().try_for_each(|i| entry(out, i, depth)),
        Value::Object(fields) => {
            for (key, field) in fields {
                write!(out, "{:depth$}", "")?;
                pair(out, key, field, depth)?;
            }
            Ok(())
        }
        scalar => Ok(writeln!(out, "{:depth$}{}", "", inline(scalar))?),
    }
}

/// `- …`: an object's first key stands beside the dash.
fn entry(out: &mut dyn Write, value: &Value, depth: usize) -> Result<(), CliError> {
    write!(out, "{:depth$}- ", "")?;
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (n, (key, field)) in fields.iter().enumerate() {
                if n > 0 {
                    write!(out, "{:depth$}  ", "")?;
                }
                pair(out, key, field, depth + 2)?;
            }
            Ok(())
        }
        Value::Array(items) if !items.is_empty() => {
            writeln!(out)?;
            block(out, value, depth + 2)
        }
        scalar => Ok(writeln!(out, "{}", inline(scalar))?),
    }
}

/// `key: value`, what is below it indented from `depth`.
fn pair(out: &mut dyn Write, key: &str, value: &Value, depth: usize) -> Result<(), CliError> {
    if scalar(value) {
        writeln!(out, "{}: {}", string(key), inline(value))?;
        return Ok(());
    }
    writeln!(out, "{}:", string(key))?;
    // Lists may stand as deep as their key; objects must stand deeper.
    block(out, value, if value.is_array() { depth } else { depth + 2 })
}

fn string(text: &str) -> String {
    if plain(text) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if is_dangerous(c) && (c as u32) < 0x1_0000 => out.push_str(&format!("\\u{:04X}", c as u32)),
            c if is_dangerous(c) => out.push_str(&format!("\\U{:08X}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Whether it is a string without quotes, to every reader: a word that begins with a letter, of letters, digits and
/// what means nothing to YAML, and that is none of the words that YAML 1.1 takes for something else.
fn plain(text: &str) -> bool {
    const WORDS: [&str; 11] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"];
    text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'/')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b))
        && !WORDS.iter().any(|w| text.eq_ignore_ascii_case(w))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn written(value: &Value) -> String {
        let mut out = Vec::new();
        document(&mut out, value).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn it_reads_like_kubectls() {
        let value = json!({
            "name": "node-1", "load": 0.5, "none": null, "empty": [], "yes": "yes", "time": "2026-11-21T02:10:00Z",
            "mounts": [{"path": "/var", "nested": {"a": [1, "x y"]}}, {}], "lists": [[1, 2], []],
        });
        insta::assert_snapshot!(written(&value), @r#"
        empty: []
        lists:
        - 
          - 1
          - 2
        - []
        load: 0.5
        mounts:
        - nested:
            a:
            - 1
            - "x y"
          path: /var
        - {}
        name: node-1
        none: null
        time: "2026-11-21T02:10:00Z"
        "yes": "yes"
        "#);
    }

    #[test]
    fn lists_are_written_item_by_item() {
        let mut out = Vec::new();
        item(&mut out, &json!({"b": 1, "a": "x"})).unwrap();
        item(&mut out, &json!("y")).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "- a: x\n  b: 1\n- \"y\"\n");
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            "[-0-9a-zA-Z:/#\"'\\\\ \u{1b}\u{202e}{}\\[\\]~.]{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-z]{1,4}", inner, 0..4)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn it_means_what_the_json_means_and_is_harmless(value in any_value()) {
            let text = written(&value);
            prop_assert!(!text.chars().any(|c| c != '\n' && is_dangerous(c)), "{text}");
            let back: Value = serde_saphyr::from_str(&text)
                .map_err(|e| TestCaseError::fail(format!("{e}\n{text}")))?;
            prop_assert_eq!(back, value, "{}", text);
        }
    }
}
