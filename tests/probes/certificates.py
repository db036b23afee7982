"""Certificates of different kinds, made by openssl."""

from __future__ import annotations

import ssl
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_CONFIG = """
[ca]
default_ca = own
[own]
dir = {directory}
new_certs_dir = {directory}
database = {directory}/index
serial = {directory}/serial
default_md = sha256
policy = any
copy_extensions = copy
unique_subject = no
[any]
commonName = supplied
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
"""
_ALWAYS = ("20200101000000Z", "20991231000000Z")
EXPIRED = ("20200101000000Z", "20200102000000Z")
EARLY = ("20980101000000Z", "20991231000000Z")


@dataclass(frozen=True)
class Authority:
    """A certificate authority in a separate directory."""

    directory: Path

    @classmethod
    def make(cls, directory: Path) -> Authority:
        directory.mkdir()
        (directory / "config").write_text(_CONFIG.format(directory=directory))
        (directory / "index").touch()
        (directory / "serial").write_text("01\n")
        made = cls(directory)
        made._openssl(
            *("req", "-x509", "-config", "config", "-extensions", "authority", "-subj", "/CN=authority"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", "ca.key", "-out", "ca.pem", "-days", "3650"),
        )
        return made

    @property
    def file(self) -> str:
        return str(self.directory / "ca.pem")

    def server(self, name: str, alternatives: str, dates: tuple[str, str] = _ALWAYS) -> ssl.SSLContext:
        """Return a server's certificate and key for these names, such as `DNS:a.example,IP:::1`."""
        self._openssl(
            *("req", "-config", "config", "-subj", f"/CN={name}", "-addext", f"subjectAltName={alternatives}"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", f"{name}.key", "-out", f"{name}.csr"),
        )
        self._openssl(
            *("ca", "-config", "config", "-batch", "-notext", "-cert", "ca.pem", "-keyfile", "ca.key"),
            *("-startdate", dates[0], "-enddate", dates[1], "-in", f"{name}.csr", "-out", f"{name}.pem"),
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.directory / f"{name}.pem", self.directory / f"{name}.key")
        return context

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.directory, check=True, capture_output=True)
