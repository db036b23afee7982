"""Measures how soon a changed answer of DNS, and a new address of an interface, are in the rules of the kernel.

`python bench/addresses.py [POOLS ...]` (default 1 1000): the number of pools beside the one that changes, each with ten
backends. The real daemon runs in a network namespace. ONE client socket sends to the service without a pause, and the
first reply of the new backend, or from the new address, ends a round. Each figure is from 20 rounds.

The TTL of the record is 1 s, and the moment of its change is random. "record" begins at the change of the record,
"answer" when the DNS server sends the new address. "address" begins at the end of `ip address add`.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from conditions import keep_others_out

from nftlb.lab import VIP4, Lab, userns

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from daemon_process import PORT, Running
from dns_zone import Zone

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import dns.message

    from nftlb.lab import Host

ROUNDS = 20
NEW = "192.0.2.77"
PATIENCE = 0.002
"""Seconds until the client sends the next datagram, if there is no reply. This is the error of a figure."""
TTL = 1.0


def main(pools: int) -> None:
    with tempfile.TemporaryDirectory() as folder, Lab(backends=2) as lab, lab.serve(PORT), ExitStack() as stack:
        balancer, (first, second) = lab.balancer, lab.backends
        balancer.run(["ip", "link", "add", "vip0", "type", "veth", "peer", "name", "vip1"])
        balancer.run(["ip", "link", "set", "vip0", "up"])
        balancer.run(["ip", "route", "add", "10.128.0.0/9", "via", first.ipv4])
        zone = stack.enter_context(Zone(balancer, ns=[first.ipv4]))
        sent = recorded(zone)
        configured = {
            "named": {"listen": f"{VIP4}:53/udp", "backends": {"ns": f"ns.lab:{PORT}"}},
            "here": {"listen": "vip0:53/udp", "backends": {"b1": f"{first.ipv4}:{PORT}"}},
            **{
                f"pool{number}": {
                    "listen": f"{VIP4}:{1000 + number}/udp",
                    "backends": {
                        f"b{one}": f"10.{128 + number // 250}.{number % 250}.{one + 1}:53" for one in range(10)
                    },
                }
                for number in range(pools)
            },
        }
        daemon = Running(balancer, Path(folder), configured)
        daemon.top = {"resolver": zone.option}
        daemon.write(configured)
        stack.enter_context(daemon)
        print(f"{pools} other pools, {ROUNDS} rounds, {os.cpu_count()} processors")
        records, answers = [], []
        answered_by(lab.client, VIP4, first.name)
        for number in range(ROUNDS):
            time.sleep(TTL + random.random() * TTL)  # noqa: S311 - nothing secret about it
            host = (second, first)[number % 2]
            began = time.perf_counter()
            zone.set_addresses("ns", host.ipv4)
            ended = answered_by(lab.client, VIP4, host.name)
            records.append(ended - began)
            answers.append(ended - next(when for when, address in sent if when > began and address == host.ipv4))
        report("record", records)
        report("answer", answers)
        report("address", [appears(balancer, lab.client, daemon) for _ in range(ROUNDS)])


def recorded(zone: Zone) -> list[tuple[float, str]]:
    """Record when the DNS server sends which address, from now on."""
    sent: list[tuple[float, str]] = []
    answer: Callable[[dns.message.Message], dns.message.Message] = zone.answer

    def respond(query: dns.message.Message) -> dns.message.Message:
        response = answer(query)
        sent.extend((time.perf_counter(), record.address) for rrset in response.answer for record in rrset)
        return response

    zone.respond = respond
    return sent


def appears(balancer: Host, client: Host, daemon: Running) -> float:
    """Add an address, and return the seconds until a datagram that is sent to the address is answered."""
    balancer.run(["ip", "address", "add", f"{NEW}/32", "dev", "vip0"])
    began = time.perf_counter()
    ended = answered_by(client, NEW)
    # The status may be some time old. The first wait ends when the status has the listener: the status from before the
    # address would end the second wait at once. The second wait ends when the listener is gone: the next round adds it.
    daemon.poll_status(lambda found: f"{NEW}:53/udp" in str(found["pools"]), "the listener")
    balancer.run(["ip", "address", "del", f"{NEW}/32", "dev", "vip0"])
    daemon.poll_status(lambda found: f"{NEW}:53/udp" not in str(found["pools"]), "the end of the listener")
    time.sleep(random.random())  # noqa: S311 - as above
    return ended - began


def answered_by(client: Host, address: str, name: str = "") -> float:
    """Send datagrams from one socket until a backend, or the backend of this name, answers. Return the time."""
    with client.connect((address, 53), connected=False) as socket:
        while True:
            # A reply to an earlier datagram counts too.
            if any(result.backend and name in {"", result.backend} for result in socket.exchange(1, timeout=PATIENCE)):
                return time.perf_counter()


def report(what: str, times: Sequence[float]) -> None:
    ordered = [1000 * one for one in sorted(times)]
    print(f"{what:<8} median {statistics.median(ordered):.0f} ms, lowest {ordered[0]:.0f}, highest {ordered[-1]:.0f}")


if __name__ == "__main__":
    userns.ensure()
    keep_others_out()
    for size in sys.argv[1:] or ("1", "1000"):
        main(int(size))
