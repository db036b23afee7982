"""What `nftlb run` and `nftlb restore` do first: load the rules that an earlier daemon left ready for this start.

A start imports for much longer than it loads. So a daemon keeps, beside what it remembers, the transaction that its
next start would make in a kernel without its tables (nftlb/daemon/prepared.py). The transaction is used only if all
that it was made from is as it was then: the bytes of the configuration file and of the memory, the code of nftlb, the
library of nftables. Otherwise the start takes the long way. The daemon takes the long way afterwards in any case, finds
its rules in the kernel, and changes nothing.

Nothing is imported here that takes long: `tests/test_preload.py` has the list.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # without enums, whose import takes longer than all here
import os
import stat
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

STATE_DIR, TABLE = "/var/lib/nftlb", "nftlb"
"""Where a file does not say otherwise."""
COMMANDS: Mapping[str, Mapping[str, tuple[str, ...] | None]] = {
    "run": {
        "--keep": None,
        "--remove": None,
        "--log-format": ("text", "json"),
        "--log-level": ("debug", "info", "warning", "error"),
        "--state-dir": (),
        "--strict": None,
    },
    "restore": {"-q": None, "--quiet": None, "--state-dir": ()},
}
"""The commands that load at a start, and their options: None for a flag, else the values; empty for any value."""
_SUFFIX = ".prepared"
_MAGIC = b"nftlb prepared rules, format 1, checksum %08x\n"
_HEAD = len(_MAGIC % 0)
_MOST_BYTES = 64 * 1024 * 1024
_CODE = ("", "compiler", "config", "daemon", "health", "kernel", "model", "ruleset", "swap")
"""The folders with the code that decides what is loaded."""
_LIBRARY = "libnftables.so.1"
_GETTABLE, _GETCHAIN, _TABLE_NAME, _CHAIN_NAME, _NFGENMSG = 0xA01, 0xA04, 1, 3, bytes(4)
"""include/uapi/linux/netfilter/nf_tables.h: the questions for all tables and chains, and the attributes with names."""
_MARK = b"made-by-nftlb"
"""The chain in every table of nftlb: nftlb/ruleset/ownership.py."""


class Prepared:
    """What a start needs, and what that was made from; all of it text as it stands in files.

    `cuts`: the zones in which conntrack entries must not stay, a line each: its number, and the endpoints that may.
    """

    __slots__ = ("code", "cuts", "library", "memory", "source", "text")

    def __init__(self, *, source: bytes, memory: bytes, code: bytes, library: bytes, cuts: bytes, text: bytes) -> None:
        self.source, self.memory = source, memory
        self.code, self.library = code, library
        self.cuts, self.text = cuts, text

    def write(self) -> bytes:
        """The content of the file."""
        parts = [getattr(self, name) for name in self.__slots__]
        body = b"".join(b"%d\n%s" % (len(part), part) for part in parts)
        return _MAGIC % zlib.crc32(body) + body

    @classmethod
    def read(cls, content: bytes) -> Prepared | None:
        """The way back; None for a torn or foreign content."""
        body = content[_HEAD:]
        if content[:_HEAD] != _MAGIC % zlib.crc32(body):
            return None
        parts = {}
        for name in cls.__slots__:
            length, _, body = body.partition(b"\n")
            parts[name], body = body[: int(length)], body[int(length) :]
        return cls(**parts)


class Outcome:
    """What became of it: the file that was loaded, if any; else why none was, and whether somebody should see to it."""

    __slots__ = ("loaded", "reason", "wrong")

    def __init__(self, loaded: str = "", reason: str = "", *, wrong: bool = False) -> None:
        self.loaded, self.reason, self.wrong = loaded, reason, wrong


class _Not(Exception):  # noqa: N818 - no error
    """Why the prepared rules can't be used."""

    def __init__(self, reason: str, *, wrong: bool = False) -> None:
        super().__init__(reason)
        self.wrong = wrong


def preload(arguments: Sequence[str]) -> Outcome:
    """Load what is prepared for a command, if that is right for it; whatever goes wrong is no more than said."""
    file = file_of(arguments)
    if file is None:
        return Outcome()
    try:
        with _signals_later(arguments[0]):
            return Outcome(_load(file))
    except _Not as reason:
        return Outcome(reason=str(reason), wrong=reason.wrong)
    except Exception as error:  # noqa: BLE001 - the long way meets the same, and tells it better
        return Outcome(reason=str(error) or type(error).__name__)


def file_of(arguments: Sequence[str]) -> str | None:
    """The configuration file of a command that loads at a start; None for other commands, and for wrong words."""
    options = COMMANDS.get(arguments[0]) if arguments else None
    if options is None:
        return None
    files = []
    words = iter(arguments[1:])
    for word in words:
        if not word.startswith("-"):
            files.append(word)
            continue
        name, separator, value = word.partition("=")
        allowed = options.get(name, ())
        if name not in options or (allowed is None and separator):
            return None
        if allowed is not None and not separator:
            value = next(words, "-")
        if (allowed and value not in allowed) or value.startswith("-"):
            return None
    return files[0] if len(files) == 1 else None


def places(source: bytes) -> tuple[str, str]:
    """The state directory and the table of a configuration, as far as they stand in lines of their own.

    This does not parse YAML: `prepare` writes no file for a configuration whose lines say something else here.
    """
    found = {b"state_dir": STATE_DIR, b"table": TABLE}
    for line in source.splitlines():
        key, separator, value = line.partition(b":")
        if separator and key in found:
            found[key] = value.strip().strip(b"'\"").decode(errors="replace")
    return found[b"state_dir"], found[b"table"]


def place(directory: str, table: str) -> str:
    """The file for a table."""
    return f"{directory}/{table}{_SUFFIX}"


def code() -> bytes:
    """What tells one version of nftlb's code from another: sizes and times of its files."""
    root = os.path.dirname(__file__)  # noqa: PTH120 - see above
    found = []
    for part in _CODE:
        with os.scandir(f"{root}/{part}") as entries:
            for entry in entries:
                if entry.name.endswith(".py"):
                    status = entry.stat()
                    found.append(f"{part}/{entry.name} {status.st_size} {status.st_mtime_ns}")
    return b"%d files, %08x" % (len(found), zlib.crc32("\n".join(sorted(found)).encode()))


def library() -> bytes:
    """What tells one libnftables from another: path, size and time of the file that this process has loaded."""
    with open("/proc/self/maps", "rb") as maps:  # noqa: PTH123 - see above
        for line in maps:
            path = line.rstrip(b"\n").partition(b"/")[2]
            if b"libnftables.so" in path:
                status = os.stat(b"/" + path)  # noqa: PTH116 - pathlib takes longer than all of this
                return b"/%s %d %d" % (path, status.st_size, status.st_mtime_ns)
    return b"none"


def _load(file: str) -> str:
    source = _read(file, "the configuration")
    directory, table = places(source)
    path = place(directory, table)
    prepared = Prepared.read(_read_own(path))
    if prepared is None:
        raise _Not(f"{path} is torn, or was not written by nftlb", wrong=True)
    if prepared.source != source:
        raise _Not(f"{file} is not the file that {path} was made from")
    if prepared.memory != _read(f"{directory}/{table}.json", "the memory"):
        raise _Not(f"what is remembered is not what {path} was made from")
    if prepared.code != code():
        raise _Not(f"{path} was made by another version of nftlb")

    from nftlb.kernel.lock import hold  # noqa: PLC0415 - not before it is needed

    with hold(table):
        _into_kernel(prepared, path, table)
    return path


def _into_kernel(prepared: Prepared, path: str, table: str) -> None:
    import ctypes  # noqa: PLC0415 - not before it is needed

    there, other = _tables()
    if table.encode() in there:
        raise _Not(f"the kernel has a table {table} already")
    if other:
        raise _Not(f"the kernel has table {other} of another nftlb, which may have the same conntrack zones")
    nft = ctypes.CDLL(_LIBRARY)
    if prepared.library != library():
        raise _Not(f"{path} was made with another version of nftables")
    _cut(prepared.cuts)
    nft.nft_ctx_new.restype = nft.nft_ctx_get_error_buffer.restype = ctypes.c_void_p
    context = ctypes.c_void_p(nft.nft_ctx_new(0))
    try:
        nft.nft_ctx_buffer_error(context)
        if nft.nft_run_cmd_from_buffer(context, prepared.text):
            told = ctypes.string_at(nft.nft_ctx_get_error_buffer(context)).decode(errors="replace")
            raise _Not(f"the kernel refused {path}: {told[:200].strip().partition(chr(10))[0]}", wrong=True)
    finally:
        nft.nft_ctx_free(context)


def _tables() -> tuple[set[bytes], str]:
    """The names of all tables, of all families; and of some table that nftlb made, if there is one."""
    from nftlb.kernel.netlink import NETLINK_NETFILTER, Netlink, attributes  # noqa: PLC0415 - see above

    with Netlink(NETLINK_NETFILTER) as netlink:
        tables = [attributes(one, len(_NFGENMSG)) for one in netlink.dump_all(_GETTABLE, _NFGENMSG)]
        chains = [attributes(one, len(_NFGENMSG)) for one in netlink.dump_all(_GETCHAIN, _NFGENMSG)] if tables else []
    ours = [one[_TABLE_NAME] for one in chains if one[_CHAIN_NAME].rstrip(b"\0") == _MARK]
    return {one[_TABLE_NAME].rstrip(b"\0") for one in tables}, ours[0].rstrip(b"\0").decode() if ours else ""


def _cut(lines: bytes) -> None:
    """Delete the conntrack entries that the kernel has kept longer than the rules, and that must not stay."""
    from nftlb.kernel.conntrack import Kept, cut_entries  # noqa: PLC0415 - see above

    if lines:
        cut_entries({int(zone): Kept.read(endpoints) for zone, *endpoints in map(bytes.split, lines.splitlines())})


class _signals_later:  # noqa: N801 - a context manager; contextlib is one of those that can wait
    """Has signals wait, once the rules are loaded, until the daemon heeds them.

    To end before that would leave the rules in the kernel, whatever was asked for. A start without a daemon ends at
    once.
    """

    def __init__(self, command: str) -> None:
        self._command = command

    def __enter__(self) -> None:
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))

    def __exit__(self, error: object, *_: object) -> None:
        if error is not None or self._command != "run":
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)


def _read(path: str, what: str) -> bytes:
    """Read a regular file. Who reads it otherwise later says what is wrong with it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _Not(f"{what} ({path}) can't be read: {error.strerror}") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _Not(f"{what} ({path}) is not a regular file")
        return _content(descriptor)
    finally:
        os.close(descriptor)


def _read_own(path: str) -> bytes:
    """Read a file of nftlb's own: nobody but root and this user may have been able to write it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise _Not(f"nothing is prepared: there is no {path}") from None
    except OSError as error:
        raise _Not(f"{path} can't be read: {error.strerror}; needed: a regular file", wrong=True) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _Not(f"{path} is not used: not a regular file", wrong=True)
        directory = os.path.dirname(path)  # noqa: PTH120 - see above
        _trust(path, path, status)
        _trust(path, directory, os.stat(directory))  # noqa: PTH116 - see above
        return _content(descriptor)
    finally:
        os.close(descriptor)


def _trust(path: str, name: str, status: os.stat_result) -> None:
    if status.st_uid not in (0, os.geteuid()):
        raise _Not(f"{path} is not used: {name} belongs to user {status.st_uid}; needed: root or this user", wrong=True)
    # In a directory with the sticky bit, nobody can put another file in the place of somebody else's.
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not status.st_mode & stat.S_ISVTX:
        mode = f"{stat.S_IMODE(status.st_mode):04o}"
        raise _Not(f"{path} is not used: others can write {name} (mode {mode}): chmod go-w {name}", wrong=True)


def _content(descriptor: int) -> bytes:
    with open(descriptor, "rb", closefd=False) as file:
        return file.read(_MOST_BYTES)
