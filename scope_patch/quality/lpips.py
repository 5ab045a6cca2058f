"""LPIPS 0.1 (Zhang et al. 2018, arXiv 1801.03924): the distance of two pictures in a network's features.

The official package needs torchvision; this is its arithmetic on plain torch, with its weights (see weights.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UsageError
from . import weights
from .metrics import check, shown

SMALLEST = 32  # pixels a side; AlexNet's last pooling has nothing left below 31
_EPSILON = 1e-10
# The scaling layer: ImageNet's mean and deviation for pictures in [-1, 1], as LPIPS 0.1 rounds them.
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


@dataclass(frozen=True)
class Layer:
    """A convolution with ReLU: stride and padding; what pooling comes before it (size, stride); whether LPIPS looks."""

    stride: int = 1
    padding: int = 1
    pool: tuple[int, int] | None = None
    looked_at: bool = True


_ALEX = (Layer(4, 2), Layer(1, 2, (3, 2)), Layer(1, 1, (3, 2)), Layer(), Layer())
_VGG = tuple(
    Layer(pool=(2, 2) if block and not place else None, looked_at=place == convolutions - 1)
    for block, convolutions in enumerate((2, 2, 3, 3, 3))
    for place in range(convolutions)
)
_NETS = {"alex": ("AlexNet_0", _ALEX), "vgg": ("VGG16_0", _VGG)}


def load(net: str = "alex") -> Lpips | None:
    """LPIPS on `alex` or `vgg`; None where the weights are not installed. Raises UsageError for damaged ones."""
    if net not in _NETS:
        raise UsageError(f"LPIPS has no network {net!r} here; there are {', '.join(_NETS)}")
    archive = weights.find()
    return None if archive is None else Lpips(net, weights.read(archive, net))


class Lpips:
    """Called with two videos, uint8 [F, H, W, 3]: the distance of every frame, float32 [F]; 0 is equal."""

    def __init__(self, net: str, arrays: dict[str, Any]) -> None:
        name, self.layers = _NETS[net]
        held = [arrays[name][f"Conv_{index}"] for index in range(len(self.layers))]
        # Flax keeps kernels as height, width, in, out; torch wants out, in, height, width.
        self.kernels = [_tensor(layer["kernel"]).permute(3, 2, 0, 1).contiguous() for layer in held]
        self.biases = [_tensor(layer["bias"]) for layer in held]
        looked_at = sum(layer.looked_at for layer in self.layers)
        self.heads = [
            _tensor(arrays[f"NetLinLayer_{index}"]["Conv_0"]["kernel"]).permute(3, 2, 0, 1)
            for index in range(looked_at)
        ]

    @torch.no_grad()
    def __call__(self, reference: Tensor, video: Tensor) -> Tensor:
        """Raises UsageError for other shapes than those of two videos, and for frames below 32 pixels a side."""
        check(reference, video)
        if reference.is_floating_point() or min(reference.shape[1:3]) < SMALLEST:
            raise UsageError(f"LPIPS needs frames of {SMALLEST} x {SMALLEST} or more; here are {shown(reference)}")
        pairs = zip(reference.cpu(), video.cpu(), strict=True)  # one at a time: VGG's features are large
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
        for layer, kernel, bias in zip(self.layers, self.kernels, self.biases, strict=True):
            if layer.pool is not None:
                x = F.max_pool2d(x, *layer.pool)
            x = F.relu(F.conv2d(x, kernel, bias, layer.stride, layer.padding))
            if layer.looked_at:
                yield x


def _tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)
