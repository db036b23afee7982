"""`nftlb doctor --fix`: which fixes a program carries out, the files that make them permanent, and a real namespace."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from doctor_facts import DSR, NAT, check_facts
from installed_command import NFTLB, outcome

from nftlb.cli import fixing
from nftlb.cli.fixing import carry_out
from nftlb.config import parse_config
from nftlb.doctor import Fixes, fixes_of
from nftlb.doctor import examine as examined
from nftlb.doctor.features import FEATURES, check_nft
from nftlb.doctor.finding import error, ok, sysctl_command, warning
from nftlb.doctor.fixes import slashed, with_modules, with_settings
from nftlb.doctor.host import NftFacts
from nftlb.errors import KernelError
from nftlb.lab import Namespace
from nftlb.requirements import tunnel_kinds

if TYPE_CHECKING:
    from pathlib import Path

FORWARD = "net/ipv4/ip_forward"


def test_fixes_of_findings() -> None:
    """Complete commands of sysctl and modprobe are carried out; all other texts are for the operator."""
    found = fixes_of(
        [
            ok("nft", "good"),
            error("forwarding", "x", sysctl_command({FORWARD: 1, "net/ipv4/conf/eth0.1/rp_filter": 2})),
            warning("ports", "x", "sysctl -w net.ipv4.ip_local_reserved_ports=53,8000-8001"),
            error("nft", "x", "modprobe nf_tables\nand then more"),
            error("nft", "x", "modprobe nft_nat (built in), and nft 1.0 or later"),
            error("evil", "x", "sysctl -w a=1; rm -rf /"),
        ]
    )
    assert {
        FORWARD: "1",
        "net/ipv4/conf/eth0.1/rp_filter": "2",
        "net/ipv4/ip_local_reserved_ports": "53,8000-8001",
    } == found.sysctls
    assert ("nf_tables",) == found.modules
    assert not fixes_of([ok("nft", "good"), error("routes", "x", "add a route")])


def test_text_of_the_files() -> None:
    """Other lines stay, an old value is replaced once, and nothing is written twice."""
    old = "# mine\nnet.ipv4.ip_forward=0\nvm.swappiness = 10\nnet/ipv4/ip_forward = 0\n"
    new = with_settings(old, {FORWARD: "1", "net/a": "2"}, "# head")
    assert "# mine\nnet/ipv4/ip_forward = 1\nvm.swappiness = 10\nnet/a = 2\n" == new
    assert new == with_settings(new, {FORWARD: "1", "net/a": "2"}, "# head")
    assert f"# head\n{FORWARD} = 1\n" == with_settings("", {FORWARD: "1"}, "# head")
    assert "# head\na\nb\n" == with_modules(with_modules("", ["a"], "# head"), ["a", "b"], "# head")
    assert "net/ipv4/conf/eth0.1/rp_filter" == slashed("net/ipv4/conf/eth0.1/rp_filter")


def test_refused_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A sysctl and a module that do not exist are reported and not made permanent, and the rest is done."""
    monkeypatch.setattr(fixing, "_SYSCTLS", tmp_path)
    (tmp_path / "net").mkdir()
    (tmp_path / "net/good").write_text("0\n")
    (tmp_path / "net/refused").mkdir()
    sysctls, modules = tmp_path / "etc/sysctl.d/60.conf", tmp_path / "etc/modules.conf"
    fixes = Fixes({"net/refused": "1", "net/good": "1"}, ("no_such_module_of_nftlb",))
    carry_out(fixes, permanent=True, sysctl_file=sysctls, modules_file=modules)
    out, problems = capsys.readouterr()
    assert f"set net/good from 0 to 1\nwrote {sysctls}\n" == out
    assert "net/refused was not set to 1: Is a directory" in problems
    assert "the module no_such_module_of_nftlb was not loaded: " in problems
    assert ["net/good = 1"] == sysctls.read_text().splitlines()[1:]
    assert not modules.exists()


def test_later_files_that_replace_a_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that is read later and sets another value is named, once if there is a link to it."""
    monkeypatch.setattr(fixing, "_SYSCTLS", tmp_path)
    (tmp_path / "net").mkdir()
    (tmp_path / "net/a").touch()
    folder = tmp_path / "etc/sysctl.d"
    folder.mkdir(parents=True)
    (folder / "10-before.conf").write_text("net.a = 5\n")
    (folder / "70-same.conf").write_text("net.a = 5\nnet/a=1\n")
    (folder / "80-other.conf").write_text("# net.a = 3\nnet.b = 3\n")
    (folder / "99-sysctl.conf").symlink_to("../sysctl.conf")
    (tmp_path / "etc/sysctl.conf").write_text("-net.a = 0 \n")
    carry_out(Fixes({"net/a": "1"}, ()), permanent=True, sysctl_file=folder / "60-nftlb.conf")
    text = f"nftlb: {tmp_path}/etc/sysctl.conf sets net/a = 0, which may replace 1 at the next boot; delete that line"
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(text)


def test_modules_that_findings_name() -> None:
    """Of real findings about features of nft, with helpers, and about tunnels, --fix loads each module."""
    names = {f"{feature.name} (ip)": feature.module.partition(" ")[0] for feature in FEATURES}
    findings = check_nft(NftFacts(version="1.0.6", refused=dict.fromkeys(names, "no"), tried=dict.fromkeys(names, "")))
    assert tuple(dict.fromkeys(names.values())) == fixes_of(findings).modules

    tunnelled = DSR.replace("    ingress: [eth0]", "    encap: ipip")
    found = check_facts(tunnelled, missing_tunnels=frozenset(tunnel_kinds(parse_config(tunnelled))))
    assert ("ip6_tunnel", "ipip") == tuple(sorted(fixes_of(found).modules))


def test_fix_in_a_namespace(tmp_path: Path) -> None:
    """Asks first, sets the value, shows the change, and examines again; without --permanent no file is written."""
    file = tmp_path / "pools.yaml"
    file.write_text(NAT)
    assert fixing.SYSCTL_FILE.name == "60-nftlb.conf"
    existed = fixing.SYSCTL_FILE.exists()
    with Namespace("fix") as namespace:
        for name in ("ipv4.ip_forward", "ipv6.conf.all.forwarding"):
            namespace.sysctl(f"net.{name}", 0)
        status, out, _ = namespace.call(outcome, "doctor", "--fix", str(file), input="n\n")
        assert 3 == status
        assert "- set net/ipv4/ip_forward = 1\n" in out
        assert "0" == namespace.sysctl("net.ipv4.ip_forward").strip()

        done = namespace.call(outcome, "doctor", "--fix", str(file), stdin=subprocess.DEVNULL)
        assert (3, True) == (done[0], "nothing was changed; --yes changes without a question" in done[2])
        assert "0" == namespace.sysctl("net.ipv4.ip_forward").strip()

        out = namespace.call(outcome, "doctor", "--fix", "--yes", str(file))[1]
        assert "set net/ipv4/ip_forward from 0 to 1\n" in out
        assert "1" == namespace.sysctl("net.ipv4.ip_forward").strip()
        assert "forwarding" not in out.partition("After the fixes:\n")[2]
    assert existed == fixing.SYSCTL_FILE.exists()


@pytest.mark.parametrize("wrong", [["--yes"], ["--permanent"], ["--fix", "--json"]])
def test_usage(wrong: list[str]) -> None:
    """Status 2 for options that need --fix."""
    assert 2 == subprocess.run([NFTLB, "doctor", *wrong], capture_output=True, check=False).returncode


def test_a_host_that_does_not_show_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the settings of interfaces can't be read, the examination goes on."""

    def refuse(_: object) -> None:
        raise KernelError("the settings of interfaces can't be read: Permission denied")

    monkeypatch.setattr("nftlb.doctor.find_obstacles", refuse)
    text = NAT.replace("  dns:", "  dns:\n    forward: stateless\n    replies: prerouting")
    with Namespace("fix") as namespace:
        found = namespace.call(examined, parse_config(text))
    assert [True, True] == [
        finding.message.endswith("can't be read: Permission denied")
        for finding in found
        if finding.message.startswith("replies over ip")
    ]
