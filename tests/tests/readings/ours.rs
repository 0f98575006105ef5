//! A sample as a flat list of figures: `memory.free_bytes`, `disks.vda.reads_total`, `mounts./.total_bytes`.

use std::collections::BTreeMap;

use dogwatch::record::{
    Cgroup, CoreCpu, Cpu, DescriptorUse, Disk, Interface, Memory, Mount, NetStack, Process, Sample, SelfCost,
    Spawner, StuckTask, Tasks,
};
use serde::Serialize;

use super::table::Value;

/// Figures that no row can have, and why.
const LEFT_OUT: &[(&str, &str)] = &[
    ("mounts.*.path", "it is the name by which rows are found"),
    ("processes.*.cpu_percent", "it is of the time between two samples and has a scenario of its own"),
    ("processes.*.read_bytes_per_s", "it is of the time between two samples and has a scenario of its own"),
    (
        "processes.*.written_bytes_per_s",
        "it is of the time between two samples and has a scenario of its own",
    ),
    ("self_cost.queue_bytes", "the recorder fills it in"),
    ("self_cost.dropped_records", "the recorder fills it in"),
    ("self_cost.saving", "the sampler's thread decides it"),
    ("late_ticks", "the sampler's thread fills it in"),
    ("every_ms", "the sampler's thread decides it"),
    ("failed", "it is a text; this test asserts that there is none"),
];

/// Fields that nothing on a machine like this one has a value for, and why.
const ABSENT: &[(&str, &str)] = &[
    ("disks.*.io_errors_total", "none of the drivers here counts them"),
    ("interfaces.*.speed_bytes_per_s", "no driver here tells it"),
    ("tasks.stuck.*.pod", "who hangs is in no pod"),
    ("tasks.spawners.*.pod", "who starts others is in no pod"),
    ("tasks.descriptors.*.pod", "who has many open is in no pod"),
];

/// Every figure of `sample`; those that are absent are left out.
pub(super) fn figures(sample: &Sample) -> BTreeMap<String, Value> {
    // Named one by one, so that a new one cannot be forgotten here.
    let Sample { mounts, memory, cpu, processes, self_cost, late_ticks, failed, cores, .. } = sample;
    let Sample { disks, interfaces, net, limits, tasks, cgroups, clock, every_ms, .. } = sample;
    let mut all = BTreeMap::new();
    put(&mut all, "memory", memory);
    put(&mut all, "cpu", cpu);
    put(&mut all, "net", net);
    put(&mut all, "limits", limits);
    put(&mut all, "clock", clock);
    put(&mut all, "self_cost", self_cost);
    put(&mut all, "late_ticks", late_ticks);
    put(&mut all, "every_ms", every_ms);
    put(&mut all, "failed", failed);
    cores.iter().for_each(|c| put(&mut all, &format!("cores.{}", c.cpu), c));
    disks.iter().for_each(|d| put(&mut all, &format!("disks.{}", d.name), d));
    interfaces.iter().for_each(|i| put(&mut all, &format!("interfaces.{}", i.name), i));
    mounts.iter().for_each(|m| put(&mut all, &format!("mounts.{}", m.path), m));
    processes.iter().for_each(|p| put(&mut all, &format!("processes.{}", p.pid), p));
    cgroups.iter().for_each(|c| put(&mut all, &format!("cgroups.{}", c.path), c));
    if let Some(tasks) = tasks {
        let Tasks { stuck, spawners, descriptors, .. } = tasks;
        let counts = Tasks { stuck: vec![], spawners: vec![], descriptors: vec![], ..tasks.clone() };
        put(&mut all, "tasks", &counts);
        stuck.iter().for_each(|t| put(&mut all, &format!("tasks.stuck.{}", t.pid), t));
        spawners.iter().for_each(|t| put(&mut all, &format!("tasks.spawners.{}", t.pid), t));
        descriptors.iter().for_each(|t| put(&mut all, &format!("tasks.descriptors.{}", t.pid), t));
    }
    all
}

/// Every field that a sample can have, with `*` for the names of things, so that one that is absent here is missed too.
pub(super) fn fields() -> Vec<String> {
    let mut all = vec!["late_ticks".to_owned(), "every_ms".to_owned(), "failed".to_owned()];
    let mut put = |name: &str, part: serde_json::Value| {
        let fields = part.as_object().expect("a part of a sample is an object");
        all.extend(fields.keys().map(|field| format!("{name}.{field}")));
    };
    put("memory", of::<Memory>());
    put("cpu", of::<Cpu>());
    put("net", of::<NetStack>());
    put("limits", of::<dogwatch::record::Limits>());
    put("clock", of::<dogwatch::record::ClockState>());
    put("self_cost", of::<SelfCost>());
    put("cores.*", of::<CoreCpu>());
    put("disks.*", of::<Disk>());
    put("interfaces.*", of::<Interface>());
    put("mounts.*", of::<Mount>());
    put("processes.*", of::<Process>());
    put("cgroups.*", of::<Cgroup>());
    put("tasks", of::<Tasks>());
    put("tasks.stuck.*", of::<StuckTask>());
    put("tasks.spawners.*", of::<Spawner>());
    put("tasks.descriptors.*", of::<DescriptorUse>());
    all
}

fn of<T: Default + Serialize>() -> serde_json::Value {
    serde_json::to_value(T::default()).expect("a part of a sample is plain data")
}

/// Whether `figure` is one that no row needs to have.
pub(super) fn is_left_out(figure: &str) -> bool {
    LEFT_OUT.iter().any(|(field, _)| is_of(figure, field))
}

/// Whether `field` is one that may be absent here.
pub(super) fn may_be_absent(field: &str) -> bool {
    ABSENT.iter().any(|(absent, _)| *absent == field)
}

/// Says what is not compared, and why.
pub(super) fn print_left_out() {
    for (field, why) in LEFT_OUT.iter().chain(ABSENT) {
        println!("not compared: {field}, because {why}");
    }
}

/// Whether `figure` is one of `field`, or within it.
pub(super) fn is_of(figure: &str, field: &str) -> bool {
    let whole = |rest: &str| rest.is_empty() || rest.starts_with('.');
    match field.split_once('*') {
        // Names of things have full stops in them, too.
        Some((head, tail)) => {
            let Some(rest) = figure.strip_prefix(head) else { return false };
            rest.match_indices(tail).any(|(at, _)| at > 0 && whole(&rest[at + tail.len()..]))
        }
        None => figure.strip_prefix(field).is_some_and(whole),
    }
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
        // A text that says nothing is how names are absent.
        Json::String(s) if s.is_empty() => return,
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
