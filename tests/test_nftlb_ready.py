"""keepalived's script deploy/keepalived/nftlb-ready, with responses of every kind."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

SCRIPT = Path(__file__).parents[1] / "deploy" / "keepalived" / "nftlb-ready"
HASTE = 0.8
"""Seconds that the hasty script waits; by default more."""
READY = b"HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\nready\n"
NOT_READY = b"HTTP/1.0 503 Service Unavailable\r\n\r\nnot ready\ndns: 0 of 1 backends\nntp: 0 of 2 backends\n"


Run = Callable[..., tuple[int, str, float]]


def runs(path: Path) -> Run:
    def go(*arguments: str) -> tuple[int, str, float]:
        begin = time.monotonic()
        command = [sys.executable, "-IS", str(path), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert "" == done.stderr
        return done.returncode, done.stdout, time.monotonic() - begin

    return go


@pytest.fixture(scope="module")
def run() -> Run:
    """Runs the script with arguments. Gives the exit status, the output, and the duration in seconds."""
    return runs(SCRIPT)


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs the script with less patience, for tests in which no daemon answers."""
    text, count = re.subn(r"(?m)^PATIENCE = 3\.0$", f"PATIENCE = {HASTE}", SCRIPT.read_text())
    assert 1 == count
    path = tmp_path_factory.mktemp("ready") / "nftlb-ready"
    path.write_text(text)
    return runs(path)


def listen(address: str) -> socket.socket:
    if address.startswith("/"):
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(address)
    else:
        listening = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        listening.bind((address, 0))
    listening.listen(1)
    return listening


@contextmanager
def served(listening: socket.socket, *answers: Callable[[socket.socket], object]) -> Iterator[list[bytes]]:
    """Serve one connection after the other. Yields the requests."""
    asked: list[bytes] = []

    def serve() -> None:
        for answer in answers:
            connection, _ = listening.accept()
            with connection:
                asked.append(connection.recv(4096))
                answer(connection)

    thread = Thread(target=serve, daemon=True)
    thread.start()
    with listening:
        yield asked
        thread.join(10)


def says(answer: bytes) -> Callable[[socket.socket], object]:
    return lambda connection: connection.sendall(answer)


def url(listening: socket.socket) -> str:
    name = listening.getsockname()
    if isinstance(name, str):
        return f"unix:{name}"
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"


@pytest.mark.parametrize("where", ["127.0.0.1", "::1", "unix"])
def test_ready(run: Run, where: str, tmp_path: Path) -> None:
    """The status 200 gives exit status 0, at every kind of address."""
    listening = listen(str(tmp_path / "api.sock") if where == "unix" else where)
    with served(listening, says(READY)) as asked:
        status, output, _ = run(url(listening))

    assert (0, "ready\n") == (status, output)
    assert [b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n"] == asked


def test_not_ready(run: Run) -> None:
    """The status 503 gives exit status 1, without another attempt; the daemon's reasons are in one line."""
    listening = listen("127.0.0.1")
    with served(listening, says(NOT_READY)):
        status, output, _ = run(url(listening))

    assert (1, "not ready dns: 0 of 1 backends ntp: 0 of 2 backends\n") == (status, output)


def test_one_pool(run: Run) -> None:
    """A second argument selects a pool."""
    listening = listen("127.0.0.1")
    with served(listening, says(READY)) as asked:
        assert 0 == run(url(listening), "dns")[0]

    assert asked[0].startswith(b"GET /readyz?pool=dns HTTP/1.0\r\n")


def test_tries_again(run: Run) -> None:
    """A daemon that ends during a request, and is back in time, is ready."""
    listening = listen("127.0.0.1")
    with served(listening, says(b""), says(b"HTTP/1.0 200"), says(READY)) as asked:
        assert (0, "ready\n") == run(url(listening))[:2]

    assert 3 == len(asked)


@pytest.mark.parametrize("where", ["127.0.0.1", "unix"])
def test_without_a_daemon_the_script_fails(hasty: Run, where: str, tmp_path: Path) -> None:
    """The script waits for a missing daemon, and then exits with 1."""
    with listen(str(tmp_path / "api.sock") if where == "unix" else where) as listening:
        address = url(listening)
    status, output, seconds = hasty(address)

    assert (1, f"no answer from {address}: [Errno 111] Connection refused\n") == (status, output)
    assert HASTE / 2 <= seconds


@pytest.mark.parametrize("where", ["127.0.0.1", "unix"])
@pytest.mark.parametrize("waiting", [0, 4])
def test_hangs(hasty: Run, where: str, waiting: int, tmp_path: Path) -> None:
    """For a stopped daemon, whose connections are accepted by the kernel or not at all, the script exits with 1."""
    with listen(str(tmp_path / "api.sock") if where == "unix" else where) as listening:
        queue = [socket.socket(listening.family) for _ in range(waiting)]
        for item in queue:
            item.setblocking(False)
            item.connect_ex(listening.getsockname())
        status, output, seconds = hasty(url(listening))
        for item in queue:
            item.close()

    assert 1 == status
    assert output.startswith("no answer from ")
    assert HASTE / 2 <= seconds < HASTE + 5


def test_drips(hasty: Run) -> None:
    """The time limit is for the whole run: a slow response of single bytes does not extend it."""

    def drip(connection: socket.socket) -> None:
        with suppress(OSError):  # the script has closed the connection
            for _ in range(1000):
                connection.sendall(b"H")
                time.sleep(0.02)

    listening = listen("127.0.0.1")
    address = url(listening)
    with served(listening, drip):
        status, output, seconds = hasty(address)

    assert (1, f"no answer from {address}: timed out\n") == (status, output)
    assert HASTE / 2 <= seconds < HASTE + 5


@pytest.mark.parametrize("address", ["localhost:9146", "127.0.0.1", "127.0.0.1:http", "http://127.0.0.1:9146"])
def test_not_an_address(run: Run, address: str) -> None:
    """The message names a wrong address; no name is looked up."""
    status, output, _ = run(address)

    assert 1 == status
    assert output.startswith(f"no answer from {address}: ")


def test_one_line(run: Run) -> None:
    """A thousand pools that are not ready fit into a line."""
    listening = listen("127.0.0.1")
    body = b"".join(b"pool%d: 0 of 1 backends\n" % number for number in range(1000))
    with served(listening, says(b"HTTP/1.0 503 No\r\n\r\nnot ready\n" + body)):
        status, output, _ = run(url(listening))

    assert 1 == status
    assert 501 == len(output)
    assert output.startswith("not ready pool0: 0 of 1 backends pool1: ")


def test_the_installed_script_is_executable() -> None:
    """The installed script is executable, and uses Debian's own Python."""
    done = subprocess.run([str(SCRIPT), "127.0.0.1"], capture_output=True, text=True, timeout=20, check=False)

    assert 1 == done.returncode
    assert done.stdout.startswith("no answer from 127.0.0.1: ")
