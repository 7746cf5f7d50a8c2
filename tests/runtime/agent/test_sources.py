"""Every source passes the one contract; then what is special about each."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_sft.errors import DataError, UserError
from edge_sft.runtime.config import CameraSource, FilesSource, FolderSource, VideoSource
from edge_sft.runtime.sources.camera import Camera
from edge_sft.runtime.sources.iterator import IteratorSource
from edge_sft.runtime.sources.picture import is_truncated
from edge_sft.runtime.sources.protocol import SourceEnded, SourceStatus, open_source
from edge_sft.runtime.sources.reopening import ReopeningSource

SourceContract: Any = sys.modules["edge_sft_tests_source"].SourceContract


def drain(source: Any, seconds: float = 0.4) -> list[Any]:
    found = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        one = source.read(0.05)
        if one is not None:
            found.append(one)
    return found


@pytest.fixture
def three(tmp_path: Path, write_picture: Callable[..., Path]) -> Path:
    for number in range(3):
        write_picture(tmp_path / "in" / f"{number}.png", colour=number)
    return tmp_path / "in"


class TestIterator(SourceContract):
    @pytest.fixture
    def make_source(self) -> Callable[[], Any]:
        return lambda: IteratorSource([np.full((4, 4), n, np.uint8) for n in range(3)], "main")


class TestFiles(SourceContract):
    @pytest.fixture
    def make_source(self, three: Path, tmp_path: Path) -> Callable[[], Any]:
        return lambda: open_source(FilesSource(kind="files", path=three), stream="main", state=tmp_path)

    def test_keeps_the_rate_and_loops(self, three: Path, tmp_path: Path) -> None:
        config = FilesSource(kind="files", path=three, loop=True, rate=50)
        found = drain(open_source(config, stream="main", state=tmp_path), 0.5)
        assert 15 <= len(found) <= 27

    def test_an_empty_or_missing_folder_is_the_users_error(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        for name, words in (("empty", "holds no picture"), ("missing", "is not a folder")):
            with pytest.raises(UserError, match=words):
                open_source(FilesSource(kind="files", path=tmp_path / name), stream="main", state=tmp_path)


class TestVideo(SourceContract):
    @pytest.fixture
    def make_source(self, tmp_path: Path) -> Callable[[], Any]:
        path = make_video(tmp_path / "v.avi", 3)
        return lambda: open_source(VideoSource(kind="video", path=path), stream="main", state=tmp_path)

    def test_loops(self, tmp_path: Path) -> None:
        config = VideoSource(kind="video", path=make_video(tmp_path / "v.avi", 3), loop=True)
        source = open_source(config, stream="main", state=tmp_path)
        assert len(self._take(source, 7)) == 7
        source.close()

    def test_what_is_no_video_is_said(self, tmp_path: Path) -> None:
        (tmp_path / "v.avi").write_bytes(b"no video" * 100)
        with pytest.raises(DataError, match="not a video"):
            open_source(VideoSource(kind="video", path=tmp_path / "v.avi"), stream="main", state=tmp_path)


def make_video(path: Path, frames: int) -> Path:
    import cv2

    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    assert writer.isOpened()
    for number in range(frames):
        writer.write(np.full((48, 64, 3), 60 * number, np.uint8))
    writer.release()
    return path


class TestFolder(SourceContract):
    @pytest.fixture
    def make_source(self, three: Path, tmp_path: Path) -> Callable[[], Any]:
        return lambda: self._open(three, tmp_path)

    def _open(self, folder: Path, state: Path, **changes: Any) -> Any:
        fields = {"kind": "folder", "path": folder, "settle_ms": 100, "poll_ms": 20, **changes}
        return open_source(FolderSource.model_validate(fields), stream="main", state=state)

    def test_a_file_that_still_grows_is_not_taken(self, three: Path, tmp_path: Path) -> None:
        source = self._open(three, tmp_path)
        assert len(drain(source, 0.4)) == 3
        content = (three / "0.png").read_bytes()
        with (three / "grows.png").open("wb") as file:
            for byte in content:
                file.write(bytes([byte]))
                file.flush()
                assert source.read(0.01) is None
        (one,) = drain(source, 0.5)
        assert (one.name, one.fault) == ("grows.png", None)

    def test_a_writer_that_pauses_in_the_middle_is_given_time(self, three: Path, tmp_path: Path) -> None:
        content = (three / "0.png").read_bytes()
        source = self._open(three, tmp_path)
        (three / "slow.png").write_bytes(content[:-20])
        assert len(drain(source, 0.6)) == 3
        (three / "slow.png").write_bytes(content)
        (one,) = drain(source, 0.5)
        assert (one.name, one.fault) == ("slow.png", None)

    @pytest.mark.parametrize("after", ["keep", "move", "delete"])
    def test_a_restart_takes_only_what_was_not_settled(self, three: Path, tmp_path: Path, after: str) -> None:
        source = self._open(three, tmp_path, after=after)
        taken = drain(source)
        source.settle(taken[:2])
        source.close()  # as after a crash: the third was taken, but its decision never became durable
        again = drain(self._open(three, tmp_path, after=after))
        assert [one.name for one in again] == ["2.png"]
        if after == "move":
            assert sorted(path.name for path in (three / "done").iterdir()) == ["0.png", "1.png"]
        if after == "delete":
            assert [path.name for path in three.iterdir()] == ["2.png"]

    def test_a_torn_memory_forgets_no_other_file(self, three: Path, tmp_path: Path) -> None:
        source = self._open(three, tmp_path)
        source.settle(drain(source))
        memory = tmp_path / "seen.jsonl"
        memory.write_bytes(memory.read_bytes()[:-5])
        again = self._open(three, tmp_path)
        assert len(drain(again)) == 1
        assert len(drain(again, 0.2)) == 0

    def test_a_new_picture_under_an_old_name_is_new(
        self, three: Path, tmp_path: Path, write_picture: Callable[..., Path]
    ) -> None:
        source = self._open(three, tmp_path)
        source.settle(drain(source))
        write_picture(three / "1.png", colour=200, size=(40, 40))
        assert [one.name for one in drain(source)] == ["1.png"]

    def test_two_parts_of_one_name_are_both_kept_in_done(
        self, three: Path, tmp_path: Path, write_picture: Callable[..., Path]
    ) -> None:
        source = self._open(three, tmp_path, after="move")
        source.settle(drain(source))
        write_picture(three / "1.png", colour=99)
        source.settle(drain(source))
        assert sorted(path.name for path in (three / "done").iterdir()) == ["0.png", "1-1.png", "1.png", "2.png"]

    def test_other_files_and_half_written_names_are_left_alone(self, three: Path, tmp_path: Path) -> None:
        for name in ("notes.txt", ".hidden.png", "x.png.part", "~x.png"):
            (three / name).write_bytes((three / "0.png").read_bytes())
        (three / "folder.png").mkdir()
        assert len(drain(self._open(three, tmp_path))) == 3

    def test_a_broken_picture_is_a_sample_with_its_fault(self, three: Path, tmp_path: Path) -> None:
        (three / "3.png").write_bytes((three / "2.png").read_bytes()[:60])
        (three / "4.png").write_bytes(b"no picture at all")
        source = self._open(three, tmp_path)
        assert {one.name for one in drain(source, 0.5)} == {"0.png", "1.png", "2.png"}  # perhaps still being written
        faults = {one.name: one.fault for one in drain(source, 2.0)}
        assert faults["3.png"] == "picture is truncated"
        assert "not a readable picture" in faults["4.png"]

    def test_a_folder_that_comes_later_is_waited_for(self, tmp_path: Path, write_picture: Callable[..., Path]) -> None:
        source = self._open(tmp_path / "share", tmp_path)
        assert source.read(0.05) is None
        assert not source.status.connected
        assert "share" in source.status.detail
        write_picture(tmp_path / "share" / "a.png")
        assert len(drain(source)) == 1
        assert source.status.connected

    def test_what_cannot_be_put_away_is_said(self, three: Path, tmp_path: Path) -> None:
        source = self._open(three, tmp_path, after="move")
        (three / "done").write_text("a file where the folder should be")
        source.settle(drain(source))
        assert "cannot be moved" in source.status.detail
        assert drain(source, 0.2) == []


def test_half_a_jpeg_is_noticed_also_with_a_thumbnail_and_a_tail() -> None:
    import cv2

    whole = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))[1].tobytes()
    thumbnail = b"\xff\xe1\x00\x10" + whole
    with_thumbnail = whole[:2] + thumbnail + whole[2:]
    assert not is_truncated(whole)
    assert not is_truncated(whole + b"notes of the camera" * 1000)
    assert is_truncated(whole[: len(whole) // 2])
    assert not is_truncated(with_thumbnail)
    assert is_truncated(with_thumbnail[: -len(whole) // 2])


class Mjpeg:
    """A camera on the network: MJPEG over HTTP, that can be unplugged and plugged in again."""

    def __init__(self) -> None:
        import cv2

        self.frame = cv2.imencode(".jpg", np.full((48, 64, 3), 90, np.uint8))[1].tobytes()
        self.port = 0
        self.silent = False
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/stream.mjpg"

    def plug(self) -> None:
        camera = self
        self._up = threading.Event()
        up = self._up
        up.set()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                try:
                    while up.is_set():
                        if not camera.silent:
                            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(camera.frame)}\r\n\r\n"
                            self.wfile.write(head.encode() + camera.frame + b"\r\n")
                        time.sleep(0.02)
                except OSError:
                    pass
                self.close_connection = True

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def unplug(self) -> None:
        self._up.clear()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


@pytest.fixture
def mjpeg() -> Iterator[Mjpeg]:
    camera = Mjpeg()
    camera.plug()
    yield camera
    camera.unplug()


def camera_config(url: str, **changes: Any) -> CameraSource:
    fields = {"kind": "camera", "device": url, "read_timeout_s": 1.0, "open_timeout_s": 2.0, "retry_max_s": 0.5}
    return CameraSource.model_validate({**fields, **changes})


class TestCamera(SourceContract):
    finite = False

    @pytest.fixture
    def make_source(self, mjpeg: Mjpeg, tmp_path: Path) -> Callable[[], Any]:
        return lambda: open_source(camera_config(mjpeg.url), stream="main", state=tmp_path)

    def test_comes_back_after_being_unplugged(
        self, mjpeg: Mjpeg, tmp_path: Path, eventually: Callable[..., Any]
    ) -> None:
        source = open_source(camera_config(mjpeg.url), stream="main", state=tmp_path)
        for _ in range(2):
            self._take(source, 2)
            mjpeg.unplug()
            eventually(lambda: not source.status.connected)
            assert "camera" in source.status.detail
            mjpeg.plug()
            self._take(source, 2)
            assert source.status.connected
        source.close()

    def test_frames_that_say_they_are_huge_are_not_decoded(
        self, mjpeg: Mjpeg, tmp_path: Path, eventually: Callable[..., Any], bombs: dict[str, bytes]
    ) -> None:
        """FFmpeg's own guard, proved: it takes at most 268 megapixels and no frame without the bytes for them."""
        resource = pytest.importorskip("resource", reason="Windows does not tell a process's peak memory")
        source = open_source(camera_config(mjpeg.url), stream="main", state=tmp_path)
        self._take(source, 2)
        before, good = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, mjpeg.frame
        mjpeg.frame = bombs[".jpg"]
        eventually(lambda: not source.status.connected)
        mjpeg.frame = good
        self._take(source, 2)
        source.close()
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB; decoded it takes 5 GB

    def test_a_camera_that_falls_silent_is_lost(
        self, mjpeg: Mjpeg, tmp_path: Path, eventually: Callable[..., Any]
    ) -> None:
        source = open_source(camera_config(mjpeg.url), stream="main", state=tmp_path)
        self._take(source, 2)
        mjpeg.silent = True
        eventually(lambda: not source.status.connected, 5)
        mjpeg.silent = False
        self._take(source, 2)
        source.close()

    def test_one_that_is_not_there_is_waited_for(self, tmp_path: Path, eventually: Callable[..., Any]) -> None:
        mjpeg = Mjpeg()
        mjpeg.plug()
        mjpeg.unplug()
        source = open_source(camera_config(mjpeg.url), stream="main", state=tmp_path)
        eventually(lambda: not source.status.connected)
        mjpeg.plug()
        self._take(source, 1)
        source.close()
        mjpeg.unplug()


def test_a_camera_that_keeps_failing_is_released_every_time(eventually: Callable[..., Any]) -> None:
    """Not releasing leaks some 16 kB and a socket per reconnect."""
    opened: list[Any] = []

    class Flaky:
        def __init__(self) -> None:
            self.released = False
            opened.append(self)

        def isOpened(self) -> bool:
            return len(opened) % 2 == 0

        def read(self) -> tuple[bool, Any]:
            raise RuntimeError("rtsp://user:secret@10.0.0.1 broke")

        def release(self) -> None:
            self.released = True

    source = Camera(camera_config("rtsp://10.0.0.1/x", retry_max_s=0.01), "main", connect=Flaky)
    eventually(lambda: len(opened) > 20)
    assert "secret" not in source.status.detail
    source.close()
    assert all(one.released for one in opened)


def test_a_source_that_breaks_is_opened_again(eventually: Callable[..., Any]) -> None:
    class Breaking:
        live = False
        reads = 0
        closed = False

        def read(self, timeout_s: float) -> Any:
            self.reads += 1
            if self.reads > 1:
                raise OSError("driver went away")
            return "frame"

        status = SourceStatus(True)

        def close(self) -> None:
            self.closed = True

    made: list[Breaking] = []

    def opener() -> Any:
        made.append(Breaking())
        if len(made) == 2:
            raise DataError("x", "cannot be opened now", "")
        return made[-1]

    source = ReopeningSource(opener, live=False, first_pause_s=0.02)
    assert source.read(0.1) == "frame"
    assert source.read(0.1) is None
    assert not source.status.connected
    assert "driver went away" in source.status.detail
    eventually(lambda: source.read(0.05) == "frame")
    assert made[0].closed
    assert len(made) == 3


def test_the_end_of_a_source_is_no_failure() -> None:
    source = ReopeningSource(lambda: IteratorSource([], "main"), live=False)
    with pytest.raises(SourceEnded):
        source.read(0.1)
