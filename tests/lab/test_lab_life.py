"""The lab leaves nothing behind, and needs no root."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from lab_parameters import TURNS
from packet_tap import Tap
from sctp_associations import SctpServers
from tcp_connections import TcpServers
from unprivileged import NOBODY

from nftlb.errors import SystemFault
from nftlb.lab import Lab, Namespace, userns
from nftlb.lab.links import Veth, make_veths

if TYPE_CHECKING:
    from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_lab_leaves_nothing() -> None:
    """After `with` no new links, named namespaces, descriptors or threads are left."""

    def traces() -> tuple[object, ...]:
        named, mine = Path("/run/netns"), Path("/proc/self/fd")
        links = [name for _, name in socket.if_nameindex()]
        names = sorted(path.name for path in named.iterdir()) if named.exists() else []
        return links, names, sorted(path.name for path in mine.iterdir()), threading.active_count()

    before = traces()
    for dsr in (False, True):
        with (
            Lab(dsr=dsr) as lab,
            lab.serve() as servers,
            TcpServers(lab.backends),
            SctpServers(lab.backends),
            Tap(lab.balancer, "lo"),
        ):
            lab.nft("table ip t { }")
            servers.settle()
    assert traces() == before


def test_namespaces_end_with_the_lab() -> None:
    """When the lab is closed, a link from the balancer to a namespace outside the lab is deleted."""
    with Namespace("observer") as observer:
        with Lab() as lab:
            lab.balancer.call(make_veths, [Veth("tie", "observed", observer.fileno())])
            assert _links(observer) == ["lo", "observed"]
        _await_no_links(observer)


def test_namespaces_end_with_a_killed_process() -> None:
    """A killed process leaves no namespace behind."""
    script = (
        "import sys\n"
        "from nftlb.lab import Lab, links\n"
        "with Lab() as lab:\n"
        "    lab.balancer.call(links.make_veths, [links.Veth('tie', 'observed', int(sys.argv[1]))])\n"
        "    print('up', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with Namespace("observer") as observer:
        argv = [sys.executable, "-c", script, str(observer.fileno())]
        pipe = subprocess.PIPE
        with subprocess.Popen(argv, stdin=pipe, stdout=pipe, cwd=REPOSITORY, pass_fds=(observer.fileno(),)) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
            assert _links(observer) == ["lo", "observed"]
            process.send_signal(signal.SIGKILL)
        _await_no_links(observer)


def _links(namespace: Namespace) -> list[str]:
    return [name for _, name in namespace.call(socket.if_nameindex)]


def _await_no_links(namespace: Namespace) -> None:
    """Wait until the kernel has deleted the other end of the link, which it does in the background."""

    def listen() -> socket.socket:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        sock.bind((0, 1))  # RTMGRP_LINK
        return sock

    with namespace.call(listen) as events:
        events.settimeout(30)
        while _links(namespace) != ["lo"]:
            events.recv(65536)


UNPRIVILEGED = """
import json, os, sys
sys.path[:0] = [{folder!r}, {folder!r} + "/support"]
from nftlb.errors import SystemFault
from nftlb.lab import Lab, VIP4, userns
userns.ensure()
"""


BALANCE = """
import lab_rules as rules
with Lab() as lab, lab.serve() as servers, lab.client.connect((VIP4, 53)) as client:
    lab.nft(rules.per_packet(4))
    print(json.dumps([answer.backend for answer in client.exchange(12)]))
"""


FORBID = """
open("/proc/sys/user/max_user_namespaces", "w").write("0")  # within the user namespace that we are in now
userns.permitted = lambda: False
try:
    userns.ensure()
except SystemFault as fault:
    print(json.dumps(str(fault)))
"""


def test_without_root() -> None:
    """An ordinary user sees datagrams balanced."""
    assert _run_without_root(BALANCE) == TURNS * 4


def test_forbidden_user_namespaces() -> None:
    """If user namespaces are forbidden, the error names the fix."""
    assert "run it as root or sysctl -w user.max_user_namespaces=" in str(_run_without_root(FORBID))


def _run_without_root(script: str) -> object:
    """Run a script as nobody, or as the present user if that is not root. Return the JSON value that it prints."""
    *_, length = Path("/proc/self/uid_map").read_text(encoding="ascii").split()
    user: dict[str, Any] = {}
    wrapper: list[str] = []
    if os.geteuid() == 0 and int(length) > NOBODY:
        user = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    elif os.geteuid() == 0:  # `ensure` has moved this process already: what the script forbids, it forbids in one more
        wrapper = ["unshare", "--user", "--map-root-user"]
    with tempfile.TemporaryDirectory() as folder:
        # A copy, because the checkout and its virtual environment may be in a folder that only their owner can read.
        for source in (REPOSITORY / "nftlb", REPOSITORY / "tests" / "support"):
            shutil.copytree(source, Path(folder, source.name), ignore=shutil.ignore_patterns("__pycache__"))
        subprocess.run(["chmod", "-R", "go=rX", folder], check=True)  # the files may be private too
        code = UNPRIVILEGED.format(folder=folder) + script
        argv = [*wrapper, str(Path(sys.executable).resolve()), "-B", "-c", code]
        done = subprocess.run(argv, cwd="/", capture_output=True, text=True, timeout=60, check=False, **user)
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_threads_forbid_user_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process with threads can't move into a user namespace: SystemFault, and nothing has changed."""
    monkeypatch.setattr(userns, "permitted", lambda: False)
    release = threading.Event()
    thread = threading.Thread(target=release.wait)
    thread.start()
    try:
        with pytest.raises(SystemFault, match="more than one thread"):
            userns.ensure()
    finally:
        release.set()
        thread.join()
