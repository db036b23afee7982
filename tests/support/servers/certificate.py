"""A self-signed certificate, made by openssl."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from servers.processes import PATIENCE

if TYPE_CHECKING:
    from pathlib import Path

SERVER_NAME = "www.example.com"
"""The server name of all these certificates."""


@dataclass(frozen=True)
class Certificate:
    """The PEM files of a certificate and its key."""

    file: Path
    key: Path


def self_signed(directory: Path) -> Certificate:
    """Make a certificate for SERVER_NAME in a directory, valid for a day; its file is also the authority to trust."""
    made = Certificate(directory / "certificate.pem", directory / "key.pem")
    argv = [
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
        "-subj", f"/CN={SERVER_NAME}", "-addext", f"subjectAltName=DNS:{SERVER_NAME}",
        "-keyout", str(made.key), "-out", str(made.file),
    ]  # fmt: skip
    subprocess.run(argv, check=True, capture_output=True, text=True, timeout=PATIENCE)
    return made
