"""Commands that change a daemon's state: addresses, tokens, refusals, and completion of names."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from fake_api import NOW, TOKEN, Api, backend, fake_api, pool, status, with_members
from installed_command import NFTLB

from nftlb.cli import main, reload, waiting
from nftlb.client import Address, Unreachable, addresses
from nftlb.lab import Namespace
from nftlb.service import ConfigStatus, NameStatus, Status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nftlb.client import DaemonClient

pytest_plugins = ("cli_fixtures",)

STATUS = ("GET", "/api/v1/status")


PATCH = ("PATCH", "/api/v1/pools/dns/backends/ns1")
SEVERAL = ("PATCH", "/api/v1/backends")


RELOAD = ("POST", "/api/v1/reload")


ALL = [["status"], ["top", "-b"], ["health"], ["events"], ["history"], ["ruleset"], ["ruleset", "--changes"],
       ["drain", "dns/ns1", "--wait"], ["add", "dns/ns3", "10.0.0.13:53"], ["delete", "dns/ns1"], ["reload"],
       ["status", "--watch"], ["status", "--problems"], ["drain", "dns/ns1"], ["enable", "dns/ns1"],
       ["maintenance", "dns/ns1"], ["weight", "dns/ns1", "3"]]  # fmt: skip


@pytest.mark.parametrize("command", ALL)
def test_no_daemon(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 4, and the address that was tried, on standard error."""
    assert 4 == main([*command, "--socket", str(tmp_path / "api.sock")])
    out, error = capsys.readouterr()
    assert "" == out
    assert error.startswith(f"nftlb: no daemon can be reached at unix:{tmp_path}/api.sock: No such file or directory; ")


@pytest.mark.parametrize("arguments", [["--socket", "{}"], ["--url", "unix:{}"]])
def test_a_unix_socket(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By --socket or --url; an option wins over the environment."""
    path = tmp_path / "api.sock"
    with fake_api(path), pytest.MonkeyPatch.context() as patch:
        patch.setenv("NFTLB_URL", "http://127.0.0.1:1")
        assert 0 == main(["status", *(argument.format(path) for argument in arguments)])
    assert "nftlb 0.1.0, ready" in capsys.readouterr().out


def test_bad_addresses(capsys: pytest.CaptureFixture[str]) -> None:
    """Status 1 for an invalid address, 2 for two addresses."""
    assert 1 == main(["status", "--url", "ftp://x"])
    assert "the daemon's address: 'ftp://x' is " in capsys.readouterr().err
    assert 2 == main(["status", "--url", "127.0.0.1", "--socket", "/x"])
    assert "--url and --socket" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        (["drain", "dns/ns1"], {"admin": "drain"}),
        (["enable", "dns/ns1"], {"admin": "enabled"}),
        (["maintenance", "dns/ns1"], {"admin": "maintenance"}),
        (["weight", "dns/ns1", "256"], {"weight": 256}),
        (["priority", "dns/ns1", "0"], {"priority": 0}),
    ],
)
def test_changes(
    command: list[str], wanted: dict[str, Any], api: Api, token_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The request has the first token of the file; the backend's new state is printed in one line."""
    api.answers[PATCH] = 200, backend(**{"share": 0.25, **wanted}).model_dump(mode="json")
    assert 0 == main([*command, "--token-file", token_file])
    assert [(*PATCH, wanted, f"Bearer {TOKEN}")] == api.asked
    shown = f"{wanted.get('admin', 'enabled')}, weight {wanted.get('weight', 1)}"
    shown += f", priority {wanted['priority']}" if "priority" in wanted else ""
    assert f"dns/ns1: {shown}, up, 25.0% of the pool's packets\n" == capsys.readouterr().out


def changed(keys: list[str], admin: str = "maintenance") -> list[dict[str, Any]]:
    """The answer of the daemon to a change of the admin state of these backends."""
    places = [key.split("/") for key in keys]
    return [
        {**backend(name, admin=admin, share=0.0).model_dump(mode="json"), "pool": pool_name}
        for pool_name, name in places
    ]


@pytest.mark.parametrize(
    ("targets", "meant"),
    [
        (["dns/ns1", "sip/gw1", "dns/ns1"], ["dns/ns1", "sip/gw1"]),
        (["dns/*"], ["dns/ns1", "dns/ns2"]),
        (["dns/ns2", "dns/*"], ["dns/ns2", "dns/ns1"]),
    ],
)
def test_several_backends(
    targets: list[str], meant: list[str], api: Api, token_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Several backends, or all of a pool, are changed by one request; each has its line."""
    api.answers[SEVERAL] = 200, changed(meant)
    assert 0 == main(["maintenance", *targets, "--token-file", token_file])
    asked = {"backends": list(dict.fromkeys(targets)), "admin": "maintenance"}
    assert [(*SEVERAL, asked, f"Bearer {TOKEN}")] == api.asked
    lines = [f"{key}: maintenance, weight 1, up, 0.0% of the pool's packets\n" for key in meant]
    assert "".join(lines) == capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "what"),
    [
        (["drain", "dns/ns1"], "drain"),
        (["drain", "dns/ns1", "--wait"], "drain"),
        (["weight", "dns/ns1", "3"], "weight 3"),
    ],
)
def test_the_only_backend_leaves_during_its_change(
    command: list[str], what: str, api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 0, and the line that such a backend has in a change of several."""

    def leave() -> Any:
        api.show(status(pools=(pool(backends=(backend("ns2"),)),)))
        return {"error": "ns1 was changed, and is no backend of dns any more"}

    api.answers[PATCH] = 409, leave
    assert 0 == main(command)
    first = capsys.readouterr().out.splitlines()[0]
    assert f"dns/ns1: {what}, and is no backend of the pool any more: DNS or a reload removed it" == first


@pytest.mark.parametrize(
    ("command", "kept", "said"),
    [
        (["drain", "dns/ns1"], {"ns2": "weight 9", "ns1": "drain, weight 7"}, "drain, weight 7"),
        (["enable", "dns/ns1"], {"ns2": "weight 9"}, "nothing"),
    ],
)
def test_an_absent_address(
    command: list[str], kept: dict[str, str], said: str, api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 0, and what is kept until DNS has the address again."""
    name = NameStatus(
        name="ns", lookup="ns.lab", backends=(), answered=None, expires=None, trouble="", left_out=(), kept=kept
    )
    api.answers[PATCH] = 200, name.model_dump(mode="json")
    assert 0 == main(command)
    assert f"dns/ns1: not in the answers of DNS for ns.lab now; kept until it returns: {said}\n" == (
        capsys.readouterr().out
    )


def test_a_backend_that_leaves_during_its_change(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """Each backend that was named has its line, also if DNS removed the backend before the answer was written."""
    api.answers[SEVERAL] = 200, changed(["dns/ns1"])
    assert 0 == main(["maintenance", "dns/ns1", "dns/ns2", "sip/*"])
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith("dns/ns1: maintenance, ")
    assert ["dns/ns2: maintenance, and is no backend of the pool any more: DNS or a reload removed it"] == rest


@pytest.mark.parametrize(
    ("command", "request_", "wanted"),
    [
        (["drain", "dns/ns1"], PATCH, {"admin": "drain"}),
        (["drain", "dns/ns1", "--wait", "--timeout", "0"], PATCH, {"admin": "drain"}),
        (["weight", "dns/ns1", "0"], PATCH, {"weight": 0}),
        (["priority", "dns/ns1", "9"], PATCH, {"priority": 9}),
        (["drain", "dns/*"], SEVERAL, {"backends": ["dns/*"], "admin": "drain"}),
        (["maintenance", "dns/ns1", "dns/ns2"], SEVERAL, {"backends": ["dns/ns1", "dns/ns2"], "admin": "maintenance"}),
        (["drain", "--label", "rack=r2"], SEVERAL, {"backends": ["dns/ns2"], "admin": "drain"}),
        (["delete", "dns/ns1"], ("DELETE", PATCH[1]), None),
    ],
)
def test_a_loss_of_service(
    command: list[str],
    request_: tuple[str, str],
    wanted: dict[str, Any] | None,
    api: Api,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each command that changes backends warns of what the traffic loses, before the change; and changes them."""
    api.show(racks())

    def change() -> Any:
        assert [(*request_, wanted)] == api.previews
        return {} if wanted is None else changed(["dns/ns1"]) if request_ == SEVERAL else changed(["dns/ns1"])[0]

    api.answers[request_] = 200, change
    api.losses = ["the pool dns would have no usable backend", "two \x1b more"]
    main(command)
    assert (*request_, wanted, None) in api.asked
    error = capsys.readouterr().err
    assert error.startswith(
        "nftlb: warning: the pool dns would have no usable backend\nnftlb: warning: two \\x1b more\n"
    )


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["dsn/*"], "dsn/*: no such pool; did you mean dns?\n"),
        (["dns/ns1", "dns/ns9"], "dns/ns9: no such backend; did you mean ns2?\n"),
        (
            ["dsn/ns1", "dns/zz", "dns/ns1"],
            "dns/zz: no such backend; known: ns1, ns2\ndsn/ns1: no such pool; did you mean dns?\n",
        ),
        (["dns/ns1", "dns/ns2"], "nftlb: dns has no backend ns9\n"),
    ],
)
def test_several_unknown_backends(
    targets: list[str], message: str, api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 1 for unknown pools and unknown backends; nothing is changed.

    A backend that is in the status again, because it was added in between, has the daemon's own message.
    """
    api.show(status(pools=(pool(),)))
    api.answers[SEVERAL] = 404, {"error": "dns has no backend ns9"}
    assert 1 == main(["drain", *targets])
    assert ("", message) == tuple(capsys.readouterr())


def test_a_pool_without_backends_is_refused(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    api.answers[SEVERAL] = 409, {"error": "the reason"}
    assert 1 == main(["drain", "dns/*"])
    assert ("", "nftlb: the reason\n") == tuple(capsys.readouterr())


def racks() -> Status:
    """Two pools with backends in three racks."""
    first = (backend("ns1", labels={"rack": "r1", "site": "fra"}), backend("ns2", 2, labels={"rack": "r2"}))
    return status(pools=(pool(backends=first), pool("sip", backends=(backend("gw1", 3, labels={"rack": "r1"}),))))


@pytest.mark.parametrize(
    ("labels", "meant"),
    [(["rack=r1"], ["dns/ns1", "sip/gw1"]), (["rack=r2"], ["dns/ns2"]), (["rack=r1", "site=fra"], ["dns/ns1"])],
)
@pytest.mark.parametrize(
    ("command", "admin"), [("drain", "drain"), ("enable", "enabled"), ("maintenance", "maintenance")]
)
def test_backends_by_label(
    command: str, admin: str, labels: list[str], meant: list[str], api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    """All backends with all these labels, of all pools, are changed by one request."""
    api.show(racks())
    api.answers[SEVERAL] = 200, changed(meant, admin)
    assert 0 == main([command, *(word for label in labels for word in ("--label", label))])
    assert {"backends": meant, "admin": admin} == api.asked[-1][2]
    assert meant == [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(("leaving", "ended"), [(2, 0), (3, 1)])
def test_backends_with_a_label_leave_before_their_change(
    leaving: int, ended: int, api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    """If a backend leaves after its name was read, and nothing was changed, the names are read again, twice."""
    names = [f"ns{number}" for number in range(9)]

    def shown() -> Any:
        behind = tuple(backend(name, labels={"rack": "r1"}) for name in names)
        return json.loads(status(pools=(pool(backends=behind),)).model_dump_json())

    def change() -> Any:
        if 9 - len(names) < leaving:
            names.pop()
            api.answers[SEVERAL] = (404 if 9 - len(names) < leaving else 200), change
            return {"error": "dns has no such backend"}
        return changed([f"dns/{name}" for name in names], "drain")

    api.answers[STATUS] = 200, shown
    api.answers[SEVERAL] = 404, change
    assert ended == main(["drain", "--label", "rack=r1"])
    assert 3 == sum(method == "PATCH" for method, *_ in api.asked)
    assert (0 if ended else 7) == len(capsys.readouterr().out.splitlines())


@pytest.mark.parametrize("command", [["drain"], ["status"], ["status", "--json"]])
def test_a_label_that_no_backend_has(command: list[str], api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 1; nothing is changed."""
    api.show(racks())
    assert 1 == main([*command, "--label", "rack=r9"])
    assert ("", "--label rack=r9: no backend has this label\n") == tuple(capsys.readouterr())
    assert 1 == main([*command, "--label", "rack=r2", "--label", "site=fra"])
    assert ("", "--label rack=r2, site=fra: no backend has all these labels\n") == tuple(capsys.readouterr())
    assert ["GET", "GET"] == [method for method, *_ in api.asked]


def test_a_foreign_answer_about_several_backends(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 4 if the response is not a list of the changed backends."""
    answers: tuple[Any, ...] = ({}, [{}, {}])
    for answer in answers:
        api.answers[SEVERAL] = 200, answer
        assert 4 == main(["drain", "dns/ns1", "dns/ns2"])
        assert "" == capsys.readouterr().out


def test_a_change_shows_the_state_of_the_agent(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """An enabled backend may still be drained by its agent."""
    api.answers[PATCH] = 200, backend(agent="drain", up=False, share=0.0).model_dump(mode="json")
    assert 0 == main(["enable", "dns/ns1"])
    assert "dns/ns1: enabled (its agent: drain), weight 1, down, 0.0% of" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("dsn/ns1", "dsn/ns1: no such pool; did you mean dns?\n"),
        ("dns/ns9", "dns/ns9: no such backend; did you mean ns2?\n"),
        ("dns/zz", "dns/zz: no such backend; known: ns1, ns2\n"),
    ],
)
def test_unknown_backend(target: str, message: str, api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 1, and a similar name."""
    assert STATUS in api.answers
    assert 1 == main(["drain", target])
    assert ("", message) == tuple(capsys.readouterr())


@pytest.mark.parametrize("other", [[], ["dns/ns1"]])
@pytest.mark.parametrize(
    ("backend", "said"),
    [
        ("ns", "ns is the name of ns.example.com in dns; its backends are ns1, ns2"),
        ("ns-10.0.0.2", "ns-10.0.0.2 is not in the answers of DNS for dns now; what the operator set is kept"),
    ],
)
def test_the_name_of_backends_that_come_from_dns(
    backend: str, said: str, other: list[str], api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    """The daemon's own message, which says which backends have this name, or what is kept for an absent address."""
    name = NameStatus(
        name="ns",
        lookup="ns.example.com",
        backends=("ns1", "ns2"),
        answered=NOW,
        expires=NOW,
        trouble="",
        left_out=(),
        kept={"ns-10.0.0.2": "drain"},
    )
    api.show(status(pools=(pool().model_copy(update={"names": (name,)}),)))
    one = ("PATCH", f"/api/v1/pools/dns/backends/{backend}")
    api.answers[SEVERAL] = api.answers[one] = 404, {"error": said}
    assert 1 == main(["drain", *other, f"dns/{backend}"])
    assert ("", f"nftlb: {said}\n") == tuple(capsys.readouterr())


def test_unknown_backend_without_a_status(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """The daemon's own message, if its status can't be read for a similar name."""
    del api.answers[STATUS]
    assert 1 == main(["drain", "dns/ns1"])
    assert ("", "nftlb: no such thing\n") == tuple(capsys.readouterr())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["drain", "dns"],
            "'dns' is not POOL/BACKEND; allowed: two names, such as dns/ns1, or 'POOL/*' for all backends",
        ),
        (["weight", "dns", "3"], "'dns' is not POOL/BACKEND; allowed: two names, such as dns/ns1\n"),
        (["add", "dns/ns3", "10.0.0.1:53/udp"], "'53/udp' is not a port; write 53; the protocol belongs to listen; "),
        (["add", "dns/ns3", "10.0.0.1:dns"], "'dns' is not a port; write the number of the port; names of services "),
        (["add", "dns/ns3", "[10.0.0.1]:53"], "is not the address of a backend; write 10.0.0.1:53, without brackets; "),
        (["drain", "dns/"], "'dns/' is not POOL/BACKEND"),
        (["drain", "dns/\x1b"], r"'dns/\x1b' is not POOL/BACKEND"),
        (["drain"], "Missing argument 'POOL/BACKEND...' or --label NAME=VALUE"),
        (["drain", "--wait"], "Missing argument 'POOL/BACKEND...' or --label NAME=VALUE"),
        (
            ["enable", "dns/ns1", "--label", "rack=r12"],
            "POOL/BACKEND and --label were both given; allowed: one of them",
        ),
        (["drain", "--label", "rack"], "'rack' is not a label; allowed: NAME=VALUE, such as site=fra"),
        (["status", "--label", "=r12"], "'=r12' is not a label"),
        (
            ["add", "dns/ns3", "10.0.0.13", "--label", "rack=a", "--label", "rack=b"],
            "--label rack was given with several values; allowed: one value for each name.",
        ),
        (["drain", "--label", "rack=r12", "--wait"], "--wait was given with several backends; allowed: one"),
        (["weight"], "Missing argument 'POOL/BACKEND'"),
        (["drain", "dns/ns1", "dns/ns2", "--wait"], "--wait was given with several backends; allowed: one"),
        (["drain", "dns/*", "--wait"], "--wait was given with several backends; allowed: one"),
        (["weight", "dns/ns1", "257"], "'257' is not a weight; allowed: a whole number from 0 to 256"),
        (["weight", "dns/ns1", "-1"], "No such option"),
        (["weight", "dns/ns1", "abc"], "'abc' is not a weight; allowed: a whole number from 0 to 256"),
        (["weight", "dns/ns1", "1.5"], "'1.5' is not a weight"),
        (["add", "dns/ns3", "10.0.0.1", "--weight", "x"], "'x' is not a weight"),
        (["priority", "dns/ns1", "256"], "'256' is not a priority; allowed: a whole number from 0 to 255"),
        (["top", "--interval", "0"], "0 is not in the range"),
        (["top", "--sort", "luck"], "'luck' is not one of"),
    ],
)
def test_usage(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2, without a request to the daemon."""
    assert 2 == main(arguments)
    out, error = capsys.readouterr()
    assert "" == out
    assert message in error


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [
        (["10.0.0.13:5353"], {"address": "10.0.0.13", "port": 5353}),
        (["[2001:db8::13]:53", "--weight", "0"], {"address": "2001:db8::13", "port": 53, "weight": 0}),
        (["2001:db8::13", "--priority", "2"], {"address": "2001:db8::13", "priority": 2}),
        (["ns.example.com:53"], {"address": "ns.example.com", "port": 53}),
        (
            ["10.0.0.13", "--label", "rack=r1", "--label", "a=b"],
            {"address": "10.0.0.13", "labels": {"rack": "r1", "a": "b"}},
        ),
    ],
)
def test_add(arguments: list[str], sent: dict[str, Any], api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """The request has the name, the address and the given options; no port means none."""
    api.answers["POST", "/api/v1/pools/dns/backends"] = 201, backend("ns3").model_dump(mode="json")
    assert 0 == main(["add", "dns/ns3", *arguments])
    assert [("POST", "/api/v1/pools/dns/backends", {"name": "ns3", **sent}, None)] == api.asked
    assert ("dns/ns3: added\n", "") == tuple(capsys.readouterr())


@pytest.mark.parametrize(
    "server",
    ["10.0.0.1:0", "10.0.0.1:70000", "10.0.0.1:dns", "10.0.0.1:", "[::1", "[::1]53", "[10.0.0.1]:53", "[ns1]:53", ""],
)
def test_add_refuses_what_is_not_a_server(server: str, api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2, and what is allowed, without a request."""
    assert 2 == main(["add", "dns/ns3", server])
    assert [] == api.asked
    assert "; allowed: 1" in capsys.readouterr().err


def test_add_to_an_unknown_pool(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 1, and a similar name."""
    assert STATUS in api.answers
    assert 1 == main(["add", "dsn/ns3", "10.0.0.13:53"])
    assert ("", "dsn: no such pool; did you mean dns?\n") == tuple(capsys.readouterr())


def test_delete(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """Deletes one backend; a refusal, as for the last backend, is status 1; an unknown backend gets a similar name."""
    request = ("DELETE", "/api/v1/pools/dns/backends/ns1")
    api.answers[request] = 200, {}
    assert 0 == main(["delete", "dns/ns1"])
    assert [(*request, None, None)] == api.asked
    assert ("dns/ns1: deleted\n", "") == tuple(capsys.readouterr())
    api.answers[request] = 409, {"error": "ns1 is the last backend of dns"}
    assert 1 == main(["delete", "dns/ns1"])
    assert ("", "nftlb: ns1 is the last backend of dns\n") == tuple(capsys.readouterr())
    assert 1 == main(["delete", "dns/ns9"])
    assert ("", "dns/ns9: no such backend; did you mean ns2?\n") == tuple(capsys.readouterr())


def test_drain_waits(api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Returns when the counter of packets has stood still; after the time-out, status 3, and the backend is drained."""
    numbers = count()
    moving = [True]

    def shown() -> Any:
        number = next(numbers) if moving[0] else 0
        return json.loads(status(pools=(pool(backends=(backend(packets=number),)),)).model_dump_json())

    monkeypatch.setattr(waiting, "_PAUSE", 0.01)
    monkeypatch.setattr(waiting, "_QUIET", 0.05)
    api.answers[STATUS] = 200, shown
    api.answers[PATCH] = 200, backend(admin="drain", share=0.0).model_dump(mode="json")
    assert 3 == main(["drain", "dns/ns1", "--wait", "--timeout", "0.2"])
    out, error = capsys.readouterr()
    assert ("dns/ns1: drain, weight 1, up, 0.0% of the pool's packets\n", 1) == (
        out,
        error.count("it still gets packets"),
    )
    moving[0] = False
    assert 0 == main(["drain", "dns/ns1", "--wait"])
    assert "dns/ns1: no packets and no connections any more\n" == capsys.readouterr().out.splitlines(keepends=True)[-1]


def test_drain_of_a_backend_that_leaves(
    api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command does not say that traffic has ended, which nobody has watched."""
    api.answers[PATCH] = 409, {"error": "ns1 was changed, and is no backend of dns any more"}
    monkeypatch.setattr(waiting, "_find", lambda *_: None)
    assert 0 == main(["drain", "dns/ns1", "--wait"])
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("dns/ns1: drain, and is no backend of the pool any more")
    assert "dns/ns1: left the pool, so the end of its traffic was not watched" == last


@pytest.mark.parametrize("shown", [{"per": "flow"}, {"listen": ("192.0.2.53:53/udp", "192.0.2.53:53/tcp")}])
def test_drain_does_not_count_connections_of_another_host(
    shown: dict[str, Any], api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    """If the pool has connections, and the daemon is elsewhere by its host or its process: status 3, and no drain."""
    here = socket.gethostname()
    with Namespace("elsewhere") as elsewhere, elsewhere.popen(["sleep", "60"]) as process:
        for host, pid in (("another-host", os.getpid()), (here, process.pid), (here, 2**22 + 1)):
            api.show(status(host=host, pid=pid, pools=(pool(**shown),)))
            assert 3 == main(["drain", "dns/ns1", "--wait"])
            out, error = capsys.readouterr()
            assert ("", True) == (out, f"the daemon at {api.where} runs on another host or in another" in error)
        process.kill()
    assert {STATUS} == {asked[:2] for asked in api.asked}

    api.show(status(host=here, pid=os.getpid(), pools=(pool(**shown),)))
    api.answers[PATCH] = 500, {"error": "arrived"}
    assert 3 == main(["drain", "dns/ns1", "--wait"])
    assert "the daemon refused: arrived" in capsys.readouterr().err


def test_drain_does_not_wait_for_an_unknown_backend(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """As without --wait: status 1, and a similar name."""
    assert STATUS in api.answers
    assert 1 == main(["drain", "dns/ns9", "--wait"])
    assert "dns/ns9: no such backend; did you mean ns2?\n" == capsys.readouterr().err


def test_reload(api: Api, token_file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Prints nothing on success; else status 1, and every error of the file on its own line."""
    monkeypatch.setenv("NFTLB_TOKEN_FILE", token_file)
    api.answers[RELOAD] = 200, {}
    assert 0 == main(["reload"])
    assert [(*RELOAD, None, f"Bearer {TOKEN}")] == api.asked
    assert ("", "") == tuple(capsys.readouterr())
    api.answers[RELOAD] = 422, {"error": "the file is bad", "problems": ["a.yaml:1:2: one", "a.yaml:3:4: two"]}
    assert 1 == main(["reload"])
    assert ("", "nftlb: the file is bad\na.yaml:1:2: one\na.yaml:3:4: two\n") == tuple(capsys.readouterr())


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The sockets of two daemons of this network namespace, by table; nothing names one of them."""
    found = {table: str(tmp_path / f"{table}.sock") for table in ("core", "nftlb")}
    monkeypatch.setattr(addresses, "sockets_here", lambda: found)
    monkeypatch.delenv("NFTLB_URL", raising=False)
    return found


def test_reload_by_a_signal_finds_the_daemon(places: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """Of several daemons, the result is that of the process that gets the signal."""
    process, signals = os.getpid(), []
    problem = f"{(at := '/etc/nftlb/core.yaml')}:1:1: bad"
    with fake_api(Path(places["core"])) as core, fake_api(Path(places["nftlb"])) as usual:

        def refuse(number: int, _: object) -> None:
            signals.append(number)
            reloaded = ConfigStatus(
                file=at, success=False, loaded=NOW, attempted=datetime.now(UTC), problems=(problem,)
            )
            core.show(status(pid=process, config=reloaded))

        usual.show(status(pid=process + 1))
        before = signal.signal(signal.SIGHUP, refuse)
        try:
            assert 1 == main(["reload", "--pid", str(process)])
        finally:
            signal.signal(signal.SIGHUP, before)
    assert [signal.SIGHUP] == signals
    assert capsys.readouterr().err.endswith(f"the configuration before stays in use:\n{problem}\n")


def test_reload_by_a_signal_of_no_daemon(
    places: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message has the processes of all daemons that were asked."""
    monkeypatch.setattr(reload, "_SILENCE", 0.1)
    process = os.getpid()
    before = signal.signal(signal.SIGHUP, lambda *_: None)
    try:
        with ExitStack() as stack:
            for number, path in enumerate(places.values(), 1):
                stack.enter_context(fake_api(Path(path))).show(status(pid=process + number))
            assert 4 == main(["reload", "--pid", str(process)])
    finally:
        signal.signal(signal.SIGHUP, before)
    error = capsys.readouterr().err
    for number, path in enumerate(places.values(), 1):
        assert f"the daemon at unix:{path} is process {process + number}" in error


def test_reload_by_a_signal_beside_a_daemon_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that does not answer delays the result by one request, and a reload may take longer than a silence."""
    clock, asked = [0.0], []

    def advance(seconds: float) -> None:
        clock[0] += seconds

    class Hung:
        address = Address(socket="/run/hung.sock")

        def status(self) -> Status:
            asked.append("hung")
            advance(reload._SILENCE)
            raise Unreachable("no answer")

    class Busy:
        address = Address(socket="/run/busy.sock")

        def status(self) -> Status:
            done = clock[0] > 3 * reload._SILENCE
            at = datetime.now(UTC) - timedelta(hours=0 if done else 1)
            return status(pid=os.getpid(), config=attempted(at))

    monkeypatch.setattr(reload, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=advance))
    with handled_reload():
        reload._reload_by_signal(os.getpid(), cast("list[DaemonClient]", [Hung(), Busy()]))
    assert ["hung"] == asked


def test_reload_by_a_signal_moves_the_api(monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon answers at the former address during the reload, and only at the new address after it."""
    asked: list[str] = []

    class Former:
        address = Address(socket="/run/former.sock")

        def status(self) -> Status:
            if asked:
                raise Unreachable("no answer")
            asked.append("former")
            return status(pid=os.getpid(), config=attempted(datetime.now(UTC) - timedelta(hours=1)))

    class New:
        address = Address(socket="/run/new.sock")

        def status(self) -> Status:
            if not asked:
                raise Unreachable("no answer")
            asked.append("new")
            return status(pid=os.getpid(), config=attempted(datetime.now(UTC)))

    monkeypatch.setattr(reload, "time", SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: None))
    with handled_reload():
        reload._reload_by_signal(os.getpid(), cast("list[DaemonClient]", [New(), Former()]))
    assert ["former", "new"] == asked


def test_reload_by_a_signal_after_the_clock_was_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The result is that of this reload, not of an earlier attempt whose time is still in the future."""
    shown = [timedelta(0), timedelta(days=1), timedelta(days=1)]

    class Clocked:
        address = Address(socket="/run/nftlb.sock")

        def status(self) -> Status:
            return status(pid=os.getpid(), config=attempted(datetime.now(UTC) + shown.pop()))

    monkeypatch.setattr(time, "sleep", lambda _: None)
    with handled_reload():
        reload._reload_by_signal(os.getpid(), cast("list[DaemonClient]", [Clocked()]))
    assert [] == shown


def attempted(at: datetime) -> ConfigStatus:
    """The state of a file that was read at this time."""
    return ConfigStatus(file="a.yaml", success=True, loaded=NOW, attempted=at, problems=())


@contextmanager
def handled_reload() -> Iterator[None]:
    """Handle SIGHUP as a daemon does, and not as a process that ends by it."""
    before = signal.signal(signal.SIGHUP, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def test_reload_does_not_end_another_process(capsys: pytest.CaptureFixture[str]) -> None:
    """A process that SIGHUP would end gets no signal; status 4, also for a process that does not exist."""
    with subprocess.Popen(["sleep", "60"]) as process:
        assert 4 == main(["reload", "--pid", str(process.pid)])
        assert f"process {process.pid} would end by the signal to reload" in capsys.readouterr().err
        assert None is process.poll()
        process.kill()
    assert 4 == main(["reload", "--pid", str(process.pid)])
    assert f"can't signal process {process.pid} to reload: No such process" in capsys.readouterr().err


@pytest.mark.parametrize("code", [401, 403, 500, 503])
def test_refusals(code: int, api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 3, the daemon's message, and advice."""
    api.answers[RELOAD] = code, {"error": "no"}
    assert 3 == main(["reload"])
    out, error = capsys.readouterr()
    assert "" == out
    assert error.startswith("nftlb: the daemon refused: no; ")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "No such file or directory"), (b"\xff\n", "not ASCII text"), (b"# none\n", "no token found"),
     (b"three words here\n", "no token found")],
)  # fmt: skip
def test_an_unusable_token_file(
    content: bytes | None, message: str, api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 3 for a change, without a request; commands that only read ignore the token file."""
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
        path.chmod(0o600)
    assert 3 == main(["drain", "dns/ns1", "--token-file", str(path)])
    assert capsys.readouterr().err.startswith(f"nftlb: {path}: {message}")
    assert [] == api.asked
    assert 0 == main(["status", "--token-file", str(path)])


def test_a_token_file_for_everybody_is_not_used(api: Api, token_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As ssh does with a key: no request is made, and the message has the fix."""
    Path(token_file).chmod(0o644)
    assert 3 == main(["drain", "dns/ns1", "--token-file", token_file])
    assert f"every user of this host may read it (mode 0644); fix: chmod 600 {token_file}" in capsys.readouterr().err
    assert [] == api.asked


def test_a_token_from_a_pipe(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """As from `--token-file <(pass nftlb)`. From an endless file only a limited number of bytes is read."""
    api.answers[RELOAD] = 200, {}
    read, write = os.pipe()
    os.write(write, f"{TOKEN}\n".encode())
    os.close(write)
    assert 0 == main(["reload", "--token-file", f"/dev/fd/{read}"])
    os.close(read)
    assert [(*RELOAD, None, f"Bearer {TOKEN}")] == api.asked

    assert 3 == main(["reload", "--token-file", "/dev/zero"])
    assert "no token found" in capsys.readouterr().err


def completed(words: str, position: int, url: str) -> tuple[int, list[str], str]:
    environment = {
        **os.environ, "_NFTLB_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(position),
        "NFTLB_URL": url,
    }  # fmt: skip
    done = subprocess.run([NFTLB], env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.split(), done.stderr


def test_completion_of_names() -> None:
    """Names come from the daemon in the command line or environment; without a daemon there are none."""
    with fake_api() as served:
        assert (0, ["plain,dns/ns1", "plain,dns/ns2"], "") == completed("nftlb drain d", 2, served.where)
        assert (0, ["plain,dns/ns2"], "") == completed(f"nftlb weight --url {served.where} dns/ns2", 4, "127.0.0.1:1")
        assert (0, ["plain,dns"], "") == completed("nftlb status d", 2, served.where)
        assert (0, [], "") == completed("nftlb status dns d", 3, served.where)
        assert (0, ["plain,dns", "plain,dns/ns1", "plain,dns/ns2"], "") == completed("nftlb events d", 2, served.where)
        assert (0, ["plain,dns/ns2"], "") == completed("nftlb history dns/ns2", 2, served.where)
        served.show(with_members())
        assert (0, ["plain,dns/archive"], "") == completed("nftlb events dns/a", 2, served.where)
        assert (0, ["plain,dns/www"], "") == completed("nftlb history dns/w", 2, served.where)
        served.show(racks())
        labels = ["plain,rack=r1", "plain,rack=r2"]
        assert (0, labels, "") == completed("nftlb drain --label rack", 3, served.where)
    assert (0, [], "") == completed("nftlb drain d", 2, served.where)
    assert (0, [], "") == completed("nftlb drain d", 2, "no:address:at:all")
