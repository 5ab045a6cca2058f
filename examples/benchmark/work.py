"""What the DiT really did: FLOPs of its matrix products, forwards and latent frames, by hooks on its parts.

A hook sees what runs, whoever decided it: also a forward of which an accelerator left out some blocks. Attention counts
where its mask lets it through, as in the cost model.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn


class Work:
    """`with Work(transformer) as work:` counts; attributes flops, forwards, frames (latent frames forwarded)."""

    def __init__(self, model: nn.Module) -> None:
        self._model, self._handles = model, []
        self._seen: dict[tuple[int, int], int] = {}
        self.flops = self.forwards = self.frames = 0

    def __enter__(self) -> Work:
        for module in self._model.modules():
            if isinstance(module, nn.Linear | nn.Conv3d):
                self._handles.append(module.register_forward_hook(self._product))
            elif hasattr(module, "to_q") and hasattr(module, "to_out"):
                self._handles.append(module.register_forward_hook(self._attention, with_kwargs=True))
        self._handles.append(self._model.patch_embedding.register_forward_hook(self._forward))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _product(self, module: Any, arguments: tuple[Any, ...], output: Any) -> None:
        each = module.in_features if isinstance(module, nn.Linear) else math.prod(module.weight.shape[1:])
        self.flops += 2 * each * output.numel()

    def _attention(self, module: Any, arguments: tuple[Any, ...], more: dict[str, Any], output: Any) -> None:
        named = dict(zip(("hidden_states", "encoder_hidden_states", "attention_mask"), arguments, strict=False)) | more
        queries, keys = named["hidden_states"], named.get("encoder_hidden_states")
        keys = queries if keys is None else keys
        pairs = self._pairs(queries.shape[1], keys.shape[1], named.get("attention_mask"))
        self.flops += 4 * queries.shape[0] * pairs * module.to_q.out_features

    def _pairs(self, queries: int, keys: int, mask: Tensor | None) -> int:
        """Pairs of tokens that see each other. The host's mask depends on nothing but its size, so it is read once."""
        if mask is None:
            return queries * keys
        if (queries, keys) not in self._seen:
            self._seen[queries, keys] = int(mask.sum()) * queries * keys // mask.numel()
        return self._seen[queries, keys]

    def _forward(self, module: Any, arguments: tuple[Any, ...], output: Any) -> None:
        self.forwards += 1
        self.frames += arguments[0].shape[2]
