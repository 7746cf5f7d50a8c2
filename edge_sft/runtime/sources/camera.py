"""A USB or network camera through OpenCV: a thread of its own keeps the newest frame and reconnects for ever.

Cameras reboot, cables are pulled, switches lose power. The reader is never blocked by that: `read` gives None, the
status says since when, and the thread tries again with a jittered, doubling pause.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from edge_sft.errors import UserError
from edge_sft.prediction import Sample
from edge_sft.preprocess import require_opencv
from edge_sft.runtime.config import CameraSource
from edge_sft.runtime.sources.protocol import SourceStatus


class Capture(Protocol):
    """What is used of cv2.VideoCapture."""

    def isOpened(self) -> bool:  # noqa: N802  # OpenCV's name
        """Tell whether frames may come."""
        ...

    def read(self) -> tuple[bool, Any]:
        """Return (arrived, BGR frame)."""
        ...

    def release(self) -> None:
        """Free the device or the connection."""
        ...


class Camera:
    """Source over one camera. Only the newest frame is kept; a frame is given once."""

    live = True

    def __init__(self, config: CameraSource, stream: str, *, connect: Callable[[], Capture]) -> None:
        self._config = config
        self._stream = stream
        self._connect = connect
        self._closed = threading.Event()
        self._changed = threading.Condition()
        self._newest: Sample | None = None
        self._count = 0
        self._trouble = ""
        self._last_frame_s = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=f"camera-{stream}", daemon=True)
        self._thread.start()

    def read(self, timeout_s: float) -> Sample | None:
        """Return the newest frame not given yet."""
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None or self._closed.is_set(), timeout_s)
            sample, self._newest = self._newest, None
        return sample

    def settle(self, samples: Iterable[Sample]) -> None:
        """Nothing to remember: the moment has passed."""

    @property
    def status(self) -> SourceStatus:
        """Whether frames arrive. A driver stuck inside a read counts as lost as well."""
        silent_s = time.monotonic() - self._last_frame_s
        if self._trouble:
            return SourceStatus(False, f"camera {self._trouble}")
        patience_s = self._config.read_timeout_s + (1.0 if self._count else self._config.open_timeout_s)
        if silent_s > patience_s:
            return SourceStatus(False, f"camera gives no frame since {silent_s:.0f} s")
        return SourceStatus(True)

    def close(self) -> None:
        """Stop; a thread stuck in the driver is left to end by itself."""
        self._closed.set()
        with self._changed:
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=self._config.read_timeout_s + 1.0)

    def _run(self) -> None:
        pause_s = 0.25
        while not self._closed.is_set():
            count = self._count
            self._grab_until_lost()
            pause_s = 0.25 if self._count > count else min(pause_s * 2, self._config.retry_max_s)
            # Full jitter, so that forty cameras behind one switch do not come back in step.
            self._closed.wait(pause_s * random.uniform(0.5, 1.0))  # noqa: S311  # not a secret

    def _grab_until_lost(self) -> None:
        capture = None
        try:
            capture = self._connect()
            if not capture.isOpened():
                self._trouble = "cannot be opened"
                return
            while not self._closed.is_set():
                arrived, frame = capture.read()
                if not arrived or frame is None:
                    self._trouble = "is lost (no frame)"
                    return
                self._publish(frame)
        except Exception as error:  # noqa: BLE001  # drivers raise anything; the thread must outlive them
            self._trouble = f"failed ({type(error).__name__})"  # its text may hold the address with the password
        finally:
            if capture is not None:
                capture.release()  # not releasing leaks some 16 kB and a socket per reconnect

    def _publish(self, frame: NDArray[Any]) -> None:
        import cv2

        now, utc = time.monotonic(), datetime.now(timezone.utc)
        rgb: NDArray[Any] = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) if frame.ndim == 3 else frame
        self._count += 1
        self._trouble, self._last_frame_s = "", now
        with self._changed:
            self._newest = Sample(rgb, utc, now, self._stream, name=str(self._count))
            self._changed.notify_all()


def open_source(config: CameraSource, *, stream: str, state: Path) -> Camera:
    """Start the camera's thread; a camera that is not there is waited for. Raises UserError, DeviceError."""
    del state
    require_opencv()
    address = _address(config)
    return Camera(config, stream, connect=lambda: _connect(address, config))


def _address(config: CameraSource) -> int | str:
    if config.credentials_file is None or isinstance(config.device, int):
        return config.device
    try:
        secret = config.credentials_file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise UserError(
            str(config.credentials_file), f"cannot be read ({error.strerror})", "It holds one line, user:password."
        ) from error
    scheme, _, rest = config.device.partition("://")
    return f"{scheme}://{secret}@{rest}"


def _connect(address: int | str, config: CameraSource) -> Capture:
    import cv2

    wanted = {
        cv2.CAP_PROP_FRAME_WIDTH: config.width,
        cv2.CAP_PROP_FRAME_HEIGHT: config.height,
        cv2.CAP_PROP_FPS: config.fps,
    }
    if isinstance(address, int):
        capture = cv2.VideoCapture(address)
        for key, value in wanted.items():
            if value is not None:
                capture.set(key, value)
        return capture
    timeouts = [
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
        int(config.open_timeout_s * 1000),
        cv2.CAP_PROP_READ_TIMEOUT_MSEC,
        int(config.read_timeout_s * 1000),
    ]
    return cv2.VideoCapture(address, cv2.CAP_FFMPEG, timeouts)
