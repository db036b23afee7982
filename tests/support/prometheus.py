"""The real Prometheus beside a daemon, with the alerts of deploy/monitoring/ in which all durations are shorter."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from contextlib import ExitStack
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import yaml
from daemon_process import PATIENCE
from servers.programs import program

if TYPE_CHECKING:
    from nftlb.lab import Host

MONITORING = Path(__file__).parents[2] / "deploy/monitoring"
ALERTS = MONITORING / "alerts.yml"
FASTER = 60
"""The factor by which all durations of the alerts are shorter here: a minute is a second."""
INTERVAL = 0.25
"""Seconds between two scrapes, and between two evaluations of the alerts."""
_FLAPS = 'event="backend_down"}[10m]'
_LONGER_FLAPS = 'event="backend_down"}[60m]'
"""A busy machine needs more than ten seconds for several changes of a backend."""
_SECONDS = {"s": 1, "m": 60, "h": 3600}
_ADDRESS = "127.0.0.1:9090"
_TARGET = "127.0.0.1:9146"


def sped_up(rules: str) -> str:
    """The alerts with shorter durations; the time in which a backend comes and goes is shortened less."""

    def shorter(match: re.Match[str]) -> str:
        milliseconds = int(match[2]) * _SECONDS[match[3]] * 1000 // FASTER
        return f"{match[1]}{milliseconds}ms"

    return re.sub(r"(\[|for: )(\d+)([smh])\b", shorter, rules.replace(_FLAPS, _LONGER_FLAPS))


def alert_names() -> set[str]:
    """The names of all alerts in deploy/monitoring/."""
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return {rule["alert"] for group in groups for rule in group["rules"]}


def promtool(*arguments: str, given: str = "") -> str:
    """Run promtool, and return its output. Raises an AssertionError with the output if promtool finds a fault."""
    done = subprocess.run(
        [program("promtool"), *arguments], input=given, capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def api_over_tcp(api: Path) -> list[str]:
    """The command that makes the API behind a Unix socket reachable at the usual port of this host: systemd's proxy."""
    return ["systemd-socket-activate", "-l", _TARGET, "/lib/systemd/systemd-socket-proxyd", str(api)]


class Prometheus:
    """A context manager: Prometheus on a host, which scrapes the daemon behind a Unix socket on the same host."""

    def __init__(self, host: Host, directory: Path, api: Path) -> None:
        self._host = host
        self._directory = directory
        self._api = api
        self._stack = ExitStack()
        self.fired: set[str] = set()
        """The names of all alerts that any call has seen fire."""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._spawn(stack, api_over_tcp(self._api))  # Prometheus can't scrape a Unix socket
            (self._directory / "alerts.yml").write_text(sped_up(ALERTS.read_text()))
            times = {"scrape_interval": f"{INTERVAL * 1000:.0f}ms", "evaluation_interval": f"{INTERVAL * 1000:.0f}ms"}
            configuration = {
                "global": times,
                "rule_files": ["alerts.yml"],
                "scrape_configs": [{"job_name": "nftlb", "static_configs": [{"targets": [_TARGET]}]}],
            }
            file = self._directory / "prometheus.yml"
            file.write_text(yaml.safe_dump(configuration))
            storage = f"--storage.tsdb.path={self._directory / 'tsdb'}"
            arguments = [f"--config.file={file}", storage, f"--web.listen-address={_ADDRESS}", "--log.level=warn"]
            self._spawn(stack, [program("prometheus"), *arguments])
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _spawn(self, stack: ExitStack, argv: list[str]) -> None:
        log = stack.enter_context((self._directory / f"{Path(argv[0]).name}.log").open("w"))
        process = self._host.popen(argv, stdout=log, stderr=log, env={**os.environ, "GOMAXPROCS": "1"})
        stack.callback(process.wait, PATIENCE)
        stack.callback(process.send_signal, signal.SIGKILL)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The present value of an expression: for each series its labels (`metric`) and `value`."""
        return self._ask("query", query=expression)

    def history(self, expression: str, since: float) -> list[dict[str, Any]]:
        """All values of an expression since a time (seconds of the epoch): for each series `metric` and `values`."""
        return self._ask("query_range", query=expression, start=since, end=time.time(), step=INTERVAL)

    def firing(self) -> set[str]:
        """The names of the alerts that fire now. They are added to `fired`."""
        names = {found["metric"]["alertname"] for found in self.query('ALERTS{alertstate="firing"}')}
        self.fired |= names
        return names

    def wait(self, expression: str) -> None:
        """Wait until an expression has a value."""
        deadline = time.monotonic() + PATIENCE
        while not self.query(expression):
            assert time.monotonic() < deadline, expression
            time.sleep(INTERVAL / 2)

    def wait_for_alerts(self, *names: str) -> None:
        """Wait until all these alerts have fired, at the same time or not."""
        deadline = time.monotonic() + PATIENCE
        missing = set(names)
        while missing := missing - self.firing():
            assert time.monotonic() < deadline, f"these do not fire: {', '.join(sorted(missing))}"
            time.sleep(INTERVAL / 2)

    def _ask(self, what: str, **parameters: Any) -> list[dict[str, Any]]:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return list(self._host.call(_get, f"http://{_ADDRESS}/api/v1/{what}?{urlencode(parameters)}"))
            except HTTPError as error:
                with error:
                    if error.code != HTTPStatus.SERVICE_UNAVAILABLE:  # with which it answers while it starts
                        raise
            except URLError:
                pass  # it does not listen yet
            assert time.monotonic() < deadline, (self._directory / "prometheus.log").read_text()
            time.sleep(INTERVAL / 2)


def _get(url: str) -> list[dict[str, Any]]:
    with urlopen(url, timeout=PATIENCE) as answer:  # noqa: S310 - the address is ours
        return list(json.load(answer)["data"]["result"])
