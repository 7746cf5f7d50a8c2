"""Windowing: what happens to raw sensor rows before the graph sees them; part of checkpoint and bundle."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Channel(BaseModel):
    """One column of the window. A value outside [low, high] or not changing for ``stuck_s`` is not valid.

    Rows, of files and of the stream alike, hold values of which value × ``scale`` + ``offset`` is in ``unit``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=100)
    unit: str = ""
    low: float | None = None
    high: float | None = None
    stuck_s: float | None = Field(default=None, gt=0)
    scale: float = Field(default=1.0, allow_inf_nan=False)
    offset: float = Field(default=0.0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _consistent(self) -> Channel:
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError("low must be below high")
        if self.scale == 0:
            raise ValueError("scale must not be 0: every value would be the same")
        return self


class OrderTracking(BaseModel):
    """Resample against the shaft instead of the clock, so that a spectrum's lines stay where the bearing puts them.

    The instantaneous speed comes from a channel of revolutions a minute; the window then has
    ``samples_per_revolution`` grid steps a turn whatever the speed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    speed_channel: str
    samples_per_revolution: int = Field(ge=4, le=4096)


class Windowing(BaseModel):
    """Rows → windows [length, channels] and their validity, on a regular grid.

    Attributes:
        channels: Columns of the window, in order; ``age`` columns come after them.
        period_s: Step of the grid in units of the time column (seconds; cycles where time counts cycles).
        length: Grid steps a window holds (T).
        hop: Grid steps from one window to the next.
        aggregate: A grid cell holds the ``last`` value or the ``mean`` of those that fall into it.
        hold_s: How long a channel's last value stands in where no new one came; after that it is not valid.
        gap_s: A silence longer than this begins a new run: nothing older stays in the window.
        age: Append a column with the time since the run began, in units of ``age_unit`` (hours since overhaul,
            cycle count): life-long, so it is kept by the state and not by the window.
        min_valid: Smallest share of valid values with which a window is worth deciding.
        order: Resample by shaft angle.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["window"] = "window"
    channels: tuple[Channel, ...] = Field(min_length=1, max_length=512)
    period_s: float = Field(gt=0)
    length: int = Field(ge=1, le=65536)
    hop: int = Field(default=1, ge=1)
    aggregate: Literal["last", "mean"] = "last"
    hold_s: float = Field(default=0.0, ge=0)
    gap_s: float | None = Field(default=None, gt=0)
    age: bool = False
    age_unit: float = Field(default=1.0, gt=0)
    min_valid: float = Field(default=0.5, ge=0, le=1)
    order: OrderTracking | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Windowing:
        names = [channel.name for channel in self.channels]
        if len(set(names)) != len(names):
            raise ValueError("channel names must be distinct")
        if self.gap_s is not None and self.order is None and self.gap_s < self.period_s:
            raise ValueError("gap_s must not be below period_s: every row would begin a new run")
        if self.order is not None and self.order.speed_channel not in names:
            raise ValueError(f"order.speed_channel {self.order.speed_channel!r} is not among the channels")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns, the life-long ones included."""
        return tuple(channel.name for channel in self.channels) + (("age",) if self.age else ())
