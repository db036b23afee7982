"""Waits until the packets that are inside the netfilter hooks have left them."""

from __future__ import annotations

import ctypes
import os
import platform
import time

# Numbers from the tables of system calls: glibc has no wrapper for membarrier.
_MEMBARRIER = {"x86_64": 324, "aarch64": 283}
_CMD_GLOBAL = 1

# A packet passes the hooks within microseconds. It takes longer only if its sender or ksoftirqd loses the CPU in
# between. One scheduling period of a busy machine is about 10 ms, so 100 ms is generous.
_FALLBACK_SECONDS = 0.1

_libc = ctypes.CDLL(None, use_errno=True)


def wait_for_packets() -> None:
    """Return when every packet that was inside the hooks at the time of the call has left them.

    The kernel holds an RCU read lock while it handles a received packet, from device to device (`__netif_receive_skb`),
    and while a locally sent packet is in a hook. membarrier(2) with MEMBARRIER_CMD_GLOBAL waits for an RCU grace
    period: 8 to 30 ms on a quiet machine. Other threads run meanwhile.

    Where membarrier does not wait (a CPU with nohz_full, a single CPU, a sandbox), this function sleeps for 0.1 s.
    """
    if not _grace_period():
        time.sleep(_FALLBACK_SECONDS)


def _grace_period() -> bool:
    """Wait for an RCU grace period of the kernel. Return False if the kernel does not offer that."""
    number = _MEMBARRIER.get(platform.machine())
    if number is None or os.cpu_count() == 1:
        # With one CPU online the kernel returns at once. A preemptible kernel may nevertheless have a packet that is
        # halfway through the hooks.
        return False
    # EINVAL: a CPU with nohz_full; ENOSYS: built without; EPERM: forbidden by seccomp
    return bool(_libc.syscall(number, _CMD_GLOBAL, 0, 0) == 0)
