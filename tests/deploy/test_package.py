"""The package on a machine that boots: installed, upgraded, rebooted, purged, with ONE client socket throughout."""

from __future__ import annotations

import json
import re
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from machine import RELEASES, Machine
from network import Network
from steady_traffic import Flow, Sent, longest_run, lost, sources, twice

from nftlb.lab import VIP4

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from packages import Packages

    from nftlb.lab import Servers

pytest_plugins = ("packages",)
pytestmark = pytest.mark.timeout(600)

FORMER = Path(__file__).parents[1] / "packets" / "former_layouts" / "one-look-up"
"""The rules that a former version wrote in each mode, for the backends of this network."""
LIST_RULES = ["nft", "list", "chain", "ip", "nftlb", "prerouting-raw"]
FILE = "/etc/nftlb/nftlb.yaml"
PREPARED = "/var/lib/nftlb/nftlb.prepared.nft"
PORT = 5353
RATE = 500
CHECK = {"icmp": {}, "interval": "200ms", "fast_interval": "50ms", "timeout": "2s"}
DOWNLOAD = 300.0  # seconds for packages from an archive
INSTALL = ["apt-get", "install", "-q", "-y", "--no-install-recommends", "--allow-downgrades"]
FIX = "systemctl enable nftlb"
LOOK = """#!/bin/sh
# A plugin: it reports its own rights.
{
	cat /etc/shadow || echo "no shadow"
	find / -writable \\( -type d -o -type f \\) -not -path "/proc/*" -not -path "/sys/*"
	grep ^CapEff /proc/self/status
} >"$TMPDIR/look.new" 2>/dev/null
mv "$TMPDIR/look.new" "$TMPDIR/look"
"""


def pools(network: Network, **options: Any) -> dict[str, Any]:
    backends = {host.name: f"{host.ipv4}:{PORT}" for host in network.backends}
    return {"dns": {"listen": f"{VIP4}:53/udp", "backends": backends, "health": CHECK, **options}}


def configure(machine: Machine, there: dict[str, Any]) -> None:
    machine.push(FILE, yaml.safe_dump({"pools": there}))


def install(machine: Machine, package: Path, *, timeout: float = 180) -> str:
    machine.push(f"/root/{package.name}", package)
    done = machine.complete([*INSTALL, f"/root/{package.name}"], timeout=timeout)
    assert 0 == done.returncode, done.stdout + done.stderr
    return done.stdout + done.stderr


def pid(machine: Machine) -> str:
    return machine.show("nftlb.service")["MainPID"]


def assert_whole(sent: Sequence[Sent]) -> None:
    """Check that every datagram has exactly one reply, from the service's own address."""
    assert [] == [datagram.number for datagram in lost(sent)]
    assert [] == twice(sent)
    assert {(VIP4, 53)} == sources(sent)


def await_answers(machine: Machine, flow: Flow) -> None:
    """Wait until packets pass in both directions again, and for the state that the last assertions check."""
    machine.wait_for(lambda: any(datagram.backends for datagram in flow.sent[-RATE:]), "an answer")
    flow.wait(4 * RATE)


def unbalanced(machine: Machine) -> int:
    """The number of datagrams that the machine itself has received since its boot, without a listener."""
    names, values = (line.split() for line in machine.network.plugged.proc_net("snmp").splitlines() if "Udp:" in line)
    return int(dict(zip(names, values, strict=True))["NoPorts"])


@contextmanager
def bare(release: str) -> Iterator[tuple[Machine, Servers]]:
    """A machine without the package, and its backends' servers."""
    with Network() as network, Machine(network, release=release) as machine, network.serve(PORT) as servers:
        yield machine, servers


@pytest.fixture(scope="module", params=RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    """Each Debian release that has a package."""
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def balancer(release: str, packages: Packages) -> Iterator[Machine]:
    """A machine with the package; each test writes its own configuration."""
    with bare(release) as (machine, _):
        install(machine, packages(release)[0])
        yield machine


@pytest.fixture
def machine(balancer: Machine) -> Machine:
    """The machine with a running service and three backends."""
    configure(balancer, pools(balancer.network))
    balancer.run(["systemctl", "reset-failed", "nftlb"], check=False)
    balancer.run(["systemctl", "restart", "nftlb"])
    return balancer


# --- installation and removal ------------------------------------------------------------------------------------


def test_installed_and_purged(release: str, packages: Packages) -> None:
    """Until it is configured, the package does nothing, and says why. After its purge, no trace is left."""
    with bare(release) as (machine, _):
        machine.run([*INSTALL, "nftables", "python3-nftables"], timeout=DOWNLOAD)
        machine.await_network()
        before = everything(machine)
        install(machine, packages(release)[0])
        status = machine.run(["systemctl", "status", "nftlb"], check=False)
        assert re.search(r"Loaded: loaded \((/usr)?/lib/systemd/system/nftlb\.service; enabled;", status)
        assert "Active: inactive (dead)" in status
        assert f"ConditionPathExists={FILE} was not met" in status
        assert "No manual entry" not in machine.run(["nftlb", "--version"])

        there = pools(machine.network, passive=True)
        there["direct"] = {"listen": f"{VIP4}:99/udp", "forward": "dsr", "backends": {"b1": "10.0.1.2"}}
        configure(machine, there)
        machine.push("/etc/nftlb/token", "secret")
        machine.run(["systemctl", "start", "nftlb"])
        with Flow(machine.network.client, (VIP4, 53), rate=RATE) as flow:
            flow.wait(RATE)
        assert_whole(flow.stop())
        assert "table ip nftlb" in machine.run(["nft", "list", "tables"])
        assert "fwmark" in machine.run(["ip", "rule"])

        machine.run(["apt-get", "remove", "-q", "-y", "nftlb-daemon"])
        assert {FILE, "/etc/nftlb/token"} <= everything(machine)["files"].keys()
        assert "" == machine.run(["nft", "list", "ruleset"])
        assert before["rules"] == everything(machine)["rules"]

        machine.run(["apt-get", "purge", "-q", "-y", "nftlb-daemon"])
        after = everything(machine)
        assert before.keys() == after.keys()
        for what in before:
            assert {} == {name: text for name, text in after[what].items() if before[what].get(name) != text}
            assert [] == sorted(before[what].keys() - after[what].keys())


def test_upgraded_and_downgraded_under_traffic(release: str, packages: Packages) -> None:
    """To the next version and back: a new process each time, no datagram is lost, and turns continue."""
    old, new = packages(release)
    with bare(release) as (machine, _):
        install(machine, old)
        configure(machine, pools(machine.network))
        machine.run(["systemctl", "start", "nftlb"])
        seen = [(machine.run(["nftlb", "--version"]).split()[1], pid(machine))]
        with Flow(machine.network.client, (VIP4, 53), rate=RATE) as flow:
            for package in (new, old):
                flow.wait(RATE)
                install(machine, package)
                machine.wait_for_unit("nftlb.service")
                flow.wait(RATE)
                seen.append((machine.run(["nftlb", "--version"]).split()[1], pid(machine)))
        sent = flow.stop()

        expected = [package.name.split("_")[1].partition("~")[0] for package in (old, new, old)]
        assert expected[0] != expected[1]
        assert expected == [version for version, _ in seen]
        assert 3 == len({process for _, process in seen})
        assert_whole(sent)
        assert 1 == longest_run(sent)
        assert f"dns: {{listen: '{VIP4}:53/udp'" not in machine.run(["nftlb", "diff", FILE])


@pytest.mark.parametrize("mode", ["nat", "stateless"])
def test_the_rules_of_a_former_version_are_replaced_under_traffic(release: str, packages: Packages, mode: str) -> None:
    """The daemon of a former version has stopped and left its rules. The package replaces them, and loses nothing."""
    with bare(release) as (machine, _):
        install(machine, packages(release)[0])
        configure(machine, pools(machine.network, forward=mode))
        machine.push("/root/former.nft", FORMER / f"{mode}.nft")
        machine.run(["nft", "-f", "/root/former.nft"])
        rules = [machine.run(LIST_RULES)]
        with Flow(machine.network.client, (VIP4, 53), rate=RATE) as flow:
            flow.wait(RATE)
            machine.run(["systemctl", "start", "nftlb"])
            machine.wait_for_unit("nftlb.service")
            rules.append(machine.run(LIST_RULES))
            flow.wait(RATE)
        sent = flow.stop()

        assert [False, True] == ["numgen inc mod 3 vmap @pool/dns/" in listed for listed in rules]
        assert_whole(sent)


def test_a_stopped_daemon_stays_stopped_by_an_upgrade(machine: Machine, release: str, packages: Packages) -> None:
    """A stopped or unconfigured service stays stopped after an upgrade."""
    machine.run(["systemctl", "stop", "nftlb"])

    install(machine, packages(release)[1])

    assert "inactive" == machine.show("nftlb.service")["ActiveState"]
    install(machine, packages(release)[0])


def test_debians_program_of_the_same_name_is_replaced(release: str, packages: Packages) -> None:
    """Ours replaces Debian's own nftlb, in C, and never the reverse; the installation prints the fix for its purge."""
    with bare(release) as (machine, _):
        machine.run([*INSTALL, "nftlb"], timeout=DOWNLOAD)
        assert version(machine, "nftlb").startswith("1.0.7-1")

        output = install(machine, packages(release)[0])
        assert "" == version(machine, "nftlb")
        assert "enabled\n" == machine.run(["systemctl", "is-enabled", "nftlb"])
        assert "/usr/bin/nftlb" == machine.run(["sh", "-c", "command -v nftlb"]).strip()

        assert FIX in output
        machine.run(["dpkg", "--purge", "nftlb"])
        machine.run(FIX.split())
        assert "enabled\n" == machine.run(["systemctl", "is-enabled", "nftlb"])
        assert "nftlb-daemon" not in machine.run(["apt-get", "upgrade", "-q", "-y"])


def version(machine: Machine, package: str) -> str:
    """The installed version of a package; empty if it is not installed."""
    shown = machine.run(["dpkg-query", "-W", "-f", "${db:Status-Abbrev} ${Version}", package], check=False)
    return shown.removeprefix("ii").strip() if shown.startswith("ii") else ""


def everything(machine: Machine) -> dict[str, dict[str, str]]:
    """Everything on the machine except logs, caches and dpkg's own records, by name."""
    skipped = " -o ".join(
        f"-path {path}"
        for path in (
            *("/var/log", "/var/cache", "/var/lib/apt", "/var/lib/dpkg", "/var/lib/systemd/timers", "/root"),
            *("/etc/passwd-", "/etc/group-", "/etc/shadow-", "/etc/gshadow-", "/etc/.pwd.lock"),
        )
    )
    files = machine.run(["sh", "-c", f"find / -xdev \\( {skipped} \\) -prune -o -printf '%p\\t%y %m %u:%g %l\\n'"])
    volatile = machine.run(["find", "/run", "/tmp", "/dev/shm", "-name", "*nftlb*"])  # noqa: S108 - it looks
    rules = machine.run(["sh", "-c", "nft list ruleset; ip rule; ip -6 rule; ip route show table all | grep -v cache"])
    units = machine.run(
        ["sh", "-c", "systemctl list-unit-files --no-legend; systemctl --all --no-legend | grep nftlb; true"]
    )
    users = machine.run(["cat", "/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow"])
    return {
        "files": dict(line.split("\t") for line in files.splitlines()),
        "volatile": dict.fromkeys(volatile.splitlines(), ""),
        "rules": dict.fromkeys(rules.splitlines(), ""),
        "units": dict.fromkeys(units.splitlines(), ""),
        "users": dict.fromkeys(users.splitlines(), ""),
    }


# --- boot ------------------------------------------------------------------------------------------------------------


def test_rebooted_under_traffic(machine: Machine) -> None:
    """As soon as interfaces are up, each datagram is balanced in turn, and none reaches the machine itself.

    Before that, some are lost: while a carrier is not noticed yet, or an ARP request has no reply.
    """
    with Flow(machine.network.client, (VIP4, 53), rate=RATE) as flow:
        flow.wait(RATE)
        off: list[int] = []
        machine.reboot(before_boot=lambda: off.append(len(flow.sent)))
        machine.wait_for_unit("nftlb.service")
        await_answers(machine, flow)
    sent = flow.stop()

    assert 0 == unbalanced(machine)
    assert f"nftlb-preload: loaded {PREPARED}" in machine.journal("nftlb-restore")
    again = [datagram for datagram in sent[off[0] :] if datagram.backends]
    counts = Counter(datagram.backend for datagram in again)
    assert {"b1", "b2", "b3"} == counts.keys()
    assert max(counts.values()) - min(counts.values()) <= len(again) // 20
    assert_whole(sent[-2 * RATE :])
    assert 1 == longest_run(sent[-2 * RATE :])


@pytest.mark.parametrize("first", [False, True])
def test_started_with_nothing_in_the_kernel(machine: Machine, first: bool) -> None:
    """The unit loads prepared rules before the daemon starts, and the daemon changes nothing, also at a first start."""
    machine.wait_for(lambda: machine.run(["ls", PREPARED], check=False), "prepared rules")
    machine.run(["systemctl", "stop", "nftlb"])
    machine.run(["nft", "flush", "ruleset"])
    if first:
        machine.run(["rm", "-r", "/var/lib/nftlb"])
        assert "" == machine.run(["nftlb", "prepare", FILE])

    machine.run(["systemctl", "start", "nftlb"])

    journal = machine.journal("nftlb")
    assert f"nftlb-preload: loaded {PREPARED}" in journal[journal.rindex("Starting nftlb") :]
    assert 0 == json.loads(machine.run(["nftlb", "status", "--json"]))["kernel"]["swaps"]
    # The daemon may just be renaming a file that it has written.
    owners = machine.run(["find", "/var/lib/nftlb", "-ignore_readdir_race", "-printf", "%u\n"])
    assert {"nftlb"} == set(owners.split())
    with Flow(machine.network.client, (VIP4, 53), rate=RATE) as flow:
        flow.wait(RATE)
    assert_whole(flow.stop())


def test_datagrams_that_are_not_balanced_are_seen(machine: Machine) -> None:
    """Without the units, datagrams reach the machine itself, so the test above would notice such datagrams."""
    machine.run(["systemctl", "disable", "nftlb", "nftlb-restore"])
    try:
        with Flow(machine.network.client, (VIP4, 53), rate=RATE):
            machine.reboot()
            machine.wait_for(lambda: unbalanced(machine), "a datagram")
    finally:
        machine.run(["systemctl", "enable", "nftlb", "nftlb-restore"])


def test_after_a_power_cut_a_bad_file_keeps_the_last_good_rules(machine: Machine) -> None:
    """The last good rules are in force until the file is fixed; drained backends stay drained."""
    machine.push("/etc/nftlb/token", "secret\n", mode=0o640)
    machine.run(["chgrp", "nftlb", "/etc/nftlb/token"])
    there = {"api": {"token_file": "/etc/nftlb/token"}, "pools": pools(machine.network)}
    machine.push(FILE, yaml.safe_dump(there))
    machine.run(["systemctl", "restart", "nftlb"])
    machine.run(["nftlb", "--token-file", "/etc/nftlb/token", "drain", "dns/b3"], check=False)
    machine.run(["nftlb", "drain", "--token-file", "/etc/nftlb/token", "dns/b3"])
    kept = f"{VIP4}:53/udp"
    machine.wait_for(lambda: kept in machine.run(["cat", "/var/lib/nftlb/nftlb.yaml"], check=False), "the copy")
    machine.push(FILE, "pools: {dns: {listen: nowhere}}\n")

    machine.cut_power()

    with Flow(machine.network.client, (VIP4, 53), rate=RATE) as flow:
        await_answers(machine, flow)
    sent = flow.stop()
    assert 0 == unbalanced(machine)
    assert_whole(sent[-2 * RATE :])
    assert {"b1", "b2"} == {datagram.backend for datagram in sent if datagram.backends}
    assert 1 == longest_run(sent[-2 * RATE :])
    assert f"{FILE} can't be used, its last good copy is:" in machine.journal("nftlb-restore")
    machine.wait_for_unit("nftlb.service")
    assert f"{FILE} can't be used, its last good copy /var/lib/nftlb/nftlb.yaml is" in machine.run(["nftlb", "status"])
    machine.run(["sh", "-c", "systemctl stop nftlb; rm -f /var/lib/nftlb/*"])
    machine.run(["nftlb", "remove", "--quiet"])


# --- the service -----------------------------------------------------------------------------------------------------


def test_reload(machine: Machine) -> None:
    """`systemctl reload` loads another file in the same process, and loses no datagram."""
    before = pid(machine)
    with Flow(machine.network.client, (VIP4, 53), rate=RATE) as flow:
        flow.wait(RATE)
        there = pools(machine.network)
        del there["dns"]["backends"]["b2"]
        configure(machine, there)
        machine.run(["systemctl", "reload", "nftlb"])
        assert "b2" not in machine.run(["nftlb", "status"])
        flow.wait(RATE)
    sent = flow.stop()

    assert_whole(sent)
    assert before == pid(machine)
    assert {"b1", "b3"} == {datagram.backend for datagram in sent[-RATE // 2 :]}


def test_reload_of_a_bad_file(machine: Machine) -> None:
    """`systemctl reload` fails, the journal has the output of `check`, and the daemon continues."""
    before = pid(machine)
    machine.push(FILE, "pools: {dns: {listen: nowhere}}\n")
    words = machine.complete(["nftlb", "check", FILE]).stderr.splitlines()

    assert 0 != machine.complete(["systemctl", "reload", "nftlb"]).returncode

    output = machine.journal("nftlb")
    assert [] == [line for line in words if line not in output]
    assert (before, "active") == (pid(machine), machine.show("nftlb.service")["ActiveState"])
    configure(machine, pools(machine.network))
    machine.run(["systemctl", "reload", "nftlb"])


def test_watchdog(machine: Machine) -> None:
    """A daemon that hangs is restarted by systemd; the rules balance traffic meanwhile."""
    machine.push("/etc/systemd/system/nftlb.service.d/impatient.conf", "[Service]\nWatchdogSec=2s\n")
    machine.run(["systemctl", "daemon-reload"])
    machine.run(["systemctl", "restart", "nftlb"])
    before = pid(machine)
    try:
        with Flow(machine.network.client, (VIP4, 53), rate=RATE) as flow:
            machine.run(["kill", "-STOP", before])
            machine.wait_for(lambda: pid(machine) not in ("0", before), "another process")
            machine.wait_for_unit("nftlb.service")
            flow.wait(RATE)
        assert_whole(flow.stop())
        assert "Watchdog timeout" in machine.journal("nftlb")
    finally:
        machine.run(["rm", "-r", "/etc/systemd/system/nftlb.service.d"])
        machine.run(["systemctl", "daemon-reload"])


def test_plugins_have_the_rights_of_the_daemons_user_only(machine: Machine) -> None:
    """A plugin can only write to `state_dir` and the run directory, can't read /etc/shadow, and has no capabilities."""
    machine.push("/usr/local/bin/look", LOOK, mode=0o755)
    check = {"exec": ["/usr/local/bin/look"], "timeout": "50s", "interval": "60s"}
    configure(machine, pools(machine.network, health=check, backends={"b1": "10.0.1.2:5353"}))
    machine.run(["systemctl", "restart", "nftlb"])
    looked = machine.wait_for(lambda: machine.run(["cat", "/run/nftlb/look"], check=False), "what it has seen")

    first, *writable, capabilities = looked.splitlines()
    assert "no shadow" == first
    assert [] == [path for path in writable if not path.startswith(("/var/lib/nftlb", "/run/nftlb"))]
    assert {"/var/lib/nftlb", "/run/nftlb"} <= set(writable)
    assert ["CapEff:", "0000000000000000"] == capabilities.split()


@pytest.mark.parametrize("unit", ["nftlb.service", "nftlb-restore.service"])
def test_exposure(machine: Machine, unit: str) -> None:
    """`systemd-analyze security` gives 2.0 or better for the running unit."""
    output = machine.run(["systemd-analyze", "security", "--no-pager", unit], check=False)
    score = re.search(rf"Overall exposure level for {unit}: (\S+)", output)
    assert score is not None

    assert float(score[1]) <= 2.0


@pytest.mark.parametrize(
    "check",
    [
        {"icmp": {}},
        {"tcp": {}, "port": 7},
        {"udp": {"send": "hello", "match": "hello$"}},
        {"exec": ["/usr/bin/test", "-d", "/var/lib/nftlb"]},
        {"exec": {"argv": ["/bin/grep", "^CapEff:.*00002000$", "/proc/self/status"], "capabilities": "net_raw"}},
    ],
    ids=["icmp", "tcp", "udp", "exec", "capability"],
)
def test_checks_work_in_the_confinement(machine: Machine, check: dict[str, Any]) -> None:
    """Checks that need a capability, a socket or a process find a live backend up; all kinds can run."""
    with machine.network.backends[0].call(tcp_server, 7):
        there = pools(machine.network, health={**check, "interval": "200ms"}, backends={"b1": "10.0.1.2:5353"})
        there["dns"]["health"]["initial"] = "down"
        configure(machine, there)
        machine.run(["systemctl", "restart", "nftlb"])

        machine.wait_for(lambda: "1/1 in service" in machine.run(["nftlb", "status"]), "the backend up")


def test_the_confined_daemon_receives_port_unreachables(balancer: Machine) -> None:
    """`passive`: the daemon's user receives the kernel's report of a port-unreachable."""
    network = balancer.network
    there = pools(network, passive=True, health={"icmp": {}, "interval": "60s"})
    there["dns"]["backends"]["b2"] = "10.0.2.2:5999"  # without a listener
    configure(balancer, there)
    balancer.run(["systemctl", "restart", "nftlb"])
    with Flow(network.client, (VIP4, 53), rate=RATE):
        balancer.wait_for(lambda: "port unreachable" in balancer.run(["nftlb", "status"]), "the refusal")


def tcp_server(port: int) -> Any:
    import socket  # noqa: PLC0415 - made in the namespace of the thread that calls

    return socket.create_server(("", port))
