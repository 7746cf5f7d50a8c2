"""What every engine must do. Subclass `EngineContract` in tests/engines and give it `make_engine`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edge_sft.errors import BugError, DeviceError

SIZE = 16


class EngineContract:
    """`make_engine()` opens an engine of ``image`` uint8 [N,16,16,3] → ``probabilities`` float32 [N,3];
    `break_engine(engine)` makes its library fail from then on."""

    @pytest.fixture
    def make_engine(self) -> Callable[[], Any]:
        raise NotImplementedError

    @pytest.fixture
    def break_engine(self) -> Callable[[Any], None]:
        raise NotImplementedError

    def test_says_what_really_runs(self, make_engine: Callable[[], Any]) -> None:
        with make_engine() as engine:
            info = engine.info
        assert info.engine
        assert info.provider
        assert info.library_version
        assert info.threads >= 1

    @pytest.mark.parametrize("batch", [1, 5])
    def test_infers_any_batch_size(self, make_engine: Callable[[], Any], batch: int) -> None:
        with make_engine() as engine:
            outputs = engine.infer({"image": np.zeros((batch, SIZE, SIZE, 3), np.uint8)})
        assert {name: array.shape for name, array in outputs.items()} == {"probabilities": (batch, 3)}
        assert outputs["probabilities"].dtype == np.float32
        np.testing.assert_allclose(outputs["probabilities"].sum(axis=1), 1, atol=1e-5)

    def test_a_result_is_not_overwritten_by_the_next(self, make_engine: Callable[[], Any]) -> None:
        rng = np.random.default_rng(0)
        with make_engine() as engine:
            first = engine.infer({"image": np.zeros((1, SIZE, SIZE, 3), np.uint8)})["probabilities"]
            kept = first.copy()
            engine.infer({"image": rng.integers(0, 256, (1, SIZE, SIZE, 3), dtype=np.uint8)})
        np.testing.assert_array_equal(first, kept)

    def test_takes_views_that_are_not_contiguous(self, make_engine: Callable[[], Any]) -> None:
        frames = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE * 2, 3), dtype=np.uint8)[:, :, ::2]
        with make_engine() as engine:
            view = engine.infer({"image": frames})["probabilities"]
            copy = engine.infer({"image": np.ascontiguousarray(frames)})["probabilities"]
        np.testing.assert_array_equal(view, copy)

    @pytest.mark.parametrize(
        "inputs",
        [
            {},
            {"picture": np.zeros((1, SIZE, SIZE, 3), np.uint8)},
            {"image": np.zeros((1, SIZE, SIZE, 3), np.uint8), "more": np.zeros(1, np.uint8)},
            {"image": np.zeros((1, SIZE, SIZE, 3), np.float32)},
            {"image": np.zeros((1, SIZE, SIZE + 1, 3), np.uint8)},
            {"image": np.zeros((SIZE, SIZE, 3), np.uint8)},
            {"image": np.zeros((0, SIZE, SIZE, 3), np.uint8)},
            {"image": [[1, 2], [3, 4]]},
        ],
        ids=["none", "wrong name", "one more", "dtype", "shape", "no batch axis", "empty batch", "a list"],
    )
    def test_refuses_inputs_that_do_not_fit(self, make_engine: Callable[[], Any], inputs: dict[str, Any]) -> None:
        with make_engine() as engine, pytest.raises(BugError):
            engine.infer(inputs)

    def test_what_the_library_raises_comes_out_as_device_error(
        self, make_engine: Callable[[], Any], break_engine: Callable[[Any], None]
    ) -> None:
        with make_engine() as engine:
            break_engine(engine)
            with pytest.raises(DeviceError):
                engine.infer({"image": np.zeros((1, SIZE, SIZE, 3), np.uint8)})

    def test_is_closed_after_the_block_and_closes_twice(self, make_engine: Callable[[], Any]) -> None:
        with make_engine() as engine:
            pass
        engine.__exit__(None, None, None)
        with pytest.raises(BugError):
            engine.infer({"image": np.zeros((1, SIZE, SIZE, 3), np.uint8)})

    def test_lets_an_error_of_the_block_through(self, make_engine: Callable[[], Any]) -> None:
        with pytest.raises(ZeroDivisionError), make_engine():
            raise ZeroDivisionError
