"""Counts processes by /proc in a way of its own, by the names that samples have.

Arguments: who starts others, who hangs, who has many descriptors open. Answers as source.py does, in turns before and
after a sample: who is there when it has answered the second of them was there at that sample.
"""

import os
import resource
import sys

SPAWNER, HUNG, HOLDER = map(int, sys.argv[1:])
out = []


def text(pid, file):
    try:
        with open(f"/proc/{pid}/{file}", errors="replace") as opened:
            return opened.read()
    except OSError:
        return None


def stat(pid):
    """Name, state, parent, start."""
    told = text(pid, "stat")
    if not told:
        return None
    head, _, rest = told.rpartition(")")
    fields = rest.split()
    return head.partition("(")[2], fields[0], int(fields[1]), int(fields[19])


def everybody():
    told = ((int(pid), stat(pid)) for pid in os.listdir("/proc") if pid.isdigit())
    return {pid: what for pid, what in told if what}


def cgroup(pid):
    """Of the group of v2 and those of v1 the one that says most: one that is not the root."""
    groups = {}
    for line in text(pid, "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        groups.update({c: path for c in controllers.split(",")})
    wanted = [groups.get(c) for c in ("", "memory", "cpu", "name=systemd")]
    return next((path for path in wanted + sorted(groups.values()) if path and path != "/"), "/")


def put(rule, grain, figure, value):
    out.append(f"{rule} {grain} {figure} {value}")


def one(at, pid, what):
    put("=", 0, at + "pid", pid)
    put("t", 0, at + "name", what[0])
    put("=", 0, at + "start_ticks", what[3])
    put("t", 0, at + "cgroup", cgroup(pid))


known = everybody()
is_after = False
for _ in sys.stdin:
    out.clear()
    now = everybody()
    states = [what[1] for what in now.values()]
    put("~", 0, "tasks.processes", len(now))
    put("~", 0, "tasks.zombies", states.count("Z"))
    put("~", 0, "tasks.uninterruptible", states.count("D"))

    at = f"tasks.stuck.{HUNG}."
    one(at, HUNG, now[HUNG])
    put("t", 0, at + "wchan", text(HUNG, "wchan"))
    put("t", 0, f"processes.{HUNG}.state", now[HUNG][1])

    at = f"tasks.spawners.{SPAWNER}."
    one(at, SPAWNER, now[SPAWNER])
    put("=", 0, at + "children", sum(what[2] == SPAWNER for pid, what in now.items() if pid not in known))

    at = f"tasks.descriptors.{HOLDER}."
    one(at, HOLDER, now[HOLDER])
    put("=", 0, at + "open", len(os.listdir(f"/proc/{HOLDER}/fd")))
    put("=", 0, at + "max", resource.prlimit(HOLDER, resource.RLIMIT_NOFILE)[0])

    if is_after:
        known = now
    is_after = not is_after
    print("\n".join(out))
    print(".", flush=True)
