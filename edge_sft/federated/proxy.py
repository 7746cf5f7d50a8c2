"""The proxy before Flower's SuperLink: the only thing that sites reach, and ten paths are all that it lets through.

Flower's Fleet, Control and Runtime APIs share one port, and in the open-source build the Control API asks nobody who
they are. So the SuperLink listens on loopback, and nginx stands before it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from edge_sft import durable
from edge_sft.errors import DeviceError
from edge_sft.federated.coordinator import Federation, Folder
from edge_sft.federated.invite import split_address
from edge_sft.federated.supervisor import Part, answers, free

# What flower-supernode with a registered key calls. Not register-node and unregister-node: sites are approved here.
PATHS: Final = (
    "activate-node",
    "deactivate-node",
    "send-node-heartbeat",
    "pull-messages",
    "push-messages",
    "get-run",
    "get-fab",
    "pull-object",
    "push-object",
    "confirm-message-received",
)
# Flower cuts arrays into pieces of 5 MiB; everything else that a site sends is names and numbers.
_BODY: Final = {"push-object": "8m", "push-messages": "4m"}
_HEADERS: Final = (
    "Content-Type",
    "Accept",
    "flwr-public-key",
    "flwr-signature",
    "flwr-timestamp",
    "flwr-package-name",
    "flwr-package-version",
    "flwr-component-name",
)
_REMEDY: Final = "Install it: apt install nginx-light (Debian, Ubuntu), or nginx of any distribution, 1.19.4 or newer."


def configuration(folder: Folder, federation: Federation, *, user: str = "") -> str:
    """Return nginx's configuration.

    Args:
        folder: The federation's folder.
        federation: What federation.toml says.
        user: Whom nginx's workers run as where it is started by root; "": as whoever starts it.
    """
    here = folder.proxy
    listen = federation.listen
    fleet = "\n".join(_location(path) for path in PATHS)
    headers = "\n".join(f"        proxy_set_header {name} $http_{name.lower().replace('-', '_')};" for name in _HEADERS)
    return f"""# Written by edge-sft federate up, each time it starts.
{f"user {user};" if user else "# runs as whoever starts it"}
daemon off;
worker_processes 1;
pid "{here}/nginx.pid";
error_log "{here}/error.log" warn;
events {{ worker_connections 1024; }}
http {{
    # What crossed the wire, by site's address: time, who, what, status, bytes from and to the site, seconds.
    log_format wire '$time_iso8601 $remote_addr "$request_method $request_uri" $status $request_length $bytes_sent '
                    '$request_time';
    access_log "{here}/access.log" wire;
    client_body_temp_path "{here}/body";
    proxy_temp_path "{here}/proxied";
    fastcgi_temp_path "{here}/unused1";
    uwsgi_temp_path "{here}/unused2";
    scgi_temp_path "{here}/unused3";
    server_tokens off;
    merge_slashes off;
    # The raw request line, before any decoding: exactly these, case and all, with no query.
    map "$request_method $request_uri" $fleet {{
        default 0;
        "~^POST /v1/fleet/(?:{"|".join(PATHS)})$" 1;
    }}
    # Behind one address (a plant's NAT) may be several sites. After 503 Flower's sites try again; 429 ends them.
    limit_req_zone $binary_remote_addr zone=asking:1m rate=100r/s;
    limit_req_zone $binary_remote_addr zone=joining:1m rate=2r/s;
    limit_conn_zone $binary_remote_addr zone=open:1m;
    limit_req_status 503;
    limit_conn_status 503;
    client_header_timeout 10s;
    client_body_timeout 60s;
    send_timeout 60s;
    keepalive_timeout 75s;
    reset_timedout_connection on;
    upstream superlink {{
        server 127.0.0.1:{federation.superlink_port};
        keepalive 16;
    }}
    server {{
        listen {listen} ssl;
        ssl_certificate "{folder.certificate}";
        ssl_certificate_key "{folder.key}";
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_ciphers ECDHE+AESGCM:ECDHE+CHACHA20;
        ssl_session_cache shared:sessions:1m;
        ssl_session_tickets off;
        if ($fleet = 0) {{ return 403; }}
        limit_conn open 64;
        limit_req zone=asking burst=400 nodelay;
        client_max_body_size 64k;
        # Bodies stay in memory: nothing of a site's is written to this disk by the proxy.
        client_body_buffer_size 64k;
        proxy_max_temp_file_size 0;
        proxy_http_version 1.1;
        proxy_next_upstream off;
        proxy_connect_timeout 5s;
        proxy_read_timeout 60s;
        # The site's headers do not pass; these do.
        proxy_pass_request_headers off;
        proxy_set_header Host localhost;
        proxy_set_header Connection "";
{headers}
        proxy_ssl_verify on;
        proxy_ssl_trusted_certificate "{folder.authority}";
        proxy_ssl_name localhost;
        proxy_ssl_protocols TLSv1.2 TLSv1.3;
{fleet}
        location / {{ return 403; }}
    }}
}}
"""


def _location(path: str) -> str:
    inside = [f"proxy_pass https://superlink/v1/fleet/{path};"]  # written out: upstream never sees what a site typed
    if path == "activate-node":
        inside.insert(0, "limit_req zone=joining burst=20 nodelay;")
    if path in _BODY:
        inside.insert(0, f"client_max_body_size {_BODY[path]}; client_body_buffer_size {_BODY[path]};")
    return f"        location = /v1/fleet/{path} {{ {' '.join(inside)} }}"


def program() -> str:
    """Return nginx's path. Raises DeviceError when it is not installed."""
    found = shutil.which("nginx") or next((at for at in ("/usr/sbin/nginx", "/usr/local/sbin/nginx") if _runs(at)), "")
    if not found:
        raise DeviceError("nginx", "is not installed; sites reach the coordinator only through it", _REMEDY)
    return found


def _runs(path: str) -> bool:
    return os.access(path, os.X_OK)


def command(folder: Folder) -> list[str]:
    """Return how nginx is started in the foreground. Raises DeviceError when it is not installed."""
    return [program(), "-p", str(folder.proxy), "-c", str(folder.proxy / "nginx.conf"), "-e", _errors(folder)]


def part(folder: Folder, federation: Federation, base: Mapping[str, str]) -> Part:
    """Return the proxy as a program to keep running. Raises DeviceError when nginx is not installed."""
    host, port = split_address(federation.listen)

    def ready_to_start() -> None:
        free(host, port, "listen")
        prepare(folder, federation)

    return Part(
        "nginx",
        command(folder),
        base,
        folder.proxy / "nginx.log",
        ready=lambda: answers(host, port),
        prepare=ready_to_start,
        logs=(folder.proxy / "access.log", folder.proxy / "error.log"),
    )


def _errors(folder: Folder) -> str:
    return str(folder.proxy / "error.log")


def prepare(folder: Folder, federation: Federation) -> Path:
    """Write nginx's configuration and have nginx read it.

    Returns:
        The configuration's path.

    Raises:
        DeviceError: nginx is not installed, or refuses the configuration; its own words are in the message.
    """
    folder.proxy.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder.proxy / "nginx.conf"
    durable.write_text(path, configuration(folder, federation, user=_unprivileged()))
    done = subprocess.run([*command(folder), "-t"], capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        told = [line for line in done.stderr.splitlines() if "[emerg]" in line] or done.stderr.splitlines()[-1:]
        raise DeviceError(f"{path}", f"is refused by nginx ({' '.join(told)})", f"Is nginx 1.19.4 or newer? {_REMEDY}")
    return path


def _unprivileged() -> str:
    """Return user and group for workers where this is root, or nothing."""
    if os.name != "posix" or os.geteuid() != 0:
        return ""
    import grp
    import pwd

    users = {entry.pw_name: entry.pw_gid for entry in pwd.getpwall()}
    name = next((name for name in ("www-data", "nginx", "nobody") if name in users), "")
    return f"{name} {grp.getgrgid(users[name]).gr_name}" if name else ""
