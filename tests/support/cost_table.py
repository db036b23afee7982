"""The table of tests/compiler/costs.txt: what a packet costs in compiled rules. `make costs` writes it."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from loaded_rules import read_tables
from packet_cost import CostCounter, Flow, Packet, Passage

from nftlb.compiler import Compiled
from nftlb.config import parse_config
from nftlb.lab import Namespace, userns
from nftlb.ruleset import file_text

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE = Path(__file__).parents[1] / "compiler" / "costs.txt"
MODES = {
    "nat": "forward: nat",
    "stateless": "forward: stateless",
    "stateless-early": "forward: stateless, replies: prerouting",
    "stateless-ingress": "forward: stateless, ingress: eth0",
    "dsr": "forward: dsr",
    "dsr-ingress": "forward: dsr, ingress: eth0",
}
FEATURES = {
    "nat-guard": ("nat", "guard: {rate: 100/s}"),
    "ingress-guard": ("stateless-ingress", "guard: {rate: 100/s}"),
    "nat-replies": ("nat", "passive: replies"),
    "stateless-replies": ("stateless", "passive: replies"),
    "nat-hash": ("nat", "balance: hash"),
    "ingress-hash": ("stateless-ingress", "balance: hash, key: payload@4+8"),
    "ingress-templates": ("stateless-ingress", "templates: all"),
    "ingress-hairpin": ("stateless-ingress", "hairpin: true"),
    "ingress-encap": ("dsr-ingress", "encap: ipip"),
    "nat-mirror": ("nat", "mirror: {archive: COLLECTOR}"),
    "stateless-mirror": ("stateless", "mirror: {archive: COLLECTOR}"),
    "nat-outbound": ("nat", "outbound: true"),
}
"""Features that cost only the pools that have them: the mode in which each is counted, and the key. With one pool."""
FAMILIES = ("ip", "ip6")
SIZES = (1, 10, 1000)
BACKENDS = 3
_CLIENT = {"ip": "198.51.100.7", "ip6": "2001:db8:7::7"}
_OWN = {"ip": "10.255.255.1", "ip6": "2001:db8:ffff::1"}
_OTHER = {"ip": "203.0.113.9", "ip6": "2001:db8:9::9"}
_COLLECTOR = {"ip": "203.0.113.5:9995", "ip6": "[2001:db8:9::5]:9995"}
_TRANSLATED = ("prerouting", "postrouting")
_HEADING = """\
What a packet costs in the compiled rules beyond plain routing, and what it meets there. Written by `make costs`.
tests/support/packet_cost.py counts, and has the nanoseconds of each kind. `request` and `reply`: of a known connection.
`first`: the first packet of a client to a backend. `nobody`: a packet to an address that no pool has.

"""


@dataclass(frozen=True)
class Setting:
    mode: str
    family: str
    pools: int

    def __str__(self) -> str:
        return f"{self.mode}, {self.family}, {self.pools} pools"

    @property
    def way(self) -> str:
        """The mode without its feature."""
        return FEATURES[self.mode][0] if self.mode in FEATURES else self.mode

    @property
    def heading(self) -> str:
        """The beginning of the setting's lines in the table."""
        return f"{self.mode:<18}{self.family:<4}{self.pools:>5}"

    @property
    def text(self) -> str:
        """The configuration."""
        lines = ["pools:"]
        for pool in range(self.pools):
            behind = ", ".join(f"b{backend}: {self._backend(pool, backend)}" for backend in range(BACKENDS))
            extra = f" {FEATURES[self.mode][1]}," if self.mode in FEATURES else ""
            extra = extra.replace("COLLECTOR", f"'{_COLLECTOR[self.family]}'")
            lines.append(f"  p{pool}: {{listen: '{self._listen(pool)}', {MODES[self.way]},{extra}")
            lines.append(f"    backends: {{{behind}}}}}")
        return "\n".join(lines)

    @property
    def port(self) -> int:
        """The port of backends: with `outbound`, that of the service."""
        return 53 if "outbound" in self.mode else 5353

    def service(self, pool: int) -> str:
        if self.family == "ip":
            return f"192.0.{pool // 250}.{pool % 250 + 1}"
        return f"2001:db8::{pool + 1:x}"

    def backend(self, pool: int, backend: int) -> str:
        if self.family == "ip":
            return f"10.{pool // 250}.{pool % 250}.{backend + 1}"
        return f"2001:db8:2:{pool:x}::{backend + 1}"

    def _backend(self, pool: int, backend: int) -> str:
        port = "" if self.way.startswith("dsr") else f"port: {self.port}, "
        device = "device: eth1, " if "ingress" in self.way and "encap" not in self.mode else ""
        return f"{{{port}{device}address: '{self.backend(pool, backend)}'}}"

    def _listen(self, pool: int) -> str:
        return f"{self.service(pool)}:53/udp" if self.family == "ip" else f"[{self.service(pool)}]:53/udp"


SETTINGS = [Setting(*of) for of in (*product(MODES, FAMILIES, SIZES), *product(FEATURES, FAMILIES, SIZES[:1]))]


def rules(setting: Setting) -> str:
    """Return the compiled rules of a setting."""
    return file_text(Compiled(parse_config(setting.text, "costs.yaml")).ruleset())


def committed(setting: Setting) -> list[str]:
    """Return the lines of a setting in the committed table."""
    return [line for line in all_committed() if line.startswith(setting.heading)]


def all_committed() -> list[str]:
    """Return the lines of the committed table."""
    return FILE.read_text().removeprefix(_HEADING).splitlines()


class Counted:
    """The loaded rules of a setting, and packets for its last pool."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        with Namespace("costs") as namespace:
            text = rules(setting)
            # The rules name the interfaces of tunnels too.
            for device in dict.fromkeys(re.findall(r'device "(.+?)"', text)):
                namespace.run(["ip", "link", "add", device, "type", "veth"])
            namespace.run(["nft", "-f", "-"], input=text)
            self._counter = CostCounter(namespace.call(read_tables))

    def passages(self) -> dict[str, list[Passage]]:
        """Return the passages of a packet for each turn of the backends, by the kind of the packet."""
        nat = self.setting.way == "nat"
        known = Flow(translated=_TRANSLATED if nat else ())
        found = {"request": [self._request(known) for _ in range(BACKENDS)]}
        if nat:
            found["first"] = [self._request(Flow(new=True)) for _ in range(BACKENDS)]
        if not self.setting.way.startswith("dsr"):  # otherwise replies do not pass the balancer
            found["reply"] = [self._reply(backend) for backend in range(BACKENDS)]
        other = packet(_CLIENT[self.setting.family], 40000, _OTHER[self.setting.family], 9999, "eth0")
        found["nobody"] = [self._counter.send(other, Flow())]
        return found

    def _request(self, flow: Flow) -> Passage:
        service = self.setting.service(self.setting.pools - 1)
        return self._counter.send(packet(_CLIENT[self.setting.family], 40000, service, 53, "eth0"), flow)

    def _reply(self, backend: int) -> Passage:
        nat = self.setting.way == "nat"
        client = (_OWN if nat else _CLIENT)[self.setting.family]
        source = self.setting.backend(self.setting.pools - 1, backend)
        return self._counter.send(
            packet(source, self.setting.port, client, 40000, "eth1"),
            # The backends of the last pool have the last zones.
            Flow(
                reply=True,
                zone=(self.setting.pools - 1) * BACKENDS + backend + 1 if nat else 0,
                translated=_TRANSLATED if nat else (),
            ),
        )

    def lines(self) -> Iterator[str]:
        for kind, passages in self.passages().items():
            dearest = max(passages, key=lambda passage: passage.cost)
            met = ", ".join(f"{count} {name}" for name, count in sorted(dearest.met.items()))
            yield f"{self.setting.heading}  {kind:<8}{dearest.cost / 10:>7.1f} ns  {dearest.end}: {met}"


def packet(source: str, sport: int, destination: str, dport: int, device: str) -> Packet:
    """Return a UDP packet without fragments, with a checksum and a payload of 64 bytes."""
    sender, receiver = ip_address(source), ip_address(destination)
    udp = bytearray(struct.pack("!HHHH", sport, dport, 72, 0x1234) + bytes(64))
    addresses = sender.packed + receiver.packed
    if sender.version == 4:
        network = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0x4321) + addresses
    else:
        network = struct.pack("!IHBB", 6 << 28, len(udp), 17, 64) + addresses
    return Packet("ip" if sender.version == 4 else "ip6", bytearray(network), udp, device)


def main() -> None:
    """Write the table."""
    userns.ensure()
    lines = [line for setting in SETTINGS for line in Counted(setting).lines()]
    FILE.write_text(_HEADING + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
