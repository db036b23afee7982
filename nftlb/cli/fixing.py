"""Carries out the fixes of `nftlb doctor --fix`, and makes them permanent. Says what was changed."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from nftlb.doctor.fixes import overriding, with_modules, with_settings
from nftlb.errors import SystemFault

from .output import write_error, write_file, write_output

if TYPE_CHECKING:
    from nftlb.doctor import Fixes

SYSCTL_FILE = Path("/etc/sysctl.d/60-nftlb.conf")
MODULES_FILE = Path("/etc/modules-load.d/nftlb.conf")
_SYSCTLS = Path("/proc/sys")
_HEAD = "# Written by nftlb doctor --fix --permanent."
_PATIENCE = 60.0


def carry_out(
    fixes: Fixes, *, permanent: bool, sysctl_file: Path = SYSCTL_FILE, modules_file: Path = MODULES_FILE
) -> None:
    """Load the modules and set the sysctls, and print each change. A refused change is printed, and the rest is tried.

    `permanent`: also write the changes that were not refused to the two files, in which all other lines stay. Files
    that set another value afterwards are printed. SystemFault if the files can't be written.
    """
    modules = [module for module in fixes.modules if _load_module(module)]
    sysctls = {name: value for name, value in fixes.sysctls.items() if _set(name, value)}
    if not permanent:
        return
    if sysctls:
        _replace(sysctl_file, with_settings(_read(sysctl_file), sysctls, _HEAD))
        for path in _later_files(sysctl_file):
            for name, value in overriding(_text_of(path), sysctls).items():
                write_error(
                    f"nftlb: {path} sets {name} = {value}, which may replace {sysctls[name]} at the next boot; "
                    f"delete that line, or change the value to {sysctls[name]}\n"
                )
    if modules:
        _replace(modules_file, with_modules(_read(modules_file), modules, _HEAD))


def _later_files(sysctl_file: Path) -> list[Path]:
    """The files of sysctls that are read after `sysctl_file`, in their order: those in its folder, then sysctl.conf."""
    folder = sysctl_file.parent
    later = sorted(path for path in folder.glob("*.conf") if path.name > sysctl_file.name)
    paths = [*later, folder.parent / "sysctl.conf"]  # Debian has a link from 99-sysctl.conf to sysctl.conf
    return list({path.resolve(): path for path in paths}.values())


def _text_of(path: Path) -> str:
    """The text of a file that is only looked at; empty if it can't be read."""
    with suppress(OSError, ValueError):
        return path.read_text(encoding="utf-8")
    return ""


def _load_module(module: str) -> bool:
    """Load a module, and return whether it is loaded."""
    try:
        done = subprocess.run(  # noqa: S603 - only names of modules that a finding gives
            ["modprobe", "--", module],  # noqa: S607 - as the command that the finding shows
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        write_error(f"nftlb: the module {module} was not loaded: {error}\n")
        return False
    if done.returncode:
        write_error(f"nftlb: the module {module} was not loaded: {' '.join(done.stderr.split())}\n")
    else:
        write_output(f"loaded the module {module}\n")
    return not done.returncode


def _set(name: str, value: str) -> bool:
    """Set a sysctl, and return whether it has the value."""
    path = _SYSCTLS / name
    try:
        before = path.read_text(encoding="ascii").strip()
        path.write_text(value, encoding="ascii")
    except OSError as error:
        write_error(f"nftlb: {name} was not set to {value}: {error.strerror}\n")
        return False
    write_output(f"set {name} from {before or 'nothing'} to {value}\n")
    return True


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        raise SystemFault(f"{path} can't be read: {error}; the changes hold until the next boot") from error


def _replace(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(str(path), [text])
    except OSError as error:
        raise SystemFault(f"{path} can't be written: {error.strerror}; the changes hold until the next boot") from error
    write_output(f"wrote {path}\n")
