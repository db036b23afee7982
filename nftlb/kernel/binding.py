"""Imports the distribution's binding of libnftables, or says what to install.

The binding is a package of the distribution, because it must match the libnftables that it loads. It is imported when
it is needed: commands that only read the file do without it.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

from nftlb.errors import SystemFault

_INSTALL = {"debian": "apt install python3-nftables", "fedora": "dnf install python3-nftables"}
"""The command for families of distributions, as ID and ID_LIKE in os-release have them."""
_DISTRIBUTION = "/usr"
"""The prefix of the distribution's Python."""


def nftables_binding() -> Any:
    """The module `nftables`. SystemFault if this Python has none; the message says what to do."""
    try:
        import nftables  # noqa: PLC0415 - see the module's docstring
    except ImportError as error:
        raise SystemFault(
            f"{sys.executable} has no binding of libnftables ({error}). To fix this: {how_to_get_it()}"
        ) from None
    return nftables


def how_to_get_it() -> str:
    """What gives this Python the binding: a package, and access to the distribution's Python packages."""
    if sys.base_prefix != _DISTRIBUTION:
        return (
            f"{_install()}; this Python is not that of the distribution, so also install nftlb into an environment made"
            " with `/usr/bin/python3 -m venv --system-site-packages DIRECTORY`"
        )
    if sys.prefix == sys.base_prefix:
        return _install()
    # Python reads this file at each start, so the environment need not be made again.
    return (
        f"{_install()}; and so that this virtual environment has the packages of the distribution, write"
        f" `include-system-site-packages = true` into {sys.prefix}/pyvenv.cfg"
    )


def _install() -> str:
    import platform  # noqa: PLC0415 - only needed for the message

    with suppress(OSError):
        release = platform.freedesktop_os_release()
        for family in [release.get("ID", ""), *release.get("ID_LIKE", "").split()]:
            if family in _INSTALL:
                return _INSTALL[family]
    return "install the distribution's package of nftables for Python (python3-nftables)"
