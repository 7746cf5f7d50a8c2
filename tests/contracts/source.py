"""What every source must do. Subclass `SourceContract` and give it `make_source` and `frames`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timezone
from typing import Any

import numpy as np
import pytest

from edge_sft.prediction import Sample
from edge_sft.runtime.sources.protocol import SourceEnded


class SourceContract:
    """`make_source()` opens a source that gives at least three frames; ``finite`` says whether it then ends."""

    finite = True

    @pytest.fixture
    def make_source(self) -> Callable[[], Any]:
        raise NotImplementedError

    def _take(self, source: Any, count: int, timeout_s: float = 30.0) -> list[Sample]:
        taken: list[Sample] = []
        deadline = time.monotonic() + timeout_s
        while len(taken) < count:
            assert time.monotonic() < deadline, f"only {len(taken)} of {count} frames came; {source.status}"
            one = source.read(0.2)
            if one is not None:
                taken.append(one)
        return taken

    def test_gives_frames_with_time_stream_and_name(self, make_source: Callable[[], Any]) -> None:
        source = make_source()
        try:
            for one in self._take(source, 3):
                assert one.fault is None
                assert one.data is not None
                assert one.data.dtype in (np.uint8, np.uint16)
                assert one.data.ndim in (2, 3)
                assert one.captured_at.tzinfo is timezone.utc
                assert one.captured_monotonic_s <= time.monotonic()
                assert one.stream == "main"
                assert one.name
            assert source.status.connected
        finally:
            source.close()

    def test_gives_each_frame_once(self, make_source: Callable[[], Any]) -> None:
        source = make_source()
        try:
            names = [one.name for one in self._take(source, 3)]
        finally:
            source.close()
        assert len(set(names)) == 3

    def test_a_frame_is_not_overwritten_by_the_next(self, make_source: Callable[[], Any]) -> None:
        source = make_source()
        try:
            first = self._take(source, 1)[0]
            assert first.data is not None
            kept = first.data.copy()
            self._take(source, 2)
            np.testing.assert_array_equal(first.data, kept)
        finally:
            source.close()

    def test_ends_or_waits_when_there_is_no_more(self, make_source: Callable[[], Any]) -> None:
        if not self.finite:
            pytest.skip("a live source has always more")
        source = make_source()
        try:
            self._take(source, 3)
            began = time.monotonic()
            try:
                assert source.read(0.1) is None
            except SourceEnded:
                with pytest.raises(SourceEnded):
                    source.read(0.1)
            assert time.monotonic() - began < 2
        finally:
            source.close()

    def test_close_ends_a_read_that_waits_and_may_be_called_twice(self, make_source: Callable[[], Any]) -> None:
        source = make_source()
        done = threading.Event()

        def read_on() -> None:
            try:
                deadline = time.monotonic() + 5
                while time.monotonic() < deadline:
                    if source.read(5.0) is None:
                        break
            except SourceEnded:
                pass
            done.set()

        thread = threading.Thread(target=read_on)
        thread.start()
        time.sleep(0.3)
        source.close()
        assert done.wait(5)
        thread.join()
        source.close()

    def test_settling_is_harmless(self, make_source: Callable[[], Any]) -> None:
        source = make_source()
        try:
            source.settle(self._take(source, 2))
            source.settle([])
        finally:
            source.close()
