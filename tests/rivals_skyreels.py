"""Upstream SkyReels-V2's built-in TeaCache against our policy `teacache`, on the official pipeline."""

from __future__ import annotations

SHORT = {"num_frames": 57, "base_num_frames": 57}
# (options of the pipeline, upstream's TeaCache: threshold, use_ret_steps, whether its polynomial counts)
CASES = {
    "text": (SHORT, 0.1, False, True),
    "text, retained": (SHORT, 0.1, True, True),
    "text, plain": (SHORT, 0.8, False, False),
    "text, retained, plain": ({**SHORT, "num_inference_steps": 20, "ar_step": 4}, 1.2, True, False),
    "paper, plain": ({**SHORT, "num_inference_steps": 50, "ar_step": 5}, 0.8, False, False),
    "synchronous, plain": (
        {**SHORT, "num_inference_steps": 20, "ar_step": 0, "causal_block_size": 1}, 1.0, False, False,
    ),
    "image, plain": (
        {"image": 1, "causal_block_size": 1, "ar_step": 1, "num_frames": 37, "base_num_frames": 37,
         "num_inference_steps": 20},
        0.6, False, False,
    ),
    "block-causal, plain": ({**SHORT, "causal": True, "num_inference_steps": 20, "ar_step": 4}, 0.9, True, False),
    "long, plain": (
        {"num_frames": 177, "overlap_history": 17, "num_inference_steps": 20, "ar_step": 4}, 0.6, False, False,
    ),
    "odd counter": ({**SHORT, "num_inference_steps": 13, "ar_step": 3}, 1.0, True, False),
    "guidance off": ({**SHORT, "guidance_scale": 1.0, "num_inference_steps": 20, "ar_step": 4}, 0.6, False, False),
}  # fmt: skip


def block_runs(host, pipe, options):
    """What the generation made, and of every DiT call, how many blocks ran."""
    counts = []
    handles = [pipe.transformer.patch_embedding.register_forward_pre_hook(lambda *_: counts.append(0))]

    def count(module, args):
        counts[-1] += 1

    handles += [block.register_forward_pre_hook(count) for block in pipe.transformer.blocks]
    made = host.generate(pipe, **options)
    for handle in handles:
        handle.remove()
    return made, counts


def iterations(options):
    """What upstream's script passes as `num_steps`."""
    steps, ar_step = options.get("num_inference_steps", 12), options.get("ar_step", 3)
    blocks = ((options.get("base_num_frames", 97) - 1) // 4 + 1) // options.get("causal_block_size", 5)
    return steps + (blocks - 1) * ar_step


def compare(host, upstream):
    """Of every case: forwards skipped by either, whether they are the same ones, and how far the videos are apart."""
    import torch

    import scope_patch

    found = {}
    for name, (options, threshold, retained, polynomial) in CASES.items():
        pipe = host.build(upstream, options.get("causal", False))
        pipe.transformer.initialize_teacache(
            num_steps=iterations(options), teacache_thresh=threshold, use_ret_steps=retained, ckpt_dir="1.3B"
        )
        if not polynomial:  # made for trained weights: on random ones it is below 0, or far above any threshold
            pipe.transformer.coefficients = [1.0, 0.0]
        theirs, expected = block_runs(host, pipe, options)
        pipe = host.build(upstream, options.get("causal", False))
        policy = f"teacache:teacache_thresh={threshold},use_ret_steps={int(retained)},ckpt_dir="
        with scope_patch.patched(pipe, policy=policy + ("1.3B" if polynomial else "none"), strict=True) as run:
            ours, counted = block_runs(host, pipe, options)
        found[name] = {
            "calls": len(expected),
            "skipped": [calls.count(0) for calls in (expected, counted)],
            "same": expected == counted,
            "equal": torch.equal(theirs, ours),
            "signal": run.report["signal"],
        }
    return found


RESIDUAL = ("text", "image", "both ends", "long, noised", "extended", "block-causal", "offload")


def residuals(host, upstream):
    """SCOPE at the residual level: how far from the unpatched video, blocks that ran, and the report's forwards."""
    import scope_patch

    found = {}
    for name in RESIDUAL:
        options = host.CASES[name]
        pipe = host.build(upstream, options.get("causal", False), options.get("offload", False))
        expected, blocks = host.generate(pipe, **options), pipe.transformer.blocks
        with scope_patch.patched(pipe, **host.PREDICT, level="residual", strict=True) as run:
            made, counted = block_runs(host, pipe, options)
        (generation,) = run.report["generations"]
        found[name] = {
            "error": ((made - expected).norm() / expected.norm()).item(),
            "blocks": sum(counted),
            "calls": len(counted),
            "forwards": generation["forwards"],
            "guards": generation["guards"],
            "restored": pipe.transformer.blocks is blocks,
        }
    return found
