"""The errors of requests to the daemon. Each has the exit status of a command."""

from __future__ import annotations

from nftlb.errors import NftlbError


class Unreachable(NftlbError):  # noqa: N818 - named as the errors of nftlb.service
    """No daemon answers at the address, or another program does."""

    exit_status = 4


class Rejected(NftlbError):  # noqa: N818
    """The daemon found a fault in the request. The message has the error of the daemon and each fault on a line."""

    exit_status = 1


class Unknown(Rejected):
    """No pool or backend has that name."""


class Conflicting(Rejected):
    """The request conflicts with the present state of the daemon."""


class RequestRefused(NftlbError):  # noqa: N818
    """The daemon refused the request or failed. The message says how to fix it."""

    exit_status = 3


class Unavailable(RequestRefused):
    """The daemon, or a proxy before it, can't answer now: HTTP status 500 to 599. A later attempt may succeed."""
