"""The device's program through a plain shell instead of ssh: what it does when things go wrong."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_sft.deploy.remote.address import Address
from edge_sft.deploy.remote.device import facts, locks
from edge_sft.deploy.remote.device.disk import refused
from edge_sft.deploy.remote.device.wire import Refusal
from edge_sft.deploy.remote.link import Link
from edge_sft.deploy.remote.openssh import OpenSsh, UnknownHostKey
from edge_sft.deploy.remote.sending import Parcel, send
from edge_sft.errors import DeviceError, EdgeSftError, NetworkError, UserError
from edge_sft.progress import Silent

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="devices reached over ssh run Linux")


class Shell(OpenSsh):
    """Runs the command here; ``before`` comes first, as from a .bashrc."""

    before = ""

    def command(self, remote: str, extra: Any = ()) -> list[str]:
        return ["sh", "-c", f"{self.before}{remote}"]


def shell(before: str = "") -> Shell:
    made = Shell(Address("line1", "pi"))
    object.__setattr__(made, "before", before)
    return made


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "a device's root"


@pytest.fixture
def opened(root: Path) -> Any:
    links: list[Link] = []

    def make(*, before: str = "", silence_s: float = 20.0, at: Path = root) -> Link:
        link = Link(shell(before), str(at), silence_s=silence_s)
        link.open()
        links.append(link)
        return link

    yield make
    for link in links:
        link.close()


Opened = Callable[..., Link]


def test_a_shell_that_prints_a_banner_does_not_matter(opened: Opened, root: Path) -> None:
    link = opened(before="echo 'Welcome to line 1!'; printf 'no newline '; echo oops >&2; ")
    assert link.facts["root"] == str(root)
    assert link.facts["software"] is None


def test_no_python_and_a_python_too_old_are_said(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"has no python3.*apt install python3"):
        Link(shell(f"PATH={_bin(tmp_path / 'none', '')}; ")).open()
    old = _bin(tmp_path / "old", '#!/bin/sh\ncase "$1" in --version) echo Python 3.8.10;; *) exit 1;; esac\n')
    with pytest.raises(DeviceError, match=r"has Python 3\.8\.10, which does not suit"):
        Link(shell(f"PATH={old}; ")).open()


def _bin(folder: Path, python: str) -> Path:
    folder.mkdir()
    for tool in ("sh", "head"):
        (folder / tool).symlink_to(Path("/bin") / tool)
    if python:
        (folder / "python3").write_text(python)
        (folder / "python3").chmod(0o755)
    return folder


def test_a_file_goes_on_where_the_link_was_cut(opened: Opened, root: Path, tmp_path: Path) -> None:
    content = os.urandom(300_000)
    file = tmp_path / "wheel"
    file.write_bytes(content)
    parcel = Parcel.of(file)
    first = opened()
    first.call("lock", who="me")
    first.call("put", sha256=parcel.sha256, total=parcel.size, offset=0)
    first.send("put", content[:100_000], sha256=parcel.sha256, total=parcel.size, offset=0)
    assert first.answer()["at"] == 100_000
    first._process.kill()
    second = opened()
    second.call("lock", who="me")
    assert send(second, [parcel], "Sending", Silent()) == 200_000
    assert (root / "incoming" / parcel.sha256).read_bytes() == content
    assert send(second, [parcel], "Sending", Silent()) == 0
    placed = Path(second.call("place", sha256=parcel.sha256, name="../../x.edge")["path"])
    assert placed.name == "x.edge"
    assert placed.is_relative_to(root / "remote" / "inputs")


def test_damage_on_the_way_is_found(opened: Opened, root: Path, tmp_path: Path) -> None:
    file = tmp_path / "wheel"
    file.write_bytes(b"good")
    parcel = Parcel.of(file)
    link = opened()
    link.call("lock", who="me")
    link.send("put", b"evil", sha256=parcel.sha256, total=4, offset=0)
    with pytest.raises(NetworkError, match="arrived damaged"):
        link.answer()
    (root / "incoming" / f"{parcel.sha256}.part").write_bytes(b"half, but of something else")
    assert send(link, [parcel], "Sending", Silent()) == 4
    link.send("put", b"x", sha256="../../../etc/passwd", total=1, offset=0)
    with pytest.raises(EdgeSftError, match="is no SHA-256"):
        link.answer()


def test_two_deploys_at_once_the_second_is_refused_in_words(opened: Opened) -> None:
    opened().call("lock", who="ada@office")
    with pytest.raises(UserError, match=r"is being deployed to by ada@office.*Wait for it to end"):
        opened().call("lock", who="bob@office")


def test_a_clock_set_back_makes_no_dead_deploy_look_alive(root: Path) -> None:
    lock = root / "remote" / "session.lock"
    dead, next_one = locks.Session(lock), locks.Session(lock)
    dead.take("ada@office", 20.0, lambda text: None)
    os.utime(lock, (time.time() + 86_400, time.time() + 86_400))  # heard last before the clock went back a day
    told: list[str] = []

    def tell(text: str) -> None:
        if not told:
            threading.Timer(0.3, os.close, [dead._handle]).start()
        told.append(text)

    next_one.take("bob@office", 20.0, tell)
    assert set(told) == {"an earlier deploy's link was cut: waiting for the device to give it up"}
    os.close(next_one._handle)


def test_a_silent_link_is_given_up_on_both_sides(opened: Opened) -> None:
    link = opened(silence_s=3.0)
    link.call("lock", who="ada@office")
    link._closing.set()  # no more pings: as if the cable was pulled
    told: list[str] = []
    opened().call("lock", lambda line: told.append(line["text"]), who="bob@office")
    with pytest.raises(NetworkError, match="the link was cut during the first contact"):
        link.call("lock", who="ada@office")


def test_a_device_that_falls_silent_is_given_up_here(root: Path) -> None:
    link = Link(shell(), str(root), silence_s=2.0)
    link.open()
    done = subprocess.run(["pgrep", "-P", str(link._process.pid)], capture_output=True, text=True, check=False)
    for pid in [str(link._process.pid), *done.stdout.split()]:
        subprocess.run(["kill", "-STOP", pid], check=True)
    link.doing = "the proof"
    with pytest.raises(NetworkError, match=r"cut during the proof \(no word for 2 s\).*Run the same command again"):
        link.call("lock", who="me")
    link.close()


def test_a_full_disk_and_foreign_folders_are_said(opened: Opened, tmp_path: Path) -> None:
    link = opened()
    link.call("lock", who="me")
    with pytest.raises(DeviceError, match="the disk is full"):
        link.call("have", files=[{"sha256": "0" * 64, "size": 1 << 60}])
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DeviceError, match="cannot be written"):
        opened(at=tmp_path / "file" / "root").call("lock", who="me")
    (tmp_path / "mine").mkdir()
    words = [refused(tmp_path / "mine" / "x", OSError(number, "")).words["fact"] for number in (13, 28, 30)]
    assert "belongs to" in words[0]
    assert words[1:] == ["the disk is full", "lies on a disk that is read-only"]


def test_nothing_runs_where_nothing_is_installed(opened: Opened) -> None:
    with pytest.raises(DeviceError, match="holds no edge-sft yet"):
        opened().call("verb", arguments=["slots"])


def test_the_link_ends_and_so_does_the_program(opened: Opened) -> None:
    link = opened()
    process = link._process
    link.close()
    assert process.poll() is not None
    deadline = time.monotonic() + 30
    while threading.active_count() > 3 and time.monotonic() < deadline:
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        ("ssh: Could not resolve hostname x: Name or service not known", NetworkError, "name is not known"),
        ("ssh: connect to host x port 22: Connection refused", NetworkError, "refuses the connection"),
        ("ssh: connect to host x port 22: Connection timed out", NetworkError, "does not answer"),
        ("pi@x: Permission denied (publickey,password).", NetworkError, "let user 'pi' in .it takes publickey"),
        ("No ED25519 host key is known for x and you have requested strict", UnknownHostKey, "never spoken to"),
        ("REMOTE HOST IDENTIFICATION HAS CHANGED!\nSHA256:abc.\n", NetworkError, "another host key.*ssh-keygen -R"),
        ("This service allows sftp connections only.", NetworkError, "cannot be reached .This service"),
        ("", NetworkError, "ssh said nothing"),
    ],
)  # fmt: skip
def test_what_ssh_says_is_said_in_words(said: str, kind: type[EdgeSftError], words: str) -> None:
    error = OpenSsh(Address("line1", "pi")).failure(said)
    assert type(error) is kind
    with pytest.raises(kind, match=words):
        raise error


def test_the_device_sees_its_own_facts(root: Path) -> None:
    told = facts.look(root)
    assert told["python"] == ".".join(map(str, sys.version_info[:3]))
    assert told["free_bytes"] > 0


def test_words_of_a_refusal_travel_whole() -> None:
    refusal = Refusal("DeviceError", "the disk", "is full", "Free some.")
    assert refusal.words == {"kind": "DeviceError", "thing": "the disk", "fact": "is full", "remedy": "Free some."}
