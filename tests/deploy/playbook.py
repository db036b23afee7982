"""ansible-playbook from `network.admin` against a machine, and its report of each task."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import yaml

if TYPE_CHECKING:
    from machine import Machine

ROOT = Path(__file__).parents[2]
ROLES = ROOT / "deploy/ansible/roles"
TIMEOUT = 300.0
HOSTS = {"current": "trixie", "bookworm": "bookworm"}
"""The Debian of the hosts, by Ansible of tools/ansible.sh. Debian 12's does not support the Python of Debian 13."""

_HEADING = re.compile(r"^(?:TASK|RUNNING HANDLER) \[(.*)\] \**$", re.MULTILINE)
_DIFF = re.compile(r"^[-+](?![-+]{2} (?:before|after)).*$", re.MULTILINE)


@dataclass(frozen=True)
class Played:
    """The result of a run.

    changed: the names of the tasks and handlers that changed something, or would change something, in order.
    diffs: the output of `--diff` for each such task: the deleted and added lines.
    """

    status: int
    text: str

    @property
    def changed(self) -> list[str]:
        return [name for name, output in self._tasks() if re.search(r"^changed: \[", output, re.MULTILINE)]

    @property
    def diffs(self) -> dict[str, list[str]]:
        return {name: found for name, output in self._tasks() if (found := _DIFF.findall(output))}

    def _tasks(self) -> list[tuple[str, str]]:
        parts = _HEADING.split(self.text.partition("PLAY RECAP")[0])[1:]
        return list(zip(parts[::2], parts[1::2], strict=True))


class Playbook:
    """A context manager: a role on a machine. `ansible` is the name of the virtual environment with Ansible."""

    def __init__(self, machine: Machine, directory: Path, ansible: Path, role: str = "nftlb") -> None:
        self._machine = machine
        self._directory = directory
        self.ansible = ansible.name
        self._ansible = ansible
        self._sockets: Path
        play = {"hosts": "all", "gather_facts": False, "roles": [role]}
        directory.mkdir(exist_ok=True)
        (directory / "hosts").write_text(machine.inventory())
        (directory / "play.yml").write_text(yaml.safe_dump([play]))

    def __enter__(self) -> Self:
        self._sockets = Path(tempfile.mkdtemp(prefix="ssh-"))  # the path of `directory` may be too long for a socket
        return self

    def __exit__(self, *_: object) -> None:
        for path in self._sockets.iterdir():
            subprocess.run(
                ["ssh", "-F", "none", "-o", f"ControlPath={path}", "-O", "exit", "machine"],
                check=True,
                capture_output=True,
            )
        shutil.rmtree(self._sockets, ignore_errors=True)  # each ssh deletes its own socket, perhaps only now

    def play(self, variables: dict[str, Any], *options: str) -> Played:
        """Run the playbook, and leave the check of failures to the caller. Variables are given as by -e."""
        (self._directory / "variables.yml").write_text(yaml.safe_dump(variables, sort_keys=False))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        with self._machine.network.admin.popen(
            [str(self._ansible / "bin/ansible-playbook"), "play.yml", "--extra-vars=@variables.yml", *options],
            cwd=self._directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={
                **environment,
                "ANSIBLE_HOME": str(self._directory / "home"),
                "ANSIBLE_INVENTORY": "hosts",
                "ANSIBLE_ROLES_PATH": str(ROLES),
                "ANSIBLE_PIPELINING": "1",
                "ANSIBLE_NOCOLOR": "1",
                "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self._sockets),
            },
        ) as process:
            text, _ = process.communicate(timeout=TIMEOUT)
        return Played(process.returncode, text)
