"""Our DiT's weights for the official WanModel: python examples/studies/to_official.py --out FILE.pt.

With --check, load them into the official class (clone of SkyworkAI/SkyReels-V2 under $SCOPE_PATCH_UPSTREAM) and compare
its output with diffusers' on the same input. The official code needs CUDA kernels and rounds to bfloat16 between
blocks; the check puts plain attention in their place and compares both in float32, then once more as shipped. With
--loop, compare what the unmodified official loop makes of the physics model with what diffusers' makes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import types
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # examples/

OFFICIAL_CONFIG = dict(
    model_type="t2v", in_dim=16, out_dim=16, dim=128, ffn_dim=512, freq_dim=64, text_dim=64, num_heads=4, num_layers=8
)
RENAMES = [
    ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
    ("condition_embedder.time_proj", "time_projection.1"),
    ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
    ("proj_out", "head.head"),
    (".attn1.", ".self_attn."),
    (".attn2.", ".cross_attn."),
    (".to_q.", ".q."),
    (".to_k.", ".k."),
    (".to_v.", ".v."),
    (".to_out.0.", ".o."),
    (".ffn.net.0.proj.", ".ffn.0."),
    (".ffn.net.2.", ".ffn.2."),
    (".norm2.", ".norm3."),  # the norm before cross-attention, the only one with weights
    (".scale_shift_table", ".modulation"),
]


def official_name(name: str) -> str:
    """The name in WanModel of a parameter of SkyReelsV2Transformer3DModel."""
    if name == "scale_shift_table":
        return "head.modulation"
    for ours, theirs in RENAMES:
        name = name.replace(ours, theirs)
    return name


def to_official(state: dict) -> dict:
    """A state dict for WanModel(**OFFICIAL_CONFIG) from one of the demo's DiT."""
    return {official_name(name): value for name, value in state.items()}


def upstream_root() -> Path:
    """The official clone: $SCOPE_PATCH_UPSTREAM/SkyReels-V2, by default under ~/.cache/scope_patch/upstream."""
    default = Path.home() / ".cache" / "scope_patch" / "upstream"
    return Path(os.environ.get("SCOPE_PATCH_UPSTREAM", default)) / "SkyReels-V2"


def import_official():
    """The official transformer module, with CPU stand-ins for its CUDA-only kernels."""
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    sys.dont_write_bytecode = True  # leave no trace in the clone
    sys.path.insert(0, str(upstream_root()))
    import diffusers.loaders  # these probe for torchvision, so before its stand-in
    import diffusers.models.modeling_utils  # noqa: F401
    import torch
    import transformers  # noqa: F401
    from diffusers.loaders import PeftAdapterMixin  # noqa: F401

    for name in ("torchvision", "torchvision.transforms", "dashscope"):  # imported there, not used here
        try:
            __import__(name)
        except ImportError:
            sys.modules[name] = types.ModuleType(name)
            if "." in name:
                setattr(sys.modules[name.split(".")[0]], name.split(".")[1], sys.modules[name])
    from skyreels_v2_infer.modules import attention, transformer

    def plain_attention(q, k, v, **_):
        q, k, v = (x.transpose(1, 2).float() for x in (q, k, v))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).contiguous()

    transformer.flash_attention = attention.flash_attention = plain_attention
    transformer.sdp_kernel = lambda **_: contextlib.nullcontext()
    return transformer


class Float32Torch(types.ModuleType):
    """torch with bfloat16 meaning float32: the official code names that type in its forward."""

    def __getattr__(self, name: str):
        import torch

        return torch.float32 if name == "bfloat16" else getattr(torch, name)


def check(weights: Path | None) -> list[tuple[str, float]]:
    """[(case, greatest difference / greatest value)] between the official model and diffusers'."""
    import torch

    official = import_official()
    from demo_model import dit, pipeline, text

    ours = pipeline.load_dit(weights or pipeline.WEIGHTS)
    wan = official.WanModel(**OFFICIAL_CONFIG).eval().requires_grad_(False).float()
    wan.load_state_dict(to_official(ours.state_dict()))
    for block in wan.blocks:  # CUDA autocast would do this cast
        block.self_attn.o.register_forward_pre_hook(lambda m, args: (args[0].to(m.weight.dtype),))
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(1, 16, 10, 8, 8, generator=rng)
    t = torch.tensor([[300] * 5 + [700] * 5])
    context = text.encode_prompts(["a red disc and a blue square"])
    results = []
    for case, block in (("full attention", 1), ("block-causal", dit.BLOCK)):
        ours._set_ar_attention(block)
        if block > 1:
            wan.set_ar_attention(block)
        for dtype, module in (("float32", Float32Torch("torch")), ("bfloat16 between blocks, as shipped", torch)):
            official.torch = module
            with torch.no_grad():
                a = ours(x, t, context, enable_diffusion_forcing=True, return_dict=False)[0]
                b = wan(x, t=t, context=context)
            results.append((f"{case}, {dtype}", ((a - b).abs().max() / a.abs().max()).item()))
    return results


LOOPS = {
    "a staircase": {"ar_step": 5, "causal_block_size": 5, "num_frames": 97},
    "all in step": {"ar_step": 0, "num_frames": 37},
    "three segments": {"ar_step": 5, "causal_block_size": 5, "num_frames": 77, "base_num_frames": 37},
}


def check_loops(weights: Path | None, steps: int = 12) -> list[tuple[str, float]]:
    """[(case, distance of the latents / their norm)] of the official loop and diffusers', full attention, float32."""
    import torch

    official = import_official()
    from skyreels_v2_infer import DiffusionForcingPipeline
    from skyreels_v2_infer.scheduler.fm_solvers_unipc import FlowUniPCMultistepScheduler

    from benchmark.hosts import HOSTS
    from demo_model import pipeline
    from physics.words import KNOWN, encode

    official.torch = Float32Torch("torch")
    host = HOSTS["physics"]
    ours = pipeline.build_pipeline(weights or host.dit.parent, known=KNOWN, masked=False)
    wan = official.WanModel(**OFFICIAL_CONFIG).eval().requires_grad_(False).float()
    wan.load_state_dict(to_official(ours.transformer.state_dict()))
    made: list[torch.Tensor] = []
    plain = types.SimpleNamespace  # stands for the text encoder and the autoencoder: the loop asks for little
    text = plain(encode=lambda prompt: encode([prompt] if isinstance(prompt, str) else prompt), to=lambda device: None)
    vae = plain(
        decode=lambda z: made.append(z) or z[:, :3].repeat_interleave(4, dim=2)[:, :, 3:],
        encode=lambda video: made[-1][:, :, -((video.shape[2] - 1) // 4 + 1) :],
    )
    loop = DiffusionForcingPipeline.__new__(DiffusionForcingPipeline)
    loop.transformer, loop.text_encoder, loop.vae = wan, text, vae
    loop.device, loop.offload, loop.scheduler = torch.device("cpu"), False, FlowUniPCMultistepScheduler()
    loop.video_processor = None
    results = []
    for case, options in LOOPS.items():
        asked = {"num_inference_steps": steps, "guidance_scale": 3.0, "fps": 24, "base_num_frames": 97, **options}
        overlap = 17 if asked["num_frames"] > asked["base_num_frames"] else None
        made.clear()
        with torch.no_grad():
            loop(
                host.filmed[0], "", height=64, width=64, shift=pipeline.SHIFT, overlap_history=overlap,
                generator=torch.Generator().manual_seed(0), **asked,
            )  # fmt: skip
        theirs = torch.cat([made[0], *(part[:, :, 5:] for part in made[1:])], dim=2)
        a = pipeline.sample(ours, host.filmed[0], seed=0, **asked)
        results.append((f"latents of {case}", float((a - theirs).norm() / a.norm())))
    return results


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, help="state dict to write: .pt or .safetensors")
    p.add_argument("--weights", type=Path, help="folder with dit/ (default: the demo's; for --loop, physics')")
    p.add_argument("--check", action="store_true", help="compare with the official class")
    p.add_argument("--loop", action="store_true", help="compare with the official loop")
    args = p.parse_args()
    if args.out:
        import torch
        from safetensors.torch import save_file

        from demo_model import pipeline

        state = to_official(pipeline.load_dit(args.weights or pipeline.WEIGHTS).state_dict())
        save_file(state, args.out) if args.out.suffix == ".safetensors" else torch.save(state, args.out)
        print(f"{args.out}: WanModel(**{OFFICIAL_CONFIG})")
    if args.check or args.loop:
        if not upstream_root().exists():
            print(f"no clone of the official repository at {upstream_root()}: nothing to compare", file=sys.stderr)
            return 3
        results = (check(args.weights) if args.check else []) + (check_loops(args.weights) if args.loop else [])
        for case, difference in results:
            print(f"{case}: relative difference {difference:.2e}")
        # The two loops' schedulers differ in the noise levels themselves, by up to 0.0022 in 12 steps.
        most = {case: 5e-3 if case.startswith("latents") else 1e-4 for case, _ in results if "shipped" not in case}
        return 0 if all(difference < most.get(case, 1) for case, difference in results) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
