"""Views: ways of looking at a vibration window, each a fixed number of features per channel, all inside the graph.

Each is blind where another sees: ``order`` (envelope spectrum on the axis of shaft orders), ``lines`` (how far the
bearing's own rates stand out of it), both also as ``-white`` (the housing's resonances removed first), and ``bands``
(where the energy lies). Averaged, they name the faults of bearings never heard before better than any one of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from edge_sft.errors import UserError
from edge_sft.models.sensors.spectra import EPSILON, Complex, EnvelopeSpectrum, Spectrum, at_orders, whitened
from edge_sft.preprocess import Windowing

NAMES = ("order", "order-white", "lines", "lines-white", "bands")
SPEED_UNITS = ("rpm", "1/min", "r/min", "min-1")
MAX_LENGTH = 32768  # beyond it the graph's constants would pass 2 MB
MIN_LENGTH = 32
BANDS = 24
RAW = 8  # envelope spectra of the raw wave: the whole and seven bands
_ORDERS = 22.0  # the axis ends here: four harmonics of an inner race
_STEP = 0.02
_POOL = 4
_SMOOTH = 25  # pooled steps, two orders: what is wider than that is no line
_HARMONICS = 3
_FLOOR = 1e-3
_TOLERANCE = 0.012  # slip: a real bearing's rates lie about a per cent beside the data sheet's


@dataclass(frozen=True)
class Layout:
    """What a window's columns are to the views.

    Attributes:
        length: Grid steps T.
        period_s: Seconds a step.
        signals: Columns that vibrate.
        speed: Column of revolutions a minute, None where there is none.
        samples_per_turn: Grid steps a turn, where the grid follows the shaft; else None.
    """

    length: int
    period_s: float
    signals: tuple[int, ...]
    speed: int | None
    samples_per_turn: int | None

    @classmethod
    def of(cls, windowing: Windowing) -> Layout:
        """Tell signals from the speed: its unit is one of `SPEED_UNITS`, or order tracking names it.

        Raises:
            UserError: No channel vibrates, or windows too short or too long for a spectrum.
        """
        tracked = windowing.order
        speeds = [i for i, channel in enumerate(windowing.channels) if channel.unit.lower() in SPEED_UNITS]
        if tracked is not None:
            speeds.append([channel.name for channel in windowing.channels].index(tracked.speed_channel))
        signals = tuple(i for i in range(len(windowing.channels)) if i not in speeds)
        if not signals:
            raise UserError("channels", "hold a speed but nothing that vibrates", "Add the accelerometer's column.")
        if not MIN_LENGTH <= windowing.length <= MAX_LENGTH:
            fact = f"is {windowing.length}; spectra are made of {MIN_LENGTH} to {MAX_LENGTH} steps"
            raise UserError("window.length", fact, "Change it (ten turns of the shaft or more).")
        return cls(
            windowing.length,
            windowing.period_s,
            signals,
            None if tracked is not None or not speeds else speeds[0],
            None if tracked is None else tracked.samples_per_revolution,
        )


@dataclass(frozen=True)
class Look:
    """What views are given.

    Attributes:
        spectrum: Real and imaginary [N,C,K] of the tapered wave.
        raw: Envelope spectra along the orders [N,C,B,O], the whole wave's first, then those of its bands.
        white: The same of the whitened wave's bands.
    """

    spectrum: Complex
    raw: Tensor
    white: Tensor


class Eyes(nn.Module):
    """``window``, ``valid`` float32 [N,T,C'] → `Look`.

    Buffer ``usual`` [1] is how often the shaft turns during the transformed points where no speed was measured;
    training sets it to the mean. Without any speed the axis is of plain rates.
    """

    orders: Tensor
    usual: Tensor

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        self.spectrum = Spectrum(layout.length)
        half = self.spectrum.n // 2
        self.envelope = EnvelopeSpectrum(half)
        self.register_buffer("orders", torch.from_numpy(_axis().astype(np.float32)), persistent=False)
        turns = self.envelope.bins / _ORDERS
        if layout.samples_per_turn is not None:
            turns = self.spectrum.n / layout.samples_per_turn
        self.register_buffer("usual", torch.tensor([turns]))

    def forward(self, window: Tensor, valid: Tensor) -> Look:
        """Look at a batch."""
        x = torch.stack([window[..., c] for c in self.layout.signals], dim=1)
        v = torch.stack([valid[..., c] for c in self.layout.signals], dim=1)
        mean = (x * v).sum(-1, keepdim=True) / torch.clamp(v.sum(-1, keepdim=True), min=1.0)
        wave = (x - mean) * v
        spectrum = self.spectrum(wave)
        real, imag = (self._both(part, white) for part, white in zip(spectrum, whitened(spectrum), strict=True))
        whole = self.spectrum.of_square(wave, self.envelope.bins).unsqueeze(2)
        pulses = torch.cat([whole, self.envelope(real, imag)], dim=2)
        along = at_orders(pulses, self.turns(window, valid), self.orders)
        return Look(spectrum, along[:, :, :RAW], along[:, :, RAW:])

    def _both(self, part: Tensor, white: Tensor) -> Tensor:
        return torch.cat([self.envelope.bands(part), self.envelope.bands(white)], dim=2)

    def turns(self, window: Tensor, valid: Tensor) -> Tensor:
        """Return the turns of the shaft during the transformed points, [N]."""
        usual = torch.zeros_like(window[:, 0, 0]) + self.usual
        if self.layout.speed is None:
            return usual
        speed, known = window[..., self.layout.speed], valid[..., self.layout.speed]
        count = known.sum(-1)
        per_minute = torch.abs((speed * known).sum(-1)) / torch.clamp(count, min=1.0)
        measured = torch.clamp(count, max=1.0)  # 0 where the speed is missing
        return per_minute * (self.spectrum.n * self.layout.period_s / 60.0) * measured + usual * (1.0 - measured)


class OrderView(nn.Module):
    """Logarithm of the envelope's order spectrum over its surroundings, mean over the bands: [N, C·274]."""

    def __init__(self, white: bool) -> None:
        super().__init__()
        self.white = white
        self.features = len(_axis()) // _POOL

    def forward(self, look: Look) -> Tensor:
        """Read it."""
        level = torch.log((look.white if self.white else look.raw) + _FLOOR)
        peaks = functional.max_pool2d(level, (1, _POOL)).mean(2)
        around = functional.pad(peaks, (_SMOOTH // 2, _SMOOTH // 2), mode="replicate")
        # over two axes, of which one is a point: NVIDIA's operator tables promise pooling over two and three alone
        smooth = functional.avg_pool2d(around.unsqueeze(2), (1, _SMOOTH), stride=1).squeeze(2)
        return (peaks - smooth).flatten(1)


class LinesView(nn.Module):
    """How far each named rate, its harmonics and its sidebands stand out: log of peak over surroundings, best band.

    [N, C·groups]; see `line_groups`.
    """

    near: Tensor
    around: Tensor
    share: Tensor

    def __init__(self, orders: tuple[float, ...], white: bool) -> None:
        super().__init__()
        self.white = white
        axis, groups = _axis(), line_groups(orders)
        places = [(place, column) for column, group in enumerate(groups) for place in group]
        spans = [np.flatnonzero(np.abs(axis - place) <= max(_TOLERANCE * place, 0.03)) for place, _ in places]
        self.lines, self.width, self.features = len(places), max(map(len, spans)), len(groups)
        near = np.concatenate([np.pad(span, (0, self.width - len(span)), mode="edge") for span in spans])
        around = np.stack([np.abs(axis - place) < 0.5 for place, _ in places], axis=1).astype(np.float32)
        share = np.zeros((self.lines, self.features), dtype=np.float32)
        for row, (_, column) in enumerate(places):
            share[row, column] = 1 / len(groups[column])
        self.register_buffer("near", torch.from_numpy(near.astype(np.int64)), persistent=False)
        self.register_buffer("around", torch.from_numpy(around / around.sum(0) @ share), persistent=False)
        self.register_buffer("share", torch.from_numpy(share), persistent=False)

    def forward(self, look: Look) -> Tensor:
        """Read them."""
        level = torch.log((look.white if self.white else look.raw) + _FLOOR)
        near = torch.index_select(level, 3, self.near)
        peaks = near.reshape(-1, *level.shape[1:3], self.lines, self.width).amax(-1)
        return (peaks @ self.share - level @ self.around).amax(2).flatten(1)


def line_groups(orders: tuple[float, ...]) -> list[list[float]]:
    """Return where on the axis to look, in orders; places of one group are averaged.

    Each rate (and the shaft's own) with its harmonics, singly; pairs of sidebands one turn of the shaft beside a rate
    (inner race, gear) and, where a rate below half a turn is named, that of the cage beside it (balls).
    """
    wanted = sorted({1.0, *orders})
    beside = [1.0, *(order for order in wanted if order < 0.5)]
    groups = [[h * order] for order in wanted for h in range(1, _HARMONICS + 1)]
    groups += [
        [h * order - side, h * order + side] for order in wanted if order > 1.5 for side in beside for h in (1, 2)
    ]
    return [group for group in groups if group[0] > 0.1 and group[-1] < _ORDERS - 0.5]


class BandsView(nn.Module):
    """Logarithm of each of 24 bands' share of the energy: [N, C·24]."""

    features = BANDS

    def forward(self, look: Look) -> Tensor:
        """Read them."""
        real, imag = look.spectrum
        power = real * real + imag * imag
        size = max(power.shape[-1] // BANDS, 1)
        count = min(BANDS, power.shape[-1])
        bands = power[..., : size * count].reshape(-1, power.shape[1], count, size).mean(-1)
        level = torch.log(bands / (bands.sum(-1, keepdim=True) + EPSILON) + EPSILON)
        return functional.pad(level, (0, BANDS - count)).flatten(1)


def view(name: str, orders: tuple[float, ...]) -> OrderView | LinesView | BandsView:
    """Make a view by its name, one of `NAMES`."""
    if name == "bands":
        return BandsView()
    white = name.endswith("-white")
    return OrderView(white) if name.startswith("order") else LinesView(orders, white)


def _axis() -> NDArray[np.float64]:
    return np.arange(1, round(_ORDERS / _STEP), dtype=np.float64) * _STEP
