"""Makes the health checks of a pool from those of its servers, and the commands of check programs. No I/O."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from ipaddress import ip_address
from typing import TYPE_CHECKING

from nftlb.model import Forward
from nftlb.model.checks import CHECKS

from .draft import shorten
from .yaml_text import yaml_flow

if TYPE_CHECKING:
    from nftlb.model import IPAddress

    from .draft import Check, Draft, DraftServer


def common_checks(draft: Draft, servers: list[DraftServer], ports: set[int]) -> list[Check]:
    """Return the checks that most servers of a pool have; the order of servers does not matter.

    `ports` are the ports of the listeners of the pool.
    """
    _name_by_variables(draft, servers, ports)
    keys = [tuple(sorted(map(_written, server.checks))) for server in servers]
    often = Counter(filter(None, keys))
    if not often:
        return []
    most = max(often, key=lambda key: (often[key], len(key), key))
    model = servers[keys.index(most)]
    differing = [server for server, key in zip(servers, keys, strict=True) if key != most]
    having = Counter(check for key in keys for check in set(key))
    kept = [check for check in model.checks if "exec" not in check or not differing or having[_written(check)] > 1]
    for server in differing:
        own, others = _difference(server.checks, model.checks)
        what = f"checks of {server.where} ({own}) differ from the checks of {model.where} ({others})"
        draft.notes.changed(server.line, f"{what}: a pool has the same checks for all backends")
    if len(kept) < len(model.checks):
        draft.notes.missing(model.line, f"programs that check {model.where} only: each backend has another program")
    if any("exec" in check for check in kept):
        what = (
            f"{draft.program}: a shell turns the program's exit status 1 into 2, because 1 is only a warning for nftlb"
        )
        draft.notes.changed(model.line, what)
    with_ports = (_with_port(draft, servers, ports, model, check) for check in kept)
    return [check for check in with_ports if check is not None]


def _written(check: Check) -> str:
    return yaml_flow(dict(sorted(check.items())))


def _name_by_variables(draft: Draft, servers: list[DraftServer], ports: set[int]) -> None:
    """Replace a server's address and port in its check programs by variables, in the form that most servers share."""
    choices: list[tuple[DraftServer, int, list[Check]]] = []
    often: Counter[str] = Counter()
    for server in servers:
        port = server.port if draft.forward is not Forward.DSR or ports == {server.port} else None
        for index, check in enumerate(server.checks):
            if "exec" in check:
                ways = [{**check, "exec": form} for form in program_forms(check["exec"], server.address, port)]
                often.update(set(map(_written, ways)))
                choices.append((server, index, ways))
    for server, index, ways in choices:
        server.checks[index] = max(ways, key=lambda way: often[_written(way)])  # the first of equals


def _difference(checks: list[Check], other_checks: list[Check]) -> tuple[str, str]:
    """Describe two lists of checks: by their kinds, or by the differing options where the kinds are the same."""
    kinds = [", ".join(next(iter(check)) for check in listed) or "none" for listed in (checks, other_checks)]
    if kinds[0] != kinds[1]:
        return kinds[0], kinds[1]
    pairs = [(first, second) for first, second in zip(checks, other_checks, strict=True) if first != second]
    return _differing(pairs), _differing([(second, first) for first, second in pairs])


def _differing(pairs: list[tuple[Check, Check]]) -> str:
    return shorten(
        ", ".join(
            yaml_flow({key: first[key] for key in first if second.get(key) != first[key]}) for first, second in pairs
        )
    )


def _with_port(
    draft: Draft, servers: list[DraftServer], ports: set[int], model: DraftServer, check: Check
) -> Check | None:
    """Return a check with a port, where the check needs one; None, with a remark, if the servers differ."""
    kind = next(key for key in check if key in CHECKS)
    if "port" in check or not CHECKS[kind].needs_port:
        return check
    unclear = [server for server in servers if draft.forward is Forward.DSR or server.port is None]
    checked = {server.port for server in servers}
    if not unclear or (len(ports) == 1 and checked <= {None, *ports}):
        return check
    if len(checked) == 1 and model.port is not None:
        return {**check, "port": model.port}
    draft.notes.missing(model.line, f"check {kind}: the servers have no common port to check; set `port` under health")
    return None


# --- check programs: their exit status, and variables for the address and the port of a server ------------------------

ADDRESS, PORT = '"$NFTLB_ADDRESS"', '"$NFTLB_PORT"'

# To keepalived, exit status 1 is a failure; to Nagios, whose plugins nftlb runs, it is a warning.
_ENDS = {False: " || exit 2", True: "; test $? -ne 1 || exit 2"}
_SHELL = ["/bin/sh", "-c"]
_WRAPPERS = {f'"$@"{end}': end for end in _ENDS.values()}
_WORD = re.compile(r"[0-9A-Fa-f.:]+")
_PORT = re.compile(r"(?:(?<=^-[A-Za-z])|(?<![0-9A-Za-z.]))([0-9]{1,5})(?![0-9A-Za-z.])")


def wrap_keepalived_program(program: list[str], *, dynamic: bool) -> list[str]:
    """Make the command of an `exec` check from a program of keepalived. With `dynamic`, only status 1 is a failure."""
    return [*_SHELL, f'"$@"{_ENDS[dynamic]}', "sh", *program]


def program_forms(argv: list[str], address: IPAddress, port: int | None) -> list[list[str]]:
    """Return a server's program with variables for its address and port, then for its address only, then unchanged.

    A program that has variables already is returned unchanged only.
    """
    if any("$NFTLB_" in word for word in argv):
        return [argv]
    end, program = "", argv
    if argv[:2] == _SHELL and len(argv) > 4 and argv[2] in _WRAPPERS:  # noqa: PLR2004
        end, program = _WRAPPERS[argv[2]], argv[4:]
    found = []
    for its_port in (port, None):
        words = [program[0], *(_with_variables(word, address, its_port) for word in program[1:])]
        if words != program:
            command = " ".join(_quoted(word) for word in words)
            found.append([*_SHELL, f"{command}{end}" if end else f"exec {command}"])
    return [*found, argv]


# Private characters stand for the variables while the words around them are quoted.
_HERE = {"\ue002": ADDRESS, "\ue003": PORT}


def _with_variables(word: str, address: IPAddress, port: int | None) -> str:
    parts: list[str] = []
    end = 0
    for match in _WORD.finditer(word):
        if (text := _replaced(match[0], address, port)) != match[0]:
            parts += word[end : match.start()], text
            end = match.end()
    word = "".join((*parts, word[end:]))
    if port is None:
        return word
    return _PORT.sub(lambda match: "\ue003" if match[1] == str(port) else match[0], word)


def _replaced(text: str, address: IPAddress, port: int | None) -> str:
    """Replace an address, and a port behind a colon."""
    if _is(text, address):
        return "\ue002"
    before, colon, after = text.rpartition(":")
    if colon and _is(before, address):
        return "\ue002:" + ("\ue003" if port is not None and after == str(port) else after)
    return text


def _is(text: str, address: IPAddress) -> bool:
    try:
        return ip_address(text) == address
    except ValueError:
        return False


def _quoted(word: str) -> str:
    parts = re.split("([\ue002\ue003])", word)
    return "".join(_HERE.get(part) or shlex.quote(part) for part in parts if part) or "''"
