"""The roles, by real ansible-core over ssh on machines that boot, with ONE client socket sending where it matters."""

from __future__ import annotations

import copy
import subprocess
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from flowing import Flow, Sent, lost, sources, twice
from machine import RELEASES, Machine
from network import Network
from playbook import HOSTS, ROOT, Playbook, Played

from nftlb.lab import VIP4, VIP6

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from packages import Packages

PORT = 5353
TOKEN = "a-token-that-nobody-shows"  # noqa: S105 - it opens nothing
SECRET = "a-secret-that-nobody-shows"  # noqa: S105 - nor does it
BACKENDS = {"b1": f"10.0.1.2:{PORT}", "b2": f"10.0.2.2:{PORT}", "b3": f"10.0.3.2:{PORT}"}
FRESH = [
    "nftlb : Install nftlb",
    "nftlb : Have conntrack there at boot, before its parameters are set",
    "nftlb : Write the kernel's parameters",
    "nftlb : Write the token",
    "nftlb : Write the secrets of health checks",
    "nftlb : Write the configuration",
    "nftlb : Enable and start the daemon",
]
FOLLOWED = ["nftlb : Write the configuration", "nftlb : Reload the daemon"]

CURRENT = pytest.mark.parametrize("installed", ["current"], indirect=True)
"""What has nothing to do with the version of Ansible."""


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
    """The same, with other backends of the pool."""
    after = copy.deepcopy(before)
    after["nftlb"]["pools"]["dns"]["backends"] = backends
    return after


def snapshot(machine: Machine) -> str:
    """What is installed and configured: every file with its size and moments, and dpkg's list."""
    script = "find /etc /usr /var/lib -xdev -path /var/lib/systemd -prune -o -printf '%p %s %T@ %C@\\n'; dpkg -l"
    return machine.run(["sh", "-c", script])


def pid(machine: Machine) -> str:
    return machine.show("nftlb.service", "MainPID")["MainPID"]


def ready(machine: Machine) -> str:
    """The status of /readyz."""
    script = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9146/readyz').status)"
    return machine.run(["python3", "-c", script]).strip()


def shares(sent: list[Sent]) -> dict[str, int]:
    """How many datagrams each backend got."""
    return {name: sum(one.backend == name for one in sent) for name in sorted({one.backend for one in sent})}


def _ratio(sent: list[Sent]) -> tuple[int, ...]:
    """The backends' shares by their names, in units of the smallest."""
    counts = shares(sent)
    return tuple(round(count / min(counts.values())) for count in counts.values())


@dataclass
class Installed:
    """A machine from its first boot on, with all that was done to it, in that order."""

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
    """What a fresh machine says to bad variables, to a check and to a first run."""
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
        machine.run(["touch", "/var/lib/apt/lists"])  # it has no way to an archive, nor needs one
        untouched = snapshot(machine)
        refusals: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
            "by the controller": (bad, ()),
            "by the package, in check mode": (alone, ("--check",)),
        }
        if request.param == "current":  # a play takes long: the other two combinations are for one version only
            refusals["by the controller, in check mode"] = (bad, ("--check",))
            refusals["by the package"] = (alone, ())
        refused = {who: playbook.play(given, *options) for who, (given, options) in refusals.items()}
        others, _ = packages(next(one for one in RELEASES if one != release))
        foreign = playbook.play({**good, "nftlb_package": str(others), "nftlb_controller_command": ""})
        after_refusals = snapshot(machine)
        checked = playbook.play(good, "--check", "--diff")
        after_check = snapshot(machine)
        ran = playbook.play(good, "--diff", "-vvv")
        yield Installed(
            machine, playbook, good, deb, untouched, refused, foreign, after_refusals, checked, after_check, ran
        )


def test_bad_variables_do_not_touch_a_fresh_host(installed: Installed) -> None:
    """With nftlb on the controller and without, the play fails with `nftlb check`'s words; nothing is written."""
    for who, played in installed.refused.items():
        assert 2 == played.status, f"{who}: {played.text}"
        assert "pools.dns.backends.b2: 77777 is not a port; allowed: 1 to 65535" in played.text, who
        assert "pools.dns.backends.b3.wait: unknown key" in played.text, who
        assert [] == played.changed, who
    assert installed.untouched == installed.after_refusals


def test_the_package_of_another_debian_is_refused(installed: Installed) -> None:
    """Before anything is written, in words that say why."""
    assert 2 == installed.foreign.status
    assert "is for another Debian: this one has Python 3." in installed.foreign.text
    assert [] == installed.foreign.changed
    assert installed.untouched == installed.after_refusals


def test_check_of_a_fresh_host_says_what_the_run_does(installed: Installed) -> None:
    """`--check --diff` needs no package, changes nothing, and names the tasks that then change something."""
    assert (0, 0) == (installed.checked.status, installed.ran.status), installed.checked.text + installed.ran.text
    assert FRESH == installed.checked.changed
    assert FRESH == installed.ran.changed
    assert installed.untouched == installed.after_check


def test_a_fresh_host_balances(installed: Installed) -> None:
    """After one run, one socket's datagrams reach the backends in strict turns, and /readyz is up."""
    network = installed.machine.network
    with Flow(network.client, (VIP4, 53), rate=500) as flow:
        flow.wait(600)
        assert "200" == ready(installed.machine)
        sent = flow.stop()

    assert [] == lost(sent)
    assert {(VIP4, 53)} == sources(sent)
    turns = {"b1": "b2", "b2": "b3", "b3": "b1"}
    assert [] == [two.number for one, two in pairwise(sent) if turns[one.backend] != two.backend]
    with Flow(network.client, (VIP6, 53), rate=500) as flow:
        flow.wait(50)
        sent = flow.stop()
    assert {"b1": len(sent)} == shares(sent)


def test_the_host_is_prepared(installed: Installed) -> None:
    """It forwards both families, and again after a boot; files belong to root, and only the daemon reads them."""
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
    """What changes over the API works with the token, and not without."""
    machine = installed.machine

    assert 0 == machine.complete(["nftlb", "--version"]).returncode
    assert 3 == machine.complete(["nftlb", "weight", "dns/b1", "1"]).returncode
    machine.run(["nftlb", "weight", "dns/b1", "1", "--token-file", "/etc/nftlb/token"])


def test_secrets_are_not_told(installed: Installed) -> None:
    """Neither a diff nor -vvv shows the token or a secret file; a configuration that holds a secret is not shown."""
    inline = copy.deepcopy(installed.variables)
    inline["nftlb"]["pools"]["dns"]["health"] = {"radius": {"secret": SECRET}}
    played = installed.playbook.play(inline, "--check", "--diff", "-vvv")

    assert 0 == played.status, played.text
    assert FOLLOWED == played.changed
    assert [] == [text for text in (installed.ran.text, installed.checked.text, played.text) if TOKEN in text]
    assert [] == [text for text in (installed.ran.text, installed.checked.text, played.text) if SECRET in text]


def test_a_second_run_changes_nothing(installed: Installed) -> None:
    """Nothing is changed, the daemon is the same and is not told to reload; not in check mode either."""
    before, running = snapshot(installed.machine), pid(installed.machine)

    for options in ((), ("--check", "--diff")):
        played = installed.playbook.play(installed.variables, *options)
        assert 0 == played.status, played.text
        assert [] == played.changed
        assert {} == played.diffs
    assert running == pid(installed.machine)
    assert before == snapshot(installed.machine)


def test_bad_variables_do_not_touch_a_host_in_use(installed: Installed) -> None:
    """The installed nftlb refuses them where the controller has none; file, daemon and traffic stay."""
    bad = changed(installed.variables, b1="10.0.1.2:77777")
    before, running = snapshot(installed.machine), pid(installed.machine)

    played = installed.playbook.play({**bad, "nftlb_controller_command": ""}, "--diff")

    assert 2 == played.status
    assert "pools.dns.backends.b1: 77777 is not a port; allowed: 1 to 65535" in played.text
    assert [] == played.changed
    assert running == pid(installed.machine)
    assert before == snapshot(installed.machine)


def test_changes_lose_nothing(installed: Installed) -> None:
    """A weight, one backend less, one more: a reload each, as the check has said; no datagram lost, the PID stays.

    Plays take long: the older Ansible changes the weight only.
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
            # A pool may have its families apart: the listener of IPv6 has its own backend.
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

    assert [] == [one.number for one in lost(sent)]
    assert [] == twice(sent)
    assert {(VIP4, 53)} == sources(sent)
    assert [ratio for _, ratio in steps] == [_ratio(sent[start : start + 1200]) for start in starts]
    assert running == pid(machine)
    assert "0" == machine.show("nftlb.service", "NRestarts")["NRestarts"]


@CURRENT
def test_another_table_takes_a_restart(installed: Installed) -> None:
    """The name of the tables changes by a restart; those of the old name are gone, and hardly a datagram."""
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
    # Both ways; what is lost is of the moment when there are two tables.
    assert len(lost(sent)) <= 0.01 * len(sent)
    assert [] == twice(sent)


@CURRENT
def test_the_api_is_guarded(installed: Installed) -> None:
    """Who is not in the list does not reach the API; a boot keeps it; without it, nothing of the guard is left."""
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
    assert ["nftlb : Write who may reach the API", "nftlb : Renew the guard of the API"] == play(
        nftlb_api_firewall=True, nftlb_api_sources=["198.51.100.0/24"]
    )
    assert (False, True) == (reaches(admin), reaches(machine.network.client))
    assert play()
    assert (True, True) == (reaches(admin), reaches(machine.network.client))
    assert "nftlb_api" not in machine.run(["nft", "list", "tables"])


@CURRENT
def test_an_upgrade_loses_nothing(installed: Installed, packages: Packages) -> None:
    """The next version takes over under traffic, and the one before again; no datagram is lost."""
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

    assert [] == [one.number for one in lost(sent)]
    assert [] == twice(sent)
