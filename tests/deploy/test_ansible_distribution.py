"""The role refuses hosts of other distributions, with a name and a way out, before it does anything else."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest
import yaml
from playbook import ROLES, ROOT

if TYPE_CHECKING:
    from pathlib import Path

RELEASES = {
    "Rocky Linux 9.4 (Blue Onyx)": 'NAME="Rocky Linux"\nID="rocky"\nID_LIKE="rhel centos fedora"\n',
    "Fedora Linux 42 (Server Edition)": "NAME='Fedora Linux'\nID=fedora\n",
    "Ubuntu 24.04.2 LTS": "NAME=Ubuntu\nID=ubuntu\nID_LIKE=debian\n",
}
AS_ROOT_OF = 'mount --bind "$1" /etc/os-release && shift && exec "$@"'


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("ansible", "name"), [*(("current", name) for name in RELEASES), ("bookworm", "Ubuntu 24.04.2 LTS")]
)
def test_other_distributions_are_refused(ansible: str, name: str, tmp_path: Path) -> None:
    """The play fails with the name of the distribution and the document to read; no later task runs."""
    release = tmp_path / "os-release"
    release.write_text(f'PRETTY_NAME="{name}"\n{RELEASES[name]}')
    pools = {"dns": {"listen": "192.0.2.53:53/udp", "backends": {"b1": "10.0.0.1:53"}}}
    variables = {"nftlb_package": "nftlb-daemon_0.1.0~deb13_amd64.deb", "nftlb": {"pools": pools}}
    play = {"hosts": "all", "gather_facts": False, "roles": ["nftlb"], "vars": variables}
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))

    done = subprocess.run(
        [
            *("unshare", "--mount", "sh", "-c", AS_ROOT_OF, "sh", release),
            *(ROOT / ".venv-deploy" / ansible / "bin/ansible-playbook", "--connection=local", "-i", "balancer,"),
            *("-e", "ansible_python_interpreter=/usr/bin/python3", "play.yml"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "ANSIBLE_HOME": str(tmp_path), "ANSIBLE_ROLES_PATH": str(ROLES), "ANSIBLE_NOCOLOR": "1"},
    )

    assert 2 == done.returncode, done.stdout + done.stderr
    assert f"{name} is not supported: this role installs a .deb" in " ".join(done.stdout.split())
    last = [line for line in done.stdout.splitlines() if line.startswith("TASK")][-1]
    assert "Refuse other distributions than Debian" in last
