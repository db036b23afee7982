"""The daemon's HTTP server: state, changes, metrics and the status page. Uses only `nftlb.service.Service`."""

from .admission import TokenFile, allowed_hosts, no_tokens
from .application import application
from .connection import Limits
from .server import HttpServer

__all__ = ["HttpServer", "Limits", "TokenFile", "allowed_hosts", "application", "no_tokens"]
