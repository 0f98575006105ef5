//! A sample as a flat list of figures: `memory.free_bytes`, `disks.vda.reads_total`, `mounts./.total_bytes`.

use std::collections::BTreeMap;

use dogwatch::record::Sample;
use serde::Serialize;

use super::table::Value;

/// Figures that no row can have: the names by which rows are found, texts without a number in them, and what others than
/// the sampler fill in.
const LEFT_OUT: &[&str] = &[
    "mounts.*.path",
    "processes.*.cgroup",
    "processes.*.state",
    // Shares and rates between two samples; the first has a scenario of its own.
    "processes.*.cpu_percent",
    "processes.*.read_bytes_per_s",
    "processes.*.written_bytes_per_s",
    "self_cost.queue_bytes",
    "self_cost.dropped_records",
    "self_cost.saving",
];

/// Every figure of `sample`; those that are absent are left out.
pub(super) fn figures(sample: &Sample) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    put(&mut all, "memory", &sample.memory);
    put(&mut all, "cpu", &sample.cpu);
    put(&mut all, "net", &sample.net);
    put(&mut all, "limits", &sample.limits);
    put(&mut all, "clock", &sample.clock);
    put(&mut all, "self_cost", &sample.self_cost);
    sample.cores.iter().for_each(|c| put(&mut all, &format!("cores.{}", c.cpu), c));
    sample.disks.iter().for_each(|d| put(&mut all, &format!("disks.{}", d.name), d));
    sample.interfaces.iter().for_each(|i| put(&mut all, &format!("interfaces.{}", i.name), i));
    sample.mounts.iter().for_each(|m| put(&mut all, &format!("mounts.{}", m.path), m));
    sample.processes.iter().for_each(|p| put(&mut all, &format!("processes.{}", p.pid), p));
    all
}

/// Whether `figure` is one that no row needs to have.
pub(super) fn is_left_out(figure: &str) -> bool {
    LEFT_OUT.iter().any(|pattern| match pattern.split_once('*') {
        Some((head, tail)) => figure.starts_with(head) && figure.ends_with(tail),
        None => figure == *pattern,
    })
}

fn put(all: &mut BTreeMap<String, Value>, name: &str, part: &impl Serialize) {
    flatten(all, name, serde_json::to_value(part).expect("a part of a sample is plain data"));
}

fn flatten(all: &mut BTreeMap<String, Value>, name: &str, value: serde_json::Value) {
    use serde_json::Value as Json;
    let value = match value {
        Json::Null => return,
        Json::Bool(b) => Value::Number(f64::from(u8::from(b))),
        Json::Number(n) => Value::Number(n.as_f64().expect("a JSON number is a number")),
        Json::String(s) => Value::Text(s),
        Json::Object(fields) => {
            return fields.into_iter().for_each(|(key, v)| flatten(all, &format!("{name}.{key}"), v));
        }
        Json::Array(items) => {
            return (0..).zip(items).for_each(|(i, v): (usize, _)| flatten(all, &format!("{name}.{i}"), v));
        }
    };
    all.insert(name.to_owned(), value);
}
