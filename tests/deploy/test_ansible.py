"""The roles, with real ansible-core over ssh on machines that boot, under traffic of ONE client socket."""

from __future__ import annotations

import copy
import subprocess
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from machine import RELEASES, Machine
from network import Network
from playbook import HOSTS, ROOT, Playbook, Played
from steady_traffic import Flow, Sent, lost, sources, twice

from nftlb.lab import VIP4, VIP6

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from packages import Packages

PORT = 5353
TOKEN = "a-token-that-is-never-shown"  # noqa: S105 - it opens nothing
SECRET = "a-secret-that-is-never-shown"  # noqa: S105 - nor does it
BACKENDS = {"b1": f"10.0.1.2:{PORT}", "b2": f"10.0.2.2:{PORT}", "b3": f"10.0.3.2:{PORT}"}
FRESH = [
    "nftlb : Install nftlb",
    "nftlb : Load conntrack at boot, before its parameters are set",
    "nftlb : Write the kernel parameters",
    "nftlb : Write the token",
    "nftlb : Write the secrets of health checks",
    "nftlb : Write the configuration",
    "nftlb : Enable and start the daemon",
]
FOLLOWED = ["nftlb : Write the configuration", "nftlb : Reload the daemon"]

CURRENT = pytest.mark.parametrize("installed", ["current"], indirect=True)
"""Tests whose subject does not depend on the version of Ansible."""


def variables(deb: Path, backends: dict[str, Any] | None = None, **pool: Any) -> dict[str, Any]:
    dns = {
        "listen": [f"{VIP4}:53/udp", f"[{VIP6}]:53/udp"],
        "backends": backends or {**BACKENDS, "six": {"address": "fd00:1::2", "port": PORT}},
        "health": {
            "udp": {"send": "are you there", "match": "are you there"},
            "interval": "1s",
            "timeout": "3s",  # the machine is busy with the playbook
        },
        "panic": "0%",
        **pool,
    }
    return {
        "nftlb_package": str(deb),
        "nftlb_controller_command": str(ROOT / ".venv/bin/nftlb"),
        "nftlb_token": TOKEN,
        "nftlb_secrets": {"radius.secret": SECRET},
        "nftlb": {"api": {"token_file": "/etc/nftlb/token"}, "pools": {"dns": dns}},
    }


def changed(before: dict[str, Any], **backends: Any) -> dict[str, Any]:
    """The same configuration, with other backends of the pool."""
    after = copy.deepcopy(before)
    after["nftlb"]["pools"]["dns"]["backends"] = backends
    return after


def snapshot(machine: Machine) -> str:
    """The state of a host: all installed and configured files, with sizes and times, and dpkg's list."""
    script = "find /etc /usr /var/lib -xdev -path /var/lib/systemd -prune -o -printf '%p %s %T@ %C@\\n'; dpkg -l"
    return machine.run(["sh", "-c", script])


def pid(machine: Machine) -> str:
    return machine.show("nftlb.service", "MainPID")["MainPID"]


def ready(machine: Machine) -> str:
    """The status of /readyz."""
    script = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9146/readyz').status)"
    return machine.run(["python3", "-c", script]).strip()


def shares(sent: list[Sent]) -> dict[str, int]:
    """The number of datagrams by backend."""
    return {
        name: sum(datagram.backend == name for datagram in sent)
        for name in sorted({datagram.backend for datagram in sent})
    }


def _ratio(sent: list[Sent]) -> tuple[int, ...]:
    """The shares of the backends by name, as multiples of the smallest share."""
    counts = shares(sent)
    return tuple(round(count / min(counts.values())) for count in counts.values())


@dataclass
class Installed:
    """A machine from its first boot on, with the results of all runs in order."""

    machine: Machine
    playbook: Playbook
    variables: dict[str, Any]
    deb: Path
    untouched: str
    refused: dict[str, Played]
    foreign: Played
    after_refusals: str
    checked: Played
    after_check: str
    ran: Played


@pytest.fixture(scope="module", params=HOSTS)
def installed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, packages: Packages
) -> Iterator[Installed]:
    """A fresh machine, with the results of a run with bad variables, of a run in check mode, and of a first run."""
    directory = tmp_path_factory.mktemp("ansible")
    release = HOSTS[request.param]
    deb, _ = packages(release)
    good = variables(deb)
    bad = changed(good, b1=f"10.0.1.2:{PORT}", b2="10.0.2.2:77777", b3={"address": "10.0.3.2", "wait": 3})
    alone = {**bad, "nftlb_controller_command": ""}
    ansible = ROOT / ".venv-deploy" / request.param
    with (
        Network() as network,
        Machine(network, release=release, forwarding=False) as machine,
        Playbook(machine, directory, ansible) as playbook,
        network.serve(PORT),
    ):
        machine.run(["touch", "/var/lib/apt/lists"])  # the machine has no connection to an archive, and needs none
        untouched = snapshot(machine)
        refusals: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
            "by the controller": (bad, ()),
            "by the package, in check mode": (alone, ("--check",)),
        }
        if request.param == "current":  # a play takes long: the other two combinations are for one version only
            refusals["by the controller, in check mode"] = (bad, ("--check",))
            refusals["by the package"] = (alone, ())
        refused = {who: playbook.play(given, *options) for who, (given, options) in refusals.items()}
        others, _ = packages(next(candidate for candidate in RELEASES if candidate != release))
        foreign = playbook.play({**good, "nftlb_package": str(others), "nftlb_controller_command": ""})
        after_refusals = snapshot(machine)
        checked = playbook.play(good, "--check", "--diff")
        after_check = snapshot(machine)
        ran = playbook.play(good, "--diff", "-vvv")
        yield Installed(
            machine, playbook, good, deb, untouched, refused, foreign, after_refusals, checked, after_check, ran
        )


def test_bad_variables_do_not_touch_a_fresh_host(installed: Installed) -> None:
    """With or without nftlb on the controller, the play fails with the message of `nftlb check`; nothing is written."""
    for who, played in installed.refused.items():
        assert 2 == played.status, f"{who}: {played.text}"
        assert "pools.dns.backends.b2: 77777 is not a port; allowed: 1 to 65535" in played.text, who
        assert "pools.dns.backends.b3.wait: unknown key" in played.text, who
        assert [] == played.changed, who
    assert installed.untouched == installed.after_refusals


def test_the_package_of_another_debian_is_refused(installed: Installed) -> None:
    """Such a package is refused before anything is written, with the reason."""
    assert 2 == installed.foreign.status
    assert "is for another Debian: this one has Python 3." in installed.foreign.text
    assert [] == installed.foreign.changed
    assert installed.untouched == installed.after_refusals


def test_check_mode_on_a_new_host_names_the_changes(installed: Installed) -> None:
    """`--check --diff` needs no package, changes nothing, and names the tasks that a run changes."""
    assert (0, 0) == (installed.checked.status, installed.ran.status), installed.checked.text + installed.ran.text
    assert FRESH == installed.checked.changed
    assert FRESH == installed.ran.changed
    assert installed.untouched == installed.after_check


def test_a_fresh_host_balances(installed: Installed) -> None:
    """After one run, datagrams of one socket reach the backends in strict turn, and /readyz is up."""
    network = installed.machine.network
    with Flow(network.client, (VIP4, 53), rate=500) as flow:
        flow.wait(600)
        assert "200" == ready(installed.machine)
        sent = flow.stop()

    assert [] == lost(sent)
    assert {(VIP4, 53)} == sources(sent)
    turns = {"b1": "b2", "b2": "b3", "b3": "b1"}
    assert [] == [after.number for before, after in pairwise(sent) if turns[before.backend] != after.backend]
    with Flow(network.client, (VIP6, 53), rate=500) as flow:
        flow.wait(50)
        sent = flow.stop()
    assert {"b1": len(sent)} == shares(sent)


def test_the_host_is_prepared(installed: Installed) -> None:
    """The host forwards both families, also after a boot; files belong to root, and only the daemon can read them."""
    machine = installed.machine

    assert "1\n1\n" == machine.run(["sysctl", "-n", "net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"])
    assert "120\n" == machine.run(["sysctl", "-n", "net.netfilter.nf_conntrack_udp_timeout_stream"])
    assert "nf_conntrack\n" == machine.pull("/etc/modules-load.d/nftlb.conf")
    modes = machine.run(
        ["stat", "-c", "%n %a %U:%G", *(f"/etc/nftlb/{n}" for n in ("nftlb.yaml", "token", "radius.secret"))]
    )
    assert ["640 root:nftlb"] * 3 == [line.partition(" ")[2] for line in modes.splitlines()]
    assert f"{TOKEN}\n" == machine.pull("/etc/nftlb/token")
    assert SECRET == machine.pull("/etc/nftlb/radius.secret")
    assert "enabled\n" == machine.run(["systemctl", "is-enabled", "nftlb.service"])


def test_the_token_opens(installed: Installed) -> None:
    """Changes over TCP need the token; root needs no token at the daemon's own socket."""
    machine = installed.machine
    over_tcp = ["nftlb", "weight", "dns/b1", "1", "--url", "http://127.0.0.1:9146"]

    assert 0 == machine.complete(["nftlb", "--version"]).returncode
    assert 3 == machine.complete(over_tcp).returncode
    machine.run([*over_tcp, "--token-file", "/etc/nftlb/token"])
    machine.run(["nftlb", "weight", "dns/b1", "1"])


def test_secrets_are_not_shown(installed: Installed) -> None:
    """Neither a diff nor -vvv shows the token or a secret file; a configuration that holds a secret is not shown."""
    inline = copy.deepcopy(installed.variables)
    inline["nftlb"]["pools"]["dns"]["health"] = {"radius": {"secret": SECRET}}
    played = installed.playbook.play(inline, "--check", "--diff", "-vvv")

    assert 0 == played.status, played.text
    assert FOLLOWED == played.changed
    assert [] == [text for text in (installed.ran.text, installed.checked.text, played.text) if TOKEN in text]
    assert [] == [text for text in (installed.ran.text, installed.checked.text, played.text) if SECRET in text]


def test_a_second_run_changes_nothing(installed: Installed) -> None:
    """Nothing is changed, and the daemon is neither restarted nor reloaded; the same holds in check mode."""
    before, running = snapshot(installed.machine), pid(installed.machine)

    for options in ((), ("--check", "--diff")):
        played = installed.playbook.play(installed.variables, *options)
        assert 0 == played.status, played.text
        assert [] == played.changed
        assert {} == played.diffs
    assert running == pid(installed.machine)
    assert before == snapshot(installed.machine)


def test_bad_variables_do_not_touch_a_host_in_use(installed: Installed) -> None:
    """Without nftlb on the controller, the installed nftlb refuses them; file, daemon and traffic stay."""
    bad = changed(installed.variables, b1="10.0.1.2:77777")
    before, running = snapshot(installed.machine), pid(installed.machine)

    played = installed.playbook.play({**bad, "nftlb_controller_command": ""}, "--diff")

    assert 2 == played.status
    assert "pools.dns.backends.b1: 77777 is not a port; allowed: 1 to 65535" in played.text
    assert [] == played.changed
    assert running == pid(installed.machine)
    assert before == snapshot(installed.machine)


def test_changes_lose_nothing(installed: Installed) -> None:
    """Each change (a weight, a backend less, a backend more) is a reload: no datagram is lost, and the PID stays.

    Plays take long, so the older Ansible changes only the weight.
    """
    machine = installed.machine
    heavy = {"address": "10.0.2.2", "port": PORT, "weight": 2}
    b1, b3 = BACKENDS["b1"], BACKENDS["b3"]
    steps: list[tuple[dict[str, Any], tuple[int, ...]]] = [({"b1": b1, "b2": heavy, "b3": b3}, (1, 2, 1))]
    if installed.playbook.ansible == "current":
        steps += [({"b2": heavy, "b3": b3}, (2, 1)), (BACKENDS, (1, 1, 1))]
    running = pid(machine)
    starts = []
    with Flow(machine.network.client, (VIP4, 53), rate=1000) as flow:
        for backends, _ in steps:
            # The listener of IPv6 has a backend of its own family.
            after = changed(installed.variables, **backends, six=f"[fd00:1::2]:{PORT}")
            checked = installed.playbook.play(after, "--check", "--diff")
            ran = installed.playbook.play(after, "--diff")
            assert (0, 0) == (checked.status, ran.status), checked.text + ran.text
            assert FOLLOWED == ran.changed
            assert FOLLOWED == checked.changed
            assert ["nftlb : Write the configuration"] == list(ran.diffs)
            assert checked.diffs == ran.diffs
            starts.append(len(flow.sent))
            flow.wait(1200)
        sent = flow.stop()

    assert [] == [datagram.number for datagram in lost(sent)]
    assert [] == twice(sent)
    assert {(VIP4, 53)} == sources(sent)
    assert [ratio for _, ratio in steps] == [_ratio(sent[start : start + 1200]) for start in starts]
    assert running == pid(machine)
    assert "0" == machine.show("nftlb.service", "NRestarts")["NRestarts"]


@CURRENT
def test_another_name_of_the_tables_restarts_the_daemon(installed: Installed) -> None:
    """The name of the tables changes by a restart: the old tables are deleted, and almost no datagram is lost."""
    machine = installed.machine
    renamed = copy.deepcopy(installed.variables)
    renamed["nftlb"]["table"] = "lb"
    running = pid(machine)
    with Flow(machine.network.client, (VIP4, 53), rate=1000) as flow:
        flow.wait(100)
        checked = installed.playbook.play(renamed, "--check")
        ran = installed.playbook.play(renamed)
        tables = machine.run(["nft", "list", "tables"])
        flow.wait(1000)
        back = installed.playbook.play(installed.variables)
        flow.wait(1000)
        sent = flow.stop()

    assert (0, 0, 0) == (checked.status, ran.status, back.status), ran.text + back.text
    assert ["nftlb : Write the configuration", "nftlb : Restart the daemon"] == ran.changed == checked.changed
    assert running != pid(machine)
    assert {"ip lb", "ip6 lb"} <= {line.removeprefix("table ") for line in tables.splitlines()}
    assert "nftlb" not in tables
    # Datagrams may be lost in the moment with two tables, in both changes.
    assert len(lost(sent)) <= 0.01 * len(sent)
    assert [] == twice(sent)


@CURRENT
def test_the_api_is_guarded(installed: Installed) -> None:
    """Only clients in the list reach the API, also after a boot. Without the list, no trace of the firewall is left."""
    machine, admin = installed.machine, installed.machine.network.admin
    open_to_all = copy.deepcopy(installed.variables)
    open_to_all["nftlb"]["api"]["listen"] = "0.0.0.0:9146"

    def reaches(host: Any) -> bool:
        script = "import socket,sys; socket.create_connection((sys.argv[1], 9146), 1)"
        target = "172.31.0.1" if host is admin else VIP4
        with host.popen(["python3", "-c", script, target], stderr=subprocess.DEVNULL) as process:
            return bool(process.wait() == 0)

    def play(**more: Any) -> list[str]:
        ran = installed.playbook.play({**open_to_all, **more})
        assert 0 == ran.status, ran.text
        return ran.changed

    assert FOLLOWED == play()
    assert (True, True) == (reaches(admin), reaches(machine.network.client))
    guarded = {"nftlb_api_firewall": True, "nftlb_api_sources": ["172.31.0.0/24", "fd01::/64"]}
    checked = installed.playbook.play({**open_to_all, **guarded}, "--check")
    assert checked.changed == play(**guarded)
    assert (True, False) == (reaches(admin), reaches(machine.network.client))
    machine.run(["systemctl", "restart", "nftables.service"])
    assert (True, False) == (reaches(admin), reaches(machine.network.client))
    assert ["nftlb : Write the rules of the API's firewall", "nftlb : Restart the API's firewall"] == play(
        nftlb_api_firewall=True, nftlb_api_sources=["198.51.100.0/24"]
    )
    assert (False, True) == (reaches(admin), reaches(machine.network.client))
    assert play()
    assert (True, True) == (reaches(admin), reaches(machine.network.client))
    assert "nftlb_api" not in machine.run(["nft", "list", "tables"])


@CURRENT
def test_an_upgrade_loses_nothing(installed: Installed, packages: Packages) -> None:
    """An upgrade under traffic, and a return to the former version, lose no datagram."""
    machine = installed.machine
    _, newer = packages(machine.release)
    installed.playbook.play(installed.variables)
    with Flow(machine.network.client, (VIP4, 53), rate=1000) as flow:
        flow.wait(100)
        for deb in (newer, installed.deb):
            checked = installed.playbook.play({**installed.variables, "nftlb_package": str(deb)}, "--check")
            ran = installed.playbook.play({**installed.variables, "nftlb_package": str(deb)})
            assert (0, 0) == (checked.status, ran.status), checked.text + ran.text
            assert ["nftlb : Install nftlb"] == ran.changed == checked.changed
        flow.wait(500)
        sent = flow.stop()

    assert [] == [datagram.number for datagram in lost(sent)]
    assert [] == twice(sent)
