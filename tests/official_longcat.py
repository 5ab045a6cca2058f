"""Run the unmodified official LongCat-Video pipeline on a CPU with a tiny random DiT; a script, started by a test.

    python official_longcat.py CHECKOUT CASE...     one JSON line a case or law: "laws" (laws.py), "distilled"

What is stood in for: flash_attn (SDPA), block-sparse attention (Triton; only after `dit.enable_bsa()`), UMT5 and its
tokenizer, and the table of picture sizes, which begins at 320 pixels. Loops, KV cache, guidance, scheduler, DiT and VAE
are upstream's.
"""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import itertools
import json
import os
import sys
import types
import warnings

from hosting import Subject, film, fixed, picture, seeded, without

SIZE = {"height": 32, "width": 48}
REFINED = {"height": 64, "width": 64}
"""Refinement wants multiples of 64."""
STEPS = 10
SHIFT = 12.0


def stand_in(name, **attributes):
    """A module in the place of one that needs CUDA."""
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    vars(module).update(attributes)
    sys.modules[name] = module


def attend(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False):
    """flash_attn_func on PyTorch's own: (rows, length, heads, width) each."""
    import torch

    made = torch.nn.functional.scaled_dot_product_attention(
        *(x.transpose(1, 2).float() for x in (q, k, v)), scale=softmax_scale, is_causal=causal
    )
    return made.transpose(1, 2).contiguous().to(q.dtype)


def attend_varlen(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, **more):
    """flash_attn_varlen_func: sequences lie one behind the other."""
    import torch

    ends = list(zip(cu_seqlens_q.tolist(), cu_seqlens_k.tolist(), strict=True))
    made = [attend(q[None, a:c], k[None, b:d], v[None, b:d], **more)[0] for (a, b), (c, d) in itertools.pairwise(ends)]
    return torch.cat(made)


def import_upstream(checkout):
    """Upstream's pipeline module."""
    import diffusers.loaders
    import diffusers.models.modeling_utils  # noqa: F401
    import transformers  # noqa: F401 - these probe for flash_attn, and must not find ours

    sys.path.insert(0, str(checkout))
    stand_in("flash_attn", flash_attn_func=attend, flash_attn_varlen_func=attend_varlen)
    stand_in("longcat_video.block_sparse_attention.bsa_interface", flash_attn_bsa_3d=None)
    if importlib.util.find_spec("loguru") is None:
        import logging

        stand_in("loguru", logger=logging.getLogger("loguru"))
    from longcat_video import pipeline_longcat_video as module

    def bucket(height, width):
        return {f"{height / width:.2f}": ([height, width], 1)}

    sizes = {"480p": bucket(**SIZE), "720p": bucket(**REFINED)}
    module.get_bucket_config = lambda resolution, scale_factor_spatial: sizes[resolution]
    module.torch_gc = lambda: None
    return module


class Bytes:
    """A tokenizer: one token a byte."""

    def __call__(self, prompts, max_length, **_):
        import torch

        ids = torch.zeros(len(prompts), max_length, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            tokens = torch.tensor(list(prompt.encode())[:max_length])
            ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
        return types.SimpleNamespace(input_ids=ids, attention_mask=mask)


def table(width):
    """A text encoder: a vector a token."""
    import torch

    class Table(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.vectors = torch.nn.Embedding(256, width)
            self.config = types.SimpleNamespace(d_model=width)

        @property
        def dtype(self):
            return self.vectors.weight.dtype

        def forward(self, ids, mask):
            return types.SimpleNamespace(last_hidden_state=self.vectors(ids))

    return Table()


@functools.cache
def parts():
    """(text encoder, VAE): nothing of a generation is kept in them."""
    from longcat_video.modules.autoencoder_kl_wan import AutoencoderKLWan

    # z_dim stays 16: the VAE's latents_mean and latents_std have that many entries.
    vae = fixed(1235, AutoencoderKLWan, base_dim=4, z_dim=16, dim_mult=[1, 1, 2, 2], num_res_blocks=1)
    return fixed(1236, table, width=24), vae


def make(shift=SHIFT, **_):
    import torch
    from longcat_video import pipeline_longcat_video as module
    from longcat_video.modules.longcat_video_dit import LongCatVideoTransformer3DModel
    from longcat_video.modules.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

    dit = fixed(
        1234, LongCatVideoTransformer3DModel, hidden_size=64, depth=2, num_heads=2, caption_channels=24,
        adaln_tembed_dim=48, frequency_embedding_size=64, enable_flashattn2=True, cp_split_hw=[1, 1],
    )  # fmt: skip
    last = dit.final_layer.linear
    with torch.random.fork_rng():
        torch.manual_seed(1)
        torch.nn.init.normal_(last.weight, std=0.5 / last.in_features**0.5)  # velocities of order one
    encoder, vae = parts()
    pipe = module.LongCatVideoPipeline(
        tokenizer=Bytes(),
        text_encoder=encoder,
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
        dit=dit,
    )
    return pipe.to("cpu")


def generate(pipe, seed, kind="t2v", batch=1, steps=STEPS, cfg=4.0, **options):
    """Latents, those that were given included."""
    options = without(("shift",), options)
    prompts = ["a red disc rolls over grass", "rain"][:batch]
    common = {
        "prompt": prompts if batch > 1 else prompts[0], "num_inference_steps": steps, "max_sequence_length": 32,
        "generator": seeded(seed), "output_type": "latent",
    }  # fmt: skip
    if kind != "refine":
        common |= {"negative_prompt": ["blurred"] * batch if batch > 1 else "blurred"}
        common |= {"guidance_scale": cfg, "num_frames": 13}
    if kind == "t2v":
        return pipe.generate_t2v(**SIZE, **common, **options)
    if kind == "i2v":
        return pipe.generate_i2v(image=picture(seed, **SIZE), **common, **options)
    if kind == "vc":
        return pipe.generate_vc(video=film(seed, 9, **SIZE), num_cond_frames=5, **common, **options)
    if options.get("num_cond_frames"):
        options["video"] = film(seed + 1, 9, **REFINED)
    return pipe.generate_refine(stage1_video=film(seed, 9, **SIZE), spatial_refine_only=True, **common, **options)


def timesteps(steps=STEPS, shift=SHIFT, **_):
    """Upstream's `get_timesteps_sigmas` as its scheduler shifts them."""
    sigmas = [1 - 0.999 * i / max(1, steps - 1) for i in range(steps)]
    return [1000 * shift * sigma / (1 + (shift - 1) * sigma) for sigma in sigmas]


def expected(kind="t2v", use_kv_cache=True, enhance_hf=True, **options):
    steps = timesteps(**options)
    if kind == "refine":  # from t = 500 on
        return 1 + sum(t < 500 for t in steps)
    if kind != "vc":
        return len(steps)
    tail = sum(t > 500 for t in steps) + 10 if enhance_hf else len(steps)
    return tail + use_kv_cache  # one forward fills the cache


def subject(kind, cases, **more):
    cases = {name: {"kind": kind, **options} for name, options in cases.items()}
    usual = next(iter(cases.values()))
    return Subject(
        name=f"longcat, {kind}",
        host="longcat-video",
        entry=f"generate_{kind}",
        make=make,
        generate=generate,
        model=lambda pipe: pipe.dit,
        cases=cases,
        target={**usual, "steps": 30, **more},
        expected=expected,
        looks=2,
        interrupts=True,
    )


SUBJECTS = [
    subject("t2v", {"text": {}, "guidance off": {"cfg": 1.0}, "batch": {"cfg": 1.0, "batch": 2}}),
    subject("i2v", {"image": {}, "guidance off": {"cfg": 1.0}}),
    subject(
        "vc",
        {
            "cache": {},
            "no cache": {"use_kv_cache": False},
            "cache, guidance off": {"cfg": 1.0},
            "no cache, guidance off": {"use_kv_cache": False, "cfg": 1.0},
            "offloaded cache": {"offload_kv_cache": True},
            "steps as they are": {"enhance_hf": False},
        },
    ),
    subject(
        "refine",
        {"refine": {"shift": 3.0, "steps": 30}, "frames known": {"shift": 3.0, "steps": 30, "num_cond_frames": 5}},
        steps=110,
    ),
]


def distilled():
    """`use_distill` has few steps, none of which can be left out: it runs unpatched, and the reason is told."""
    import scope_patch

    options = {"kind": "t2v", "use_distill": True, "cfg": 1.0, "steps": 8}
    pipe = make()
    alone = generate(pipe, 1, **options)
    with scope_patch.patched(pipe, cache_threshold=0.0, predict_threshold=1e9) as run:
        made = generate(pipe, 1, **options)
    return {"equal": bool((made == alone).all()), "status": run.report["status"], "reasons": run.report["reasons"]}


def main(checkout, *names):
    import laws

    import_upstream(checkout)
    for name in names:
        if name == "laws":
            for outcome in laws.outcomes(SUBJECTS):
                print(json.dumps({"case": name, **outcome}), flush=True)
        else:
            absent = laws.why_absent(SUBJECTS[0])
            found = {} if absent else distilled()
            print(json.dumps({"case": name, "absent": absent, **found}), flush=True)


if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ["TQDM_DISABLE"] = "1"
    sys.dont_write_bytecode = True  # leave no __pycache__ in upstream's checkout
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(1)
    main(*sys.argv[1:])
