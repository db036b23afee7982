"""nginx, over HTTP or HTTPS."""

from __future__ import annotations

import http.client
import ssl
import time
from typing import TYPE_CHECKING, Any

from servers.certificate import SERVER_NAME, Certificate, self_signed
from servers.daemon import ANSWER_TIMEOUT, Daemon, bracketed, repeat
from servers.exchange import Answer, open_tcp

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from nftlb.lab import Host

BODY = "well"
_HTTPS = 443


class Nginx(Daemon):
    """Healthy: replies with 200 and BODY. Wrong: replies with 503. It has a master and one worker."""

    name = "nginx"
    default_port = 80
    transport = "tcp"

    def __init__(
        self,
        host: Host,
        *,
        port: int = 0,
        version: int = 4,
        addresses: Sequence[str] = (),
        tls: bool = False,
        certificate: Certificate | None = None,
    ) -> None:
        """Choose the listening address (see `Daemon`), and whether to use TLS.

        Servers may share a `certificate`, which the check of a pool can trust. Without it, each server makes its own.
        """
        self.tls = tls or certificate is not None
        super().__init__(host, port=port or (_HTTPS if self.tls else 0), version=version, addresses=addresses)
        self._given = certificate

    @property
    def certificate(self) -> Certificate:
        """The server's certificate, with TLS."""
        return self._given or Certificate(self.directory / "certificate.pem", self.directory / "key.pem")

    @property
    def check(self) -> Mapping[str, Any]:
        """The health check for this server, as in a configuration file; with TLS, it trusts the certificate."""
        tls = {"tls": True, "sni": SERVER_NAME, "ca_file": str(self.certificate.file)} if self.tls else {}
        return {"http": {"path": "/", "body": BODY, **tls}}

    def configure(self) -> None:
        self._switch.unlink(missing_ok=True)
        if self.tls and not self._given and not self.certificate.file.exists():
            self_signed(self.directory)
        listen = [f"{bracketed(address)}:{self.port}{' ssl' if self.tls else ''}" for address in self.addresses]
        tls = (
            f"ssl_certificate {self.certificate.file}; ssl_certificate_key {self.certificate.key};" if self.tls else ""
        )
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        (self.directory / "nginx.conf").write_text(
            f"""
user root;
worker_processes 1;
pid {self.directory}/pid;
events {{ worker_connections 64; }}
http {{
  access_log off;
{repeat("  {}_temp_path " + str(self.directory / "temp") + ";", kinds)}
  server {{
{repeat("    listen {};", listen)}
    {tls}
    default_type text/plain;
    location / {{
      if (-e {self._switch}) {{ return 503 "unwell"; }}
      return 200 "{BODY}";
    }}
  }}
}}
""",
            encoding="utf-8",
        )

    def command(self) -> list[str]:
        # -e: before nginx has read its configuration, it would open its built-in log file.
        directory = str(self.directory)
        return ["nginx", "-p", directory, "-e", "stderr", "-c", f"{directory}/nginx.conf", "-g", "daemon off;"]

    def ask(self, source: Host | None = None, *, timeout: float = ANSWER_TIMEOUT) -> Answer:
        begun = time.monotonic()
        connection = http.client.HTTPConnection(self.address, self.port)
        connection.sock = open_tcp(source or self.host, self.target, timeout)
        try:
            if self.tls:
                context = ssl.create_default_context(cafile=self.certificate.file)
                connection.sock = context.wrap_socket(connection.sock, server_hostname=SERVER_NAME)
            connection.request("GET", "/")
            response = connection.getresponse()
            body = response.read().decode()
        finally:
            connection.close()
        return Answer(
            response.status == http.HTTPStatus.OK and body == BODY,
            f"{response.status} {body}",
            time.monotonic() - begun,
        )

    def mislead(self, *, wrong: bool) -> None:
        if wrong:
            self._switch.touch()
        else:
            self._switch.unlink(missing_ok=True)

    @property
    def _switch(self) -> Path:
        return self.directory / "wrong"
