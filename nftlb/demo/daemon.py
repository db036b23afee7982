"""The daemon of the demonstration: `nftlb run` itself, in a process of its own on the balancer."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from threading import Condition, Thread
from typing import TYPE_CHECKING, Any, Self

from nftlb.errors import NftlbError

if TYPE_CHECKING:
    from nftlb.lab import Host

_PATIENCE = 20.0
"""Seconds for what takes less than one."""


class Daemon:
    """A context manager: runs from its begin, when it is ready, to its end. Its log tells what it does."""

    def __init__(self, host: Host, folder: str, text: str) -> None:
        file = Path(folder) / "demo.yaml"
        file.write_text(f"state_dir: {folder}/state\napi: {{listen: 'unix:{folder}/api.sock'}}\n{text}")
        self._host = host
        self._argv = [sys.executable, "-m", "nftlb", "run", str(file), "--log-format", "json"]
        self._entries: list[dict[str, Any]] = []
        self._changed = Condition()

    def __enter__(self) -> Self:
        self._process = self._host.popen(self._argv, stderr=subprocess.PIPE)
        self._thread = Thread(target=self._listen, daemon=True)
        self._thread.start()
        try:
            self._await(lambda entry: entry["message"].startswith("running"))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(_PATIENCE)
        self._thread.join()

    def wait(self, backend: str, *, up: bool) -> None:
        """Wait until the kernel has followed the last change of a backend."""
        kind = "backend_up" if up else "backend_down"
        seen = self._await(lambda entry: entry.get("event") == kind and entry.get("backend") == backend)
        self._await(lambda entry: entry["message"].startswith("kernel follows"), after=seen)

    def told(self, begin: str) -> list[str]:
        """The messages that begin so."""
        return [entry["message"] for entry in self._entries if entry["message"].startswith(begin)]

    def _await(self, fits: Any, after: int = -1) -> int:
        def found() -> int | None:
            return next((n for n, entry in enumerate(self._entries) if n > after and fits(entry)), None)

        with self._changed:
            self._changed.wait_for(lambda: found() is not None or not self._thread.is_alive(), _PATIENCE)
            place = found()
        if place is None:
            log = "\n".join(entry["message"] for entry in self._entries)
            raise NftlbError(f"the daemon did not do what it should; its log:\n{log}")
        return place

    def _listen(self) -> None:
        assert self._process.stderr is not None  # noqa: S101 - for mypy: it is a pipe
        with self._process.stderr as lines:
            for line in lines:
                try:
                    entry = json.loads(line)
                except ValueError:
                    entry = {"message": line.rstrip()}  # it failed before it had a log
                with self._changed:
                    self._entries.append(entry)
                    self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()
