"""What the DiT really did: FLOPs of its matrix products, forwards and latent frames, as they ran.

A mode of torch's sees every product that runs, whoever decided it: also a forward of which an accelerator left out some
blocks, or few queries against many keys. Attention counts where its mask lets it through.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, matmul, nn
from torch.nn.functional import conv3d, linear, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode


class Work(TorchFunctionMode):
    """`with Work(dit) as work:` counts; attributes flops, forwards, frames (latent frames forwarded).

    Args:
        model: SkyReels-V2's transformer, or MAGI-1's, which its own code calls past `__call__`: there whatever is
            multiplied counts, so let nothing else run.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model, self._handles = model, []
        self._patches = model.patch_embedding if hasattr(model, "patch_embedding") else model.x_embedder
        self._called = hasattr(model, "patch_embedding")
        self._seen: dict[tuple[int, int], int] = {}
        self._inside = not self._called
        self.flops = self.forwards = self.frames = 0

    def __enter__(self) -> Work:
        if self._called:
            self._handles.append(self._model.register_forward_pre_hook(self._begins))
            self._handles.append(self._model.register_forward_hook(self._ends, always_call=True))
        self._handles.append(self._patches.register_forward_hook(self._forward))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        if self._inside:
            if function is scaled_dot_product_attention:
                self._attention(*args, **(kwargs or {}))
            elif function in (linear, conv3d):
                self.flops += 2 * math.prod(args[1].shape[1:]) * output.numel()
            elif function in (matmul, Tensor.matmul, Tensor.__matmul__):
                self.flops += 2 * args[0].shape[-1] * output.numel()
        return output

    def _begins(self, *_: Any) -> None:
        self._inside = True

    def _ends(self, *_: Any) -> None:
        self._inside = False

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
        self.frames += arguments[0].shape[0] * arguments[0].shape[2]
