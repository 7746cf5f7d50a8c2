"""A real RTSP camera: FFmpeg encodes and packs RTP, a few lines of ours speak RTSP over TCP to OpenCV."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_sft.runtime.config import CameraSource
from edge_sft.runtime.sources.protocol import open_source


class RtspCamera:
    """Serves one MPEG-4 test picture stream at rtsp://127.0.0.1:<port>/cam; `unplug` and `plug` it."""

    def __init__(self, folder: Path) -> None:
        self._sdp = folder / "camera.sdp"
        self.port = 0
        self.plug()

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self.port}/cam"

    def plug(self) -> None:
        self._down = threading.Event()
        self._rtp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._rtp.bind(("127.0.0.1", 0))
        self._rtp.settimeout(0.2)
        self._sdp.unlink(missing_ok=True)
        encode = ["-re", "-f", "lavfi", "-i", "testsrc=size=160x120:rate=25", "-c:v", "mpeg4", "-g", "5"]
        send = ["-f", "rtp", "-sdp_file", str(self._sdp), f"rtp://127.0.0.1:{self._rtp.getsockname()[1]}"]
        self._ffmpeg = subprocess.Popen(
            ["ffmpeg", "-loglevel", "quiet", *encode, *send], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 10
        while not self._sdp.exists() or "a=fmtp" not in self._sdp.read_text():
            assert time.monotonic() < deadline, "ffmpeg wrote no SDP"
            time.sleep(0.02)
        self._server = socket.create_server(("127.0.0.1", self.port))
        self._server.settimeout(0.2)
        self.port = self._server.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def unplug(self) -> None:
        self._down.set()
        self._thread.join()
        self._server.close()
        self._ffmpeg.kill()
        self._ffmpeg.wait()
        self._rtp.close()

    def _serve(self) -> None:
        while not self._down.is_set():
            with contextlib.suppress(OSError):
                client, _ = self._server.accept()
                with client:
                    client.settimeout(5)
                    self._talk(client)

    def _talk(self, client: socket.socket) -> None:
        asked = b""
        while not self._down.is_set():
            received = client.recv(4096)
            if not received:
                return
            asked += received
            while b"\r\n\r\n" in asked:
                request, asked = asked.split(b"\r\n\r\n", 1)
                lines = request.decode().split("\r\n")
                verb = lines[0].split()[0]
                headers = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines[1:])}
                client.sendall(self._answer(verb, headers))
                if verb == "PLAY":
                    self._stream(client)
                    return

    def _answer(self, verb: str, headers: dict[str, str]) -> bytes:
        extra, body = "", b""
        if verb == "OPTIONS":
            extra = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
        if verb == "DESCRIBE":
            lines = [line for line in self._sdp.read_text().splitlines() if line and not line.startswith("SDP:")]
            kept = ["m=video 0 RTP/AVP 96" if line.startswith("m=") else line for line in lines]
            body = ("\r\n".join([*kept, "a=control:track1"]) + "\r\n").encode()
            extra = f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
        if verb == "SETUP":
            extra = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n"
        if verb == "PLAY":
            extra = "Session: 1\r\n"
        return f"RTSP/1.0 200 OK\r\nCSeq: {headers['cseq']}\r\n{extra}\r\n".encode() + body

    def _stream(self, client: socket.socket) -> None:
        while not self._down.is_set():
            with contextlib.suppress(TimeoutError):
                packet = self._rtp.recv(2048)
                client.sendall(b"$\x00" + len(packet).to_bytes(2, "big") + packet)


@pytest.fixture
def camera(tmp_path: Path) -> Iterator[RtspCamera]:
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not installed: RTSP is not proved")
    made = RtspCamera(tmp_path)
    yield made
    made.unplug()


def test_rtsp_comes_back_after_a_reboot(camera: RtspCamera, tmp_path: Path, eventually: Callable[..., Any]) -> None:
    (tmp_path / "credentials").write_text("operator:secret\n")
    config = CameraSource(
        kind="camera",
        device=camera.url,
        credentials_file=tmp_path / "credentials",
        read_timeout_s=1.0,
        open_timeout_s=5.0,
        retry_max_s=0.5,
    )
    source = open_source(config, stream="main", state=tmp_path)
    first = eventually(lambda: source.read(0.2), 20)
    assert first.data.shape == (120, 160, 3)
    camera.unplug()
    eventually(lambda: not source.status.connected, 10)
    assert "secret" not in source.status.detail
    camera.plug()
    while source.read(0.0) is not None:
        pass
    eventually(lambda: source.read(0.2), 20)
    assert source.status.connected
    source.close()
