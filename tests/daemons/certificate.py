"""A certificate that signs itself, made by openssl."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from daemons.processes import PATIENCE

if TYPE_CHECKING:
    from pathlib import Path

SERVER_NAME = "www.example.com"
"""The name that every certificate of the harness is for."""


@dataclass(frozen=True)
class Certificate:
    """Two PEM files."""

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
