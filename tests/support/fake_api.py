"""A simulated HTTP API with the responses of a test, over TCP or a Unix socket. It records the requests."""

from __future__ import annotations

import json
import socketserver
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, cast

from nftlb.model import Admin, Balance, Forward, Per
from nftlb.service import (
    BackendStatus,
    CollectorStatus,
    ConfigStatus,
    Fault,
    KernelStatus,
    NameStatus,
    PoolStatus,
    Status,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
TOKEN = "s3cret"  # noqa: S105
_PREVIEW = "?preview=true"


def backend(name: str = "ns1", number: int = 1, **changed: Any) -> BackendStatus:
    given: dict[str, Any] = {
        "name": name,
        "address": f"10.0.{number // 250}.{number % 250 + 10}",
        "port": 5353,
        "up": True,
        "admin": Admin.ENABLED,
        "agent": None,
        "labels": {},
        "admin_since": None,
        "priority": 1,
        "weight": 1,
        "share": 0.5,
        "in_rotation": True,
        "standby": False,
        "since": NOW - timedelta(hours=2, minutes=13),
        "reason": "noerror in 0.4 ms",
        "added": False,
        "packets": 12345,
        "bytes": 1234500,
        "copies": None,
        "requests": None,
        "replies": None,
        "answered": None,
        "checks": (),
    }
    return BackendStatus(**{**given, **changed})


def pool(name: str = "dns", **changed: Any) -> PoolStatus:
    given: dict[str, Any] = {
        "name": name,
        "listen": ("192.0.2.53:53/udp", "[2001:db8::53]:53/udp"),
        "forward": Forward.NAT,
        "balance": Balance.ROUND_ROBIN,
        "per": Per.PACKET,
        "ready": True,
        "quorum": 1,
        "healthy": 2,
        "mode": "healthy",
        "priority": 1,
        "min_healthy": "1",
        "preempts_at": None,
        "since": NOW - timedelta(days=3, hours=1),
        "packets": 24690,
        "bytes": 2469000,
        "backends": (backend("ns1", 1), backend("ns2", 2)),
    }
    return PoolStatus(**{**given, **changed})


def status(**changed: Any) -> Status:
    given: dict[str, Any] = {
        "host": "lb1",
        "version": "0.1.0",
        "pid": 42,
        "started": NOW - timedelta(days=3, hours=1),
        "ready": True,
        "config": ConfigStatus(file="/etc/nftlb/pools.yaml", success=True, loaded=NOW, attempted=NOW, problems=()),
        "kernel": KernelStatus(synced=True, error="", swaps=1, failures=0, restored=0, last_swap=NOW),
        "faults": (),
        "pools": (pool(),),
    }
    return Status(**{**given, **changed})


def with_members() -> Status:
    """A pool with backends, the collector `archive`, and `www`, a name whose addresses come from DNS."""
    collector = CollectorStatus(
        name="archive",
        address="10.0.9.9",
        port=9995,
        one_in=1,
        up=True,
        since=NOW,
        reason="icmp: fine",
        packets=2500,
        bytes=250000,
        checks=(),
    )
    name = NameStatus(name="www", lookup="www.lab", backends=(), answered=None, expires=None, trouble="", left_out=())
    return status(pools=(pool(collectors=(collector,), names=(name,)),))


def troubled() -> Status:
    """A status with every kind of fault."""
    down = backend("ns2", 2, up=False, in_rotation=False, share=0.0, reason="no answer within 1s", weight=3)
    drained = backend("ns3", 3, admin=Admin.DRAIN, in_rotation=False, share=0.0)
    forced = backend("ns4", 4, up=False, agent=Admin.MAINTENANCE, port=None, reason="refused")
    return status(
        ready=False,
        config=ConfigStatus(
            file="/etc/nftlb/pools.yaml",
            success=False,
            loaded=NOW - timedelta(days=3),
            attempted=NOW - timedelta(minutes=5),
            problems=("/etc/nftlb/pools.yaml:3:5: pools.dns.lissen: unknown key",),
        ),
        kernel=KernelStatus(
            synced=False, error="Operation not permitted", swaps=1, failures=3, restored=0, last_swap=NOW
        ),
        faults=(Fault(what="state_dir", message="No space left on device", since=NOW - timedelta(seconds=90)),),
        pools=(
            pool("dns", ready=False, quorum=3, healthy=1, mode="panic", backends=(backend(), down, drained, forced)),
        ),
    )


@dataclass
class Api:
    """`answers` has the status and the document or text by method and path; other requests get 404."""

    where: str
    answers: dict[tuple[str, str], tuple[int, Any]] = field(default_factory=dict)
    asked: list[tuple[str, str, Any, str | None]] = field(default_factory=list)
    """The method, path, body and token of each request."""
    losses: list[str] = field(default_factory=list)
    """The consequences in the answer to each preview that has no other answer."""
    previews: list[tuple[str, str, Any]] = field(default_factory=list)
    """The method, path and body of each preview with this answer."""
    last_events: list[str | None] = field(default_factory=list)
    """The Last-Event-ID of each request for events."""

    def show(self, shown: Status) -> None:
        self.answers["GET", "/api/v1/status"] = 200, json.loads(shown.model_dump_json())


class _Handler(BaseHTTPRequestHandler):
    def _answer(self) -> None:
        server = cast("Any", self.server)
        api: Api = server.api
        length = int(self.headers.get("Content-Length") or 0)
        document = json.loads(self.rfile.read(length)) if length else None
        answer = api.answers.get((self.command, self.path))
        if answer is None and self.path.endswith(_PREVIEW):
            api.previews.append((self.command, self.path.removesuffix(_PREVIEW), document))
            answer = 200, {"consequences": api.losses}
        else:
            api.asked.append((self.command, self.path, document, self.headers.get("Authorization")))
        if self.path == "/api/v1/events":
            api.last_events.append(self.headers.get("Last-Event-ID"))
        code, said = answer or (404, {"error": "no such thing"})
        if callable(said):
            said = said()
        body = said if isinstance(said, bytes) else json.dumps(said).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PATCH = do_POST = do_DELETE = _answer  # noqa: N815 - names that http.server calls

    def address_string(self) -> str:
        return "another client"

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def fake_api(socket: Path | None = None) -> Iterator[Api]:
    """Serve on a free port of 127.0.0.1, or on a Unix socket."""
    server: socketserver.BaseServer
    if socket is None:
        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Handler)
        where = f"http://127.0.0.1:{cast('Any', server.server_address)[1]}"
    else:
        server = socketserver.ThreadingUnixStreamServer(str(socket), _Handler)
        where = f"unix:{socket}"
    with server:
        cast("Any", server).api = api = Api(where)
        api.show(status())
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield api
        finally:
            server.shutdown()
            thread.join()
