"""The real daemon in its own process on a host of the lab, started and stopped as systemd does."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime
from http.client import HTTPResponse
from ipaddress import ip_address
from pathlib import Path
from threading import Condition, Thread
from typing import TYPE_CHECKING, Any, Self

import yaml

from nftlb.client import DaemonClient, read_daemon_address
from nftlb.lab import VIP4, VIP6
from nftlb.model.kinds import endpoint_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from nftlb.lab import Host, Lab

NFTLB = Path(sys.executable).with_name("nftlb")
PORT = 5353
"""The port of `Lab.serve` for `dns`."""
TOKEN = "a-token-of-the-tests"  # noqa: S105 - it opens nothing
VIP = {4: VIP4, 6: VIP6}
PATIENCE = 60.0
"""Seconds to wait for expected events: far more than needed, because on a busy machine a start takes 20 s."""


def dns(lab: Lab, version: int = 4, **options: Any) -> dict[str, Any]:
    """A pool of DNS over one version of IP, with a backend on every host of the lab, as in a file."""
    backends = {host.name: at(host.address(version), PORT) for host in lab.backends}
    return {"dns": {"listen": f"{at(VIP[version], 53)}/udp", "backends": backends, **options}}


def at(address: str, port: int) -> str:
    """An address and a port, as in a file."""
    return endpoint_text(ip_address(address), port)


def mounted(script: str) -> tuple[str, ...]:
    """Words before a command that give it separate mounts, which a shell script makes."""
    return ("unshare", "--mount", "sh", "-c", f'{script}; exec "$@"', "sh")


@dataclass(frozen=True)
class Seen:
    """An event of the daemon, with the times of its arrival here and of its cause (seconds, monotonic clock)."""

    at: float
    happened: float
    kind: str
    backend: str
    event: dict[str, Any]


class Running:
    """A context manager: `nftlb run` with a configuration, given as data, on a host."""

    def __init__(
        self,
        host: Host,
        directory: Path,
        pools: dict[str, Any],
        *,
        options: tuple[str, ...] = (),
        wrapper: tuple[str, ...] = (),
        environment: dict[str, str] | None = None,
    ) -> None:
        """`wrapper`: words before the command, which must end in exec(2). `environment`: additional variables."""
        self.host = host
        self.directory = directory
        self.file = directory / "nftlb.yaml"
        self.socket = directory / "api.sock"
        self.state = directory / "state"
        self.log = directory / "daemon.log"
        self.process: subprocess.Popen[str]
        self.top: dict[str, Any] = {}
        self.events: list[Seen] = []
        self._options = options
        self._wrapper = wrapper
        self._environment = environment or {}
        self._changed = Condition()
        self._stack = ExitStack()
        (directory / "token").write_text(TOKEN)
        (directory / "token").chmod(0o600)
        self.write(pools)

    def write(self, pools: dict[str, Any]) -> None:
        """Write the file; a running daemon reads it only when asked to."""
        api = {"listen": f"unix:{self.socket}", "token_file": str(self.directory / "token")}
        whole = {"state_dir": str(self.state), "api": api, **self.top, "pools": pools}
        temporary = self.file.with_suffix(".new")
        temporary.write_text(yaml.safe_dump(whole, sort_keys=False))
        temporary.replace(self.file)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def client(self) -> DaemonClient:
        return DaemonClient(read_daemon_address(f"unix:{self.socket}"), TOKEN, timeout=PATIENCE)

    def start(self) -> None:
        """Start the daemon. Return when it has notified that it is ready."""
        ready = self.directory / "notify.sock"
        ready.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
            notified.bind(str(ready))
            notified.settimeout(PATIENCE)
            self.process = self._spawn({"NOTIFY_SOCKET": str(ready)})
            try:
                while b"READY=1" not in notified.recv(4096):
                    pass
            except TimeoutError:
                self.kill()
                raise AssertionError(f"it did not get ready:\n{self.log.read_text()}") from None
        self._listen()

    def start_and_kill(self, seconds: float) -> None:
        """Start the daemon, and kill it after some seconds, at any step of the start."""
        process = self._spawn({})
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(PATIENCE)
        else:
            raise AssertionError(f"the daemon ended:\n{self.log.read_text()[-4000:]}")

    def stop(self) -> int:
        """Stop the daemon as systemd does. Return its exit status."""
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(PATIENCE)
        finally:
            self._end()

    def kill(self) -> None:
        """Kill the daemon as the kernel does when memory is short."""
        self.process.kill()
        self.process.wait(PATIENCE)
        self._end()

    def wait(self, kind: str, backend: str = "", *, since: float = 0.0, count: int = 1) -> Seen:
        """Wait for the `count`th event of a kind after a moment; with a backend, only its events count."""

        def fits(event: Seen) -> bool:
            return event.kind == kind and event.at > since and backend in ("", event.backend)

        found: list[Seen] = self.wait_for(
            lambda: [event for event in self.events if fits(event)][count - 1 : count], f"{kind} {backend}"
        )
        return found[0]

    def wait_for(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait until a condition about the events is true. Return its value."""
        with self._changed:
            if not self._changed.wait_for(condition, PATIENCE):
                events = "\n".join(f"{event.at:.3f} {event.kind} {event.backend}" for event in self.events)
                raise AssertionError(f"{what} did not come; what came:\n{events}\n{self.log.read_text()[-4000:]}")
            return condition()

    def poll_status(self, condition: Callable[[dict[str, Any]], Any], what: str) -> Any:
        """Read the status until a condition is true: for changes that have no event."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            document = self.client.document()
            if found := condition(document):
                return found
        raise AssertionError(f"{what} did not come; the status is:\n{json.dumps(document, indent=1)}")

    def wait_for_log(self, *texts: str) -> None:
        """Wait until the log has all these texts: a line is written to a file soon after the event."""
        deadline = time.monotonic() + PATIENCE
        while missing := [text for text in texts if text not in self.log.read_text()]:
            assert time.monotonic() < deadline, f"the log has no {missing}:\n{self.log.read_text()}"
            time.sleep(0.01)

    def backend(self, pool: str, name: str) -> dict[str, Any]:
        """The status of a backend."""
        pools = {shown["name"]: shown for shown in self.client.document()["pools"]}
        return next(dict(backend) for backend in pools[pool]["backends"] if backend["name"] == name)

    def ask(self, method: str, path: str, body: Any = None, token: str | None = TOKEN) -> socket.socket:
        """Send a request. Return the connection from which the response can be read."""
        content = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n"
        head += f"Authorization: Bearer {token}\r\n" if token else ""
        head += "" if body is None else f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
        with ExitStack() as stack:
            connection = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            connection.connect(str(self.socket))  # a socket with a time-out would not wait for a place in the queue
            connection.settimeout(PATIENCE)
            connection.sendall(head.encode() + b"\r\n" + content)
            stack.pop_all()
        return connection

    def call(self, method: str, path: str, body: Any = None, token: str | None = TOKEN) -> tuple[int, Any]:
        """Send a request. Return status and body of the response, JSON or text."""
        with (
            self.ask(method, path, body, token) as connection,
            HTTPResponse(connection, method=method) as response,
        ):
            response.begin()
            text = response.read().decode()
            kind = response.headers.get_content_type()
            return response.status, json.loads(text) if text and kind == "application/json" else text

    def _spawn(self, environment: dict[str, str]) -> subprocess.Popen[str]:
        with self.log.open("a") as log:
            return self.host.popen(
                [*self._wrapper, str(NFTLB), "run", str(self.file), *self._options],
                stderr=log,
                env={**os.environ, **environment, **self._environment},
            )

    def _listen(self) -> None:
        connection = self._stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        connection.settimeout(PATIENCE)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                connection.connect(str(self.socket))
                break
            except (FileNotFoundError, ConnectionRefusedError):
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise
        connection.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: test\r\n\r\n")
        response = HTTPResponse(connection)
        response.begin()
        connection.settimeout(None)
        thread = Thread(target=self._read, args=(response,), daemon=True)
        thread.start()
        self._stack.callback(thread.join)
        self._stack.callback(lambda: _shut(connection))

    def _read(self, response: HTTPResponse) -> None:
        with suppress(OSError, ValueError):
            for line in response:
                if line.startswith(b"data:"):
                    event = json.loads(line[5:])
                    with self._changed:
                        now = time.monotonic()
                        happened = datetime.fromisoformat(event["at"]).timestamp() - time.time() + now
                        self.events.append(Seen(now, happened, event["kind"], event.get("backend", ""), event))
                        self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def _end(self) -> None:
        self._stack.close()


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
