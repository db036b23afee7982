"""The daemon over HTTP: what it shows, what it can be told, and the page. Written against `nftlb.service.Service`."""

from .application import application
from .hosts import names
from .limits import Limits
from .server import Server
from .tokens import TokenFile, no_tokens

__all__ = ["Limits", "Server", "TokenFile", "application", "names", "no_tokens"]
