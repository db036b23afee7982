"""What the doctor says. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """`ERROR`: some packets will not get where they should; `WARNING`: they may not, or only at some load."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One result of an examination. `mend` is a command to paste or, where there is none, what to change; or empty."""

    severity: Severity
    subject: str
    message: str
    mend: str = ""


def ok(subject: str, message: str) -> Finding:
    return Finding(Severity.OK, subject, message)


def warning(subject: str, message: str, mend: str = "") -> Finding:
    return Finding(Severity.WARNING, subject, message, mend)


def error(subject: str, message: str, mend: str = "") -> Finding:
    return Finding(Severity.ERROR, subject, message, mend)


def sysctls(values: dict[str, int]) -> str:
    """The command that sets these; a name is written with slashes, since an interface's own may have dots."""
    return "sysctl -w " + " ".join(f"{sysctl_name(name)}={value}" for name, value in values.items())


def sysctl_name(name: str) -> str:
    """The name as people write it, where that is unambiguous."""
    return name if "." in name else name.replace("/", ".")
