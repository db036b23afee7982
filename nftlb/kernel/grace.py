"""Waits until no packet is left in the hooks that was there before."""

from __future__ import annotations

import ctypes
import os
import platform
import time

# Of the syscall tables; membarrier has no wrapper in glibc.
_MEMBARRIER = {"x86_64": 324, "aarch64": 283}
_CMD_GLOBAL = 1

# A packet is through the hooks within microseconds; what may stretch that is a sender or ksoftirqd that loses its CPU
# in between. One scheduling period of a busy machine is some 10 ms, so this is generous.
_FALLBACK_SECONDS = 0.1

_libc = ctypes.CDLL(None, use_errno=True)


def wait_for_packets() -> None:
    """Return when every packet that was inside the hooks at the time of the call has left them.

    The kernel keeps a received packet under RCU from the device to the device (`__netif_receive_skb`), and a locally
    sent one within each hook; membarrier(2), MEMBARRIER_CMD_GLOBAL, waits for an RCU grace period: some 8 to 30 ms on
    a quiet machine. Other threads run meanwhile.

    Where the kernel does not wait (a CPU with nohz_full, a single CPU, a sandbox), it sleeps for 0.1 s instead.
    """
    if not _grace_period():
        time.sleep(_FALLBACK_SECONDS)


def _grace_period() -> bool:
    """Wait for a grace period of the kernel's; tell whether it could be done."""
    number = _MEMBARRIER.get(platform.machine())
    if number is None or os.cpu_count() == 1:
        # With one CPU online the kernel takes the barrier for granted and does not wait, though a preemptible one may
        # well have left a packet in the middle.
        return False
    # EINVAL: a CPU with nohz_full; ENOSYS: built without; EPERM: forbidden by seccomp
    return bool(_libc.syscall(number, _CMD_GLOBAL, 0, 0) == 0)
