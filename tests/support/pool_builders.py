"""Short functions that make pools and configurations, for tests of the core."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from nftlb.config.reading import read_listener, split_port
from nftlb.model import Backend, Config, Endpoint, Fallback, FallbackKind, Listener, Marks, Pool, Zones

REJECT, DROP, ALL = Fallback(), Fallback(FallbackKind.DROP), Fallback(FallbackKind.ALL)


def listener(text: str) -> Listener:
    """Return the listener of a text such as `192.0.2.53:53/udp`."""
    return read_listener(text)


def backend(name: str, text: str, **options: Any) -> Backend:
    """Return a backend at `10.0.0.11:5353`, `10.0.0.11` or `[2001:db8::11]:5353`."""
    address, port = split_port(text)
    return Backend(name=name, address=ip_address(address), port=int(port) if port else None, **options)


def backends(*texts: str, **options: Any) -> tuple[Backend, ...]:
    """Return backends with the names b1, b2, ...."""
    return tuple(backend(f"b{number}", text, **options) for number, text in enumerate(texts, 1))


def pool(name: str, listen: str | tuple[str, ...], behind: tuple[Backend, ...], **options: Any) -> Pool:
    texts = (listen,) if isinstance(listen, str) else listen
    return Pool(name=name, listen=tuple(map(listener, texts)), backends=behind, **options)


def sorry(*texts: str) -> Fallback:
    """Return a fallback with these sorry servers, at most one for each family."""
    split = [split_port(text) for text in texts]
    return Fallback(FallbackKind.SORRY, tuple(Endpoint(ip_address(host), int(port or 0)) for host, port in split))


def config(*pools: Pool, zones: int = 1, marks: int = 60001) -> Config:
    return Config(pools=pools, zones=Zones(first=zones), marks=Marks(first=marks))


DNS = pool("dns", ("192.0.2.53:53/udp", "192.0.2.53:53/tcp"), backends("10.0.0.11:5353", "10.0.0.12:5353"))
