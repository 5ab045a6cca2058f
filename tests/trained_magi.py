"""The small MAGI-1 of examples/magi_demo in the loop of the fake, and a script that runs it in the official one.

    python trained_magi.py CLONE OUT     saves the latents of all CASES, by upstream's loop and upstream's model

Of the fake only the loop and the guidance are left: `forward` is examples/magi_demo/model.py, with the trained weights
(random ones where there are none yet), and finished chunks' keys and values lie in the loop's `InferenceParams`.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))

from magi_demo.check import random_model
from magi_demo.model import Sizes, VideoDiT, block_forward, load_model

FILE = Path(__file__).resolve().parent.parent / "examples" / "magi_demo" / "weights" / "dit.safetensors"
CASES = {
    "guidance": dict(cfg=3, steps=8, num_frames=72),
    "video, guidance": dict(cfg=3, steps=8, num_frames=48, prefix_frames=36),
    "no guidance": dict(cfg=1, steps=8, num_frames=72),
}
SEED = 1234


def network() -> VideoDiT:
    """The same in every process."""
    if FILE.exists():
        return load_model(FILE)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return random_model()


def given(prefix_frames: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Caption [1, 1, 64, 64], its mask [1, 64], latents [1, 16, T, 8, 8] of a video to go on with."""
    sizes, generator = Sizes(), torch.Generator().manual_seed(1)
    caption = torch.zeros(1, 1, sizes.caption_max_length, sizes.caption_channels)
    caption[:, :, :5] = torch.randn(caption[:, :, :5].shape, generator=generator)
    mask = (torch.arange(sizes.caption_max_length) < 5).long()[None]
    if not prefix_frames:
        return caption, mask, None
    return caption, mask, 0.7 * torch.randn(1, 16, prefix_frames // 4, 8, 8, generator=generator)


def make_model(cfg: int = 3, steps: int = 16, num_frames: int = 96) -> torch.nn.Module:
    """A VideoDiTModel of the fake. It was not distilled: without guidance it is told of no step size."""
    from hosts import fake_magi

    tiny = fake_magi()
    size = dict(video_size_h=64, video_size_w=64, num_steps=steps, num_frames=num_frames)
    config = tiny.make_config(cfg, torch.float32, distill=False, **size)
    ratios = dict(xattn_cond_hidden_ratio=1.0, cond_gating_ratio=1.0, gated_linear_unit=False)
    vars(config.model_config).update(asdict(Sizes()), **ratios)
    return _hosted()(config, network())


def _hosted() -> type:
    """The class, for which the fake has to be on the path."""
    from inference.model.dit.dit_model import VideoDiTModel

    class TrainedDiT(VideoDiTModel):
        """Upstream's parameters by their names, behind the fake's dispatcher."""

        def __init__(self, config, net: VideoDiT):
            torch.nn.Module.__init__(self)
            self.model_config, self.runtime_config = config.model_config, config.runtime_config
            self.engine_config = config.engine_config
            for name, part in net.named_children():
                self.add_module(name, part)
            object.__setattr__(self, "net", net)  # no submodule: its parts are

        @torch.no_grad()
        def forward(self, x, t, y, caption_dropout_mask, xattn_mask, kv_range, inference_params, **kwargs):
            """Velocity of x [B, 16, 6 K, H, W] as upstream's forward has it from the same arguments."""
            rows, chunks, first = len(x), kwargs["denoising_range_num"], kwargs["slice_point"]
            tokens = kwargs["chunk_width"] * x.shape[3] * x.shape[4] // self.model_config.patch_size**2
            sees = torch.zeros(rows, chunks, first + chunks, dtype=torch.bool)
            if inference_params is None:  # each chunk alone, a row each
                sees[:] = True
            else:
                for row, (start, end) in enumerate((kv_range // tokens).tolist()):
                    sees[:, row, start:end] = True
            y, mask = (part.unflatten(0, (rows, chunks)).squeeze(2) for part in (y, xattn_mask))
            reads = (y != self.y_embedder.null_caption_embedding).flatten(2).any(dim=2)
            says = ~caption_dropout_mask[:, None].expand(rows, chunks)
            # The youngest chunk has the text, if one has; the oldest may be there for its keys only.
            text, lengths = y[:, -1], mask[:, -1].sum(dim=1)
            keep = 0
            if inference_params is not None and inference_params.update_kv_cache:
                keep = chunks if kwargs.get("extract_prefix_video_feature") else int(kwargs["fwd_extra_1st_chunk"])
            remember = partial(_remember, inference_params, first * tokens, (first + keep) * tokens)

            def block(layer, *arguments):
                return block_forward(layer, *arguments, remember=partial(remember, layer))

            return self.net(x, t, text, lengths, reads, says, sees, block_forward=block)

    return TrainedDiT


def _remember(params, start: int, end: int, layer, *new: torch.Tensor) -> list[torch.Tensor]:
    """Keys and values, [B, groups, tokens, D], of tokens before `start` and `new` ones; up to `end` they stay.

    Only those of finished chunks are kept, which is less than upstream writes and all that it reads.
    """
    if params is None:
        return list(new)
    memory = params.key_value_memory_dict
    parts = list(new)
    if start:
        parts = [torch.cat([old[:, :, :start], part], dim=2) for old, part in zip(memory[layer], new, strict=True)]
        assert parts[0].shape[2] == start + new[0].shape[2], "reads what was never written"
    if end > start:
        memory[layer] = [part[:, :, :end] for part in parts]
    return parts


def generate(model: torch.nn.Module, prefix_frames: int = 0, seed: int = SEED) -> torch.Tensor:
    """Latents [1, 16, T, 8, 8] by the fake's loop."""
    from inference.pipeline import video_generate

    caption, mask, prefix = given(prefix_frames)
    torch.manual_seed(seed)
    return torch.cat(list(video_generate.generate_per_chunk(model, prefix, caption, mask)), dim=2)


def official(clone: Path) -> dict[str, torch.Tensor]:
    """The same of every case, by upstream's loop and model; nothing of the fake may have been imported."""
    from magi_cpu import host

    host.prepare(clone)
    model, made = None, {}
    for name, case in CASES.items():
        options = host.Options(seed=SEED, sizes=asdict(Sizes()), **case)
        if model is None:
            model = host.build(options, clone)
            model.load_state_dict(network().state_dict(), strict=True)
        host.reconfigure(model, options, clone)
        model.engine_config.distill = False
        made[name] = host.generate(model, options, [given(options.prefix_frames)])
    return made


if __name__ == "__main__":
    torch.save(official(Path(sys.argv[1])), sys.argv[2])
