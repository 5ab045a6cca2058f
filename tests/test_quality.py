"""The numbers: PSNR, SSIM, what latents have, failures."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from videos import moving

from scope_patch.compare import metrics
from scope_patch.compare.metrics import failures
from scope_patch.errors import UsageError


def test_psnr_and_ssim():
    from skimage.metrics import peak_signal_noise_ratio

    a, b = moving(), moving(step=5)
    assert metrics.psnr(a, a) == math.inf and metrics.ssim(a, a) == pytest.approx(1)
    assert metrics.psnr(torch.zeros_like(a), torch.ones_like(a)) == pytest.approx(48.1308, abs=1e-4)
    frames = metrics.per_frame(a, b)
    assert metrics.psnr(a, b) == pytest.approx(peak_signal_noise_ratio(a.numpy(), b.numpy(), data_range=255))
    assert frames["psnr"][5] == pytest.approx(peak_signal_noise_ratio(a[5].numpy(), b[5].numpy(), data_range=255))
    assert frames["psnr"][0] == math.inf and len(frames["ssim"]) == 6
    assert metrics.ssim(a, b) == pytest.approx(sum(frames["ssim"]) / 6) and frames["ssim"][5] < 0.99
    for bad in (a.float(), a[:, :4, :4], a[..., :1]):
        with pytest.raises(UsageError):
            metrics.ssim(bad, bad)


def test_latents():
    a = torch.tensor([0.0, 3.0, 4.0])
    assert metrics.relative_error(a, a + torch.tensor([0.0, 0.6, 0.8])) == pytest.approx(0.2)
    assert metrics.latent_psnr(a, a + 0.4) == pytest.approx(20), "the range is 4"
    assert metrics.latent_psnr(a, a) == math.inf and metrics.relative_error(a, a) == 0
    assert metrics.latent_psnr(torch.ones(3), a) is None and metrics.relative_error(0 * a, a) is None
    assert metrics.latent_psnr(a, a / 0) is None and metrics.relative_error(a, a / 0) is None


def test_failures():
    video = moving(20, step=1)
    assert failures(video) == {}
    assert set(failures(torch.full_like(video, 128))) == {"black", "frozen"}
    grey = torch.arange(0, 200, 10, dtype=torch.uint8).view(20, 1, 1, 1).expand_as(video)
    assert set(failures(grey)) == {"black"}, "one colour a frame"
    stopped = torch.cat([video[:5], video[5:6].expand(10, -1, -1, -1), video[15:]])
    assert failures(stopped) == {"frozen": "frames 5 to 14 are equal"}
    assert failures(stopped[:12]) == {}, "seven frames alike, of more"
    assert failures(video[:1]) == {} and set(failures(video[[0, 0]])) == {"frozen"}
    fading = (video[:1].int() + torch.arange(20).view(20, 1, 1, 1)).clamp(max=255).to(torch.uint8)
    assert failures(fading) == {}, "slow, but it moves"
    assert failures(torch.tensor([1, math.nan, math.inf])) == {"non-finite": "2 of 3 values are NaN or infinite"}
    assert failures(torch.ones(3)) == {}


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.metrics", None)
    with pytest.raises(UsageError, match=r"scikit-image.*\.\[report\]"):
        metrics.psnr(moving(), moving())
