"""The real Nagios and Icinga 2 on a host, with the files of deploy/monitoring/ and one check in a second."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from daemon_process import NFTLB, PATIENCE
from prometheus import MONITORING
from servers.programs import data, environment, program

if TYPE_CHECKING:
    from pathlib import Path

    from nftlb.lab import Host

_PAUSE = 0.1
"""Seconds between two looks at the files into which a program writes results. The programs announce no result."""


class CheckProgram(ABC):
    """A context manager: a program that runs the checks of one host, `lb1`, with its files in a new directory."""

    def __init__(self, host: Host, directory: Path) -> None:
        self.directory = directory
        self._host = host
        self._stack = ExitStack()
        directory.mkdir()

    @abstractmethod
    def command(self) -> list[str]:
        """Write the configuration, and return the command that runs the checks."""

    @abstractmethod
    def outputs(self) -> dict[str, str]:
        """The last output of each check: its state as a word or a number, and its first line; by service."""

    def __enter__(self) -> Self:
        log = self._stack.enter_context((self.directory / "output").open("w"))
        process = self._host.popen(
            self.command(), stdout=log, stderr=log, env={**os.environ, **environment()}, start_new_session=True
        )
        self._stack.callback(process.wait, PATIENCE)
        self._stack.callback(os.killpg, process.pid, signal.SIGKILL)  # also the processes that run the checks
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def wait(self, service: str, expected: str) -> str:
        """Wait until the output of a check begins with these words. Return the whole output."""
        deadline = time.monotonic() + PATIENCE
        while not (found := self.outputs().get(service, "")).startswith(expected):
            output = (self.directory / "output").read_text()
            assert time.monotonic() < deadline, f"{service}: {found!r} and not {expected!r}\n{output[-4000:]}"
            time.sleep(_PAUSE)
        return found


class Nagios(CheckProgram):
    """Nagios with the objects of its package, such as the template generic-service."""

    def command(self) -> list[str]:
        objects = data("etc/nagios4/objects")
        usual = [f"{objects}/{name}.cfg" for name in ("commands", "contacts", "timeperiods", "templates")]
        shipped = (MONITORING / "nagios.cfg").read_text().replace("/usr/bin/nftlb", str(NFTLB))
        faster = re.sub(r"use +generic-service", r"\g<0>\n    check_interval 1\n    retry_interval 1", shipped)
        host = "define host {\n use generic-host\n host_name lb1\n address 127.0.0.1\n max_check_attempts 1\n}\n"
        (self.directory / "objects.cfg").write_text(host + faster)
        (self.directory / "results").mkdir()
        places = {
            "log_file": "log",
            "object_cache_file": "cache",
            "status_file": "status",
            "query_socket": "socket",
            "lock_file": "pid",
            "temp_file": "temporary",
            "temp_path": ".",
            "log_archive_path": ".",
            "check_result_path": "results",
            "state_retention_file": "retention",
            "cfg_file": "objects.cfg",
        }
        lines = [f"cfg_file={path}" for path in usual]
        lines += [f"{key}={self.directory / place}" for key, place in places.items()]
        lines += ["nagios_user=root", "nagios_group=root", "interval_length=1", "status_update_interval=1"]
        lines += ["check_for_updates=0", "check_external_commands=0", "enable_notifications=0"]
        file = self.directory / "nagios.cfg"
        file.write_text("\n".join(lines) + "\n")
        return [program("nagios4"), str(file)]

    def outputs(self) -> dict[str, str]:
        try:
            status = (self.directory / "status").read_text()
        except FileNotFoundError:
            return {}
        found = {}
        for block in re.findall(r"servicestatus \{(.*?)\n\t\}", status, re.DOTALL):
            values = dict(line.strip().partition("=")[::2] for line in block.splitlines())
            output = f"{values['current_state']} {values['plugin_output']} | {values['performance_data']}"
            found[values["service_description"]] = output
        return found


_ICINGA = MONITORING / "icinga2.conf"


def example_host() -> str:
    """The attributes of the host in the comment of icinga2.conf, which is a balancer with an agent."""
    found = re.search(r'^//   object Host "lb1" {\n(.*?)^//   }$', _ICINGA.read_text(), re.DOTALL | re.MULTILINE)
    assert found is not None
    return re.sub("^// *", "", found[1], flags=re.MULTILINE)


class Icinga(CheckProgram):
    """Icinga 2, which is the agent of the host too."""

    def __init__(self, host: Host, directory: Path, attributes: str) -> None:
        """`attributes`: lines of the object of the host, such as those that set its variables.

        The check of the host itself passes, whichever command it has.
        """
        super().__init__(host, directory)
        self._attributes = attributes

    def command(self) -> list[str]:
        shipped = _ICINGA.read_text().replace("/usr/bin/nftlb", str(NFTLB))
        faster = re.sub(r"(_interval = )\d+s", r"\g<1>1s", shipped)
        results = f"""object PerfdataWriter "results" {{
  service_perfdata_path = "{self.directory}/results"
  service_temp_path = "{self.directory}/collecting"
  host_perfdata_path = "{self.directory}/hosts"
  host_temp_path = "{self.directory}/collecting-hosts"
  service_format_template = "RESULT\t$service.name$\t$service.state$ $service.output$ | $service.perfdata$"
  rotation_interval = 1s
}}
"""
        host = f'object Host NodeName {{\n{self._attributes}\n  check_command = "dummy"\n}}\n'
        node = "object Endpoint NodeName { }\nobject Zone ZoneName { endpoints = [ NodeName ] }\n"
        checker = 'include <itl>\nobject CheckerComponent "checker" { }\nobject ApiListener "api" { }\n'
        file = self.directory / "icinga2.conf"
        file.write_text(checker + node + host + faster + results)
        constants = {"RunAsUser": "root", "RunAsGroup": "root", "NodeName": "lb1", "ZoneName": "lb1"}
        for name in ("DataDir", "CacheDir", "LogDir", "InitRunDir", "SpoolDir"):
            (self.directory / name).mkdir()
            constants[name] = str(self.directory / name)
        defines = [word for name, value in constants.items() for word in ("--define", f"{name}={value}")]
        path = data("usr/lib/*/icinga2/sbin/icinga2")
        self._make_certificate(path, defines)
        include = data("usr/share/icinga2/include")
        return [path, "daemon", "--config", str(file), "--include", include, *defines]

    def outputs(self) -> dict[str, str]:
        # Each file has the results of a second; its name ends with the time.
        files = sorted(self.directory.glob("results.*"), key=lambda path: path.name)
        results = "".join(file.read_text() for file in files).split("RESULT\t")[1:]
        return dict(result.partition("\t")[::2] for result in results)

    def _make_certificate(self, path: str, defines: list[str]) -> None:
        """Make the certificate without which Icinga is not an agent."""
        folder = self.directory / "DataDir" / "certs"
        folder.mkdir()
        files = ["--key", str(folder / "lb1.key"), "--cert", str(folder / "lb1.crt")]
        argv = [path, "pki", "new-cert", "--cn", "lb1", *files, *defines]
        subprocess.run(argv, env={**os.environ, **environment()}, check=True, capture_output=True)
        shutil.copy(folder / "lb1.crt", folder / "ca.crt")
