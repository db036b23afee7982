"""Whether the kernel can carry out the options of flows: the helpers of conntrack, and time-outs of its entries."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nftlb.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Callable

    from nftlb.model import Config, Pool

    from .libnftables import Kernel

SESSION_TIMEOUT = "session_timeout"
"""The option that is no helper. A helper has its own name."""
_TABLE = "nftlb-option"
_TIMEOUT = "ct timeout option {\n\t\tprotocol udp\n\t\tl3proto ip\n\t\tpolicy = { unreplied : 2, replied : 2 }\n\t}"
_MODULES = Path("/sys/module")
"""Unlike /proc/modules, visible in the daemon's systemd unit."""
_MISSING = tuple(map(os.strerror, (errno.ENOENT, errno.EOPNOTSUPP)))
"""What the kernel answers if it has no such helper, or no such kind of object."""


def without_missing_options(config: Config, has: Callable[[str], bool]) -> Config:
    """Leave out the options that the kernel does not have: it would refuse the rules of all pools."""
    return without_options(config, missing_options(config, has))


def without_options(config: Config, missing: frozenset[str]) -> Config:
    """Leave out these options."""
    return replace(config, pools=tuple(_without(pool, missing) for pool in config.pools)) if missing else config


def missing_options(config: Config, has: Callable[[str], bool]) -> frozenset[str]:
    """Return the options that pools use and the kernel does not have. `has` is called once for each option."""
    wanted = {str(pool.helper) for pool in config.pools if pool.helper}
    wanted |= {SESSION_TIMEOUT for pool in config.pools if pool.session_timeout}
    return frozenset(name for name in wanted if not has(name))


def has_option(kernel: Kernel, name: str, modules: Path = _MODULES) -> bool:
    """Whether rules can use an option for flows of UDP. The kernel may load the module of a helper.

    The kernel does not load the second module, which translates what the helper expects (`nf_nat_tftp`). That module
    is missing if the first is loaded without it; both may also be built into the kernel, and then none is listed.

    Raises KernelError if the kernel can't tell, for instance because it has no memory.
    """
    helper = f'ct helper {name} {{\n\t\ttype "{name}" protocol udp\n\t\tl3proto ip\n\t}}'
    try:
        kernel.check(f"table ip {_TABLE} {{\n\t{_TIMEOUT if name == SESSION_TIMEOUT else helper}\n}}\n")
    except KernelError as error:
        if not any(answer in str(error) for answer in _MISSING):
            raise
        return False
    return not lacks_translation(modules, name)


def lacks_translation(modules: Path, name: str) -> bool:
    """Whether the helper is a loaded module, and its module that translates is missing. `modules`: as /sys/module.

    A module that is built into the kernel may have a directory there too, but no `initstate` in it.
    """
    return (modules / f"nf_conntrack_{name}/initstate").exists() and not (modules / f"nf_nat_{name}").exists()


def _without(pool: Pool, missing: frozenset[str]) -> Pool:
    if pool.helper in missing:
        pool = replace(pool, helper=None)
    if pool.session_timeout and SESSION_TIMEOUT in missing:
        pool = replace(pool, session_timeout=None)
    return pool
