"""Talking to systemd (Type=notify, WatchdogSec=…) without a library: one datagram per fact."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable

Notify = Callable[[str], None]


def notifier(address: str | None) -> Notify:
    """Return what tells the service manager a fact, e.g. ``READY=1``; does nothing without an address.

    Args:
        address: The content of ``NOTIFY_SOCKET``: a path, or ``@name`` for Linux' abstract sockets.
    """
    family = getattr(socket, "AF_UNIX", None)
    if not address or family is None:
        return lambda fact: None
    target = "\0" + address[1:] if address.startswith("@") else address

    def notify(fact: str) -> None:
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)  # a manager that does not listen must not stop the line
            sender.sendto(fact.encode(), target)

    return notify
