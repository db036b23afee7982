"""Which values an option may have: numbers within limits, and texts that match a pattern. No I/O.

The dataclasses of the model name these types in their annotations. `nftlb.config` reads them: it makes from each
annotation the form that the configuration file and the HTTP API accept, with its JSON Schema.
"""

from __future__ import annotations

import re
from typing import Annotated, NamedTuple, TypeAlias

from .kinds import Milliseconds


class NumberLimits(NamedTuple):
    """A whole number from `low` to `high`. `what` names the option in messages, such as "a port"."""

    what: str
    low: int
    high: int
    hexadecimal: bool = False
    """Other programs show this number in hexadecimal, so that form is accepted too."""


class TextPattern(NamedTuple):
    """A text that matches `pattern` as a whole. `allowed` describes the pattern in words."""

    what: str
    allowed: str
    pattern: re.Pattern[str]


DAY: Milliseconds = 24 * 3_600_000


class TimeLimits(NamedTuple):
    """A duration from `shortest` to `longest`."""

    shortest: Milliseconds
    longest: Milliseconds = DAY
    whole_seconds: bool = False


class PercentLimits:
    """A share in whole per cent, 0 to 100."""


class RegexSyntax:
    """A regular expression in the syntax of RE2; see `nftlb.model.patterns`."""


def _text(what: str, allowed: str, pattern: str) -> TextPattern:
    return TextPattern(what, allowed, re.compile(pattern))


Port: TypeAlias = Annotated[int, NumberLimits("a port", 1, 65535)]
Weight: TypeAlias = Annotated[int, NumberLimits("a weight", 0, 256)]
Burst: TypeAlias = Annotated[int, NumberLimits("a burst", 1, 1_000_000)]
SourceCount: TypeAlias = Annotated[int, NumberLimits("a number of sources", 16, 1_000_000)]
Priority: TypeAlias = Annotated[int, NumberLimits("a priority", 0, 255)]
Length: TypeAlias = Annotated[int, NumberLimits("a length", 0, 65535)]
SampleRate: TypeAlias = Annotated[int, NumberLimits("a sampling rate", 1, 1_000_000)]
Count: TypeAlias = Annotated[int, NumberLimits("a count", 1, 255)]
PacketCount: TypeAlias = Annotated[int, NumberLimits("a number of packets", 1, 1_000_000)]
Quorum: TypeAlias = Annotated[int, NumberLimits("a quorum", 1, 65535)]
Hysteresis: TypeAlias = Annotated[int, NumberLimits("a hysteresis", 0, 65535)]
Stratum: TypeAlias = Annotated[int, NumberLimits("a stratum", 1, 15)]
HashSeed: TypeAlias = Annotated[int, NumberLimits("a seed", 1, 0xFFFFFFFF)]  # without one, the kernel draws it
ConfigId: TypeAlias = Annotated[int, NumberLimits("a config id", 0, 6)]  # 7 marks connection ids without a server id
Zone: TypeAlias = Annotated[int, NumberLimits("a conntrack zone", 1, 65535)]
Mark: TypeAlias = Annotated[int, NumberLimits("a firewall mark", 1, 0xFFFFFFFF, hexadecimal=True)]
FirstMark: TypeAlias = Annotated[int, NumberLimits("a firewall mark", 1, 0xFFFFFF00, hexadecimal=True)]
Percent: TypeAlias = Annotated[int, PercentLimits()]
Duration: TypeAlias = Annotated[Milliseconds, TimeLimits(0)]
SessionTime: TypeAlias = Annotated[Milliseconds, TimeLimits(1000, whole_seconds=True)]  # the kernel counts seconds
BanTime: TypeAlias = Annotated[Milliseconds, TimeLimits(0, whole_seconds=True)]
NameTime: TypeAlias = Annotated[Milliseconds, TimeLimits(1000)]  # a shorter time would only flood DNS servers
Timer: TypeAlias = Annotated[Milliseconds, TimeLimits(10)]  # a shorter interval would only keep the daemon busy
CountingTime: TypeAlias = Annotated[Milliseconds, TimeLimits(1000, 600_000)]  # several readings; a hang is noticed
ReplyTime: TypeAlias = Annotated[Milliseconds, TimeLimits(10, 600_000)]

POOL_NAME = _text(
    "a name of a pool",
    "a letter, then letters, digits and _ . -, at most 48 characters",
    r"[A-Za-z][A-Za-z0-9_.-]{0,47}",
)
BACKEND_NAME = _text(
    "a name of a backend",
    "a letter or digit, then letters, digits and _ . -, at most 48 characters",
    r"[A-Za-z0-9][A-Za-z0-9_.-]{0,47}",
)
SHOWN_BACKEND_NAME = _text(
    "a name of a backend", "a name of a backend, or of an address of a host name", r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}"
)
"""Unlike BACKEND_NAME with the address that follows a name: see `nftlb.config.resolution`."""
# nft writes the names of interfaces in quotes. The characters allowed here can't end the quotes and are not wildcards.
INTERFACE = _text("an interface", "1 to 15 letters, digits and _ . - @ : +", r"(?!\.{1,2}$)[A-Za-z0-9_.@:+-]{1,15}")
PATH = _text("a path", "an absolute path, which begins with /", r"/[^\x00-\x1f\x7f]*")
LABEL_NAME = _text(
    "a name of a label",
    "a letter, then letters, digits and _, at most 32 characters",
    r"[A-Za-z][A-Za-z0-9_]{0,31}",
)
"""A name that Prometheus accepts as the name of a label, also after `label_`."""
LABEL_TEXT = _text(
    "a value of a label",
    "a letter or digit, then letters, digits and _ . : / @ + -, at most 63 characters",
    r"[A-Za-z0-9][A-Za-z0-9_.:/@+-]{0,62}",
)
MOST_LABELS = 16
LINE = _text("text", "text that is not empty, without control characters", r"[^\x00-\x1f\x7f]+")
LINES = _text("text", "text that is not empty, without control characters", r"[^\x00-\x08\x0b-\x1f\x7f]+")
"""Unlike LINE with line breaks and tabs."""

PoolName: TypeAlias = Annotated[str, POOL_NAME]
BackendName: TypeAlias = Annotated[str, BACKEND_NAME]
ShownBackendName: TypeAlias = Annotated[str, SHOWN_BACKEND_NAME]
Interface: TypeAlias = Annotated[str, INTERFACE]
Path: TypeAlias = Annotated[str, PATH]
LabelName: TypeAlias = Annotated[str, LABEL_NAME]
LabelText: TypeAlias = Annotated[str, LABEL_TEXT]
Line: TypeAlias = Annotated[str, LINE]
Lines: TypeAlias = Annotated[str, LINES]
Argv: TypeAlias = tuple[Line, ...]
TableName: TypeAlias = Annotated[
    str,
    _text(
        "a name of a table",
        "a letter, then letters, digits and _ -, at most 32 characters",
        r"[A-Za-z][A-Za-z0-9_-]{0,31}",
    ),
]
HostName: TypeAlias = Annotated[
    str,
    _text(
        "a host name",
        "letters, digits and - in parts with . between them, such as lb1.example.net",
        r"(?=.{1,253}$)[A-Za-z0-9](?:[A-Za-z0-9_-]{0,62})(?:\.[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62}))*\.?",
    ),
]
GroupName: TypeAlias = Annotated[
    str,
    _text(
        "the name of a group",
        "the name of a group of this host: a letter or _, then letters, digits, _, - and ., such as operators",
        r"[A-Za-z_][A-Za-z0-9_.-]{0,62}[$]?",
    ),
]
UrlPath: TypeAlias = Annotated[str, _text("a path of a URL", "a path that begins with / and has no spaces", r"/[!-~]*")]
DnsName: TypeAlias = Annotated[
    str,
    _text(
        "a domain name",
        "labels of letters, digits, - and _, such as example.com",
        r"\.|(?=.{1,253}\.?$)(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?",
    ),
]
# The last part must not be a number: 10.0.0.300 is a wrong address and no name. The same is true of 10.0.0.1l, 10.0.0.x
# and 10.0.0.lO: behind three numbers, the last part must not begin with a digit, be one letter, or look like digits.
SERVER_NAME = _text(
    "a host name",
    "letters, digits, - and _ in parts with . between them, such as ns1.example.com",
    r"(?=.{1,253}$)"
    r"(?!(?:(?:.*\.)?(?:[0-9]+|0[xX][0-9A-Fa-f]*)|(?:[0-9]+\.){3}(?:[0-9][^.]*|[A-Za-z]|[OIl]+))\.?$)"
    r"[A-Za-z0-9_][A-Za-z0-9_-]{0,62}(?:\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*\.?",
)
ServerName: TypeAlias = Annotated[str, SERVER_NAME]
Digest: TypeAlias = Annotated[str, _text("an MD5 digest", "32 hexadecimal digits", r"[0-9A-Fa-f]{32}")]
Oid: TypeAlias = Annotated[
    str,
    _text(
        "an object identifier",
        "numbers and dots, such as 1.3.6.1.2.1.1.3.0",
        r"\.?[0-2](?:\.(?:0|[1-9][0-9]{0,9})){1,127}",
    ),
]
Regex: TypeAlias = Annotated[str, RegexSyntax()]
StatusRange: TypeAlias = tuple[int, int]
"""HTTP or SIP status codes: the first and the last of a range."""
