"""Run the unmodified official MAGI-1 loop on a CPU, patched and unpatched; a script, started by a test.

    python official_magi.py CHECKOUT CASE...     one JSON line a case or law

The host is examples/magi_cpu: tiny random weights, upstream's own loop. Laws (laws.py) are proven of SUBJECTS.
"""

from __future__ import annotations

import gc
import itertools
import json
import sys
from pathlib import Path

from hosting import Count, Subject

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))

FULLY = ("text", "guidance")
"""Cases that are run under all rules."""
RULES = {"whole": {"per_chunk": False}, "timestep": {"signal": "timestep"}}
PREDICT = {"cache_threshold": 0.0, "predict_threshold": 1e9, "max_skip": 5}
FEW = {"steps": 8}
CASES = {
    "text": {},
    "guidance": {**FEW, "cfg": 3},
    "image": {**FEW, "prefix_frames": 1},
    "video": {"prefix_frames": 32},
    "video, part of a chunk": {**FEW, "prefix_frames": 36},
    "video, guidance": {**FEW, "cfg": 3, "prefix_frames": 32},
    "12 steps": {"steps": 12},
    "144 frames, 32 steps": {"num_frames": 144, "steps": 32},
    "bf16": {**FEW, "dtype": "bfloat16"},
    "bf16, video, guidance": {**FEW, "dtype": "bfloat16", "cfg": 3, "prefix_frames": 32},
    "fp8": {**FEW, "dtype": "bfloat16", "fp8": True, "layers": 3},  # the first and the last layer are not quantised
    "window 1": {**FEW, "window": 1},
    "window 2": {**FEW, "window": 2},
    "window 3": {"window": 3, "steps": 12},
    "flags": {**FEW, "kv_offload": False, "cuda_graph": True},
    "one chunk": {**FEW, "num_frames": 24},
    "frames that fill no chunk": {**FEW, "num_frames": 130},
}


def make(**options):
    from magi_cpu import host

    return host.build(_options(options))


def generate(model, seed, **options):
    from magi_cpu import host

    return host.generate(model, _options({**options, "seed": seed}))


def _options(given):
    from magi_cpu import host

    return host.Options(**{"layers": 2, **given})


def owners():
    from inference.pipeline.video_generate import SampleTransport

    return (SampleTransport,)


SUBJECTS = [
    Subject(
        name="official magi",
        host="magi-1",
        entry="SampleTransport",
        make=make,
        generate=generate,
        model=lambda model: model,
        cases=CASES,
        target={"steps": 32},
        tokens=False,
        looks=2,
        texts=False,
        owners=owners,
    )
]


def run_rules(host, models):
    """One decision for the whole window, and decisions from the timestep's own embedding."""
    import torch

    import scope_patch

    found = {}
    for case, (name, more) in itertools.product(FULLY, RULES.items()):
        options = _options(CASES[case])
        model = _model(host, models, options)
        expected = host.generate(model, options)
        after = torch.random.get_rng_state()
        with Count(model) as count, scope_patch.patched(model, strict=True, **PREDICT, **more) as run:
            latents = host.generate(model, options)
        found[f"{case}, {name}"] = {
            "generation": run.report["generations"][0],
            "counted": {"forwards": count.forwards, "frames": count.frames, "blocks": count.blocks},
            "error": float((latents - expected).norm() / expected.norm()),
            "same draws": torch.equal(after, torch.random.get_rng_state()),
        }
    return found


def run_long(host, models):
    """Reports of generations that skip what they can: of 240 frames in 64 steps, and of a video with a prefix."""
    import scope_patch

    found = {}
    for name, case in {"long": {"num_frames": 240, "steps": 64}, "video": CASES["video, guidance"]}.items():
        options = _options(case)
        model = _model(host, models, options)
        with scope_patch.patched(model, strict=True, **PREDICT) as run:
            host.generate(model, options)
        found[name] = run.report["generations"][0]
    return found


def run_plain(host, models):
    """What PLAIN of test_official_magi.py makes in a process of its own."""
    options = host.Options()
    return {"digest": float(host.generate(host.build(options), options).double().abs().sum())}


def run_interrupted(host, models):
    """A walk that is given up half-way, and two at once."""
    import torch
    from inference.pipeline import video_generate

    import scope_patch

    options = _options({})
    model = _model(host, models, options)
    with scope_patch.patched(model, **PREDICT, strict=True) as run:
        expected = host.generate(model, options)
        caption, mask, prefix = host.features(options, model, 1)
        walk = video_generate.generate_per_chunk(model, prefix, caption, mask)
        next(walk)
        walk.close()
        again = torch.equal(host.generate(model, options), expected)
        both = _interleaved(host, model, options, expected)
    finished = [generation["finished"] for generation in run.report["generations"]]
    return {"again": again, "both": both, "finished": finished}


def _interleaved(host, model, options, expected):
    """Two walks of one model, chunk by chunk in turn; each draws its noise when it starts."""
    import torch
    from inference.common import set_random_seed
    from inference.pipeline import video_generate

    walks = []
    for _ in range(2):
        caption, mask, prefix = host.features(options, model, options.seed)
        set_random_seed(options.seed)
        given = video_generate.extract_feature_for_inference(model, prefix, caption, mask)
        walks.append(video_generate.SampleTransport(model, [given], "cuda:0").walk())
    pairs = list(zip(*walks, strict=True))
    return [torch.equal(torch.cat([pair[k][2] for pair in pairs], dim=2).float(), expected) for k in (0, 1)]


def run_table(host, models):
    """Errors of predictors at 64 steps."""
    import scope_patch

    options = _options({"steps": 64})
    model = _model(host, models, options)
    expected = host.generate(model, options)
    found = {}
    for skips in (2, 5):
        for predictor in ("hold", "auto"):
            settings = {**PREDICT, "max_skip": skips, "predictor": predictor}
            with scope_patch.patched(model, strict=True, **settings) as run:
                latents = host.generate(model, options)
            forwards = run.report["generations"][0]["forwards"]["run"]
            found[f"{predictor} {skips}"] = [forwards, float((latents - expected).norm() / expected.norm())]
    return found


def run_plans(host, models):
    """What `plan` says, beside what a run does; and the timestep signal of either."""
    import planned_magi

    model = _model(host, models, host.Options(layers=2))
    return {**planned_magi.compare(host, model), "differences": planned_magi.features(host, model)}


def run_verify(host, models):
    """`--verify 1` with one decision for the whole window, so that every forward that is left is the host's own."""
    import torch

    import scope_patch

    found = {}
    for case in FULLY:
        options = _options({**CASES[case], "steps": 16})
        model = _model(host, models, options)
        expected, settings = host.generate(model, options), {**PREDICT, "per_chunk": False, "strict": True}
        with scope_patch.patched(model, **settings) as run:
            host.generate(model, options)
        modes = run.report["generations"][0]["segments"][0]["modes"]
        with Count(model) as count, scope_patch.patched(model, **settings, verify=1, verify_bound=1e9) as run:
            equal = torch.equal(host.generate(model, options), expected)
        generation = run.report["generations"][0]
        found[case] = {
            "equal": equal,
            "verified": len(generation["segments"][0]["verified"]),
            "skipped otherwise": len(modes) - modes.count("R"),
            "counted": count.forwards,
            **generation["forwards"],
        }
    return found


def run_ranks(host, pp, cp, strategy):
    """What one rank of several gets; the test compares it with one process."""

    import scope_patch

    options = host.Options(num_frames=144, pp=pp, cp=cp, cp_strategy=strategy, layers=4)
    model = host.build(options)
    with scope_patch.patched(model, strict=True, **{**PREDICT, "max_skip": 3}) as run:
        latents = host.generate(model, options)
    generation = run.report["generations"][0]
    digest = latents.double()
    numbers = [float(digest.sum()), float(digest.abs().sum()), float(digest.square().sum())]
    return {"modes": generation["segments"][0]["modes"], "forwards": generation["forwards"], "latents": numbers}


def _model(host, models, options):
    made_for = options.dtype, options.fp8, options.layers
    if made_for not in models:
        models[made_for] = host.build(options)
    host.reconfigure(models[made_for], options)
    return models[made_for]


def prepare(checkout):
    """Upstream, imported. It collects garbage at the end of every walk: what was imported is none."""
    from magi_cpu import host

    host.prepare(Path(checkout))
    gc.collect()
    gc.freeze()
    return host


def main(checkout, *cases):
    import torch

    host, models = prepare(checkout), {}
    import official_cost

    runs = {
        "rules": run_rules,
        "plain": run_plain,
        "long": run_long,
        "interrupted": run_interrupted,
        "plan": run_plans,
        "verify": run_verify,
        "table": run_table,
        "cost": lambda host, models: official_cost.magi(host, Path(checkout)),
    }
    for case in cases:
        if case == "laws":
            import laws

            results = laws.outcomes(SUBJECTS)
        elif case.startswith("ranks"):
            _, pp, cp, strategy = case.split()
            results = [run_ranks(host, int(pp), int(cp), strategy)]
        else:
            results = [runs[case](host, models)]
        for result in results:
            sys.stdout.write(json.dumps({"case": case, **result}) + "\n")  # at once: two ranks share a pipe
            sys.stdout.flush()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
