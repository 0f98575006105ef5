"""Processes in states that are rare on a quiet machine: a zombie, one that hangs, one with many descriptors.

Argument: the number of clone(2). Prints the ids of the one that hangs and of the one with descriptors; then, for each
line on standard input, ends the children that it started for the line before, starts as many, and prints a full stop.
"""

import ctypes
import os
import resource
import signal
import sys

CLONE = int(sys.argv[1])
CLONE_VFORK = 0x4000
PR_SET_PDEATHSIG = 1
# More than any one else is likely to start between two samples.
CHILDREN = 16
libc = ctypes.CDLL(None, use_errno=True)


def child(life):
    """Forks one that lives `life`, and not longer than its parent."""
    pid = os.fork()
    if pid == 0:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        life()
        os._exit(0)
    return pid


def pause():
    while True:
        signal.pause()


def hang():
    """Waits uninterruptibly, but for a SIGKILL, for a child that neither ends nor executes anything: vfork(2)."""
    # Many pages, so that it stands among those with the most memory.
    pages = bytearray(256 << 20)
    pages[::4096] = b"x" * (len(pages) // 4096)
    if libc.syscall(CLONE, CLONE_VFORK | signal.SIGCHLD, 0, 0, 0, 0) == 0:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        pause()
    return pages


def hold():
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(48)]
    pause()
    return held


# Nobody waits for it.
child(lambda: None)
print(child(hang), child(hold), flush=True)
brood = []
for _ in sys.stdin:
    for pid in brood:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    brood = [child(pause) for _ in range(CHILDREN)]
    print(".", flush=True)
