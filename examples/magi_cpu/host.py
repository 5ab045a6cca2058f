"""The unmodified official MAGI-1 loop on a CPU, with a tiny random model: no T5, no VAE, no checkpoint.

Upstream is imported from a clone (`$SCOPE_PATCH_UPSTREAM/MAGI-1`); shims/ stands in for CUDA-only packages, and
upstream's own example configuration is read with smaller sizes. What runs is upstream's
`generate_per_chunk` and all below it.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path

from .weights import init_weights

HERE = Path(__file__).resolve().parent
UPSTREAM = Path(os.environ.get("SCOPE_PATCH_UPSTREAM", "~/.cache/scope_patch/upstream")).expanduser()


@dataclass
class Options:
    """Sizes and modes of a run; the rest is upstream's example/4.5B configuration (cfg 1: distill, cfg 3: base)."""

    num_frames: int = 96
    steps: int = 16
    size: int = 64
    cfg: int = 1
    prefix_frames: int = 0
    seed: int = 1234
    window: int = 4
    layers: int = 3
    hidden: int = 64
    dtype: str = "float32"
    kv_offload: bool = True
    cuda_graph: bool = False
    fp8: bool = False  # with dtype bfloat16
    cp_strategy: str = "cp_ulysses"
    pp: int = 1
    cp: int = 1
    inputs: int = 1
    text_scale: float = 7.5  # of guidance, up to the last quarter of the steps
    sizes: dict = field(default_factory=dict)  # of upstream's model_config, over those of `hidden`


def prepare(clone: Path | None = None) -> None:
    """Environment, import path and CUDA shims; call before the first import of upstream."""
    clone = clone or UPSTREAM / "MAGI-1"
    if not (clone / "inference").is_dir():
        sys.exit(
            f"no clone of github.com/SandAI-org/MAGI-1 in {clone}: git clone it there, or set SCOPE_PATCH_UPSTREAM"
        )
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ.setdefault("SPECIAL_TOKEN_PATH", str(clone / "example/assets/special_tokens.npz"))
    os.environ["SKIP_LOAD_MODEL"] = "1"  # upstream's switch: build the model, load no checkpoint
    for name in [name for name in os.environ if name.startswith("PAD_") or name == "NEG_PROMPT"]:
        del os.environ[name]  # special tokens are 4096 wide, the tiny captions are not
    sys.dont_write_bytecode = True  # leave no __pycache__ in the clone
    for path in (str(clone), str(HERE / "shims")):  # the shims end up first
        if path in sys.path:
            sys.path.remove(path)
        sys.path.insert(0, path)
    import cuda_on_cpu
    import torch

    torch.set_num_threads(1)  # tensors this small only lose time to a second thread
    cuda_on_cpu.install()
    with cuda_on_cpu.triton_for_import():
        import_module("inference.model.dit.dit_module")
    cuda_on_cpu.patch_dit_module()
    import inference.pipeline.video_generate as loop
    from inference.common import magi_logger

    loop.tqdm = partial(loop.tqdm, disable=True)

    magi_logger.setLevel("WARNING")


def configure(options: Options, clone: Path | None = None):
    """Upstream's example configuration with the sizes cut down, read back by `MagiConfig.from_json`."""
    from inference.common import MagiConfig

    name = "4.5B_distill_config.json" if options.cfg == 1 else "4.5B_base_config.json"
    config = json.loads(((clone or UPSTREAM / "MAGI-1") / "example/4.5B" / name).read_text())
    hidden = options.hidden
    config["model_config"].update(
        num_layers=options.layers, hidden_size=hidden, ffn_hidden_size=4 * hidden, num_attention_heads=hidden // 16,
        num_query_groups=hidden // 32, kv_channels=16, caption_channels=32, caption_max_length=64,
        params_dtype=f"torch.{options.dtype}",
    )  # fmt: skip
    config["model_config"].update(options.sizes)
    config["runtime_config"].update(
        seed=options.seed, num_frames=options.num_frames, video_size_h=options.size, video_size_w=options.size,
        num_steps=options.steps, window_size=options.window, text_scales=[options.text_scale] * 3 + [0.0] * 2,
    )  # fmt: skip
    if options.window != 4:  # one range a stage: upstream's [5, 4, 3, 2] is for four
        config["runtime_config"].update(noise2clean_kvrange=[5, 4, 3, 2][: options.window])
    config["engine_config"].update(
        distributed_backend="gloo", pp_size=options.pp, cp_size=options.cp, cp_strategy=options.cp_strategy,
        kv_offload=options.kv_offload, enable_cuda_graph=options.cuda_graph,
        fp8_quant=options.fp8,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(config))
        return MagiConfig.from_json(str(path))


def start(config) -> None:
    """Process groups: real ones under torchrun, one that needs no port otherwise."""
    import torch
    from cuda_on_cpu import claim_cuda
    from inference.infra.distributed import dist_init

    if torch.distributed.is_initialized():
        return
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    if config.engine_config.pp_size > 1:  # upstream drops the handle of isend; gloo then drops the message
        isend, handles = torch.distributed.isend, []
        torch.distributed.isend = lambda *args, **kw: handles.append(isend(*args, **kw)) or handles[-1]
    with claim_cuda():
        dist_init(config)


def build(options: Options, clone: Path | None = None):
    """The model; its weights depend on `layers` and `hidden` only."""
    from inference.model.dit import get_dit

    config = configure(options, clone)
    start(config)
    model = get_dit(config)
    init_weights(model)
    return model


def reconfigure(model, options: Options, clone: Path | None = None) -> None:
    """Other steps, lengths, sizes or guidance for a model that is there."""
    config = configure(options, clone)
    for module in model.modules():
        for name in ("model_config", "runtime_config", "engine_config"):
            if hasattr(module, name):
                setattr(module, name, getattr(config, name))


def features(options: Options, model, seed: int):
    """Caption embeddings [1, 1, L, C], mask [1, L] and prefix latents [1, 16, T, H, W] or None."""
    import torch

    config = model.model_config
    generator = torch.Generator().manual_seed(seed)
    caption = torch.randn(1, 1, config.caption_max_length, config.caption_channels, generator=generator)
    mask = torch.zeros(1, config.caption_max_length, dtype=torch.int64)
    mask[:, :20] = 1
    prefix = None
    if options.prefix_frames:
        frames = max(1, options.prefix_frames // model.runtime_config.temporal_downsample_factor)
        side = options.size // 8
        prefix = torch.randn(1, config.in_channels, frames, side, side, generator=generator) * 0.7
    return caption, mask, prefix


def generate(model, options: Options, given: list | None = None):
    """The clean latents [inputs, 16, T, H, W] of a whole run, through upstream's own loop.

    Args:
        given: captions, masks and prefix latents of every input, as `features` makes them up where there are none.
    """
    import torch
    from inference.common import set_random_seed
    from inference.pipeline import video_generate

    seeds = [options.seed + k for k in range(options.inputs)]
    given = given or [features(options, model, seed) for seed in seeds]
    set_random_seed(options.seed)
    if options.inputs == 1:
        caption, mask, prefix = given[0]
        chunks = video_generate.generate_per_chunk(
            model=model, prefix_video=prefix, caption_embs=caption, emb_masks=mask
        )
        return torch.cat([chunk.clone() for chunk in chunks], dim=2).float()
    inputs = [video_generate.extract_feature_for_inference(model, prefix, cap, mask) for cap, mask, prefix in given]
    device = f"cuda:{torch.cuda.current_device()}"
    transport = video_generate.SampleTransport(model=model, transport_inputs=inputs, device=device)
    made: list[list[torch.Tensor]] = [[] for _ in inputs]
    for index, _, chunk in transport.walk():
        made[index].append(chunk.clone())
    return torch.cat([torch.cat(chunks, dim=2) for chunks in made]).float()


class Counter:
    """What really ran, from hooks on sub-modules, so that a patched forward cannot hide a skip.

    forwards: `x_embedder` calls; frames: latent frames in them; blocks: calls of the last layer.
    """

    def __init__(self, model) -> None:
        self.forwards = self.frames = self.blocks = 0
        self._handles = [
            model.x_embedder.register_forward_pre_hook(self._embed),
            model.videodit_blocks.layers[-1].register_forward_pre_hook(self._block),
        ]

    def _embed(self, module, args) -> None:
        self.forwards += 1
        self.frames += args[0].shape[0] * args[0].shape[2]

    def _block(self, module, *args) -> None:
        self.blocks += 1

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()
