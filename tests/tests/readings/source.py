"""Reads the kernel's files in a way of its own, by the names that samples have.

For each line on standard input, prints a reading of now: lines `rule grain figure value`, then a full stop. Rules: `=`
does not change, `+` only grows, `~` moves both ways, `t` is a text. The grain is the unit that the kernel rounds to.
"""

import ctypes
import os
import re
import sys

TICK = 1_000_000 // os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGESIZE")
WATCHED = sys.argv[1]
out = []


def text(path):
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return None


def put(rule, grain, figure, value):
    if value is not None:
        out.append(f"{rule} {grain} {figure} {value}")


def cpu():
    states = "user nice system idle iowait irq softirq steal".split()
    stat = text("/proc/stat")
    for line in stat.splitlines():
        key, *rest = line.split()
        if re.fullmatch(r"cpu\d*", key):
            where = "cpu" if key == "cpu" else f"cores.{key[3:]}"
            if key != "cpu":
                put("=", 0, where + ".cpu", key[3:])
            for state, value in zip(states, rest):
                put("~" if state == "iowait" else "+", TICK, f"{where}.{state}_us", int(value) * TICK)
    put("=", 0, "cpu.online", len(re.findall(r"(?m)^cpu\d+ ", stat)))
    for key, rule, figure in [
        ("ctxt", "+", "context_switches_total"),
        ("processes", "+", "forks_total"),
        ("procs_running", "~", "running"),
        ("procs_blocked", "~", "blocked"),
    ]:
        put(rule, 0, "cpu." + figure, re.search(rf"(?m)^{key} (\d+)", stat)[1])
    one, five, fifteen, tasks, _ = text("/proc/loadavg").split()
    put("~", 0, "cpu.load1", one)
    put("~", 0, "cpu.load5", five)
    put("~", 0, "cpu.load15", fifteen)
    put("~", 0, "limits.tasks", tasks.partition("/")[2])


def pressure(name, figure):
    for line in (text("/proc/pressure/" + name) or "").splitlines():
        kind, *pairs = line.split()
        values = dict(p.split("=") for p in pairs)
        put("~", 0, f"{figure}.{kind}_avg10", values["avg10"])
        put("~", 0, f"{figure}.{kind}_avg60", values["avg60"])
        put("+", 0, f"{figure}.{kind}_total_us", values["total"])


def memory():
    info = {k: int(v.split()[0]) * 1024 for k, v in (l.split(":") for l in text("/proc/meminfo").splitlines())}
    for key, figure in {
        "MemAvailable": "available",
        "MemFree": "free",
        "Cached": "cached",
        "Dirty": "dirty",
        "Slab": "slab",
        "SwapFree": "swap_free",
        "Buffers": "buffers",
        "Shmem": "shmem",
        "Writeback": "writeback",
        "SUnreclaim": "slab_unreclaimable",
    }.items():
        put("~", 0, f"memory.{figure}_bytes", info[key])
    put("=", 0, "memory.total_bytes", info["MemTotal"])
    put("=", 0, "memory.swap_total_bytes", info["SwapTotal"])
    vmstat = dict(l.split() for l in text("/proc/vmstat").splitlines())
    put("+", 0, "memory.oom_kills_total", vmstat.get("oom_kill"))
    put("+", 0, "memory.major_faults_total", vmstat.get("pgmajfault"))
    for key, figure in (("pswpin", "swapped_in"), ("pswpout", "swapped_out")):
        if key in vmstat:
            put("+", 0, f"memory.{figure}_bytes_total", int(vmstat[key]) * PAGE)


def disks():
    whole = set(os.listdir("/sys/block"))
    for line in text("/proc/diskstats").splitlines():
        major, minor, name, *f = line.split()
        size = int(text(f"/sys/block/{name}/size") or 0)
        if name not in whole or re.fullmatch(r"ram\d+", name):
            continue
        if re.fullmatch(r"(loop|zram|nbd|sr|fd)\d+", name) and size == 0:
            continue
        at = f"disks.{name}."
        put("t", 0, at + "name", name)
        put("=", 0, at + "major", major)
        put("=", 0, at + "minor", minor)
        put("+", 0, at + "reads_total", f[0])
        put("+", 0, at + "read_bytes_total", int(f[2]) * 512)
        put("+", 0, at + "read_time_ms_total", f[3])
        put("+", 0, at + "writes_total", f[4])
        put("+", 0, at + "written_bytes_total", int(f[6]) * 512)
        put("+", 0, at + "write_time_ms_total", f[7])
        put("~", 0, at + "in_flight", f[8])
        put("+", 0, at + "busy_ms_total", f[9])
        put("+", 0, at + "weighted_ms_total", f[10])
        put("=", 0, at + "size_bytes", size * 512)
        put("=", 0, at + "read_only", int(text(f"/sys/block/{name}/ro")))
        errors = text(f"/sys/block/{name}/device/ioerr_cnt")
        put("+", 0, at + "io_errors_total", errors and int(errors, 16))


def network():
    for name in os.listdir("/sys/class/net"):
        folder = f"/sys/class/net/{name}/"
        at = f"interfaces.{name}."
        count = lambda key: int(text(folder + "statistics/" + key))
        put("t", 0, at + "name", name)
        for way in ("rx", "tx"):
            put("+", 0, f"{at}{way}_bytes_total", count(way + "_bytes"))
            put("+", 0, f"{at}{way}_packets_total", count(way + "_packets"))
            put("+", 0, f"{at}{way}_errors_total", count(way + "_errors"))
        put("+", 0, at + "rx_dropped_total", count("rx_dropped") + count("rx_missed_errors"))
        put("+", 0, at + "tx_dropped_total", count("tx_dropped"))
        put("=", 0, at + "up", {"up": 1, "down": 0, "lowerlayerdown": 0}.get(text(folder + "operstate").strip()))
        speed = int(text(folder + "speed") or -1)
        put("=", 0, at + "speed_bytes_per_s", speed * 125_000 if speed > 0 else None)

    snmp = {}
    for path in ("/proc/net/snmp", "/proc/net/netstat"):
        lines = text(path).splitlines()
        for names, values in zip(lines[::2], lines[1::2]):
            proto, names = names.split(":")
            snmp.update({proto + n: int(v) for n, v in zip(names.split(), values.split(":")[1].split())})
    snmp6 = {k: int(v) for k, v in (l.split() for l in (text("/proc/net/snmp6") or "").splitlines())}
    put("~", 0, "net.tcp_established", snmp["TcpCurrEstab"])
    for key, figure in {
        "TcpInSegs": "tcp_in_segments",
        "TcpOutSegs": "tcp_out_segments",
        "TcpRetransSegs": "tcp_retransmitted",
        "TcpInErrs": "tcp_in_errors",
        "TcpOutRsts": "tcp_resets_sent",
        "TcpExtListenOverflows": "listen_overflows",
        "TcpExtListenDrops": "listen_drops",
    }.items():
        put("+", 0, f"net.{figure}_total", snmp[key])
    for key, figure in (("InErrors", "udp_in_errors"), ("RcvbufErrors", "udp_receive_buffer_errors")):
        put("+", 0, f"net.{figure}_total", snmp["Udp" + key] + snmp6.get("Udp6" + key, 0))

    sockets = {}
    for path in ("/proc/net/sockstat", "/proc/net/sockstat6"):
        for line in (text(path) or "").splitlines():
            proto, rest = line.split(":")
            words = rest.split()
            sockets[proto] = dict(zip(words[::2], map(int, words[1::2])))
    in_use = lambda proto: sockets.get(proto, {}).get("inuse", 0)
    put("~", 0, "net.tcp_in_use", in_use("TCP") + in_use("TCP6"))
    put("~", 0, "net.udp_in_use", in_use("UDP") + in_use("UDP6"))
    put("~", 0, "net.tcp_orphans", sockets["TCP"]["orphan"])
    put("~", 0, "net.tcp_time_wait", sockets["TCP"]["tw"])
    put("~", 0, "net.tcp_memory_bytes", sockets["TCP"]["mem"] * PAGE)
    tracked = text("/proc/sys/net/netfilter/nf_conntrack_count")
    put("~", 0, "net.conntrack_entries", tracked and int(tracked))
    most = text("/proc/sys/net/netfilter/nf_conntrack_max")
    put("=", 0, "net.conntrack_max", most and int(most))


def limits():
    used, free, most = map(int, text("/proc/sys/fs/file-nr").split())
    put("~", 0, "limits.open_files", used - free)
    put("=", 0, "limits.open_files_max", most)
    put("=", 0, "limits.pid_max", int(text("/proc/sys/kernel/pid_max")))
    put("=", 0, "limits.threads_max", int(text("/proc/sys/kernel/threads-max")))


class Timex(ctypes.Structure):
    _fields_ = [("modes", ctypes.c_uint)]
    _fields_ += [(n, ctypes.c_long) for n in ("offset", "freq", "maxerror", "esterror")]
    _fields_ += [("status", ctypes.c_int), ("rest", ctypes.c_byte * 256)]


def clock():
    t = Timex()
    assert ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(t)) >= 0
    put("=", 0, "clock.synchronised", int(not t.status & 0x40))
    put("~", 0, "clock.offset_us", int(t.offset / (1000 if t.status & 0x2000 else 1)))
    put("~", 0, "clock.estimated_error_us", t.esterror)
    put("~", 0, "clock.max_error_us", t.maxerror)


def mounts():
    for line in text("/proc/self/mountinfo").splitlines():
        before, after = line.split(" - ")
        path = re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), before.split()[4])
        try:
            f, device = os.statvfs(path), os.stat(path).st_dev
        except OSError:
            continue
        if f.f_blocks == 0 or " " in path:
            continue
        at = f"mounts.{path}."
        put("=", 0, at + "total_bytes", f.f_blocks * f.f_frsize)
        put("~", 0, at + "free_bytes", f.f_bfree * f.f_frsize)
        put("~", 0, at + "available_bytes", f.f_bavail * f.f_frsize)
        put("=", 0, at + "inodes_total", f.f_files)
        put("~", 0, at + "inodes_free", f.f_ffree)
        put("=", 0, at + "read_only", int(bool(f.f_flag & os.ST_RDONLY)))
        put("=", 0, at + "dev_major", os.major(device))
        put("=", 0, at + "dev_minor", os.minor(device))


def cgroup(pid):
    """Of the group of v2 and those of v1 the one that says most: one that is not the root."""
    groups = {}
    for line in (text(f"/proc/{pid}/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        groups.update({c: path for c in controllers.split(",")})
    wanted = [groups.get(c) for c in ("", "memory", "cpu", "name=systemd")]
    return next((path for path in wanted + sorted(groups.values()) if path and path != "/"), "/")


def processes():
    for pid in filter(str.isdigit, os.listdir("/proc")):
        stat = text(f"/proc/{pid}/stat")
        if not stat:
            continue
        head, _, rest = stat.rpartition(")")
        f = rest.split()
        at = f"processes.{pid}."
        put("=", 0, at + "pid", pid)
        put("t", 0, at + "name", head.partition("(")[2])
        put("=", 0, at + "start_ticks", f[22 - 3])
        put("=", 0, at + "ppid", f[4 - 3])
        put("~", 0, at + "threads", f[20 - 3])
        put("t", 0, at + "cgroup", cgroup(pid))
        try:
            put("~", 2, at + "open_files", len(os.listdir(f"/proc/{pid}/fd")) - (int(pid) == os.getpid()))
        except OSError:
            pass
        put("~", PAGE, at + "resident_bytes", int(f[24 - 3]) * PAGE)
        put("+", 1, f"ticks.{pid}", int(f[14 - 3]) + int(f[15 - 3]))
    stat = text(f"/proc/{WATCHED}/stat").rpartition(")")[2].split()
    # User and system time are each rounded down to ticks.
    put("+", 2 * TICK, "self_cost.cpu_us", (int(stat[11]) + int(stat[12])) * TICK)
    put("~", 0, "self_cost.resident_bytes", int(text(f"/proc/{WATCHED}/statm").split()[1]) * PAGE)


for _ in sys.stdin:
    out.clear()
    cpu()
    pressure("cpu", "cpu.pressure")
    pressure("io", "cpu.io_pressure")
    pressure("memory", "memory.pressure")
    memory()
    disks()
    network()
    limits()
    clock()
    mounts()
    processes()
    print("\n".join(out))
    print(".", flush=True)
