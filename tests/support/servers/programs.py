"""The paths of the servers, which tools/servers.sh unpacks beside the virtual environment, or else the system's own.

The servers are unpacked and not installed (tools/servers.sh has the reason). Therefore AppArmor's profiles, which
depend on the path of a program, do not refuse the configurations in our temporary directories.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from nftlb.errors import SystemFault
from nftlb.lab import userns

UNPACKED = Path(sys.prefix, "daemons")


def program(name: str) -> str:
    """The path of a program. Raises SystemFault, with the fix, if the program is missing."""
    unpacked = [str(UNPACKED / place) for place in ("usr/sbin", "usr/bin", "sbin", "bin")]
    system = [os.environ.get("PATH", ""), "/usr/sbin", "/usr/bin", "/sbin", "/bin"]  # a user's PATH may lack sbin
    found = shutil.which(name, path=os.pathsep.join([*unpacked, *system]))
    if found is None:
        raise SystemFault(f"{name} is missing: run tools/servers.sh {UNPACKED}")
    return found


def data(pattern: str) -> str:
    """The directory or file of a package by its pattern, without a leading slash: `usr/lib/*/rsyslog`."""
    found = [path for root in (UNPACKED, Path("/")) for path in sorted(root.glob(pattern))]
    if not found:
        raise SystemFault(f"/{pattern} is missing: run tools/servers.sh {UNPACKED}")
    return str(found[0])


def with_its_files(name: str) -> list[str]:
    """The command that starts a program so that it finds the files of its package in /etc.

    keepalived does not start without a file of its package, which is elsewhere after unpacking. The process stays the
    same, in a separate mount namespace.
    """
    path = program(name)
    if not path.startswith(str(UNPACKED)):
        return [path]
    overlay = f"lowerdir={UNPACKED}/etc:/etc"
    script = 'mount -t overlay -o "$1" etc /etc && shift && exec "$@"'
    becoming_root = [] if userns.permitted() else ["--user", "--map-root-user"]
    return ["unshare", *becoming_root, "--mount", "sh", "-c", script, "sh", overlay, path]


def version(name: str) -> str:
    """The output of a program about its version."""
    argv = [*with_its_files(name), "--version"]
    done = subprocess.run(argv, capture_output=True, check=True, text=True, env=environment())
    return done.stdout + done.stderr


def environment() -> dict[str, str]:
    """The whole environment of a server: the unpacked libraries, and no variables of the developer."""
    libraries = [
        *UNPACKED.glob("usr/lib/*-linux-gnu*"),
        *UNPACKED.glob("lib/*-linux-gnu*"),
        UNPACKED / "usr/lib/freeradius",
    ]
    perl = [*UNPACKED.glob("usr/share/perl*"), *UNPACKED.glob("usr/*/perl*/[0-9]*")]
    perl += [*UNPACKED.glob("usr/lib/*/perl*/[0-9]*"), *UNPACKED.glob("usr/lib/*/perl-base")]
    return {
        "PERL5LIB": os.pathsep.join(map(str, perl)),
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "LD_LIBRARY_PATH": os.pathsep.join(str(path) for path in libraries if path.is_dir()),
    }
