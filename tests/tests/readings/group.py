"""Reads a control group's files in a way of its own, by the names that samples have.

Arguments: the path of a pod's group and of its container's, beneath the hierarchies. Answers as source.py does.
"""

import re
import sys

ROOT = "/sys/fs/cgroup"
out = []


def text(controller, group, file):
    with open(f"{ROOT}/{controller}{group}/{file}") as opened:
        return opened.read()


def pairs(controller, group, file):
    return {k: int(v) for k, v in (line.split() for line in text(controller, group, file).splitlines())}


def put(rule, grain, figure, value):
    if value is not None:
        out.append(f"{rule} {grain} {figure} {value}")


def cpu(group, at):
    put("+", 1, at + "cpu_us_total", int(text("cpuacct", group, "cpuacct.usage")) / 1000)
    stat = pairs("cpu", group, "cpu.stat")
    put("+", 0, at + "periods_total", stat["nr_periods"])
    put("+", 0, at + "throttled_periods_total", stat["nr_throttled"])
    put("+", 1, at + "throttled_us_total", stat["throttled_time"] / 1000)
    quota = int(text("cpu", group, "cpu.cfs_quota_us"))
    if quota > 0:
        put("=", 0, at + "cpu_limit_cores", quota / int(text("cpu", group, "cpu.cfs_period_us")))


def memory(group, at):
    used = int(text("memory", group, "memory.usage_in_bytes"))
    stat = pairs("memory", group, "memory.stat")
    put("~", 0, at + "memory_bytes", used)
    put("~", 0, at + "working_set_bytes", used - stat["total_inactive_file"])
    # Pages that stand in the swap, which the difference of its two counters would tell too where both are there.
    put("~", 0, at + "swap_bytes", stat.get("total_swap"))
    limit = int(text("memory", group, "memory.limit_in_bytes"))
    put("=", 0, at + "memory_limit_bytes", limit if limit < 1 << 50 else None)
    put("+", 0, at + "memory_limit_hits_total", int(text("memory", group, "memory.failcnt")))
    put("+", 0, at + "oom_kills_total", pairs("memory", group, "memory.oom_control")["oom_kill"])


def pids(group, at):
    put("~", 0, at + "pids", int(text("pids", group, "pids.current")))
    limit = text("pids", group, "pids.max").strip()
    put("=", 0, at + "pids_max", None if limit == "max" else int(limit))


def storage(group, at):
    told = text("blkio", group, "blkio.throttle.io_service_bytes_recursive")
    for way, figure in (("Read", "read_bytes_total"), ("Write", "written_bytes_total")):
        moved = re.findall(rf"(?m)^\d+:\d+ {way} (\d+)$", told)
        put("+", 0, at + figure, sum(map(int, moved)) if moved else None)


def pressure(group, at):
    for what in ("cpu", "memory", "io"):
        for line in text("unified", group, what + ".pressure").splitlines():
            kind, *words = line.split()
            values = dict(w.split("=") for w in words)
            for figure, rule in (("avg10", "~"), ("avg60", "~"), ("total", "+")):
                name = "total_us" if figure == "total" else figure
                put(rule, 0, f"{at}{what}_pressure.{kind}_{name}", values[figure])


def whose(group, at):
    """The names are made as the kubelet makes them: …/kubepods/…/podUID/CONTAINER."""
    pod = re.search(r"/kubepods/.*pod([0-9a-f-]{36})(?:/([0-9a-f]{64}))?$", group)
    put("t", 0, at + "pod.uid", pod[1])
    put("t", 0, at + "pod.container_id", pod[2])


groups = sys.argv[1:]
for _ in sys.stdin:
    out.clear()
    for group in groups:
        at = f"cgroups.{group}."
        put("t", 0, at + "path", group)
        put("=", 0, at + "version", 1)
        for read in (cpu, memory, pids, storage, pressure, whose):
            read(group, at)
    for pid in text("memory", groups[-1], "cgroup.procs").split():
        put("t", 0, f"processes.{pid}.cgroup", groups[-1])
        whose(groups[-1], f"processes.{pid}.")
    print("\n".join(out))
    print(".", flush=True)
