"""Stand-in for the two helpers that MAGI-1's VAE imports (the harness does not run the VAE)."""

from torch.nn.init import trunc_normal_  # noqa: F401


def to_2tuple(x):
    return tuple(x) if isinstance(x, (tuple, list)) else (x, x)
