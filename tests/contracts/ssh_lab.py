"""A real sshd on loopback in a network namespace without internet, with a user whose home is empty.

Needs root, `unshare`, `nsenter`, `ip` and OpenSSH's server. With ``chroot`` the device is a Debian root of its own;
without, it is this machine's system with another /etc/passwd and its own Python, which knows nothing of edge-sft.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

PORT = 2222
USER = "edge"
_SCRIPT = """
set -e
ip link set lo up
mount --make-rprivate /
{mounts}
mkdir -p /run/sshd
echo ready
{enter} exec /usr/sbin/sshd -D -e -f {conf}
"""


def lacking() -> str:
    """Say why there can be no lab here, or nothing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "not root on Linux: deploying to a real sshd in a network namespace is not proved"
    tools = ("unshare", "nsenter", "ip", "ssh", "ssh-keygen", "/usr/sbin/sshd", "/usr/bin/python3")
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} is not installed: deploying to a real sshd is not proved"
    done = subprocess.run(["unshare", "-n", "-m", "true"], capture_output=True, check=False)
    if done.returncode != 0:
        return "no network namespaces here: deploying to a real sshd without internet is not proved"
    return ""


class Lab:
    """A device and the way to it.

    Args:
        chroot: A Debian root; None: this machine's system.
        environment: Further environment of the device's sessions, as in sshd's SetEnv.
    """

    def __init__(self, chroot: Path | None = None, environment: Sequence[str] = ()) -> None:
        base = Path(tempfile.mkdtemp(prefix="edge-lab-", dir=None if chroot is None else chroot / "tmp"))
        base.chmod(0o755)
        self.uid = 40_000 + os.getpid() % 20_000  # of its own, so that labs of several processes do not meet
        self.base, self._chroot, self._environment = base, chroot, environment
        self.home = base / "home"
        self.root = self.home / ".local" / "share" / "edge-sft"
        self.config = base / "client" / "ssh_config"
        self.to = f"ssh://{USER}@127.0.0.1:{PORT}"
        self._sshd: subprocess.Popen[bytes] | None = None
        self._mounts: list[Path] = []
        self._others: list[subprocess.Popen[bytes]] = []

    def inside(self, path: Path) -> str:
        """Return a path as the device sees it."""
        return str(path) if self._chroot is None else "/" + str(path.relative_to(self._chroot))

    # --- life ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        for folder in (self.home / ".ssh", self.base / "server", self.base / "client", self.base / "etc"):
            folder.mkdir(parents=True, exist_ok=True)
        self.new_host_key()
        _keygen(self.base / "client" / "id")
        shutil.copy(self.base / "client" / "id.pub", self.home / ".ssh" / "authorized_keys")
        self._write_client_config()
        self._write_users()
        for folder in (self.home, *self.home.rglob("*")):
            os.chown(folder, self.uid, self.uid)
        self.serve()

    def mount(self, name: str, options: str) -> Path:
        """Mount a small file system in the device's folder; before `start`."""
        folder = self.base / name
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"mode=0777,{options}", "tmpfs", folder], check=True)
        self._mounts.append(folder)
        return folder

    def new_host_key(self) -> None:
        """Give the device another host key; it counts from the next `serve`."""
        for path in self.base.glob("server/key*"):
            path.unlink()
        _keygen(self.base / "server" / "key")

    @property
    def fingerprint(self) -> str:
        done = subprocess.run(
            ["ssh-keygen", "-l", "-f", self.base / "server" / "key.pub"], capture_output=True, text=True, check=True
        )
        return done.stdout.split()[1]

    def serve(self) -> None:
        """Start the namespace and its sshd."""
        lines = [
            f"Port {PORT}",
            "ListenAddress 127.0.0.1",
            f"HostKey {self.inside(self.base / 'server' / 'key')}",
            "UsePAM no",
            "StrictModes no",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            f"PidFile {self.inside(self.base / 'server' / 'pid')}",
            f"AuthorizedKeysFile {self.inside(self.home / '.ssh' / 'authorized_keys')}",
            "MaxStartups 100",
            *(f"SetEnv {one}" for one in self._environment),
        ]
        conf = self.base / "server" / "sshd_config"
        conf.write_text("\n".join(lines) + "\n")
        if self._chroot is None:
            names = ("passwd", "shadow", "group")
            mounts = "\n".join(f"mount --bind {self.base}/etc/{name} /etc/{name}" for name in names)
        else:
            mounts = "\n".join(f"mount --rbind /{name} {self._chroot}/{name}" for name in ("proc", "dev", "sys"))
            mounts += f"\nmkdir -p {self._chroot}/run/sshd"
        enter = "" if self._chroot is None else f"exec chroot {self._chroot} /bin/sh -c 'exec \"$@\"' sh"
        script = _SCRIPT.format(mounts=mounts, enter=enter, conf=self.inside(conf))
        if enter:
            script = script.replace("sh exec /usr", "sh /usr")
        inner = ["unshare", "-n", "-m", "sh", "-c", script]
        with (self.base / "server" / "log").open("ab") as log:
            self._sshd = subprocess.Popen(inner, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        for _ in range(300):
            if self._answers():
                return
            time.sleep(0.1)
        raise AssertionError((self.base / "server" / "log").read_text())

    def _answers(self) -> bool:
        asked = [*self.enter, "ssh-keyscan", "-T", "1", "-p", str(PORT), "127.0.0.1"]
        done = subprocess.run(asked, capture_output=True, check=False)
        return bool(done.stdout)

    def stop_serving(self) -> None:
        """End sshd and everything that its sessions left."""
        if self._sshd is None:
            return
        for pid in [*reversed(self.sessions()), *_of_user(self.uid), self._sshd.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._sshd.wait()
        self._sshd = None

    def stop(self) -> None:
        for process in self._others:
            process.kill()
            process.wait()
        self.stop_serving()
        for folder in self._mounts:
            subprocess.run(["umount", "-l", folder], check=False)
        shutil.rmtree(self.base, ignore_errors=True)

    # --- the network -----------------------------------------------------------------------------------------

    @property
    def enter(self) -> list[str]:
        """What to put before a command that shall run in the device's network."""
        assert self._sshd is not None
        return ["nsenter", f"--net=/proc/{self._sshd.pid}/ns/net"]

    def silence(self) -> None:
        """Every packet is lost from now on; nobody is told."""
        subprocess.run([*self.enter, "ip", "link", "set", "lo", "down"], check=True)

    def speak(self) -> None:
        """Packets travel again."""
        subprocess.run([*self.enter, "ip", "link", "set", "lo", "up"], check=True)

    def sessions(self) -> list[int]:
        """Processes of sshd for open connections."""
        assert self._sshd is not None
        found = [pid for pid in _descendants(self._sshd.pid) if _name(pid).startswith("sshd")]
        return [pid for pid in found if pid != self._sshd.pid]

    def cut_at_the_server(self) -> int:
        """Kill sshd's side of every connection; returns how many processes that were."""
        found = self.sessions()
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(found)

    # --- commands --------------------------------------------------------------------------------------------

    def start_cli(self, *words: object, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """Start `edge-sft` of this checkout in the device's network, as somebody who deploys."""
        command = [*self.enter, sys.executable, "-m", "edge_sft.cli.main", *map(str, words)]
        given = {**os.environ, "XDG_CACHE_HOME": str(self.base / "client"), "COLUMNS": "160", **(environment or {})}
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=given,
            start_new_session=True,
            cwd="/",
        )

    def cli(self, *words: object, timeout_s: float = 300.0) -> subprocess.CompletedProcess[str]:
        """Run `edge-sft … --ssh-config …` to its end."""
        process = self.start_cli(*words, "--ssh-config", self.config)
        out, err = process.communicate(timeout=timeout_s)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def ssh_clients(self, process: subprocess.Popen[str]) -> list[int]:
        """Return the ssh clients that a command started."""
        return [pid for pid in _descendants(process.pid) if _name(pid) == "ssh"]

    def on_device(self, *command: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command on the device by a plain ssh."""
        done = subprocess.run(
            [*self.enter, "ssh", "-F", str(self.config), "-o", "StrictHostKeyChecking=no", "-o", "LogLevel=ERROR",
             "-o", "UserKnownHostsFile=/dev/null", "-p", str(PORT), f"{USER}@127.0.0.1", *map(str, command)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0 or not check, done.stderr
        return done

    def also(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start another server in the device's network; ended with the lab."""
        process = subprocess.Popen([*self.enter, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._others.append(process)
        return process

    # --- files -----------------------------------------------------------------------------------------------

    def _write_client_config(self) -> None:
        folder = self.config.parent
        lines = ["Host *", f"  IdentityFile {folder}/id", "  IdentitiesOnly yes", "  IdentityAgent none"]
        lines += [f"  UserKnownHostsFile {folder}/known_hosts", "  GlobalKnownHostsFile /dev/null"]
        self.config.write_text("\n".join(lines) + "\n")

    def _write_users(self) -> None:
        home = self.inside(self.home)
        added = {
            "passwd": f"{USER}:x:{self.uid}:{self.uid}::{home}:/bin/bash",
            "shadow": f"{USER}:*:19000:0:99999:7:::",
            "group": f"{USER}:x:{self.uid}:",
        }
        source = Path("/etc") if self._chroot is None else self._chroot / "etc"
        target = self.base / "etc" if self._chroot is None else source
        for name, line in added.items():
            kept = [one for one in (source / name).read_text().splitlines() if not one.startswith(f"{USER}:")]
            (target / name).write_text("\n".join([*kept, line]) + "\n")
            (target / name).chmod(0o640 if name == "shadow" else 0o644)


@contextlib.contextmanager
def lab(chroot: Path | None = None, environment: Sequence[str] = ()) -> Iterator[Lab]:
    """Yield a running lab."""
    made = Lab(chroot, environment)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _keygen(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)


def _descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            content = entry.read_text()
            children.setdefault(int(content.rpartition(")")[2].split()[1]), []).append(int(entry.parent.name))
    found, open_ = [], [pid]
    while open_:
        more = children.get(open_.pop(), [])
        found += more
        open_ += more
    return found


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def _of_user(uid: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if entry.stat().st_uid == uid:
                found.append(int(entry.name))
    return found
