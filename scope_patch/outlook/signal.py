"""The timestep signals of a run from the weights of the time embedding, without the run.

Single tensors come out of a checkpoint's safetensors files: a few megabytes of many gigabytes are read.

SkyReels-V2: the modulation that enters the first block, the same numbers as a run slices out of the host's forward
(`patch/signal.py`). Read from `WanModel.forward` in skyreels_v2_infer/modules/transformer.py (SkyworkAI/SkyReels-V2 @
abed76f) and diffusers' transformer_skyreels_v2.py. Checkpoints of both hosts are read for both: the function is one,
the names of its parts are two. The host says where numbers are rounded. Upstream keeps all weights and the sinusoids in
the dtype that it loads (bfloat16 in its scripts) and computes under autocast in float32; diffusers keeps the time
embedder and the sinusoids in float32, and computes the rest in the dtype.

MAGI-1: the timestep's part of the condition that enters every block. The registry's own `feature`, around a stand-in of
`TimestepEmbedder` (inference/model/dit/dit_module.py, SandAI-org/MAGI-1 @ 6ff822e) with the weights of the checkpoint.
The host computes it in float32, whatever the dtype of the others (`_high_precision_promoter`).

What may still differ from a run is the order of sums on another device: 1e-7 of a feature in float32; in bfloat16 now
and then its last bit (0.4 %). Decisions differ if that close.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from ..errors import UsageError
from ..hosts import magi
from ..hosts.schedules import magi_timesteps
from ..method.fold import Feature

TIME, FPS = ("time in", "time out", "projection"), ("fps in", "fps out")
LAYOUTS = {
    "time in": ("time_embedding.0", "condition_embedder.time_embedder.linear_1"),
    "time out": ("time_embedding.2", "condition_embedder.time_embedder.linear_2"),
    "projection": ("time_projection.1", "condition_embedder.time_proj"),
    "fps in": ("fps_projection.0", "fps_projection.net.0.proj"),
    "fps out": ("fps_projection.2", "fps_projection.net.2"),
}
"""The names of every part: upstream's, diffusers'."""
OFFICIAL, DIFFUSERS = ({part: names[host] for part, names in LAYOUTS.items()} for host in (0, 1))
FPS_TABLE = "fps_embedding.weight"
LONGEST_PERIOD = 10000
LAYERS = [f"t_embedder.mlp.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")]


@dataclass(frozen=True)
class Checkpoint:
    """Attributes: given, the option as it was given; folder; files, by the name of every tensor in them."""

    given: str
    folder: Path
    files: dict[str, Path]

    @classmethod
    def find(cls, given: str, folders: Sequence[str] = ("transformer",)) -> Checkpoint:
        """The checkpoint in a folder, in the first of these folders below it that has one (where a diffusers pipeline
        keeps its DiT, by default), or in one file.

        Raises UsageError where there is none, or a file is not whole.
        """
        path = Path(given).expanduser()
        if path.is_file():
            return cls(given, path.parent, dict.fromkeys(_names(path), path))
        if not path.is_dir():
            raise UsageError(f"--weights {given}: there is no such folder or file")
        for folder in (path, *(path / name for name in folders)):
            indices, files = (sorted(folder.glob(f"*.safetensors{end}")) for end in (".index.json", ""))
            if indices:
                return cls(given, folder, _shards(min(indices, key=lambda each: len(each.name))))
            if files:
                return cls(given, folder, {name: file for file in reversed(files) for name in _names(file)})
        raise UsageError(
            f"--weights {given}: no *.safetensors file there, nor in {' or '.join(folders)} below it; give the folder "
            "of the DiT's weights (.bin, .pt and .pth files are not read)"
        )

    @property
    def config(self) -> dict[str, Any] | None:
        """config.json beside the files, if there is one. Raises UsageError where it is not JSON."""
        path = self.folder / "config.json"
        return _json(path) if path.is_file() else None

    def read(self, names: Collection[str], purpose: str) -> dict[str, Tensor]:
        """Tensors by name, in the dtypes of the files.

        Raises UsageError naming those that are missing or no floating-point numbers; `purpose` says what for.
        """
        missing = [name for name in names if name not in self.files]
        if missing:
            raise UsageError(
                f"--weights {self.given} does not hold {', '.join(missing)}, which {purpose} is made with; is it the "
                "folder of this model's DiT?"
            )
        read: dict[str, Tensor] = {}
        for path in dict.fromkeys(self.files[name] for name in names):
            with _opened(path) as file:
                read.update({name: file.get_tensor(name) for name in names if self.files[name] == path})
        numbers = [name for name, tensor in read.items() if not tensor.is_floating_point()]
        if numbers:
            raise UsageError(
                f"--weights {self.given}: {numbers[0]} is quantised ({read[numbers[0]].dtype}); give the folder of the "
                "weights that it was made from"
            )
        return read


def _names(path: Path) -> list[str]:
    with _opened(path) as file:
        return list(file.keys())


def _shards(index: Path) -> dict[str, Path]:
    try:
        return {str(name): index.parent / file for name, file in _json(index)["weight_map"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"--weights: {index} is no index of safetensors files: {error!r} is missing or wrong"
        ) from error


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"--weights: {path} cannot be read: {error}") from error


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A file whose tensors are read when they are asked for."""
    try:
        import safetensors
    except ImportError as error:
        raise UsageError("--weights needs the package safetensors: pip install safetensors") from error
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            yield file
    except (safetensors.SafetensorError, OSError) as error:
        what = "not there" if isinstance(error, FileNotFoundError) else f"no whole safetensors file ({error})"
        raise UsageError(f"--weights: {path} is {what}; is the download complete?") from error


def modulation(checkpoint: Checkpoint, host: str, fps: int, dtype: torch.dtype) -> tuple[Feature, int]:
    """The feature of a host's timesteps, [n] -> [n, 6 dim], and dim.

    Args:
        host: whose rounding is followed, skyreels-v2 or skyreels-v2-diffusers.
        fps: frame rate; it counts where the model embeds it.
        dtype: that the host loads its weights in.

    Raises UsageError where a tensor is missing, or they do not fit together.
    """
    official = host == "skyreels-v2"
    layouts = (OFFICIAL, DIFFUSERS) if official else (DIFFUSERS, OFFICIAL)
    layout = max(layouts, key=lambda names: sum(f"{names[part]}.weight" in checkpoint.files for part in TIME))
    embeds_fps = FPS_TABLE in checkpoint.files or f"{layout['fps in']}.weight" in checkpoint.files
    parts = (*TIME, *FPS) if embeds_fps else TIME
    names = [f"{layout[part]}.{kind}" for part in parts for kind in ("weight", "bias")]
    read = checkpoint.read([*names, FPS_TABLE] if embeds_fps else names, "the time modulation")

    def layer(part: str, stored: torch.dtype, computed: torch.dtype) -> Callable[[Tensor], Tensor]:
        weight, bias = (read[f"{layout[part]}.{kind}"].to(stored).to(computed) for kind in ("weight", "bias"))
        return lambda x: linear(x.to(computed), weight, bias)

    exact = torch.float32
    time, rest = ((dtype, exact), (dtype, exact)) if official else ((exact, exact), (exact, dtype))
    first, second = (layer(part, *time) for part in TIME[:2])
    projection = layer("projection", *rest)
    half = read[f"{layout['time in']}.weight"].shape[-1] // 2
    frequencies = torch.pow(LONGEST_PERIOD, -torch.arange(half, dtype=torch.float64) / half)
    added: Tensor | None = None

    def feature(timesteps: Tensor) -> Tensor:
        angles = torch.outer(timesteps.to(torch.float64), frequencies)  # as `sinusoidal_embedding_1d`
        waves = torch.cat([angles.cos(), angles.sin()], dim=1).to(time[0])
        embedded = second(silu(first(waves))).to(rest[1])
        projected = projection(silu(embedded))
        return projected if added is None else projected + added

    with _fitting(checkpoint.given, "time modulation"):
        if embeds_fps:
            # Both hosts embed whether the frame rate is 16.
            row = read[FPS_TABLE][0 if fps == 16 else 1].to(rest[0]).to(rest[1])
            before, after = (layer(part, *rest) for part in FPS)
            added = after(silu(before(row)))
        size = feature(torch.zeros(1)).shape[1]
    return feature, size // 6


@contextmanager
def _fitting(given: str, part: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, IndexError) as error:
        raise UsageError(f"--weights {given}: the tensors of the {part} do not fit together: {error}") from error


class TimestepEmbedder(nn.Module):
    """Timesteps [n] in 0 (noise) .. 1 (clean) -> [n, condition channels]. Args: layers, weights and biases of both."""

    def __init__(self, layers: Sequence[Tensor]) -> None:
        super().__init__()
        self.layers = nn.ParameterList(tensor.float() for tensor in layers)

    def forward(self, timesteps: Tensor) -> Tensor:
        first, first_bias, second, second_bias = self.layers
        half = first.shape[1] // 2
        periods = torch.exp(-math.log(LONGEST_PERIOD) * torch.arange(half, dtype=torch.float32) / half)
        angles = timesteps[:, None].float() * periods * 1000  # timesteps run from 0 to 1
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1)
        return linear(silu(linear(waves, first, first_bias)), second, second_bias)


def condition(checkpoint: Checkpoint, steps: int, shortcut_mode: str, *, distill: bool) -> Feature:
    """The feature of a chunk's timesteps, [n] -> [n, condition channels].

    Args:
        steps: denoise steps of a chunk.
        shortcut_mode: order of the sizes of 12 steps.
        distill: whether the model is told the size of its steps.

    Raises UsageError where a tensor is missing, or they do not fit together.
    """
    read = checkpoint.read(LAYERS, "the timestep embedding")
    embedder = TimestepEmbedder([read[name] for name in LAYERS])
    model = SimpleNamespace(t_embedder=embedder, engine_config=SimpleNamespace(distill=distill))
    transport = SimpleNamespace(
        ts=[torch.tensor(magi_timesteps(steps, shortcut_mode))],
        # `init_intervel`: sizes of the steps, which are looked at where there are 12 of them.
        time_interval=[torch.tensor([1, 1, 2] if shortcut_mode == "16,16,8" else [2, 1, 1]).repeat(4)],
        transport_inputs=[SimpleNamespace(num_steps=steps)],
    )
    feature: Feature = magi.feature(transport, 0, model)
    with _fitting(checkpoint.given, "timestep embedding"):
        feature(torch.zeros(1))
    return feature
