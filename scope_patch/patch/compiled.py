"""Around `torch.compile`, FSDP, DDP: the model inside its wrappers; and how many widths a compiled one stands."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from typing import Any

from torch import nn

from ..settings import Settings

WRAPPED = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module"}
"""What wrappers call their only child."""
SPARE = 2
"""Compilations that are left to the host: a shorter last segment, another batch."""


def few_enough(outer: Any, settings: Settings) -> int | None:
    """How many widths there may be where the user has not said; None: as many as there are.

    A function that is compiled for static shapes, and for more of them than torch's recompile limit, runs uncompiled
    from then on, and under `fullgraph` fails: unpatched hosts have one width, so that would be our doing.

    Args:
        outer: the DiT as the pipeline holds it.
    """
    if settings.widths is not None:
        return settings.widths
    config = getattr(sys.modules.get("torch._dynamo"), "config", None)
    if config is None or not any(_static(made, config) for made in _compiled(outer)):
        return None
    limit = config.recompile_limit if hasattr(config, "recompile_limit") else config.cache_size_limit  # torch < 2.7
    return max(1, int(limit) - SPARE)


def compiled(outer: Any) -> bool:
    """Whether torch.compile made anything of a model or of modules in it."""
    return next(_compiled(outer), None) is not None


def told(widths: int) -> str:
    """The remark where that limit had a say."""
    return (
        f"the DiT is compiled for static shapes, of which torch takes few: latent frames are forwarded in at most "
        f"{widths} widths (--widths, for `plan` too; or compile with dynamic=None)"
    )


def _compiled(outer: Any) -> Iterator[Any]:
    """What torch.compile made of a model or of modules in it."""
    if hasattr(outer, "_orig_mod"):
        yield outer
        outer = outer._orig_mod
    if isinstance(outer, nn.Module):
        yield from (each for module in outer.modules() if (each := getattr(module, "_compiled_call_impl", None)))


def _static(made: Any, config: Any) -> bool:
    """Whether it is compiled anew for every shape; True where torch does not say."""
    context = getattr(made, "dynamo_ctx", None)
    if context is None and inspect.isfunction(made):
        context = inspect.getclosurevars(made).nonlocals.get("self")
    dynamic = getattr(context, "_dynamic", False)
    return dynamic is False or (dynamic is None and not config.automatic_dynamic_shapes)


def unwrap(model: Any) -> Any:
    """The module inside wrappers: `torch.compile`'s, FSDP's, DDP's. Anything else is itself."""
    while isinstance(model, nn.Module) and len(model._modules) == 1:
        ((name, inner),) = model._modules.items()
        if name not in WRAPPED:
            break
        model = inner
    return model
