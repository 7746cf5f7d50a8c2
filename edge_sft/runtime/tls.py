"""A TLS context that remembers its sockets, because paho leaves one open whenever a handshake fails."""

from __future__ import annotations

import contextlib
import ssl
from typing import Any


class TrackingContext(ssl.SSLContext):
    """Hands out TLS sockets and closes them on `release`."""

    def wrap_socket(self, *args: Any, **options: Any) -> ssl.SSLSocket:
        """Do as SSLContext does, and remember the socket."""
        self._last = super().wrap_socket(*args, **options)
        return self._last

    def release(self) -> None:
        """Close the socket of the connection that is over."""
        last: ssl.SSLSocket | None = getattr(self, "_last", None)
        if last is not None:
            with contextlib.suppress(OSError):
                last.close()
