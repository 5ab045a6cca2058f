"""FLOPs and schedules of the official repositories, counted in their own code; for the scripts official_*.py.

Attention is plain PyTorch on a CPU, so that the counter sees its two matrix products.
"""

from __future__ import annotations

import itertools
import json
import random
from types import SimpleNamespace

import torch


def count(function):
    """FLOPs of a call, by PyTorch's counter."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def skyreels(upstream):
    """What was counted and what our formulas say."""
    return {"flops": list(wan_flops(upstream[1])), "bad": list(unequal_progress(upstream[0], random.Random(0)))}


def wan_flops(model_class):
    """[case, counted, ours] over sizes and kinds of models."""
    from scope_patch.hosts.wan import WanShape, forward_flops

    for kind, causal, fps, size in (
        ("t2v", 0, True, (5, 4, 6)),
        ("t2v", 0, False, (3, 8, 4)),
        ("i2v", 0, True, (4, 6, 6)),
        ("t2v", 2, True, (6, 4, 4)),
    ):
        torch.manual_seed(0)
        image = kind == "i2v"
        model = model_class(
            model_type=kind, in_dim=8 if image else 4, out_dim=4, dim=48, ffn_dim=96, freq_dim=32, text_dim=24,
            num_heads=2, num_layers=2, inject_sample_info=fps,
        )  # fmt: skip
        model = model.eval().requires_grad_(False).float()
        for block in model.blocks:  # CUDA autocast would cast here
            block.self_attn.o.register_forward_pre_hook(lambda module, args: (args[0].to(module.weight.dtype),))
        if causal:
            model.set_ar_attention(causal)
        x, frames = torch.randn(1, 4, *size), size[0]
        extra = {"clip_fea": torch.randn(1, 257, 1280), "y": x} if image else {}
        counted = count(
            lambda: model(x, t=torch.zeros(1, frames), context=torch.randn(1, 512, 24), fps=[0], **extra)  # noqa: B023
        )
        yield f"{kind} {size} causal {causal}", counted, forward_flops(WanShape.of(model), *size)


def unequal_progress(pipeline, rng, tries=300):
    """Random options for which ours is not what upstream's `generate_timestep_matrix` returns."""
    from scope_patch.hosts.schedules import staircase

    for _ in range(tries):
        block, blocks, steps = rng.randint(1, 5), rng.randint(1, 6), rng.randint(2, 20)
        ready, ar_step = rng.randrange(blocks) * block, rng.randint(0, steps)
        frames = block * blocks + rng.randrange(block)
        template = torch.linspace(990.9, 10.2, steps)
        options = {"block": block, "ar_step": ar_step, "pre_ready": ready}
        ours = staircase(template, frames, **options)
        times, _, mask, intervals = pipeline.generate_timestep_matrix(
            None, frames, template, frames, ar_step, ready, block
        )
        if not torch.equal(ours.timesteps, times) or not torch.equal(ours.mask, mask) or ours.intervals != intervals:
            yield [frames, steps, options]


def magi(host, clone):
    """What was counted and what our formulas say."""
    return {"flops": list(magi_flops(host, clone)), **walks(random.Random(0))}


def magi_flops(host, clone):
    """[case, calls, counted in total, largest relative difference of one call] of whole generations."""
    from scope_patch.hosts.magi import MagiShape

    cases = {
        "text": {},
        "larger, long": {"size": 96, "num_frames": 168},
        "guidance": {"cfg": 3},
        "guidance, larger, a prefix": {"cfg": 3, "size": 96, "prefix_frames": 32},
    }
    for name, more in cases.items():
        options = host.Options(steps=8, layers=2, **more)
        model = host.build(options, clone)
        calls, dispatch = [], model.forward_dispatcher

        def counted(calls=calls, dispatch=dispatch, **given):
            made = []
            calls.append(count(lambda: made.append(dispatch(**given))))
            return made[0]

        model.forward_dispatcher = counted
        host.generate(model, options)
        shape = MagiShape.from_model(model)
        expected = expected_calls(shape, model, options)
        off = [abs(a - b) / a for a, b in zip(calls, expected, strict=True)]
        read = json.loads(
            (clone / "example/4.5B" / f"4.5B_{('distill', 'base')[options.cfg == 3]}_config.json").read_text()
        )
        read["model_config"] |= {key: getattr(model.model_config, key) for key in read["model_config"]}
        yield name, len(calls), sum(calls), max(off), MagiShape.from_config(read) == shape


def expected_calls(shape, model, options):
    """FLOPs of every call of the dispatcher, in order, from options alone."""
    from scope_patch.hosts import schedules
    from scope_patch.hosts.magi import NULL_TOKENS, dispatch_flops

    caption, runtime = 20, model.runtime_config  # of the harness's captions, 20 tokens count
    prefix = options.prefix_frames // 4
    chunks, offset = -(-(options.num_frames // 4 + prefix) // 6), prefix // 6
    tokens = shape.chunk_tokens(6, options.size // 8, options.size // 8)
    where = (chunks, options.window, options.steps)
    seen = {"ranges": runtime.noise2clean_kvrange, "clean": runtime.clean_chunk_kvrange}
    walked = list(schedules.walk(*where, offset, **seen))
    table = schedules.window_table(walked, 6, options.steps, ranges=seen["ranges"])
    calls = []
    if offset:
        given = schedules.prefix_kv_ranges(offset, **seen)
        calls.append(dispatch_flops(shape, tokens, given, NULL_TOKENS, cfg_number=options.cfg))
    for step, context in zip(walked, table.contexts, strict=True):
        calls.append(
            dispatch_flops(
                shape,
                tokens,
                step.seen,
                caption,
                cfg_number=options.cfg,
                clean_prefix=bool(step.clean_prefix),
                duplicate=context[-1],
            )
        )
    return calls


def walks(rng, tries=150):
    """Random options for which our rows, ranges or timesteps are not upstream's, or contexts change elsewhere."""
    from inference.pipeline.video_generate import init_t

    from scope_patch.hosts.magi import transport_table
    from scope_patch.hosts.schedules import magi_timesteps

    bad, modes = [], ("8,16,16", "16,16,8")
    for steps in range(1, 130):
        for mode in modes:
            if magi_timesteps(steps, mode) != init_t({}, steps, "cpu", mode).tolist():
                bad.append(["timesteps", steps, mode])
    for _ in range(tries):
        window, prefix = rng.randint(1, 4), rng.choice([0, rng.randint(1, 40)])
        steps = rng.choice([s for s in (4, 8, 10, 12, 16, 24) if s >= window])
        ranges = [rng.randint(1, 9) for _ in range(rng.choice([n for n in range(5) if not n or steps % n == 0]))]
        options = (
            rng.randint(6, 90) // 4 * 4 + 4,
            prefix,
            window,
            steps,
            ranges,
            rng.choice([-1, 1, 3]),
            rng.choice([1, 3]),
        )
        if unequal_walk(transport(*options, rng.choice(modes)), transport_table):
            bad.append(options)
    return {"tried": tries, "bad": bad}


def transport(frames, prefix, window, steps, ranges, clean, cfg, mode):
    """Upstream's loop object with nothing in it but what its schedule reads."""
    from inference.common.config import RuntimeConfig
    from inference.pipeline.video_generate import SampleTransport, init_t

    made = SampleTransport.__new__(SampleTransport)
    made.runtime_config = RuntimeConfig(
        cfg_number=cfg, noise2clean_kvrange=ranges, clean_chunk_kvrange=clean, clean_t=0.9999, num_steps=steps,
        window_size=window, text_scales=[7.5, 7.5, 7.5, 0.0, 0.0],
    )  # fmt: skip
    made.engine_config = SimpleNamespace(distill_nearly_clean_chunk_threshold=0.3, shortcut_mode=mode)
    made.model_config, made.device = SimpleNamespace(patch_size=2), "cpu"
    made.window_size, made.chunk_width = window, 6
    video = torch.empty(1, 16, prefix, 4, 4) if prefix else None
    chunks = -(-(frames // 4 + prefix) // 6)
    made.transport_inputs = [
        SimpleNamespace(num_steps=steps, chunk_num=chunks, prefix_video=video, latent_size=(1, 16, 6 * chunks, 4, 4))
    ]
    made.ts = [init_t({}, steps, "cpu", mode)]
    return made


def unequal_walk(made, table_of):
    """Whether our rows differ from `forward_velocity`'s arguments, or contexts change elsewhere than the registry's."""
    from scope_patch.hosts import schedules

    runtime, given, mode = made.runtime_config, made.transport_inputs[0], made.engine_config.shortcut_mode
    offset = 0 if given.prefix_video is None else given.prefix_video.size(2) // 6
    where = (given.chunk_num, runtime.window_size, runtime.num_steps)
    scales = tuple(zip(runtime.cfg_t_range, runtime.prev_chunk_scales, runtime.text_scales, strict=True))
    seen = {"ranges": runtime.noise2clean_kvrange, "clean": runtime.clean_chunk_kvrange}
    guidance = scales if runtime.cfg_number == 3 else ()
    rows = list(schedules.walk(*where, offset, shortcut_mode=mode, **seen))
    if len(rows) != made.total_forward_step(0):
        return True
    for step, row in enumerate(rows):
        (length, _, k), (_, start, end, first, last) = made.generate_denoise_status_and_sequences(0, step)
        lead = start > offset and k == 0
        t = made.get_timestep(made.ts[0], length, first, last, k)
        indices = made.get_denoise_step_of_each_chunk(0, length, first, last, k, has_clean_t=lead)
        theirs = made.generate_kvrange_for_denoising_video(0, start - lead, end - start + lead, indices)
        told = (row.start, row.end, row.clean_prefix, list(row.timesteps))
        if told != (start, end, int(lead), t.tolist()) or (theirs // 24).tolist() != list(map(list, row.seen)):
            return True
    if offset:
        prefix = made.generate_kvrange_for_prefix_video(0, offset) // 24
        if prefix.tolist() != list(map(list, schedules.prefix_kv_ranges(offset, **seen))):
            return True
    known = table_of(made, 0)
    ours = schedules.window_table(rows, 6, runtime.num_steps, ranges=seen["ranges"], guidance=guidance)
    same = known.intervals == ours.intervals and list(known.clean_prefixes) == list(ours.clean_prefixes)
    return not same or not torch.equal(known.timesteps, ours.timesteps) or turns(known) != turns(ours)


def turns(table):
    """Where the context changes."""
    return [before != after for before, after in itertools.pairwise(table.contexts)]
