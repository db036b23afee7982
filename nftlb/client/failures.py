"""What can go wrong between a command and the daemon, told apart by the exit status that it ends with."""

from __future__ import annotations

from nftlb.errors import NftlbError


class Unreachable(NftlbError):  # noqa: N818 - as all that the daemon's contract can raise
    """No daemon answers there, or what answers is none."""

    exit_status = 4


class Rejected(NftlbError):  # noqa: N818
    """The daemon says that what was asked for is wrong; the message holds its words, and every fault on its line."""

    exit_status = 1


class Unknown(Rejected):
    """It knows no pool or backend of that name."""


class Refused(NftlbError):  # noqa: N818
    """The daemon may not, or could not, do what was asked for; the message says how to mend it."""

    exit_status = 3
