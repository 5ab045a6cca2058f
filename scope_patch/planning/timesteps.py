"""Timesteps of the two SkyReels-V2 hosts, 999 .. 0, as their schedulers make them.

Bit by bit: both cut to integers at the end, where a last bit can make a whole timestep. numpy's `linspace` is
`start + step * k`, in doubles.
"""

from __future__ import annotations

import struct
from importlib import metadata

from packaging.version import InvalidVersion, Version

TRAINED = 1000
"""Timesteps of training (`num_train_timesteps`)."""
NEW_RANGE = Version("0.37")
"""From this diffusers on, `UniPCMultistepScheduler` starts at the noise level 1 and stops above 0."""
SHY = 1e-6
"""By which that scheduler stays below 1."""


def official(steps: int, shift: float) -> list[int]:
    """`FlowUniPCMultistepScheduler.set_timesteps` (SkyworkAI/SkyReels-V2 @ abed76f)."""
    top = struct.unpack("f", struct.pack("f", 1 - 1 / TRAINED))[0]  # kept in float32 there
    return _cut([_shifted(top - top / steps * k, shift) for k in range(steps)])


def diffusers(steps: int, shift: float, version: str | None = None) -> list[int]:
    """`UniPCMultistepScheduler.set_timesteps` with `use_flow_sigmas` and this `flow_shift`.

    Args:
        version: of diffusers; None: the one that is installed here, or else a new one.
    """
    end = 1 / TRAINED
    step = (end - 1) / steps
    if _version(version) < NEW_RANGE:
        return _cut([_shifted(1.0 - (end if k == steps else step * k + 1), shift) for k in range(steps, 0, -1)])
    levels = [_shifted(step * k + 1, shift) for k in range(steps)]
    if abs(levels[0] - 1) < SHY:
        levels[0] -= SHY
    return _cut(levels)


def _shifted(level: float, shift: float) -> float:
    return shift * level / (1 + (shift - 1) * level)


def _cut(levels: list[float]) -> list[int]:
    return [int(level * TRAINED) for level in levels]


def _version(given: str | None) -> Version:
    try:
        return Version(metadata.version("diffusers") if given is None else given)
    except (metadata.PackageNotFoundError, InvalidVersion):
        return NEW_RANGE
