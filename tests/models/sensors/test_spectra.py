"""The graph's spectra are numpy's and scipy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import fft

from edge_sft.errors import BugError
from edge_sft.models.sensors.spectra import (
    Dft,
    EnvelopeSpectrum,
    Spectrum,
    at_orders,
    factors,
    friendly,
    whitened,
)
from edge_sft.models.sensors.views import MAX_LENGTH

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("n", [64, 96, 97, 1000, 4096, 12288, 16384])
def test_a_dft_is_numpys(n: int) -> None:
    x, y = RNG.normal(size=(2, 3, n))
    real, imag = Dft(n)(torch.from_numpy(x).float(), torch.from_numpy(y).float())
    wanted = np.fft.fft(x + 1j * y, norm="ortho")
    np.testing.assert_allclose(real.numpy() + 1j * imag.numpy(), wanted, atol=1e-5)


@pytest.mark.parametrize("n", [96, 4096])
def test_backwards_too(n: int) -> None:
    x, y = RNG.normal(size=(2, 3, n))
    real, imag = Dft(n, inverse=True)(torch.from_numpy(x).float(), torch.from_numpy(y).float())
    np.testing.assert_allclose(real.numpy() + 1j * imag.numpy(), np.fft.ifft(x + 1j * y, norm="ortho"), atol=1e-5)


@pytest.mark.parametrize("bins", [1, 7, 48, 2048])
def test_the_lowest_bins_only(bins: int) -> None:
    x = RNG.normal(size=(2, 4096))
    real, imag = Dft(4096, bins)(torch.from_numpy(x).float())
    wanted = fft.fft(x, norm="ortho")[:, :bins]
    assert real.shape == (2, bins)
    np.testing.assert_allclose(real.numpy() + 1j * imag.numpy(), wanted, atol=1e-5)


def test_bins_that_are_not_there() -> None:
    with pytest.raises(BugError, match="65 bins"):
        Dft(64, 65)


def test_lengths_are_made_friendly_and_never_shorter() -> None:
    assert [friendly(n) for n in (1, 64, 65, 96, 97, 12_000, 16_384)] == [64, 64, 96, 96, 128, 12_288, 16_384]
    assert factors(16_384) == (128, 128)
    assert factors(97) == (1, 97)


@pytest.mark.parametrize("length", [16_384, MAX_LENGTH])
def test_constants_stay_below_two_megabytes(length: int) -> None:
    spectrum = Spectrum(length)
    envelope = EnvelopeSpectrum(spectrum.n // 2)
    total = sum(b.numel() * b.element_size() for part in (spectrum, envelope) for b in part.buffers())
    assert total <= 1.3e6


def test_a_window_is_tapered_by_hann_and_its_size_does_not_matter() -> None:
    x = RNG.normal(size=(1, 1, 1000))
    real, imag = Spectrum(1000)(torch.from_numpy(x).float())
    taper = np.hanning(1002)[1:-1]
    wanted = np.fft.fft(np.pad(x[0, 0] / x.std() * taper, (0, 24)), norm="ortho")[:512] / np.sqrt(
        1 + x.mean() ** 2 / x.var()
    )
    np.testing.assert_allclose(real[0, 0].numpy() + 1j * imag[0, 0].numpy(), wanted, atol=1e-4)
    louder, _ = Spectrum(1000)(torch.from_numpy(1000 * x).float())
    np.testing.assert_allclose(louder, real, atol=1e-4)


def test_silence_is_finite() -> None:
    real, imag = Spectrum(128)(torch.zeros(2, 1, 128))
    assert torch.isfinite(real).all()
    assert torch.isfinite(whitened((real, imag))[0]).all()


def test_whitening_makes_every_stretch_as_loud() -> None:
    shape = torch.exp(torch.linspace(0, 6, 4096))
    real, imag = whitened((torch.randn(1, 1, 4096) * shape, torch.randn(1, 1, 4096) * shape))
    power = (real**2 + imag**2).reshape(64, 64).mean(-1)
    np.testing.assert_allclose(power, 1.0, rtol=1e-3)


def test_a_bands_envelope_is_scipys() -> None:
    """Of a modulated tone, by the analytic signal of an ideally filtered band at the full rate."""
    n = 4096
    t = np.arange(n) / n
    x = (1 + 0.8 * np.cos(2 * np.pi * 37 * t)) * np.cos(2 * np.pi * 700 * t) + 0.01 * RNG.normal(size=n)
    spectrum = np.fft.fft(x, norm="ortho")[: n // 2]
    module = EnvelopeSpectrum(n // 2)
    parts = [module.bands(torch.from_numpy(p.astype(np.float32))[None, None]) for p in (spectrum.real, spectrum.imag)]
    ours = module(*parts)[0, 0].numpy()
    assert ours.shape == (7, 512)
    kept = np.zeros(n, dtype=complex)
    kept[512:1024] = np.fft.fft(x)[512:1024]  # the second of the four bands that tile the spectrum
    power = np.abs(np.fft.ifft(kept)) ** 2
    power = (power - power.mean()) / power.std()
    wanted = np.abs(fft.rfft(power, norm="ortho"))[:512] / 2  # four times the points
    np.testing.assert_allclose(ours[1], wanted, atol=2e-3)
    assert ours[1].argmax() == 37


def test_orders_are_read_as_numpy_interpolates() -> None:
    amplitudes = torch.rand(3, 2, 5, 50)
    per_order, orders = torch.tensor([1.0, 2.5, 40.0]), torch.tensor([0.3, 1.0, 7.7])
    read = at_orders(amplitudes, per_order, orders).numpy()
    for n in range(3):
        places = np.clip(per_order[n].item() * orders.numpy(), 0, 49 - 1e-3)
        wanted = np.interp(places, np.arange(50), amplitudes[n, 1, 3].numpy())
        np.testing.assert_allclose(read[n, 1, 3], wanted, atol=1e-4)
