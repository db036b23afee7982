"""The first hour of a new user with the package, on a machine that boots and forwards nothing yet."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from machine import RELEASES, Machine
from network import Network

from nftlb.lab import VIP4

if TYPE_CHECKING:
    from collections.abc import Iterator

    from packages import Packages

pytest_plugins = ("packages",)
pytestmark = pytest.mark.timeout(600)

FILE, TOKEN_FILE = "/etc/nftlb/nftlb.yaml", "/etc/nftlb/token"
EXAMPLE = "/usr/share/doc/nftlb-daemon/examples/nftlb.yaml"
EDIT = f"s/192.0.2.53/{VIP4}/; s/10.0.0.11:/10.0.1.2:/; s/10.0.0.12:/10.0.2.2:/; s/dns: {{.*}}/icmp: {{}}/"
COMPLETE = """
. /usr/share/bash-completion/completions/nftlb
COMP_WORDS=(nftlb dra) COMP_CWORD=1
_nftlb_completion nftlb
echo "${COMPREPLY[@]}"
"""
GET = "import sys, urllib.request as r; print(r.urlopen('http://127.0.0.1:9146' + sys.argv[1]).read().decode())"


@pytest.fixture(scope="module", params=RELEASES)
def newcomer(request: pytest.FixtureRequest, packages: Packages) -> Iterator[Machine]:
    """The installed package, and the example of the package with the addresses of this network. Nothing runs yet."""
    deb, _ = packages(request.param)
    with Network() as network, Machine(network, release=request.param, forwarding=False) as machine:
        machine.push(f"/root/{deb.name}", deb)
        machine.run(["apt-get", "install", "-q", "-y", "--no-install-recommends", f"/root/{deb.name}"], timeout=300)
        machine.run(["cp", EXAMPLE, FILE])
        machine.run(["sed", "-i", EDIT, FILE])
        machine.await_network()
        yield machine


@pytest.fixture
def serving(newcomer: Machine) -> Machine:
    """The machine with a running service, without a token."""
    newcomer.run(["sed", "-i", "/^api:/d", FILE])
    newcomer.run(["systemctl", "enable", "--now", "nftlb"])
    newcomer.run(["systemctl", "reload", "nftlb"])
    return newcomer


def test_the_example_is_valid(newcomer: Machine) -> None:
    """`check` accepts the example as it is, and the edited file; both silently."""
    for file in (EXAMPLE, FILE):
        done = newcomer.complete(["nftlb", "check", file])
        assert (0, "", "") == (done.returncode, done.stdout, done.stderr)
    assert re.fullmatch(r"nftlb \d+\.\d+\.\d+\n", newcomer.run(["nftlb", "--version"]))


def test_bash_completes(newcomer: Machine) -> None:
    """The script in the package completes a command in the shell of the machine."""
    assert "drain\n" == newcomer.run(["bash", "-c", COMPLETE])


def test_doctor_fixes_what_is_missing_after_a_question(newcomer: Machine) -> None:
    """The fix is named, and carried out after a yes only; a second examination finds no error."""
    newcomer.run(["sysctl", "-w", "net.ipv4.ip_forward=0"])
    found = newcomer.complete(["nftlb", "doctor", FILE])
    assert 3 == found.returncode
    assert "sysctl -w net.ipv4.ip_forward=1" in found.stdout

    refused = newcomer.complete(["nftlb", "doctor", "--fix", FILE], stdin="n\n")
    assert "Do this? [y/N]" in refused.stdout
    assert "0\n" == newcomer.run(["sysctl", "-n", "net.ipv4.ip_forward"])
    newcomer.run(["nftlb", "doctor", "--fix", "--permanent", FILE], stdin="y\n")

    assert "1\n" == newcomer.run(["sysctl", "-n", "net.ipv4.ip_forward"])
    assert "net.ipv4.ip_forward = 1" in newcomer.pull("/etc/sysctl.d/60-nftlb.conf").replace("/", ".")
    newcomer.run(["nftlb", "doctor", FILE])


def test_root_needs_no_token(serving: Machine) -> None:
    """`status`, `top` and `health` read; root drains and enables through the daemon's own socket."""
    serving.wait_for(lambda: "2/2 in service" in serving.run(["nftlb", "status"]), "the backends")
    assert "dns" in serving.run(["nftlb", "health"])
    assert "dns" in serving.run(["nftlb", "top", "--once"])
    serving.run(["nftlb", "drain", "dns/ns1"])
    assert "1/2 in service" in serving.run(["nftlb", "status"])
    serving.run(["nftlb", "enable", "dns/ns1"])


def test_other_users_only_read(serving: Machine) -> None:
    """They see the status. A change is refused with the reason, and with the way for root."""
    as_user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    assert "dns" in serving.run([*as_user, "nftlb", "status"])

    refused = serving.complete([*as_user, "nftlb", "drain", "dns/ns1"])

    assert refused.returncode
    assert re.search(r"allows no changes for user (65534|nobody) without a token", refused.stderr)
    assert re.search("root (needs no token|on the daemon.s host)", refused.stderr)
    assert "Traceback" not in refused.stderr


def test_a_reload_adds_a_token(serving: Machine) -> None:
    """The file gains `token_file` while the daemon runs without one: `nftlb reload` of root works before and after."""
    serving.push(TOKEN_FILE, "a-token-of-the-test\n", mode=0o640)
    serving.run(["chgrp", "nftlb", TOKEN_FILE])
    text = serving.pull(FILE)
    serving.push(FILE, f"api: {{token_file: {TOKEN_FILE}}}\n{text}")

    for _ in range(2):
        serving.run(["nftlb", "reload"])

    api = ["--url", "http://127.0.0.1:9146"]
    assert serving.complete(["nftlb", "drain", *api, "dns/ns1"]).returncode
    serving.run(["nftlb", "drain", *api, "--token-file", TOKEN_FILE, "dns/ns1"])
    serving.run(["nftlb", "enable", "dns/ns1"])


def test_the_unit_hides_nothing_that_is_watched(serving: Machine) -> None:
    """Metrics of the daemon have the fill of conntrack, and its notices only name what the unit hides."""
    metrics = serving.run(["python3", "-c", GET, "/metrics"])
    limit = int(serving.run(["sysctl", "-n", "net.netfilter.nf_conntrack_max"]))
    fill = dict(re.findall(r"^nftlb_conntrack_(\w+) (\S+)$", metrics, re.MULTILINE))

    assert {"entries", "limit"} == fill.keys()
    assert limit == int(float(fill["limit"]))
    notices = serving.run(["python3", "-c", GET, "/api/v1/notices"])
    assert "not known: the time-outs of conntrack" in notices
    assert "the limit" not in notices
