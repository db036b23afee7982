"""The findings of an examination. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """`ERROR`: some packets are lost or go wrong. `WARNING`: packets may be lost, or are lost under some load only.

    `UNKNOWN`: this process can't find out.
    """

    OK = "ok"
    UNKNOWN = "unknown"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One result of an examination.

    `fix` is a command to paste or, where no command helps, what to change; empty if there is nothing to fix. Commands
    have separate lines: `nftlb doctor --fix` carries out only lines that are a complete command.
    """

    severity: Severity
    subject: str
    message: str
    fix: str = ""


def ok(subject: str, message: str) -> Finding:
    return Finding(Severity.OK, subject, message)


def not_known(subject: str, message: str, fix: str = "") -> Finding:
    return Finding(Severity.UNKNOWN, subject, message, fix)


def warning(subject: str, message: str, fix: str = "") -> Finding:
    return Finding(Severity.WARNING, subject, message, fix)


def error(subject: str, message: str, fix: str = "") -> Finding:
    return Finding(Severity.ERROR, subject, message, fix)


def sysctl_command(values: dict[str, int]) -> str:
    """The command that sets sysctls. Names are given with slashes, because the name of an interface may have dots."""
    names = {name: name if "." in name else name.replace("/", ".") for name in values}
    return "sysctl -w " + " ".join(f"{names[name]}={value}" for name, value in values.items())
