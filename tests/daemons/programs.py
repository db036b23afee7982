"""Where the servers are: those that tools/servers.sh unpacked beside the virtual environment, else the system's own.

That they are unpacked and not installed (tools/servers.sh says why) also keeps AppArmor's profiles, which go by the
path of a program, from refusing the configurations in our temporary directories.
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
    """Return the path of a program. Raises SystemFault, with the mend, when there is none."""
    unpacked = [str(UNPACKED / place) for place in ("usr/sbin", "usr/bin", "sbin", "bin")]
    system = [os.environ.get("PATH", ""), "/usr/sbin", "/usr/bin", "/sbin", "/bin"]  # a user's PATH may lack sbin
    found = shutil.which(name, path=os.pathsep.join([*unpacked, *system]))
    if found is None:
        raise SystemFault(f"{name} is missing: run tools/servers.sh {UNPACKED}")
    return found


def data(pattern: str) -> str:
    """Return the directory or file of a package by its pattern, which has no leading slash: `usr/lib/*/rsyslog`."""
    found = [path for root in (UNPACKED, Path("/")) for path in sorted(root.glob(pattern))]
    if not found:
        raise SystemFault(f"/{pattern} is missing: run tools/servers.sh {UNPACKED}")
    return str(found[0])


def with_its_files(name: str) -> list[str]:
    """Return the words that start a program so that it finds in /etc what its package has there.

    keepalived does not start without a file of its package, which an unpacked one has elsewhere. The process stays the
    same, in a mount namespace of its own.
    """
    path = program(name)
    if not path.startswith(str(UNPACKED)):
        return [path]
    overlay = f"lowerdir={UNPACKED}/etc:/etc"
    script = 'mount -t overlay -o "$1" etc /etc && shift && exec "$@"'
    becoming_root = [] if userns.permitted() else ["--user", "--map-root-user"]
    return ["unshare", *becoming_root, "--mount", "sh", "-c", script, "sh", overlay, path]


def version(name: str) -> str:
    """Return what a program says of its version."""
    argv = [*with_its_files(name), "--version"]
    done = subprocess.run(argv, capture_output=True, check=True, text=True, env=environment())
    return done.stdout + done.stderr


def environment() -> dict[str, str]:
    """Return the whole environment that a server gets: nothing of the developer's, and the unpacked libraries."""
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
