"""The daemon's HTTP server: state, changes, metrics and the status page. Uses only `nftlb.service.Service`."""

from .admission import TokenFile, Tokens, allowed_hosts, no_tokens
from .application import application
from .connection import Limits
from .server import MODE, HttpServer
from .shared import SharedResponses

__all__ = [
    "MODE",
    "HttpServer",
    "Limits",
    "SharedResponses",
    "TokenFile",
    "Tokens",
    "allowed_hosts",
    "application",
    "no_tokens",
]
