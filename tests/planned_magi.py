"""`plan` against runs of the official MAGI-1 loop, for official_magi.py: one process, one import."""

from __future__ import annotations

import tempfile
import traceback
from pathlib import Path

import planned
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import scope_patch

HOST = st.fixed_dictionaries(
    {
        "num_frames": st.integers(24, 120),
        "steps": st.sampled_from([8, 12, 16, 24]),
        "window": st.sampled_from([1, 2, 3, 4]),
        "cfg": st.sampled_from([1, 3]),
        "prefix_frames": st.sampled_from([0, 0, 1, 24, 36]),
    }
)
DECIDED = planned.more(("timestep", "expected"), per_chunk=st.booleans())
RANGES = st.sampled_from([None, [], [3, 1], [2]])
SEEN = {"plans": 0, "skipped": 0}


def compare(host, model):
    """The numbers of what was tried, and the first falsifying example as text ("" where there is none)."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            save(model, Path(folder))
            _property(host, model, Path(folder))
    except BaseException:  # told to the test that waits for it, whatever it is
        return {"failure": traceback.format_exc()[-3000:], **SEEN}
    return {"failure": "", **SEEN}


def save(model, folder):
    """The time embedding in the folders of upstream's two models, in two shards with an index, as it is published."""
    import json

    from safetensors.torch import save_file

    tensors = {f"t_embedder.{name}": tensor for name, tensor in model.t_embedder.state_dict().items()}
    for name in ("inference_weight", "inference_weight.distill"):
        (folder / name).mkdir()
        files = {tensor: f"model-{k + 1}.safetensors" for k, tensor in enumerate(tensors)}
        for tensor, file in files.items():
            save_file({tensor: tensors[tensor]}, folder / name / file)
        (folder / name / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))


def _property(host, model, folder):
    @planned.few
    @given(options=HOST, how=planned.how(0.3), more=DECIDED, ranges=RANGES)
    def plan_equals_run(options, how, more, ranges):
        _one(host, model, folder, host.Options(layers=2, **options), {**how, **more}, ranges)

    plan_equals_run()


def _one(host, model, folder, options, decided, ranges):
    host.reconfigure(model, options)
    own = model.runtime_config.noise2clean_kvrange if ranges is None else ranges
    assume(not own or options.steps % len(own) == 0)
    model.runtime_config.noise2clean_kvrange = own
    path = str(folder / "config.json")
    host.configure(options).to_json(path)
    told, error = planned.plan(
        "magi-1",
        config=path,
        prefix_frames=options.prefix_frames,
        kv_ranges=ranges,
        text_tokens=int(host.features(options, model, 0)[1].sum()),
        weights=folder,
        **decided,
    )
    assert bool(error) == bool(options.steps % options.window), error
    if error:
        return
    with scope_patch.patched(model, strict=True, **decided) as run:
        host.generate(model, options)
    generation = run.report["generations"][0]
    planned.check(told, generation)
    (segment,) = generation["segments"]
    # The forward over a prefix is counted under `forced` there, and only in FLOPs here.
    extra = segment["slots_baseline"] - told["plan"]["slots"]["baseline"]
    assert told["plan"]["slots"]["computed"] + extra == segment["slots_computed"]
    assert (extra > 0) == bool(generation["forced"])
    SEEN["plans"] += 1
    SEEN["skipped"] += generation["forwards"]["skipped"]


def features(host, model):
    """How far the feature of the saved weights is from a run's: {case: largest relative difference}."""
    from scope_patch.outlook.signal import Checkpoint, condition

    found = {}
    with tempfile.TemporaryDirectory() as folder:
        save(model, Path(folder))
        for cfg, steps in ((1, 12), (1, 16), (3, 12), (3, 16)):
            options = host.Options(layers=2, cfg=cfg, steps=steps)
            host.reconfigure(model, options)
            theirs, times = _theirs(host, model, options)
            engine = model.engine_config
            checkpoint = Checkpoint.find(folder, ("inference_weight",))
            ours = condition(checkpoint, steps, engine.shortcut_mode, distill=engine.distill)
            difference = (ours(times) - theirs(times)).abs().max() / theirs(times).abs().max()
            found[f"cfg {cfg}, {steps} steps"] = float(difference)
    return found


def _theirs(host, model, options):
    """The feature as a run asks the registry for it, and the timesteps of a chunk."""
    from inference.pipeline import video_generate

    from scope_patch.outlook.jobs import known_host

    caption, mask, prefix = host.features(options, model, 0)
    given = video_generate.extract_feature_for_inference(model, prefix, caption, mask)
    transport = video_generate.SampleTransport(model, [given], "cuda:0")
    feature = known_host("magi-1").feature(transport, 0, model)
    return feature, torch.tensor(transport.ts[0].tolist(), dtype=torch.float64)
