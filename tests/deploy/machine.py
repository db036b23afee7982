"""A Debian 12 or 13 that really boots, with systemd as its first process: what nftlb is installed on.

    with Network() as network, Machine(network) as machine:
        machine.push("/etc/nftlb/nftlb.yaml", text)
        machine.run(["apt-get", "install", "-y", "/root/nftlb.deb"])
        machine.reboot()

It is a systemd-nspawn container in network namespaces of its own (`Network`), begun anew from the image that
`tools/image.sh` makes. Needs root. Any number may run at a time, in one process or in several. Nothing is left of it
when it is closed, nor when this process is killed: the kernel ends nspawn with the thread that started it (so start it
from a thread that lives on: the main one), and a janitor takes its files away.

The machine has apt, with the packages that nftlb depends on in its cache, and no way to an archive.
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
"""What there are packages for, the oldest first."""
PATIENCE = 60.0
"""Seconds for what must come: booting takes one, but machines are busy."""
REBOOTED = 133
"""nspawn's exit status when the container has asked to be started again."""

_OWN_NETWORK = {"SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network"}
"""With a namespace that is given to it, nspawn 252 neither lets the container write /proc/sys/net nor have the
capability for it, both of which it has with one that nspawn makes."""

_ONE_HIERARCHY = {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
"""Since version 256 systemd refuses to boot with control groups of version 1, which hosts may have besides."""

_ENTER_CGROUPS = """
for group in $1; do mkdir -p "$group" && echo $$ >"$group/cgroup.procs"; done
shift
exec "$@"
"""
_JANITOR = """
cat >/dev/null # ends when nobody holds the other end any more
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

    name: a name of its own among all that run on this host.
    root: its root directory as this host sees it; good for files, while what it has mounted (/run, /tmp) is not in it.
    key, known_hosts: for ssh as root from `network.admin` to MACHINE, port 22; see `ssh` and `inventory`.
    """

    def __init__(
        self, network: Network, *, release: str = RELEASES[0], forwarding: bool = True, services: bool = True
    ) -> None:
        """Choose which Debian it is, by its codename, and its network.

        `forwarding`: whether its sysctl.d lets it forward packets, as a balancer must; Debian's does not.
        `services`: whether systemd-networkd gives `lo` the addresses of services. On a backend it leaves `lo` alone.
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
        """What it wrote to its console, of all boots."""
        return (self._directory / "console").read_text(errors="replace")

    def boot(self) -> None:
        """Switch it on; returns when systemd has started all that it shall start."""
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
        """`systemctl reboot`: it stops its services, and begins with a new kernel's empty network; waits for the end.

        `before_boot` is called while it is off.
        """
        self.run(["systemctl", "--no-block", "reboot"])
        status = self._wait()
        assert REBOOTED == status, f"status {status} instead of a reboot:\n{self.console}"
        self._restart(before_boot)

    def cut_power(self, *, before_boot: Callable[[], object] = lambda: None) -> None:
        """Like `reboot`, but nothing in it gets the time to stop."""
        # Not systemd-nspawn: with that the links would go, and processes live on for long enough to notice.
        os.kill(self._leader, signal.SIGKILL)
        self._wait()
        self._restart(before_boot)

    def run(
        self, argv: Sequence[str], *, check: bool = True, timeout: float = PATIENCE, stdin: str | bytes | None = None
    ) -> str:
        """Run a command in it as root; return what it wrote to standard output, as text.

        Raises AssertionError with all that it wrote when it fails (unless `check` is false).
        """
        done = self.complete(argv, timeout=timeout, stdin=stdin)
        assert not check or 0 == done.returncode, (
            f"{shlex.join(argv)} exited with {done.returncode}:\n{done.stdout}{done.stderr}"
        )
        return done.stdout

    def complete(
        self, argv: Sequence[str], *, timeout: float = PATIENCE, stdin: str | bytes | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in it as root, and return its exit status, output and errors."""
        content = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(
            self._inside(argv), input=content or b"", capture_output=True, timeout=timeout, check=False
        )
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        )

    def popen(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        """Start a command in it as root; end it, or read it to its end, before the machine is closed."""
        return subprocess.Popen(self._inside(argv), **{"text": True, **options})

    def ssh(self, command: str, *, timeout: float = PATIENCE) -> str:
        """Run a shell command in it as root, by ssh from `network.admin`; raises CalledProcessError when it fails."""
        return self.network.admin.run([*self.ssh_argv, command], timeout=timeout)

    @property
    def ssh_argv(self) -> list[str]:
        """The words of an ssh command to it, which must be run on `network.admin`."""
        return ["ssh", "-F", "none", *self._ssh_options, f"root@{MACHINE}"]

    def inventory(self, name: str = "balancer") -> str:
        """Return a line of an Ansible inventory for it; run ansible-playbook on `network.admin`."""
        known = shlex.join(["-F", "none", "-o", f"UserKnownHostsFile={self.known_hosts}"])
        return (
            f"{name} ansible_host={MACHINE} ansible_port=22 ansible_user=root "
            f"ansible_python_interpreter=/usr/bin/python3 ansible_ssh_private_key_file={self.key} "
            f"ansible_ssh_common_args='{known}'\n"
        )

    def push(self, path: str, content: str | bytes | Path, *, mode: int = 0o644) -> None:
        """Write a file in it, replaced as a whole: a text, bytes, or what a file of this host has.

        Directories are made. Works for what it has mounted too.
        """
        if isinstance(content, Path):
            content = content.read_bytes()
        script = 'mkdir -p "$(dirname "$1")" && cat >"$1.push" && chmod "$2" "$1.push" && mv "$1.push" "$1"'
        self.run(["sh", "-c", script, "push", path, f"{mode:o}"], stdin=content or b"")

    def pull(self, path: str) -> str:
        """Read a file of it."""
        return self.run(["cat", path])

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Return properties of a unit: {"ActiveState": "active", ...}; of an unknown unit too."""
        words = [f"--property={one}" for one in properties or ("LoadState", "ActiveState", "SubState", "MainPID")]
        lines = self.run(["systemctl", "show", unit, *words]).splitlines()
        return dict(line.split("=", 1) for line in lines)

    def wait_for_unit(self, unit: str, state: str = "active") -> dict[str, str]:
        """Wait until a unit is in a state; fails at once when it has failed."""

        def there() -> dict[str, str] | None:
            shown = self.show(unit)
            now = shown["ActiveState"]
            assert now == state or now != "failed", f"{unit} failed:\n{self.journal(unit)}"
            return shown if now == state else None

        found: dict[str, str] = self.wait_for(there, f"{unit} {state}")
        return found

    def wait_for(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait until a condition holds, for what there is no event of; return what it gave."""
        deadline = time.monotonic() + PATIENCE
        while not (found := condition()):
            assert time.monotonic() < deadline, f"{what} did not come:\n{self.journal()[-4000:]}"
            time.sleep(0.05)
        return found

    def await_network(self) -> None:
        """Wait for its addresses: systemd-networkd adds them after the boot, and links' own need a second."""

        def settled() -> bool:
            links = self.run(["ip", "-oneline", "link", "show", "up"]).count("\n") - 1  # lo has none of its own
            own = self.run(["ip", "-oneline", "-6", "address", "show", "scope", "link", "-tentative"])
            shared = self.run(["ip", "address", "show", "lo"])
            held = not self._services or (f"inet {VIP4}/" in shared and f"inet6 {VIP6}/" in shared)
            return links == own.count("\n") and held

        self.wait_for(settled, "the network's addresses")

    def journal(self, unit: str = "") -> str:
        """Return its journal since it was booted, of a unit or of all."""
        return self.run(["journalctl", "--boot", "--no-pager", *(["--unit", unit] if unit else [])])

    @property
    def _ssh_options(self) -> list[str]:
        return ["-i", str(self.key), "-o", f"UserKnownHostsFile={self.known_hosts}", "-o", "BatchMode=yes"]

    @property
    def _cgroups(self) -> list[Path]:
        """Control groups of its own, where no systemd of this host makes them: else all machines would share one."""
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
        """Start who cleans up after us, whatever becomes of this process."""
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
        """Make its root directory, and write into it what tells it from others."""
        make = [str(ROOT / "tools/image.sh"), "machine", self.release]
        image = subprocess.run(make, check=True, capture_output=True, text=True).stdout.strip()
        for name in ("root", "upper", "work"):
            (self._directory / name).mkdir(mode=0o755)
        layers = f"lowerdir={image},upperdir={self._directory}/upper,workdir={self._directory}/work"
        mount = ["mount", "-t", "overlay", "-o", layers, self.name, str(self.root)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            # Not every file system can be the upper one: in a container it often is an overlay itself.
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
