"""The role for DSR backends: they have the services' addresses at every boot, and do not answer ARP for them."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest
from machine import Machine
from network import Network
from playbook import HOSTS, ROOT, Playbook

if TYPE_CHECKING:
    from collections.abc import Iterator

ADDRESSES = ["192.0.2.60", "2001:db8::60"]
ECHO = """
import socket, sys, threading
def serve(server):
    while True:
        server.sendto(*server.recvfrom(100))
for family, address in zip((socket.AF_INET, socket.AF_INET6), sys.argv[1:]):
    server = socket.socket(family, socket.SOCK_DGRAM)
    server.bind((address, 5353))
    threading.Thread(target=serve, args=(server,), daemon=True).start()
print(flush=True)
sys.stdin.read()
"""
MONITOR = "ip monitor address & read stop; kill $!"
ASK = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.socket(family, socket.SOCK_DGRAM) as client:
    client.connect((sys.argv[1], 5353))  # takes answers from that address alone
    client.settimeout(2)
    client.send(b"hello")
    print(client.recv(100).decode())
"""


@pytest.fixture(scope="module", params=HOSTS)
def ansible(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def machine(ansible: str) -> Iterator[Machine]:
    with Network() as network, Machine(network, release=HOSTS[ansible], forwarding=False, services=False) as booted:
        booted.await_network()
        yield booted


@pytest.fixture(scope="module")
def playbook(ansible: str, machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playbook]:
    directory = tmp_path_factory.mktemp("ansible")
    with Playbook(machine, directory, ROOT / ".venv-deploy" / ansible, "nftlb_dsr_backend") as playbook:
        yield playbook


def on_lo(machine: Machine) -> set[str]:
    shown = json.loads(machine.run(["ip", "-json", "address", "show", "lo"]))
    return {entry["local"] for entry in shown[0]["addr_info"]}


def answers_arp(machine: Machine, address: str) -> bool:
    """Whether the machine replies to ARP requests for an address."""
    admin = machine.network.admin
    admin.run(["ip", "route", "replace", f"{address}/32", "dev", "eth0"])
    try:
        with admin.popen(["python3", "-c", ASK, address], stderr=subprocess.DEVNULL) as asking:
            asking.wait()
        (found,) = json.loads(admin.run(["ip", "-json", "neighbour", "show", address]))
        return "lladdr" in found
    finally:
        admin.run(["ip", "route", "del", f"{address}/32", "dev", "eth0"])
        admin.run(["ip", "neighbour", "flush", "to", address])


def play(playbook: Playbook, addresses: list[str]) -> list[str]:
    """Run the playbook in check mode and then really. Both report the same. Return the changed tasks."""
    variables = {"nftlb_dsr_backend_addresses": addresses}
    checked, ran = playbook.play(variables, "--check", "--diff"), playbook.play(variables, "--diff")
    assert (0, 0) == (checked.status, ran.status), checked.text + ran.text
    assert checked.changed == ran.changed
    assert checked.diffs == ran.diffs
    return ran.changed


def play_again(playbook: Playbook, addresses: list[str]) -> list[str]:
    """Run the playbook, perhaps not for the first time. Return the changed tasks."""
    ran = playbook.play({"nftlb_dsr_backend_addresses": addresses})
    assert 0 == ran.status, ran.text
    return ran.changed


def test_addresses_without_arp(machine: Machine, playbook: Playbook) -> None:
    """The backend replies from these addresses to packets of a balancer, and does not answer ARP, also after a boot."""
    before = on_lo(machine)
    machine.run(["ip", "address", "add", "192.0.2.60/32", "dev", "lo"])
    assert answers_arp(machine, "192.0.2.60")  # otherwise, the same request below would prove nothing
    machine.run(["ip", "address", "del", "192.0.2.60/32", "dev", "lo"])

    assert play(playbook, ADDRESSES)

    for boot in (False, True):
        if boot:
            machine.reboot()
            machine.await_network()
        assert {*before, *ADDRESSES} == on_lo(machine)
        assert not answers_arp(machine, "192.0.2.60")
        with machine.popen(
            ["python3", "-c", ECHO, *ADDRESSES], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as server:
            assert server.stdout is not None
            assert "\n" == server.stdout.readline()
            for address in ADDRESSES:
                assert "hello\n" == machine.network.admin.run(["python3", "-c", ASK, address])
    assert "1\n2\n" == machine.run(["sysctl", "-n", "net.ipv4.conf.all.arp_ignore", "net.ipv4.conf.all.arp_announce"])
    assert [] == play_again(playbook, ADDRESSES)


def test_changes_of_the_list(machine: Machine, playbook: Playbook) -> None:
    """An address is removed, another is added, a third stays; with an empty list, no trace of the role is left."""
    play_again(playbook, ADDRESSES)
    kept = machine.run(["ip", "address", "show", "lo"])
    before = on_lo(machine) - set(ADDRESSES)
    assert "2001:db8::60" in kept

    with machine.popen(["sh", "-c", MONITOR], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as monitor:
        changed = play(playbook, ["192.0.2.61", "2001:db8::60"])
        seen, _ = monitor.communicate("\n")

    assert ["nftlb_dsr_backend : Write the list of addresses", "nftlb_dsr_backend : Change the addresses"] == changed
    assert {*before, "192.0.2.61", "2001:db8::60"} == on_lo(machine)
    assert "Deleted 1: lo    inet 192.0.2.60/32" in seen
    assert "Deleted 1: lo    inet6" not in seen
    assert play(playbook, [])
    assert before == on_lo(machine)
    assert "" == machine.run(["find", "/etc", "/usr/local", "/run", "-name", "*nftlb*"])
    assert "0\n" == machine.run(["sysctl", "-n", "net.ipv4.conf.all.arp_ignore"])
    assert [] == play_again(playbook, [])


def test_a_prefix_length_is_refused(playbook: Playbook, machine: Machine) -> None:
    """The message names the wrong address, and nothing is written."""
    played = playbook.play({"nftlb_dsr_backend_addresses": ["192.0.2.60/32"]})

    assert 2 == played.status
    assert "192.0.2.60/32 is not an address" in played.text
    assert "" == machine.run(["find", "/etc", "-name", "*nftlb*"])
