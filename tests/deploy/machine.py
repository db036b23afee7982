"""A machine for installation tests: a Debian 12 or 13 that really boots, with systemd as its first process.

    with Network() as network, Machine(network) as machine:
        machine.push("/etc/nftlb/nftlb.yaml", text)
        machine.run(["apt-get", "install", "-y", "/root/nftlb.deb"])
        machine.reboot()

The machine is a systemd-nspawn container in separate network namespaces (`Network`), made from the image of
`tools/image.sh` each time. It needs root. Any number of machines may run at a time, in one process or in several.
Nothing is left when the machine is closed or this process is killed: the kernel ends nspawn with the thread that
started it (therefore start it from the main thread), and a janitor process deletes its files.

The machine has apt, whose cache has the packages on which nftlb depends, and no connection to an archive.
"""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from network import MACHINE

from nftlb.lab import VIP4, VIP6

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from network import Network

ROOT = Path(__file__).parents[2]
RELEASES = ("bookworm", "trixie")
"""The Debian releases with packages, the oldest first."""
PATIENCE = 60.0
"""Seconds to wait for expected events: a boot takes a second, but machines are busy."""
REBOOTED = 133
"""nspawn's exit status when the container demands to be started again."""

_OWN_NETWORK = {"SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network"}
"""With a given namespace, nspawn 252 denies the container the writing of /proc/sys/net, and the capability for it.

With a namespace that nspawn makes, the container has both.
"""

_ONE_HIERARCHY = {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
"""Since version 256, systemd refuses to boot with control groups of version 1, which hosts may have too."""

_ENTER_CGROUPS = """
for group in $1; do mkdir -p "$group" && echo $$ >"$group/cgroup.procs"; done
shift
exec "$@"
"""
_JANITOR = """
cat >/dev/null # ends when no process holds the other end any more
for group in $2; do
	while pids=$(find "$group" -name cgroup.procs -exec cat {} + | grep -vx 0); do
		kill -KILL $pids
		sleep 0.05
	done
	find "$group" -depth -type d -exec rmdir {} +
done 2>/dev/null
rmdir "/run/systemd/nspawn/propagate/$3" 2>/dev/null
umount "$1/root" 2>/dev/null
rm -rf "$1"
"""


class Machine:
    """A context manager: booted inside `with`.

    name: a name that no other machine on this host has.
    root: the machine's root directory on this host, without its mounts (/run, /tmp).
    key, known_hosts: for ssh as root from `network.admin` to MACHINE, port 22; see `ssh` and `inventory`.
    """

    def __init__(
        self, network: Network, *, release: str = RELEASES[0], forwarding: bool = True, services: bool = True
    ) -> None:
        """Choose the Debian release, by its codename, and the network.

        `forwarding`: whether its sysctl.d enables forwarding, as a balancer needs; Debian's own does not.
        `services`: whether systemd-networkd adds the addresses of services to `lo`. On a backend, it does not.
        """
        self.network = network
        self.release = release
        self.name = f"nftlb-{secrets.token_hex(4)}"
        self._forwarding = forwarding
        self._services = services
        self._directory: Path
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = 0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._directory = Path(tempfile.mkdtemp(prefix=f"{self.name}-"))
            self._employ_janitor(stack)
            self._lay()
            stack.callback(self._end)
            self.boot()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def root(self) -> Path:
        return self._directory / "root"

    @property
    def key(self) -> Path:
        return self._directory / "key"

    @property
    def known_hosts(self) -> Path:
        return self._directory / "known_hosts"

    @property
    def console(self) -> str:
        """The output on the machine's console, of all boots."""
        return (self._directory / "console").read_text(errors="replace")

    def boot(self) -> None:
        """Switch the machine on. Return when systemd has started all units."""
        assert self._process is None, "it is running"
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified,
            (self._directory / "console").open("ab") as console,
        ):
            address = self._directory / "notify"
            address.unlink(missing_ok=True)
            notified.bind(str(address))
            notified.settimeout(PATIENCE)
            self._process = subprocess.Popen(
                self._command(),
                env={**os.environ, "NOTIFY_SOCKET": str(address), **_OWN_NETWORK, **_ONE_HIERARCHY},
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._await_ready(notified)

    def reboot(self, *, before_boot: Callable[[], object] = lambda: None) -> None:
        """Reboot with `systemctl reboot`: services stop, and the network is empty, as after a boot. Wait for the end.

        `before_boot` is called while the machine is off.
        """
        self.run(["systemctl", "--no-block", "reboot"], check=False)  # the shutdown may end the command first
        status = self._wait()
        assert REBOOTED == status, f"status {status} instead of a reboot:\n{self.console}"
        self._restart(before_boot)

    def cut_power(self, *, before_boot: Callable[[], object] = lambda: None) -> None:
        """Like `reboot`, but processes of the machine are killed at once."""
        # Not systemd-nspawn itself: its end deletes the links, and processes would live long enough to notice.
        os.kill(self._leader, signal.SIGKILL)
        self._wait()
        self._restart(before_boot)

    def run(
        self, argv: Sequence[str], *, check: bool = True, timeout: float = PATIENCE, stdin: str | bytes | None = None
    ) -> str:
        """Run a command in the machine as root. Return its standard output as text.

        Raises AssertionError with the whole output if the command fails, unless `check` is false.
        """
        done = self.complete(argv, timeout=timeout, stdin=stdin)
        assert not check or 0 == done.returncode, (
            f"{shlex.join(argv)} exited with {done.returncode}:\n{done.stdout}{done.stderr}"
        )
        return done.stdout

    def complete(
        self, argv: Sequence[str], *, timeout: float = PATIENCE, stdin: str | bytes | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the machine as root, and return its exit status, output and errors."""
        content = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(
            self._inside(argv), input=content or b"", capture_output=True, timeout=timeout, check=False
        )
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        )

    def popen(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        """Start a command in the machine as root. End it, or read its whole output, before the machine is closed."""
        return subprocess.Popen(self._inside(argv), **{"text": True, **options})

    def ssh(self, command: str, *, timeout: float = PATIENCE) -> str:
        """Run a shell command in the machine as root, by ssh from `network.admin`. Raises CalledProcessError."""
        return self.network.admin.run([*self.ssh_argv, command], timeout=timeout)

    @property
    def ssh_argv(self) -> list[str]:
        """The words of an ssh command to the machine, which must run on `network.admin`."""
        return ["ssh", "-F", "none", *self._ssh_options, f"root@{MACHINE}"]

    def inventory(self, name: str = "balancer") -> str:
        """The line of an Ansible inventory for the machine, for ansible-playbook on `network.admin`."""
        known = shlex.join(["-F", "none", "-o", f"UserKnownHostsFile={self.known_hosts}"])
        return (
            f"{name} ansible_host={MACHINE} ansible_port=22 ansible_user=root "
            f"ansible_python_interpreter=/usr/bin/python3 ansible_ssh_private_key_file={self.key} "
            f"ansible_ssh_common_args='{known}'\n"
        )

    def push(self, path: str, content: str | bytes | Path, *, mode: int = 0o644) -> None:
        """Write a file in the machine, replaced as a whole: a text, bytes, or the content of a file of this host.

        Missing directories are made. The file may be in a mount of the machine.
        """
        if isinstance(content, Path):
            content = content.read_bytes()
        script = 'mkdir -p "$(dirname "$1")" && cat >"$1.push" && chmod "$2" "$1.push" && mv "$1.push" "$1"'
        self.run(["sh", "-c", script, "push", path, f"{mode:o}"], stdin=content or b"")

    def pull(self, path: str) -> str:
        """Read a file of the machine."""
        return self.run(["cat", path])

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Properties of a unit, also of an unknown unit: {"ActiveState": "active", ...}."""
        words = [f"--property={name}" for name in properties or ("LoadState", "ActiveState", "SubState", "MainPID")]
        lines = self.run(["systemctl", "show", unit, *words]).splitlines()
        return dict(line.split("=", 1) for line in lines)

    def wait_for_unit(self, unit: str, state: str = "active") -> dict[str, str]:
        """Wait until a unit is in a state. Fails at once when the unit has failed."""

        def there() -> dict[str, str] | None:
            shown = self.show(unit)
            now = shown["ActiveState"]
            assert now == state or now != "failed", f"{unit} failed:\n{self.journal(unit)}"
            return shown if now == state else None

        found: dict[str, str] = self.wait_for(there, f"{unit} {state}")
        return found

    def wait_for(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait until a condition is true, for changes without an event. Return its value."""
        deadline = time.monotonic() + PATIENCE
        while not (found := condition()):
            assert time.monotonic() < deadline, f"{what} did not come:\n{self.journal()[-4000:]}"
            time.sleep(0.05)
        return found

    def await_network(self) -> None:
        """Wait for addresses: systemd-networkd adds them after the boot, and link-local addresses need a second."""

        def settled() -> bool:
            links = self.run(["ip", "-oneline", "link", "show", "up"]).count("\n") - 1  # lo has no link-local address
            own = self.run(["ip", "-oneline", "-6", "address", "show", "scope", "link", "-tentative"])
            shared = self.run(["ip", "address", "show", "lo"])
            held = not self._services or (f"inet {VIP4}/" in shared and f"inet6 {VIP6}/" in shared)
            return links == own.count("\n") and held

        self.wait_for(settled, "the network's addresses")

    def journal(self, unit: str = "") -> str:
        """The journal since the boot, of a unit or of all units."""
        return self.run(["journalctl", "--boot", "--no-pager", *(["--unit", unit] if unit else [])])

    @property
    def _ssh_options(self) -> list[str]:
        return ["-i", str(self.key), "-o", f"UserKnownHostsFile={self.known_hosts}", "-o", "BatchMode=yes"]

    @property
    def _cgroups(self) -> list[Path]:
        """Make a control group, if no systemd of this host does: otherwise all machines would share a group."""
        if Path("/run/systemd/system").is_dir():
            return []
        mounts = [line.split(" ") for line in Path("/proc/self/mounts").read_text().splitlines()]
        return [
            Path(place, self.name)
            for _, place, kind, options, *_ in mounts
            if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options.split(","))
        ]

    def _command(self) -> list[str]:
        groups = self._cgroups
        scope = (
            ["sh", "-c", _ENTER_CGROUPS, "sh", " ".join(map(str, groups))]
            if groups
            else ["systemd-run", "--scope", "--quiet", "--collect", "--property=Delegate=yes"]
        )
        return [
            *scope,
            *("setpriv", "--pdeathsig", "KILL"),
            *("systemd-nspawn", "--quiet", "--boot", f"--directory={self.root}", f"--machine={self.name}"),
            *("--hostname=balancer", "--register=no", "--keep-unit", "--notify-ready=yes", "--console=pipe"),
            "--capability=CAP_NET_ADMIN",
            *("--link-journal=no", "--resolv-conf=off", "--timezone=off"),
            f"--network-namespace-path=/proc/{os.getpid()}/fd/{self.network.plugged.fileno()}",
        ]

    def _inside(self, argv: Sequence[str]) -> list[str]:
        clean = [
            "env",
            "-i",
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME=/root",
            "LANG=C.UTF-8",
            "DEBIAN_FRONTEND=noninteractive",
        ]
        return ["nsenter", f"--target={self._leader}", "--all", "--", *clean, *argv]

    def _employ_janitor(self, stack: ExitStack) -> None:
        """Start the janitor, which cleans up also if this process is killed."""
        groups = " ".join(map(str, self._cgroups))
        janitor = subprocess.Popen(
            ["sh", "-c", _JANITOR, "sh", str(self._directory), groups, self.name],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        assert janitor.stdin is not None
        stack.callback(janitor.wait)
        stack.callback(_close, janitor.stdin)

    def _lay(self) -> None:
        """Make the root directory, and write the files that differ between machines."""
        make = [str(ROOT / "tools/image.sh"), "machine", self.release]
        image = subprocess.run(make, check=True, capture_output=True, text=True).stdout.strip()
        for name in ("root", "upper", "work"):
            (self._directory / name).mkdir(mode=0o755)
        layers = f"lowerdir={image},upperdir={self._directory}/upper,workdir={self._directory}/work"
        mount = ["mount", "-t", "overlay", "-o", layers, self.name, str(self.root)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            # Some file systems can't be the upper one: in a container, it often is an overlay itself.
            subprocess.run(["cp", "-a", "--reflink=auto", f"{image}/.", self.root], check=True)
        (self.root / "etc/machine-id").write_text(secrets.token_hex(16) + "\n")
        self.network.write_configuration(self.root, services=self._services)
        if self._forwarding:
            (self.root / "etc/sysctl.d/60-forwarding.conf").write_text(
                "net.ipv4.ip_forward = 1\nnet.ipv6.conf.all.forwarding = 1\n"
            )
        subprocess.run(
            ["systemctl", f"--root={self.root}", "--quiet", "enable", "systemd-networkd"],
            check=True,
            capture_output=True,
        )
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key], check=True)
        host_key = (self.root / "etc/ssh/ssh_host_ed25519_key.pub").read_text()
        self.known_hosts.write_text(f"{MACHINE} {host_key}")
        (self.root / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
        shutil.copy(self.key.with_suffix(".pub"), self.root / "root/.ssh/authorized_keys")

    def _await_ready(self, notified: socket.socket) -> None:
        while True:
            try:
                message = notified.recv(4096)
            except TimeoutError:
                raise AssertionError(f"it did not get ready:\n{self.console}") from None
            lines = message.decode().splitlines()
            for line in lines:
                if line.startswith("X_NSPAWN_LEADER_PID="):
                    self._leader = int(line.partition("=")[2])
            if "READY=1" in lines:
                return

    def _restart(self, before_boot: Callable[[], object]) -> None:
        self.network.replug()
        before_boot()
        self.boot()

    def _wait(self) -> int:
        assert self._process is not None
        status = self._process.wait(PATIENCE)
        self._process = None
        return status

    def _end(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._wait()


def _close(pipe: IO[bytes]) -> None:
    pipe.close()
