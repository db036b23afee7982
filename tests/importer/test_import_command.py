"""`nftlb import`: what it prints and writes, the files that it reads, and its status."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from keepalived_files import misc, real, service
from ldirectord_table import inner

from nftlb.cli import importing, main
from nftlb.config import parse_config
from nftlb.importer import Imported, from_keepalived

if TYPE_CHECKING:
    from pathlib import Path


def test_keepalived(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The YAML goes to standard output or to a file, the remarks to standard error. The status is 0."""
    path = tmp_path / "k.conf"
    path.write_bytes(f"# caf\xe9\n{service('omega', real('10.0.0.11 53'))}\n".encode("latin-1"))
    assert 0 == main(["import", "keepalived", str(path)])
    out, error = capsys.readouterr()
    assert "dns" not in out
    assert f"{path}:5: not taken over: omega\n" in error
    assert 0 == main(["import", "keepalived", str(path), "-o", str(tmp_path / "out.yaml")])
    assert out == (tmp_path / "out.yaml").read_text()
    assert "" == capsys.readouterr().out
    assert 0 == main(["check", str(tmp_path / "out.yaml")])


def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The status is 1, standard output is empty, and the error has its place."""
    path = tmp_path / "saved"
    path.write_text("-A -t 192.0.2.1:80\nodd\n")
    assert 1 == main(["import", "ipvsadm", str(path)])
    out, error = capsys.readouterr()
    assert "" == out
    assert error.startswith(f"{path}:2:1: odd is not a line of `ipvsadm -S -n`")
    assert 2 == main(["import", "haproxy", str(path)])


def test_ldirectord(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`nftlb check` accepts the file that is written. Remarks with their lines go to standard error."""
    path, written = tmp_path / "ldirectord.cf", tmp_path / "out.yaml"
    path.write_text(inner("comment = of ours"))
    assert 0 == main(["import", "ldirectord", str(path), "-o", str(written)])
    assert ("", f"{path}:4: not taken over: comment = of ours\n") == tuple(capsys.readouterr())
    assert 0 == main(["check", str(written)])
    path.write_text(inner("odd = 1"))
    assert 1 == main(["import", "ldirectord", str(path)])
    out, error = capsys.readouterr()
    assert "" == out
    assert error.startswith(f"{path}:4:1: odd is not a directive in a virtual")


def test_included_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --root, included files are read at any level. Without it, each include is a remark."""
    folder = tmp_path / "etc/keepalived"
    (folder / "conf.d").mkdir(parents=True)
    (folder / "k.conf").write_text(
        "include conf.d/*.conf\n"
        + service("include real.conf", "include none.conf", "include /etc/keepalived/real.conf")
    )
    (folder / "conf.d/a.conf").write_text(
        "$A=10.0.0.7\n" + service("includea ../{real,more}.conf", head="192.0.2.2 80")
    )
    (folder / "conf.d/.b.conf").write_text("}")
    (folder / "real.conf").write_text(real("10.0.0.1 80", misc('"${_PWD}/x"'), "odd"))
    (folder / "more.conf").write_text(real("$A 80"))
    main(["import", "keepalived", str(folder / "k.conf"), "--root", str(tmp_path)])
    out, error = capsys.readouterr()
    first, second = parse_config(out).pools
    assert (["10.0.0.1", "10.0.0.7"], ["10.0.0.1"]) == tuple(
        [str(b.address) for b in drafted.backends] for drafted in (first, second)
    )
    assert "/etc/keepalived/x" in str(second.health[0].check)
    assert f"{folder}/k.conf:6: not taken over: include none.conf: no such file in {tmp_path}\n" in error
    assert f"{folder}/real.conf:5: not taken over: odd: not a keyword" in error
    assert f"({folder}/real.conf:5)" in out
    assert f"{folder}/k.conf:7: " not in error
    main(["import", "keepalived", str(folder / "k.conf")])
    error = capsys.readouterr().err
    assert 4 == error.count("the file is not read")


@pytest.mark.parametrize(
    "pattern", ["../secret", "/../secret", "link", "e*/k.conf", "{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}", "pipe"]
)
def test_no_file_outside_the_root_is_read(pattern: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither is a file that is not regular, nor too many files."""
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret").write_text("word_of_secret\n")
    (root / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(root / "pipe")
    (root / "k.conf").write_text(f"include {pattern}\n" + service(real("10.0.0.1 80")))
    assert 0 == main(["import", "keepalived", str(root / "k.conf"), "--root", str(root)])
    out, error = capsys.readouterr()
    assert f"k.conf:1: not taken over: include {pattern}: " in error
    assert "word_of_secret" not in out + error


def test_circular_includes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.conf").write_text("\ninclude b.conf\n")
    (tmp_path / "b.conf").write_text("include a.conf\n")
    assert 1 == main(["import", "keepalived", str(tmp_path / "a.conf"), "--root", str(tmp_path)])
    assert "includes itself; allowed: no circular includes" in capsys.readouterr().err


def test_options_for_keepalived_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "saved"
    path.write_text("-A -t 192.0.2.1:80\n")
    for option in (["--id", "x"], ["--root", "/"]):
        assert 2 == main(["import", "ipvsadm", str(path), *option])
        assert f"{option[0]} is only used for keepalived's configuration; leave it out" in capsys.readouterr().err


@pytest.mark.parametrize("what", list(importing.FROM))
def test_the_command_validates_the_result(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error has the line of the source that caused it. The remarks are printed, and the file is not changed."""
    source, target = tmp_path / "source", tmp_path / "pools.yaml"
    source.write_text("anything\n")
    target.write_text("as it was\n")
    remark = from_keepalived(service("omega", real("10.0.0.1 80")), "there").remarks[0]
    made = Imported("pools:\n  p:\n    listen: 192.0.2.1:53/udp\n    backends: 7\n", (remark,), {2: ("there", 12)})
    monkeypatch.setitem(importing.FROM, what, lambda *_, **__: made)
    assert 1 == main(["import", what, str(source), "-o", str(target)])
    error = capsys.readouterr().err
    assert (
        "there:12:1: nftlb check refuses the result for this line, and nothing is written: pools.p.backends: 7" in error
    )
    assert f"{remark}\n" in error
    assert "as it was\n" == target.read_text()


def test_the_command_warns_as_check_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The import warns of a valid configuration that loses packets."""
    source, target = tmp_path / "k.conf", tmp_path / "pools.yaml"
    source.write_text(service("ops", real("10.0.0.1 80"), real("10.0.0.2 81"), protocol="UDP"))
    assert 0 == main(["import", "keepalived", str(source), "-o", str(target)])
    imported = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert 0 == main(["check", str(target)])
    assert imported == [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
