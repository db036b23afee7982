"""A flow exporter and a flow collector, as Debian has them: softflowd and nfcapd; and what is in their datagrams."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

from servers.processes import PATIENCE, await_that
from servers.programs import environment, program

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from nftlb.lab import Host

V9, IPFIX = 9, 10
_PCAP = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
_HEADERS = {V9: 20, IPFIX: 16}
_TEMPLATES = {V9: 0, IPFIX: 2}
_FIRST_DATA = 256
_ENTERPRISE = 0x8000


def write_capture(path: Path, ports: Iterable[int]) -> None:
    """Write a capture of one UDP packet from each source port. Each packet is a flow."""
    with path.open("wb") as file:
        file.write(_PCAP)
        for number, port in enumerate(ports):
            udp = struct.pack("!HHHH", port, 9, 18, 0) + bytes(10)
            ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0) + bytes([10, 1, 0, 1, 10, 2, 0, 2])
            frame = bytes(12) + b"\x08\x00" + ip + udp
            file.write(struct.pack("<IIII", 1_700_000_000, number, len(frame), len(frame)) + frame)


def export(host: Host, target: str, version: int, ports: Iterable[int]) -> None:
    """Export the flows of these source ports with softflowd: one process, one socket. Returns when all are sent.

    softflowd runs on one processor: each processor has its own queue of received packets, so the datagrams of a
    program that moves to another processor can overtake each other, and data would arrive before its template.
    """
    with tempfile.TemporaryDirectory() as folder:
        capture = Path(folder, "flows.pcap")
        write_capture(capture, ports)
        argv = ["taskset", "--cpu-list", str(min(os.sched_getaffinity(0)))]
        argv += [program("softflowd"), "-r", str(capture), "-n", target, "-v", str(version), "-d"]
        argv += ["-p", f"{folder}/pid", "-c", "none"]  # 1.1.0 may wait for a control socket
        host.run(argv, env=environment(), timeout=PATIENCE)


class Nfcapd:
    """nfcapd on a host, at one address and port. A context manager; `flows` can be read after `stop`."""

    def __init__(self, host: Host, address: str, port: int) -> None:
        self._host, self._address, self._port = host, address, port
        self._folder = tempfile.TemporaryDirectory()
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._folder.cleanup()

    def start(self) -> None:
        """Start the program, and wait until its socket is there."""
        argv = [program("nfcapd"), "-w", self._folder.name, "-b", self._address, "-p", str(self._port), "-t", "3600"]
        argv += ["-B", "8000000"]
        self._process = self._host.popen(
            argv, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        await_that(self._listens, f"nfcapd at port {self._port}")

    def kill(self) -> None:
        """Kill the program at once: the flows that it has not written are lost."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End the program, which then writes its flows. Datagrams that it has not decoded until now are lost."""
        self._end(signal.SIGTERM)

    def received(self) -> int:
        """The datagrams that this host's programs have read, of both families."""
        return self._counter("snmp", "Udp:", "InDatagrams") + self._counter("snmp6", "Udp6InDatagrams")

    def waits(self) -> bool:
        """Whether the program waits for a datagram, and has decoded all that it has read; or does not run."""
        if self._process is None:
            return True
        return Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"

    def flows(self) -> list[int]:
        """The source ports of the flows that the program decoded and wrote, sorted."""
        done = subprocess.run(
            [program("nfdump"), "-R", self._folder.name, "-q", "-o", "fmt:%sp"],
            env=environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        return sorted(int(line) for line in done.stdout.split() if line.isdecimal())

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(PATIENCE)
            self._process = None

    def _counter(self, file: str, first: str, column: str = "") -> int:
        """A counter of the host's network: the second word of a line, or a word below the name of its column."""
        lines = self._host.call(Path(f"/proc/thread-self/net/{file}").read_text).splitlines()
        found = [line.split() for line in lines if line.split()[0] == first]
        return int(found[1][found[0].index(column)] if column else found[0][1])

    def _listens(self) -> bool:
        assert self._process is not None
        return (
            f":{self._port:04X} "
            in Path(f"/proc/{self._process.pid}/net/udp").read_text()
            + Path(f"/proc/{self._process.pid}/net/udp6").read_text()
        )


def sets(payload: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield number and content of the sets of a datagram of NetFlow v9 or IPFIX."""
    place = _HEADERS[payload[1]]
    while place + 4 <= len(payload):
        number, length = struct.unpack_from("!HH", payload, place)
        if length < 4:
            return
        yield number, payload[place + 4 : place + length]
        place += length


def template_flows(datagrams: Iterable[bytes]) -> tuple[int, int]:
    """Return the datagrams that begin with templates, and the flows in these datagrams behind the templates."""
    sizes: dict[int, int] = {}
    count = flows = 0
    for payload in datagrams:
        found = list(sets(payload))
        begins = bool(found) and found[0][0] in {_TEMPLATES[payload[1]], _TEMPLATES[payload[1]] + 1}
        count += begins
        for number, content in found:
            if number == _TEMPLATES[payload[1]]:
                sizes |= _template_sizes(content)
            elif number >= _FIRST_DATA and begins and number in sizes:
                flows += len(content) // sizes[number]
    return count, flows


def _template_sizes(content: bytes) -> dict[int, int]:
    """Return the bytes of a record by the number of its template."""
    found, place = {}, 0
    while place + 4 <= len(content):
        number, fields = struct.unpack_from("!HH", content, place)
        place += 4
        if number < _FIRST_DATA:
            break
        found[number] = 0
        for _ in range(fields):
            kind, length = struct.unpack_from("!HH", content, place)
            place += 8 if kind & _ENTERPRISE else 4
            found[number] += length
    return found
