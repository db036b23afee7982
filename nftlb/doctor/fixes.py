"""The fixes of findings that a program can carry out: sysctls and kernel modules. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .finding import Finding

_SYSCTL = re.compile(r"sysctl -w ((?:[A-Za-z0-9_./@:+-]+=[0-9,-]+ ?)+)")
_MODPROBE = re.compile(r"modprobe ((?:[A-Za-z0-9_-]+ ?)+)")


@dataclass(frozen=True, slots=True)
class Fixes:
    """What to change on the host: values by the names of sysctls, with slashes, and modules to load."""

    sysctls: Mapping[str, str]
    modules: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.sysctls or self.modules)


def fixes_of(findings: Iterable[Finding]) -> Fixes:
    """The fixes of all findings. Only lines that are a complete `sysctl -w` or `modprobe` can be carried out."""
    sysctls: dict[str, str] = {}
    modules: list[str] = []
    for finding in findings:
        for line in finding.fix.splitlines():
            if match := _SYSCTL.fullmatch(line):
                for pair in match[1].split():
                    name, _, value = pair.partition("=")
                    sysctls[name if "/" in name else name.replace(".", "/")] = value
            elif match := _MODPROBE.fullmatch(line):
                modules += match[1].split()
    return Fixes(sysctls, tuple(dict.fromkeys(modules)))


_SETTING = re.compile(r"\s*-?([A-Za-z0-9_./@:+-]+)\s*=\s*(.*?)\s*")


def with_settings(text: str, sysctls: Mapping[str, str], head: str) -> str:
    """The text of a file of sysctl.d with these values. Other lines stay; `head` begins an empty file."""
    lines, left = [], dict(sysctls)
    for line in text.splitlines():
        match = _SETTING.fullmatch(line)
        name = slashed(match[1]) if match else ""
        if name not in sysctls:
            lines.append(line)
        elif name in left:
            lines.append(f"{name} = {left.pop(name)}")
    lines = lines or [head]
    return "".join(f"{line}\n" for line in (*lines, *(f"{name} = {value}" for name, value in left.items())))


def overriding(text: str, sysctls: Mapping[str, str]) -> dict[str, str]:
    """The values by which a later file of sysctl.d replaces these values, by name. Its last line of a name counts."""
    matches = filter(None, map(_SETTING.fullmatch, text.splitlines()))
    found = {name: match[2] for match in matches if (name := slashed(match[1])) in sysctls}
    return {name: value for name, value in found.items() if value != sysctls[name]}


def with_modules(text: str, modules: Iterable[str], head: str) -> str:
    """The text of a file of modules-load.d with these modules. Other lines stay; `head` begins an empty file."""
    lines = text.splitlines() or [head]
    return "".join(f"{line}\n" for line in (*lines, *(name for name in modules if name not in lines)))


def slashed(name: str) -> str:
    """The name of a sysctl with slashes. As sysctl does, the first separator decides which of the two forms it has."""
    first = re.search(r"[./]", name)
    return name if first is None or first[0] == "/" else name.replace(".", "/")
