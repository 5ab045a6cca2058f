"""Hosts on a CPU, each behind one interface, so that what holds for all of them is written once (tests/laws.py).

A `Subject` is one way to make a video: a pipeline's entry with tiny random weights. To add one, write its builders
(a file a family), list what it can do in `cases`, and put it into the family's SUBJECTS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

SEED = 7
"""Of the generation that is compared; others take other seeds."""


@dataclass(frozen=True, eq=False)
class Subject:
    """One entry of one host.

    Options are one mapping for all builders; each takes what it knows.

    Attributes:
        name: of the test.
        host: the registry's name of it.
        entry: the class (or function) that makes the video, as the registry file names it.
        make: (**options) -> what `patched` gets, the same at every call.
        generate: (what was made, seed, **options) -> latents; draws are the seed's alone.
        model: what was made -> the DiT.
        cases: name -> options. The first one is the usual one, of which the laws that cost more are proven.
        target: options of the generation that a speed-up of 3 is asked of: it needs the steps for that.
        tokens: whether the work is as many tokens as go through the blocks; what MAGI-1's chunks see costs more.
        expected: (**options) -> how many forwards the unpatched host has, by arithmetic; None where nobody says.
        sections: (**options) -> how often the host begins to count steps anew.
        looks: how many looks at a tensor our code may take a section, while the loop runs.
        interrupts: whether its loop looks at `_interrupt`.
        texts: whether the DiT gets the prompt as a tensor that is the same at every step.
        owners: classes that are patched, beside those of the pipeline, its scheduler and the DiT.
    """

    name: str
    host: str
    entry: str
    make: Callable[..., Any]
    generate: Callable[..., Any]
    model: Callable[[Any], Any]
    cases: Mapping[str, Mapping[str, Any]]
    target: Mapping[str, Any]
    tokens: bool = True
    expected: Callable[..., int] | None = None
    sections: Callable[..., int] = lambda **_: 1
    looks: int = 0
    interrupts: bool = False
    texts: bool = True
    owners: Callable[[], tuple[type, ...]] = tuple

    @property
    def usual(self) -> str:
        return next(iter(self.cases))

    def count(self, pipe: Any) -> Count:
        return Count(self.model(pipe))

    def __str__(self) -> str:
        return self.name


def embedder(model: Any) -> Any:
    """The submodule that every forward gives its latents [rows, channels, latent frames, height, width] to, once."""
    model = getattr(model, "_orig_mod", model)
    return getattr(model, "patch_embedding", None) or model.x_embedder


def blocks(model: Any) -> list[Any]:
    """All blocks, in the order in which a forward calls them."""
    model = getattr(model, "_orig_mod", model)
    if hasattr(model, "videodit_blocks"):
        return [*model.videodit_blocks.layers]
    if hasattr(model, "transformer_blocks"):
        return [*model.transformer_blocks, *model.single_transformer_blocks]
    return [*model.blocks]


class Count:
    """What really runs, by hooks on submodules: a patched forward or block cannot hide a skip.

    Attributes: forwards; frames, latent frames in them (MAGI-1's rows each have their own); blocks, their calls;
    tokens, through all blocks.
    """

    def __init__(self, model: Any) -> None:
        self.forwards = self.frames = self.blocks = self.tokens = 0
        self._rows = hasattr(model, "videodit_blocks")
        self._hooks = [embedder(model).register_forward_pre_hook(self._embed)]
        self._hooks += [block.register_forward_pre_hook(self._block, with_kwargs=True) for block in blocks(model)]

    def _embed(self, module: Any, args: Any) -> None:
        self.forwards += 1
        self.frames += args[0].shape[2] * (args[0].shape[0] if self._rows else 1)

    def _block(self, module: Any, args: Any, kwargs: Any) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        self.blocks += 1
        self.tokens += hidden.numel() // hidden.shape[-1]

    def __enter__(self) -> Count:
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()


def at_forward(model: Any, number: int, act: Callable[[], None]) -> Any:
    """Call `act` in the midst of the DiT's real forward of that number (from 1); a handle that undoes it."""
    calls = 0

    def ran(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == number:
            act()

    return blocks(model)[-1].register_forward_pre_hook(ran)


def without(names: tuple[str, ...], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options but some."""
    return {name: value for name, value in options.items() if name not in names}


def picture(seed: int, height: int = 32, width: int = 32) -> Any:
    """A random picture."""
    import numpy as np
    from PIL import Image

    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype="uint8"))


def film(seed: int, frames: int, height: int = 32, width: int = 32) -> list[Any]:
    return [picture(1000 * seed + k, height, width) for k in range(frames)]


def seeded(seed: int) -> Any:
    """A generator; the global one is seeded as well."""
    import torch

    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)


def fixed(seed: int, build: Callable[..., Any], **sizes: Any) -> Any:
    """A module with random weights that hang on nothing but the seed."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build(**sizes).eval().requires_grad_(False)


def sight(width: int) -> tuple[Any, Any]:
    """(image encoder, image processor) in place of SigLIP and CLIP: a linear map of patches of pixels."""
    import torch

    class Sight(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = torch.nn.Conv2d(3, width, 16, 16)

        dtype, device = torch.float32, torch.device("cpu")

        def forward(self, pixels: Any, output_hidden_states: bool = False) -> Any:
            made = self.patches(pixels).flatten(2).transpose(1, 2)
            return SimpleNamespace(last_hidden_state=made, hidden_states=(made, made))

    return fixed(1236, Sight), Pixels()


class Pixels:
    """An image processor that changes nothing but the type."""

    def __call__(self, images: Any, **_: Any) -> Any:
        import numpy as np
        import torch

        if not isinstance(images, torch.Tensor):
            several = images if isinstance(images, list) else [images]
            images = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 for image in several])
        return Batch(pixels=images.float())


class Batch(dict[str, Any]):
    def to(self, *_: Any, **__: Any) -> Batch:
        return self


def transformer(pipe: Any) -> Any:
    return pipe.transformer
