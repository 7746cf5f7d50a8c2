"""Spectra inside the graph: long DFTs as two small matrix products, envelopes of bands, axes in shaft orders.

Only operators that ONNX Runtime and NVIDIA's parsers take with a free batch: MatMul, Mul, Reshape, Slice, Pad, Gather,
GatherElements, reductions. A DFT of 16,384 points holds 0.4 MB of constants instead of 2 GB.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from edge_sft.errors import BugError

Complex = tuple[Tensor, Tensor]
EPSILON = 1e-6  # where a tiny number guards a division it clamps: the exporter drops an addition of less than 1e-8


def factors(n: int) -> tuple[int, int]:
    """Split n into two factors as near to each other as they come, the smaller first."""
    small = next(a for a in range(int(np.sqrt(n)), 0, -1) if n % a == 0)
    return small, n // small


def friendly(n: int) -> int:
    """Return the smallest length ≥ n (and ≥ 64) that is 2^k or 3·2^k: it factors well, halves and quarters."""
    power = 64
    while power < n:
        power *= 2
    return power * 3 // 4 if power * 3 // 4 >= max(n, 64) else power


class Dft(nn.Module):
    """Unitary DFT of n points: ``(real, imaginary or None)`` [..., n] → real and imaginary [..., bins].

    Cooley–Tukey in one step: n = a·b, points t = b·t1 + t2, bins k = k1 + a·k2. First over t1, then a twiddle, then
    over t2. Unitary (divided by √n, half of it after each product), so that half precision neither over- nor
    underflows.

    Args:
        n: Number of points.
        bins: How many bins are wanted from the lowest up; None = all.
        inverse: The other sign.
    """

    first_real: Tensor
    first_imag: Tensor
    twiddle_real: Tensor
    twiddle_imag: Tensor
    second_real: Tensor
    second_imag: Tensor

    def __init__(self, n: int, bins: int | None = None, *, inverse: bool = False) -> None:
        super().__init__()
        self.n, self.bins = n, bins or n
        if not 1 <= self.bins <= n:
            raise BugError("DFT", f"of {n} points has no {bins} bins", "Please report it.")
        self.a, self.b = factors(n)
        self.rows = -(-self.bins // self.a)  # values of k2 that the wanted bins need
        sign = 2j * np.pi if inverse else -2j * np.pi
        a, b = np.arange(self.a), np.arange(self.b)
        self._keep("first", np.exp(sign * np.outer(a, a) / self.a) / np.sqrt(self.a))
        self._keep("twiddle", np.exp(sign * np.outer(a, b) / n))
        self._keep("second", np.exp(sign * np.outer(b, b[: self.rows]) / self.b) / np.sqrt(self.b))

    def _keep(self, name: str, values: NDArray[np.complex128]) -> None:
        for part, array in (("real", values.real), ("imag", values.imag)):
            buffer = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
            self.register_buffer(f"{name}_{part}", buffer, persistent=False)  # follows from n, not learnt

    def forward(self, real: Tensor, imag: Tensor | None = None) -> Complex:
        """Transform the last axis."""
        lead = real.shape[:-1]
        x = real.reshape(*lead, self.a, self.b)
        y_real, y_imag = self.first_real @ x, self.first_imag @ x
        if imag is not None:
            z = imag.reshape(*lead, self.a, self.b)
            y_real, y_imag = y_real - self.first_imag @ z, y_imag + self.first_real @ z
        t_real = y_real * self.twiddle_real - y_imag * self.twiddle_imag
        t_imag = y_real * self.twiddle_imag + y_imag * self.twiddle_real
        out_real = t_real @ self.second_real - t_imag @ self.second_imag
        out_imag = t_real @ self.second_imag + t_imag @ self.second_real
        return self._ordered(out_real, lead), self._ordered(out_imag, lead)

    def _ordered(self, values: Tensor, lead: torch.Size) -> Tensor:
        """[..., k1, k2] → [..., k1 + a·k2], the wanted bins."""
        return values.transpose(-1, -2).reshape(*lead, self.a * self.rows)[..., : self.bins]


class Spectrum(nn.Module):
    """Tapered one-sided spectrum: [N,C,T] → real, imaginary [N,C,n/2], n = T padded with zeros to a friendly length.

    The taper is Hann's; each window is divided by its root mean square, so a spectrum says where the energy is and
    not how much there is.
    """

    taper: Tensor

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length, self.n = length, friendly(length)
        self.dft = Dft(self.n, self.n // 2)
        taper = np.hanning(length + 2)[1:-1] if length > 2 else np.ones(length)
        self.register_buffer("taper", torch.from_numpy(taper.astype(np.float32)), persistent=False)

    def forward(self, signal: Tensor) -> Complex:
        """Transform a signal that is 0 where nothing was measured, its mean removed."""
        return self._transform(signal)

    def of_square(self, signal: Tensor, bins: int) -> Tensor:
        """Return the amplitudes [N,C,bins] of the squared signal: at low rates, the envelope of everything in it."""
        power = signal * signal
        real, imag = self._transform(power - power.mean(-1, keepdim=True))
        return torch.sqrt(real * real + imag * imag + EPSILON)[..., :bins]

    def _transform(self, signal: Tensor) -> Complex:
        level = torch.clamp(torch.sqrt((signal * signal).mean(-1, keepdim=True)), min=EPSILON)
        tapered = signal / level * self.taper
        real, imag = self.dft(functional.pad(tapered, (0, self.n - self.length)))
        return real, imag


def whitened(spectrum: Complex, blocks: int = 64) -> Complex:
    """Divide a spectrum [..., K] by its level in each of ``blocks`` stretches: resonances go, pulses stay.

    A bearing's fault shows as *when* pulses come; how the housing rings is another machine's business.
    """
    real, imag = spectrum
    lead, bins = real.shape[:-1], real.shape[-1]
    parts = blocks if bins % blocks == 0 else 1
    shape = (*lead, parts, bins // parts)
    r, i = real.reshape(shape), imag.reshape(shape)
    level = torch.sqrt((r * r + i * i).mean(-1, keepdim=True) + EPSILON)
    return (r / level).reshape(real.shape), (i / level).reshape(real.shape)


class EnvelopeSpectrum(nn.Module):
    """How strongly a signal's envelope pulses, at which rate: bands of a spectrum [N,C,B,width] → [N,C,B,bins].

    Each band is brought to base band by an inverse DFT (twice its width, so that squaring does not alias), squared,
    and transformed back. Bin k is k pulses a window of n points. Divided by the envelope's deviation: amplitudes are
    comparable between machines.
    """

    def __init__(self, half: int) -> None:
        super().__init__()
        self.width = half // 4
        self.points = 2 * self.width
        self.bins = self.points // 2
        self.back = Dft(self.points, inverse=True)
        self.dft = Dft(self.points, self.bins)

    def bands(self, part: Tensor) -> Tensor:
        """Cut a spectrum's real or imaginary part [N,C,half] into 7 bands, each a quarter of it, half overlapping.

        The four that tile it come first, then the three between them.
        """
        shift = self.width // 2
        tiles = part[..., : 4 * self.width].reshape(-1, part.shape[1], 4, self.width)
        between = part[..., shift : shift + 3 * self.width].reshape(-1, part.shape[1], 3, self.width)
        return torch.cat([tiles, between], dim=2)

    def forward(self, real: Tensor, imag: Tensor) -> Tensor:
        """Return amplitudes, 0 or more."""
        padding = (0, self.points - self.width)
        x, y = self.back(functional.pad(real, padding), functional.pad(imag, padding))
        power = x * x + y * y
        power = power - power.mean(-1, keepdim=True)
        spread = torch.clamp(torch.sqrt((power * power).mean(-1, keepdim=True)), min=EPSILON)
        re, im = self.dft(power / spread)
        return torch.sqrt(re * re + im * im + EPSILON)


def at_orders(amplitudes: Tensor, bins_per_order: Tensor, orders: Tensor) -> Tensor:
    """Read a spectrum [N,C,B,K] at multiples of the shaft's rate, linearly between bins → [N,C,B,O].

    Args:
        amplitudes: Bins of a window's rates.
        bins_per_order: Turns of the shaft during the transformed points, [N].
        orders: Where to read, [O]; beyond the last bin the last one is read.
    """
    last = amplitudes.shape[-1] - 1
    place = torch.clamp(bins_per_order[:, None] * orders[None, :], 0.0, last - 1e-3)  # [N,O]
    low = torch.floor(place)
    share = (place - low)[:, None, None, :]
    index = low.to(torch.int64)[:, None, None, :].expand(-1, amplitudes.shape[1], amplitudes.shape[2], -1)
    return torch.gather(amplitudes, 3, index) * (1 - share) + torch.gather(amplitudes, 3, index + 1) * share
