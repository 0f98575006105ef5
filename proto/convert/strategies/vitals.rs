//! Any vital signs. Boxed: by value, a sample of them would be a strategy larger than a test thread's stack.

use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

use super::{number, pressure, text};
use crate::record::{
    Cgroup, ClockState, CoreCpu, DescriptorUse, Disk, Interface, Limits, NetStack, Pod, Spawner, StuckTask,
    Tasks,
};

pub(super) fn core_cpu() -> BoxedStrategy<CoreCpu> {
    (
        (
            any::<u32>(),
            any::<u64>(),
            any::<u64>(),
            any::<u64>(),
            any::<u64>(),
            any::<u64>(),
            any::<u64>(),
            any::<u64>(),
        ),
        any::<u64>(),
    )
        .prop_map(|((cpu, user_us, nice_us, system_us, idle_us, iowait_us, irq_us, softirq_us), steal_us)| {
            CoreCpu { cpu, user_us, nice_us, system_us, idle_us, iowait_us, irq_us, softirq_us, steal_us }
        })
        .boxed()
}

pub(super) fn disk() -> BoxedStrategy<Disk> {
    (
        (
            text(),
            any::<u32>(),
            any::<u32>(),
            any::<u64>(),
            any::<u64>(),
            any::<u64>(),
            any::<u64>(),
            any::<u64>(),
        ),
        (
            any::<u64>(),
            any::<u64>(),
            any::<u64>(),
            any::<u64>(),
            of(any::<u64>()),
            of(any::<bool>()),
            of(any::<u64>()),
        ),
    )
        .prop_map(
            |(
                (
                    name,
                    major,
                    minor,
                    reads_total,
                    read_bytes_total,
                    read_time_ms_total,
                    writes_total,
                    written_bytes_total,
                ),
                (
                    write_time_ms_total,
                    in_flight,
                    busy_ms_total,
                    weighted_ms_total,
                    size_bytes,
                    read_only,
                    io_errors_total,
                ),
            )| Disk {
                name,
                major,
                minor,
                reads_total,
                read_bytes_total,
                read_time_ms_total,
                writes_total,
                written_bytes_total,
                write_time_ms_total,
                in_flight,
                busy_ms_total,
                weighted_ms_total,
                size_bytes,
                read_only,
                io_errors_total,
            },
        )
        .boxed()
}

pub(super) fn interface() -> BoxedStrategy<Interface> {
    (
        (
            text(),
            of(any::<bool>()),
            any::<u64>(),
            any::<u64>(),
            any::<u64>(),
            any::<u64>(),
            any::<u64>(),
            any::<u64>(),
        ),
        (any::<u64>(), any::<u64>(), of(any::<u64>())),
    )
        .prop_map(
            |(
                (
                    name,
                    up,
                    rx_bytes_total,
                    rx_packets_total,
                    rx_errors_total,
                    rx_dropped_total,
                    tx_bytes_total,
                    tx_packets_total,
                ),
                (tx_errors_total, tx_dropped_total, speed_bytes_per_s),
            )| Interface {
                name,
                up,
                rx_bytes_total,
                rx_packets_total,
                rx_errors_total,
                rx_dropped_total,
                tx_bytes_total,
                tx_packets_total,
                tx_errors_total,
                tx_dropped_total,
                speed_bytes_per_s,
            },
        )
        .boxed()
}

pub(super) fn net_stack() -> BoxedStrategy<NetStack> {
    (
        (
            any::<u64>(),
            any::<u64>(),
            any::<u64>(),
            any::<u64>(),
            any::<u64>(),
            any::<u64>(),
            any::<u64>(),
            any::<u64>(),
        ),
        (
            any::<u64>(),
            any::<u64>(),
            any::<u64>(),
            any::<u64>(),
            any::<u64>(),
            any::<u64>(),
            any::<u64>(),
            of(any::<u64>()),
        ),
        of(any::<u64>()),
    )
        .prop_map(
            |(
                (
                    tcp_established,
                    tcp_in_use,
                    tcp_orphans,
                    tcp_time_wait,
                    tcp_memory_bytes,
                    udp_in_use,
                    tcp_in_segments_total,
                    tcp_out_segments_total,
                ),
                (
                    tcp_retransmitted_total,
                    tcp_in_errors_total,
                    tcp_resets_sent_total,
                    listen_overflows_total,
                    listen_drops_total,
                    udp_in_errors_total,
                    udp_receive_buffer_errors_total,
                    conntrack_entries,
                ),
                conntrack_max,
            )| NetStack {
                tcp_established,
                tcp_in_use,
                tcp_orphans,
                tcp_time_wait,
                tcp_memory_bytes,
                udp_in_use,
                tcp_in_segments_total,
                tcp_out_segments_total,
                tcp_retransmitted_total,
                tcp_in_errors_total,
                tcp_resets_sent_total,
                listen_overflows_total,
                listen_drops_total,
                udp_in_errors_total,
                udp_receive_buffer_errors_total,
                conntrack_entries,
                conntrack_max,
            },
        )
        .boxed()
}

pub(super) fn limits() -> BoxedStrategy<Limits> {
    (of(any::<u64>()), of(any::<u64>()), of(any::<u64>()), of(any::<u64>()), of(any::<u64>()))
        .prop_map(|(open_files, open_files_max, tasks, pid_max, threads_max)| Limits {
            open_files,
            open_files_max,
            tasks,
            pid_max,
            threads_max,
        })
        .boxed()
}

pub(super) fn tasks() -> BoxedStrategy<Tasks> {
    (
        any::<u64>(),
        any::<u64>(),
        any::<u64>(),
        vec(stuck_task(), 0..3),
        vec(spawner(), 0..3),
        vec(descriptor_use(), 0..3),
    )
        .prop_map(|(processes, zombies, uninterruptible, stuck, spawners, descriptors)| Tasks {
            processes,
            zombies,
            uninterruptible,
            stuck,
            spawners,
            descriptors,
        })
        .boxed()
}

pub(super) fn stuck_task() -> BoxedStrategy<StuckTask> {
    (any::<u32>(), text(), any::<u64>(), any::<u64>(), text(), text(), of(pod()))
        .prop_map(|(pid, name, start_ticks, stuck_ms, wchan, cgroup, pod)| StuckTask {
            pid,
            name,
            start_ticks,
            stuck_ms,
            wchan,
            cgroup,
            pod,
        })
        .boxed()
}

pub(super) fn spawner() -> BoxedStrategy<Spawner> {
    (any::<u32>(), text(), any::<u64>(), any::<u64>(), text(), of(pod()))
        .prop_map(|(pid, name, start_ticks, children, cgroup, pod)| Spawner {
            pid,
            name,
            start_ticks,
            children,
            cgroup,
            pod,
        })
        .boxed()
}

pub(super) fn descriptor_use() -> BoxedStrategy<DescriptorUse> {
    (any::<u32>(), text(), any::<u64>(), any::<u64>(), any::<u64>(), text(), of(pod()))
        .prop_map(|(pid, name, start_ticks, open, max, cgroup, pod)| DescriptorUse {
            pid,
            name,
            start_ticks,
            open,
            max,
            cgroup,
            pod,
        })
        .boxed()
}

pub(super) fn cgroup() -> BoxedStrategy<Cgroup> {
    (
        (
            text(),
            any::<u32>(),
            of(pod()),
            of(any::<u64>()),
            of(any::<u64>()),
            of(any::<u64>()),
            of(any::<u64>()),
            of(number()),
        ),
        (
            of(any::<u64>()),
            of(any::<u64>()),
            of(any::<u64>()),
            of(any::<u64>()),
            of(any::<u64>()),
            of(any::<u64>()),
            of(any::<u64>()),
            of(any::<u64>()),
        ),
        (of(any::<u64>()), of(any::<u64>()), of(pressure()), of(pressure()), of(pressure())),
    )
        .prop_map(
            |(
                (
                    path,
                    version,
                    pod,
                    cpu_us_total,
                    periods_total,
                    throttled_periods_total,
                    throttled_us_total,
                    cpu_limit_cores,
                ),
                (
                    memory_bytes,
                    working_set_bytes,
                    memory_limit_bytes,
                    memory_limit_hits_total,
                    swap_bytes,
                    oom_kills_total,
                    pids,
                    pids_max,
                ),
                (read_bytes_total, written_bytes_total, cpu_pressure, memory_pressure, io_pressure),
            )| Cgroup {
                path,
                version,
                pod,
                cpu_us_total,
                periods_total,
                throttled_periods_total,
                throttled_us_total,
                cpu_limit_cores,
                memory_bytes,
                working_set_bytes,
                memory_limit_bytes,
                memory_limit_hits_total,
                swap_bytes,
                oom_kills_total,
                pids,
                pids_max,
                read_bytes_total,
                written_bytes_total,
                cpu_pressure,
                memory_pressure,
                io_pressure,
            },
        )
        .boxed()
}

pub(super) fn clock_state() -> BoxedStrategy<ClockState> {
    (any::<bool>(), any::<i64>(), any::<u64>(), any::<u64>())
        .prop_map(|(synchronised, offset_us, estimated_error_us, max_error_us)| ClockState {
            synchronised,
            offset_us,
            estimated_error_us,
            max_error_us,
        })
        .boxed()
}

pub(super) fn pod() -> BoxedStrategy<Pod> {
    (text(), text(), text(), text(), text())
        .prop_map(|(namespace, name, uid, container, container_id)| Pod {
            namespace,
            name,
            uid,
            container,
            container_id,
        })
        .boxed()
}
