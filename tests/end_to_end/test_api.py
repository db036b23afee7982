"""The API of the real daemon with a kernel: refused requests, and fuzzed requests."""

from __future__ import annotations

import select
import socket
from contextlib import contextmanager
from socketserver import BaseRequestHandler, ThreadingTCPServer
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
from daemon_process import PORT, TOKEN, Running, dns
from schema_fuzz import UNFORESEEN, ask, cases
from web_server import TOKEN as ASKING

from nftlb.lab import VIP4, VIP6, Lab

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BACKENDS = "/api/v1/pools/dns/backends"
B1 = f"{BACKENDS}/b1"
DRAIN = {"admin": "drain"}


def pools(lab: Lab) -> dict[str, Any]:
    """Pools of each kind that needs no interfaces, and a pool with a single backend."""
    found = dns(lab)
    found["one"] = {"listen": f"{VIP4}:54/udp", "backends": {"b1": f"{lab.backends[0].ipv4}:{PORT}"}}
    others = {host.name: f"{host.ipv4}:{PORT + 1}" for host in lab.backends}
    found["stateless"] = {"listen": f"{VIP4}:55/udp", "forward": "stateless", "backends": others}
    both = {f"{host.name}-{version}": host.address(version) for version in (4, 6) for host in lab.backends}
    found["dsr"] = {"listen": [f"{VIP4}:56/udp", f"[{VIP6}]:56/udp"], "forward": "dsr", "backends": both}
    flows = {name: {"address": address, "port": PORT + 2} for name, address in both.items()}
    found["flows"] = {"listen": [f"{VIP4}:57/tcp", f"[{VIP6}]:57/udp"], "backends": flows}
    return found


def test_refusals(tmp_path: Path) -> None:
    """Each refused request has its HTTP status and a reason, and changes neither status nor kernel."""
    requests: list[tuple[int, str, str, Any, str | None]] = [
        (401, "PATCH", B1, DRAIN, None),
        (401, "PATCH", B1, DRAIN, "another"),
        (401, "DELETE", B1, None, None),
        (401, "POST", BACKENDS, {"name": "b9", "address": "10.9.9.9"}, None),
        (401, "POST", "/api/v1/reload", None, TOKEN[:-1]),
        (404, "PATCH", "/api/v1/pools/dsn/backends/b1", DRAIN, TOKEN),
        (404, "PATCH", f"{BACKENDS}/b9", DRAIN, TOKEN),
        (404, "DELETE", f"{BACKENDS}/b9", None, TOKEN),
        (404, "GET", "/api/v1/pools/dsn", None, None),
        (404, "GET", "/api/v2", None, None),
        (409, "POST", BACKENDS, {"name": "b1", "address": "10.9.9.9", "port": 9}, TOKEN),
        (409, "DELETE", "/api/v1/pools/one/backends/b1", None, TOKEN),
        (413, "PATCH", B1, {"admin": "drain" * 20_000}, TOKEN),
        (422, "PATCH", B1, {"admin": "asleep"}, TOKEN),
        (422, "PATCH", B1, {"weight": -1}, TOKEN),
        (422, "POST", BACKENDS, {"name": "b9", "address": "224.0.0.1"}, TOKEN),
    ]
    with Lab(backends=3) as lab, Running(lab.balancer, tmp_path, pools(lab)) as daemon:
        ruleset = lab.nft("list ruleset")
        before = shown(daemon)
        answers = [(daemon.call(*request), status) for status, *request in requests]
        after = shown(daemon)

        assert [status for _, status in answers] == [status for (status, _), _ in answers]
        assert all(document["error"] for (_, document), _ in answers)
        assert before == after
        assert ruleset == lab.nft("list ruleset")

        daemon.top = {"api": {"listen": f"unix:{daemon.socket}"}}
        daemon.write(pools(lab))
        assert 200 == daemon.call("POST", "/api/v1/reload")[0]
        for token in (None, TOKEN):  # without a token file, all changes at this socket are refused, also those of root
            assert 403 == daemon.call("PATCH", B1, DRAIN, token)[0]
        assert "enabled" == daemon.backend("dns", "b1")["admin"]


def shown(daemon: Running) -> tuple[Any, list[tuple[Any, ...]]]:
    """The parts of the status that requests could change."""
    document = daemon.client.document()
    backends = [
        (pool["name"], *(backend[key] for key in ("name", "address", "port", "admin", "weight", "share", "added")))
        for pool in document["pools"]
        for backend in pool["backends"]
    ]
    return document["kernel"], backends


@pytest.mark.slow
def test_random_requests_cause_no_internal_error(tmp_path: Path) -> None:
    """Requests that the API's document allows or forbids cause no internal error, and no refusal by the kernel."""
    with (
        Lab(backends=3, dsr=True) as lab,
        Running(lab.balancer, tmp_path, pools(lab)) as daemon,
        reached(daemon.socket) as url,
    ):
        (tmp_path / "token").write_text(f"{TOKEN}\n{ASKING}\n")
        places = [{"pool": pool, "backend": "b1" if pool != "dsr" else "b1-4"} for pool in ("dns", "stateless", "dsr")]
        places.append({"pool": "flows", "backend": "b2-6"})
        statuses = set()
        for path, method, mode, place in cases(*places):
            statuses |= ask(url, path, method, mode, place, (*UNFORESEEN, 422))
            kernel = daemon.client.document()["kernel"]
            assert (True, 0) == (kernel["synced"], kernel["failures"]), (path, method, mode, place)

        assert {200, 201, 204, 404, 422} <= statuses
        assert 500 not in statuses
        assert "a fault of nftlb itself" not in daemon.log.read_text()
        assert "Traceback" not in daemon.log.read_text()


@contextmanager
def reached(path: Path) -> Iterator[str]:
    """Yield a URL of this host that leads to a Unix socket, because schemathesis can't use Unix sockets."""

    class Relay(BaseRequestHandler):
        def handle(self) -> None:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as behind:
                behind.connect(str(path))
                other = {self.request: behind, behind: self.request}
                while True:
                    for readable in select.select(list(other), [], [])[0]:
                        if not (data := readable.recv(1 << 16)):
                            return
                        other[readable].sendall(data)

    with ThreadingTCPServer(("127.0.0.1", 0), Relay) as server:
        server.daemon_threads = True
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
