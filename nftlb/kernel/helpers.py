"""Whether the kernel has a conntrack helper, and what lets the helper translate addresses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nftlb.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Callable

    from nftlb.model import Config

    from .libnftables import Kernel

_TABLE = "nftlb-helper"
_MODULES = Path("/sys/module")
"""Unlike /proc/modules, visible in the daemon's systemd unit."""


def missing_helpers(config: Config, has: Callable[[str], bool]) -> frozenset[str]:
    """Return the helpers that pools use and the kernel does not have. `has` is called once for each helper."""
    return frozenset(name for name in {pool.helper for pool in config.pools if pool.helper} if not has(name))


def has_helper(kernel: Kernel, name: str, modules: Path = _MODULES) -> bool:
    """Whether rules can use a helper of conntrack for UDP. The kernel may load its module.

    The kernel does not load the second module, which translates what the helper expects (`nf_nat_tftp`). That module
    is missing if the first is loaded without it; both may also be built into the kernel, and then none is listed.
    """
    text = f'table ip {_TABLE} {{\n\tct helper {name} {{\n\t\ttype "{name}" protocol udp\n\t\tl3proto ip\n\t}}\n}}\n'
    try:
        kernel.check(text)
    except KernelError:
        return False
    return not lacks_translation(modules, name)


def lacks_translation(modules: Path, name: str) -> bool:
    """Whether the helper is a loaded module, and its module that translates is missing. `modules`: as /sys/module.

    A module that is built into the kernel may have a directory there too, but no `initstate` in it.
    """
    return (modules / f"nf_conntrack_{name}/initstate").exists() and not (modules / f"nf_nat_{name}").exists()
