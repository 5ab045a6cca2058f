"""What the DiT really did: FLOPs of its matrix products, forwards and latent frames, as they ran.

Hooks and a mode of torch's see what runs, whoever decided it: also a forward of which an accelerator left out some
blocks, or few queries against many keys. Attention counts where its mask lets it through.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode


class Work(TorchFunctionMode):
    """`with Work(transformer) as work:` counts; attributes flops, forwards, frames (latent frames forwarded)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model, self._handles = model, []
        self._seen: dict[tuple[int, int], int] = {}
        self._inside = False
        self.flops = self.forwards = self.frames = 0

    def __enter__(self) -> Work:
        for module in self._model.modules():
            if isinstance(module, nn.Linear | nn.Conv3d):
                self._handles.append(module.register_forward_hook(self._product))
        self._handles.append(self._model.register_forward_pre_hook(self._begins))
        self._handles.append(self._model.register_forward_hook(self._ends, always_call=True))
        self._handles.append(self._model.patch_embedding.register_forward_hook(self._forward))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is scaled_dot_product_attention and self._inside:
            self._attention(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))

    def _begins(self, *_: Any) -> None:
        self._inside = True

    def _ends(self, *_: Any) -> None:
        self._inside = False

    def _product(self, module: Any, arguments: tuple[Any, ...], output: Any) -> None:
        each = module.in_features if isinstance(module, nn.Linear) else math.prod(module.weight.shape[1:])
        self.flops += 2 * each * output.numel()

    def _attention(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *_: Any, **more: Any
    ) -> None:
        batch, heads, queries, channels = query.shape
        pairs = self._pairs(queries, key.shape[-2], attn_mask)
        self.flops += 2 * batch * heads * pairs * (channels + value.shape[-1])

    def _pairs(self, queries: int, keys: int, mask: Tensor | None) -> int:
        """Pairs of tokens that see each other. A mask depends on nothing but its size, so it is read once."""
        if mask is None:
            return queries * keys
        if (queries, keys) not in self._seen:
            self._seen[queries, keys] = int(mask.sum()) * queries * keys // mask.numel()
        return self._seen[queries, keys]

    def _forward(self, module: Any, arguments: tuple[Any, ...], output: Any) -> None:
        self.forwards += 1
        self.frames += arguments[0].shape[2]
