"""The wheel in a separate environment, outside of this tree."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTENT = """
from importlib.resources import files
for name in ("web/page/index.html", "cli/demo.yaml", "py.typed"):
    assert (files("nftlb") / name).stat().st_size >= 0, name
assert "/site-packages/" in str(files("nftlb"))
"""

NEED_NO_BINDING: dict[str, list[str | Path]] = {
    "check": [ROOT / "rules/dns.yaml"],
    "compile": [ROOT / "rules/dns.yaml"],
    "explain": [ROOT / "rules/dns.yaml", "198.51.100.2:4000", "192.0.2.53:53/udp"],
    "import": ["keepalived", ROOT / "bench/keepalived/keepalived.conf"],
    "schema": [],
    "completion": ["bash"],
}
NEED_BINDING = ("apply", "diff", "run", "restore", "remove", "doctor", "demo")


@pytest.mark.timeout(600)
def test_the_wheel_installs_and_runs(tmp_path: Path) -> None:
    """The wheel of `make wheel` works in a clean environment, with the command and its data files.

    Without the distribution's packages, commands that use the kernel say what to do; when that is done, they work.
    """

    def pip(python: Path | str, *words: str | Path) -> None:
        done = subprocess.run(
            [python, "-m", "pip", "-q", "--disable-pip-version-check", *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert 0 == done.returncode, done.stderr

    pip(sys.executable, "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, ".")
    (wheel,) = tmp_path.glob("nftlb-*-py3-none-any.whl")
    environment = tmp_path / "environment"
    subprocess.run(["/usr/bin/python3", "-m", "venv", environment], check=True)
    pip(environment / "bin/python", "install", "--require-hashes", "-r", "requirements/run.txt")
    pip(environment / "bin/python", "install", "--no-deps", wheel)

    def run(*words: str | Path) -> str:
        return subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    assert wheel.name.split("-")[1] == run(environment / "bin/nftlb", "--version").split()[1]
    run(environment / "bin/python", "-I", "-c", CONTENT)
    assert (
        "nothing is prepared"
        in subprocess.run(
            [environment / "bin/nftlb-preload", "/etc/nftlb/nftlb.yaml", tmp_path],
            capture_output=True,
            text=True,
            check=True,
        ).stderr
    )
    assert "table ip nftlb" in run(environment / "bin/nftlb", "compile", ROOT / "rules/dns.yaml")

    def say(command: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["unshare", "--net", environment / "bin/nftlb", command, *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    for command, words in NEED_NO_BINDING.items():
        done = say(command, *words)
        assert 0 == done.returncode, done.stderr
        assert "binding" not in done.stderr
    line = "include-system-site-packages = true"
    for command in NEED_BINDING:
        done = say(command, *([] if command in {"remove", "demo"} else [ROOT / "rules/dns.yaml"]))
        text = done.stdout if command == "doctor" else done.stderr
        assert 3 == done.returncode, command
        assert "no binding of libnftables" in text
        assert "apt install python3-nftables" in text
        assert f"`{line}` into {environment}/pyvenv.cfg" in text
        assert "Traceback" not in text
    settings = environment / "pyvenv.cfg"
    settings.write_text(settings.read_text().replace(line.replace("true", "false"), line))
    loaded = run("unshare", "--net", environment / "bin/nftlb", "apply", ROOT / "rules/dns.yaml")
    assert "1 transaction" in loaded
