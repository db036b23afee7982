"""The daemon's HTTP server: state, changes, metrics and the status page. Uses only `nftlb.service.Service`."""

from .admission import Operators, TokenFile, Tokens, allowed_hosts, no_tokens
from .application import application
from .connection import Limits
from .server import MODE, HttpServer, affordable
from .shared import SharedResponses

__all__ = [
    "MODE",
    "HttpServer",
    "Limits",
    "Operators",
    "SharedResponses",
    "TokenFile",
    "Tokens",
    "affordable",
    "allowed_hosts",
    "application",
    "no_tokens",
]
