"""A coordinator's certificates and an invite, for tests of the site's side; and a server that shows them."""

from __future__ import annotations

import contextlib
import http.server
import ssl
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

from edge_sft.federated import pki
from edge_sft.federated.invite import Invite, write_invite

NOW = datetime.now(timezone.utc)
APP = "ab" * 32


class Coordinator:
    """Certificates of a coordinator in a folder."""

    def __init__(self, folder: Path, *names: str, now: datetime = NOW) -> None:
        self.authority = pki.make_authority("test", now)
        self.server = pki.issue_server(self.authority, names, now)
        self.folder = folder
        (folder / "server.pem").write_bytes(self.server.certificate)
        (folder / "server.key").write_bytes(self.server.key)

    @property
    def ca(self) -> str:
        return self.authority.certificate.decode()

    def invite(self, site: str = "berlin", *, address: str = "127.0.0.1:9", apps: tuple[str, ...] = (APP,)) -> Path:
        fingerprint = pki.facts(self.authority.certificate).fingerprint
        path = self.folder / f"{site}.invite"
        invite = Invite(site=site, address=address, ca=self.ca, ca_sha256=fingerprint, apps=apps, edge_sft="0.1.0")
        write_invite(path, invite)
        return path

    @contextlib.contextmanager
    def answering(self, *, ahead_s: float = 0.0, date: bool = True, host: str = "127.0.0.1") -> Iterator[int]:
        """Answer on a free port of loopback as nginx does: 403 and the time; ``ahead_s`` puts its clock forward."""

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.send_response_only(403)
                if date:
                    told = datetime.now(timezone.utc) + timedelta(seconds=ahead_s)
                    self.send_header("Date", told.strftime("%a, %d %b %Y %H:%M:%S GMT"))
                self.end_headers()

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "server.pem", self.folder / "server.key")
        with http.server.ThreadingHTTPServer((host, 0), Handler) as server:
            server.handle_error = lambda *_: None  # type: ignore[method-assign]  # handshakes that fail on purpose
            server.socket = context.wrap_socket(server.socket, server_side=True)
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            try:
                yield int(server.server_address[1])
            finally:
                server.shutdown()
                thread.join()
