"""How much of the daemon a client may take up."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Numbers, bytes and seconds. The defaults leave most of 1,024 file descriptors to the rest of the daemon."""

    connections: int = 512
    """Open at once; one more closes the one that has been waiting for longest, if any does."""
    listeners: int = 64
    """Of events, at once."""
    readers: int = 64
    """Who wait at once for an answer that takes work: a status, a ruleset, a scrape."""
    body: int = 64 << 10
    head_seconds: float = 10
    """From a request's first byte, or from the connection's begin, to the end of its head."""
    body_seconds: float = 10
    idle_seconds: float = 30
    """Between two requests."""
    write_seconds: float = 30
    """For the client to take a response."""
    unsent: int = 32 << 20
    """Of all responses together that clients are slow to take, a shared one counted once; above it, the oldest
    connections are closed."""
    comment_seconds: float = 15
    """Between two comments to those who listen for events: middleboxes drop what is silent."""
    stop_seconds: float = 1
    """For requests that are under way when the server stops."""
