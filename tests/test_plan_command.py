"""`plan`: the numbers of design §5 from options alone, and errors that teach."""

from __future__ import annotations

import json

import pytest

from scope_patch.cli import main

PAPER = "--num-frames=257 --overlap-history=17 --ar-step=5 --causal-block-size=5 --steps=50 --selective".split()
MODEL = {
    "num_layers": 34, "hidden_size": 3072, "ffn_hidden_size": 12288, "num_attention_heads": 24, "num_query_groups": 8,
    "kv_channels": 128, "patch_size": 2, "t_patch_size": 1, "in_channels": 16, "out_channels": 16,
    "cond_hidden_ratio": 0.25, "caption_channels": 4096, "caption_max_length": 800, "xattn_cond_hidden_ratio": 0.25,
    "cond_gating_ratio": 1.0, "gated_linear_unit": False, "half_channel_vae": False,
}  # fmt: skip
RUNTIME = {
    "cfg_number": 1, "cfg_t_range": [0, 0.0217, 0.1, 0.3, 0.999], "prev_chunk_scales": [1.5] * 5,
    "text_scales": [7.5] * 5, "noise2clean_kvrange": [5, 4, 3, 2], "clean_chunk_kvrange": 1, "num_frames": 240,
    "video_size_h": 480, "video_size_w": 480, "num_steps": 64, "window_size": 4, "chunk_width": 6,
    "temporal_downsample_factor": 4,
}  # fmt: skip
ENGINE = {"distill": True, "distill_nearly_clean_chunk_threshold": 0.3, "shortcut_mode": "8,16,16"}


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_config": MODEL, "runtime_config": RUNTIME, "engine_config": ENGINE}))
    return str(path)


@pytest.fixture
def call(capsys):
    def run(*words):
        code = main(["plan", *words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def told(call, *words):
    code, out, _ = call(*words, "--json")
    assert code == 0
    return json.loads(out)


def test_verified_steps_are_counted_over_the_parts_and_come_on_top(call):
    words = ("skyreels-v2", *PAPER, "--predict-threshold=1e9", "--verify=7")
    plan = told(call, *words)["plan"]
    # 100 forwards of 400 are left, that is 50 iterations of 200; every seventh of the other 150 runs, in two branches.
    assert plan["forwards"] == {"baseline": 400, "run": 100 + 2 * (150 // 7)}
    assert [len(part["verified"]["iterations"]) for part in plan["parts"]] == [7, 7, 7]
    assert plan["speedup"] < 5.27 - 1
    out = call(*words)[1]
    assert "verifying: 21 skipped steps run all the same (42 of these forwards); 5.27 times less without them" in out
    for refused in (["--policy=never"], ["--level=residual"]):
        assert told(call, *words[:-2], "--verify=1", *refused) == told(call, *words[:-2], *refused)


@pytest.mark.parametrize("host", ["skyreels-v2", "skyreels-v2-diffusers"])
def test_the_papers_skyreels_figures(call, host):
    plan = told(call, host, *PAPER, "--predict-threshold=1e9")["plan"]
    assert [len(part["modes"]) for part in plan["parts"]] == [70, 65, 65] and plan["iterations"] == 200
    assert plan["forwards"] == {"baseline": 400, "run": 100}
    assert plan["pflop"]["original"] == pytest.approx(244.7, rel=1e-3)
    assert plan["pflop"]["planned"] == pytest.approx(46.4, rel=1e-3) and plan["speedup"] == pytest.approx(
        5.27, abs=0.005
    )


def test_the_nearest_speedup_that_there_is_is_not_told_as_the_most(call):
    for words, remark in (
        (["--target-speedup=5.27"], "5.00 is the nearest that so few steps allow"),
        (["--target-speedup=6"], ""),
        (["--target-speedup=6", "--max-skip=2"], "3.00 is the most that --max-skip"),
    ):
        out = call("skyreels-v2", *words)[1]
        assert remark in out and ("was aimed at" in out) == bool(remark), out


def test_a_speedup_needs_no_weights(call):
    made = told(call, "skyreels-v2", *PAPER, "--target-speedup=3")
    assert made["exact"] and made["target"] == 3 and made["plan"]["speedup"] == pytest.approx(3, rel=0.05)
    assert made["signal"] == "noise levels" and "R" in made["plan"]["modes"] and "P" in made["plan"]["modes"]
    fast = told(call, "skyreels-v2", *PAPER)
    assert fast["plan"]["speedup"] == pytest.approx(5.27, rel=0.01) and not fast["remarks"]


def test_a_shorter_text_costs_less(call):
    long, short = (
        told(call, "skyreels-v2-diffusers", *PAPER, *more)["plan"]["pflop"]["original"]
        for more in ((), ("--text-tokens=64",))
    )
    assert 0.9 * long < short < long


def test_thresholds_without_weights_have_bounds(call):
    made = told(call, "skyreels-v2", *PAPER, "--target-speedup=3", "--placement=threshold")
    assert not made["exact"] and made["least"]["forwards"]["run"] == 400
    assert made["most"]["speedup"] == pytest.approx(5.27, abs=0.005) and made["history_bytes"] < 0.15e9
    _, out, _ = call("skyreels-v2", *PAPER, "--placement=threshold")
    assert "the signal needs the model's weights" in out and "5.27 times less" in out


@pytest.mark.parametrize("target", [2, 3, 4, 5])
def test_targets(call, config, target):
    for words in (["skyreels-v2", *PAPER, "--signal=expected"], ["magi-1", "--config", config]):
        made = told(call, *words, f"--target-speedup={target}")
        assert made["exact"] and made["target"] == target
        assert made["remarks"] or made["plan"]["speedup"] == pytest.approx(target, rel=0.05)


def test_the_papers_magi_figures(call, config):
    plan = told(call, "magi-1", "--config", config, "--kv-ranges", "--policy=never")["plan"]
    assert plan["iterations"] == 208 and plan["pflop"]["original"] == pytest.approx(81.2, rel=1e-3)
    assert plan["speedup"] == 1 and set(plan["modes"]) == {"R"}
    own = told(call, "magi-1", "--config", config)
    assert own["target"] == 3.32 and own["plan"]["pflop"]["original"] == pytest.approx(61.26, rel=1e-3)
    prefix = told(call, "magi-1", "--config", config, "--prefix-frames=48")["plan"]
    assert prefix["forwards"]["baseline"] == len(prefix["modes"]) + 1, "the forward over the prefix"
    _, out, _ = call("magi-1", "--config", config)
    assert "part 1: 208 iterations" in out and "PFLOP" in out and "MB of velocities" in out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["magi-1", "--config", "/nowhere.json"], "cannot be read"),
        (["magi-1", "--config", "{empty}"], "no MAGI-1 configuration"),
        (["magi-1", "--config", "{text}"], "cannot be read"),
        (["skyreels-v2", "--model=2B"], "no SkyReels-V2 model '2B'"),
        (["skyreels-v2", "--num-frames=257"], "give --overlap-history"),
        (["magi-1", "--config", "{config}", "--steps=15"], "no multiple of window_size 4"),
        (["skyreels-v2", *PAPER, "--overlap-history=97"], "not below --base-num-frames"),
        (["skyreels-v2", "--target-speedup=0.5"], "1 (nothing skipped) or more"),
        (["skyreels-v2", "--target-speedup=2", "--predict-threshold=1"], "both given"),
        (["skyreels-v2", "--causal-block-size=0"], "--causal-block-size is 0; give 1 or more"),
        (["skyreels-v2", "--guidance-scale=nan"], "--guidance-scale is nan"),
        (["skyreels-v2", "--shift=0"], "--shift is 0.0; give more than 0"),
        (["infinity", "--batch=0"], "--batch is 0"),
        (["infinity", "--grids=1x1,0x2"], "sides are 1 or more"),
        (["infinity", "--cfg=nan"], "guidance is a number"),
    ],
)
def test_errors_teach(call, config, tmp_path, words, complaint):
    (tmp_path / "empty").write_text("{}")
    (tmp_path / "text").write_text("no JSON")
    files = {"empty": tmp_path / "empty", "text": tmp_path / "text", "config": config}
    code, out, err = call(*(word.format(**files) for word in words))
    assert (code, out) == (2, "") and complaint in err and err.count("\n") == 1


ASYNCHRONOUS = ("--ar-step=5", "--causal-block-size=5", "--steps=50")


def test_rivals_whose_decisions_hang_on_nothing_are_planned_exactly(call):
    seer = told(call, "skyreels-v2", *ASYNCHRONOUS, "--policy=taylorseer:interval=4")
    assert seer["exact"] and seer["plan"]["modes"] == "RR" + ("RPPP" * 17)
    assert seer["plan"]["slots"]["baseline"] == 140 * 25, "the host's own intervals"
    delta = told(call, "skyreels-v2", *ASYNCHRONOUS, "--policy=delta-dit")
    ran = delta["plan"]["forwards"]["run"] / 140
    left = 8 / 30  # blocks of the 1.3B model that a skipped forward still runs: 30 less three quarters of them, rounded
    assert delta["plan"]["speedup"] == pytest.approx(1 / (ran + (1 - ran) * left), rel=1e-3)


def test_a_target_for_a_rival(call):
    plan = told(call, "skyreels-v2", *ASYNCHRONOUS, "--policy=taylorseer", "--target-speedup=3")["plan"]
    assert plan["speedup"] == pytest.approx(3, rel=0.1)


def test_residuals_take_more_memory_than_velocities(call):
    velocities, residuals = (
        told(call, "skyreels-v2", *ASYNCHRONOUS, f"--level={level}")["history_bytes"]
        for level in ("velocity", "residual")
    )
    # Tokens x channels in bf16 against latents x 16 channels in float32.
    assert residuals / velocities == pytest.approx(2 * 1536 / (4 * 4 * 16))
    assert "MB of residuals" in call("skyreels-v2", "--level=residual")[1]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("skyreels-v2", "--policy=teacache"), "embedding signal, which needs a run"),
        (("skyreels-v2", "--policy=teacache:use_ret_steps=1"), "--weights DIR"),
        (("skyreels-v2", "--policy=teacache:thresh=1"), "teacache_thresh"),
        (("skyreels-v2", "--policy=delta-dit", "--level=velocity"), "no --level velocity"),
    ],
)
def test_what_a_rivals_plan_cannot_do(call, words, complaint):
    code, _, err = call(*words)
    assert code == 2 and complaint in err


def test_few_widths_cost_latent_frames_and_have_no_say_on_magi(call, config):
    plans = [told(call, "skyreels-v2", *PAPER, "--max-skip=0", f"--widths={n}")["plan"] for n in (1, 2, 5)]
    computed = [plan["slots"]["computed"] for plan in plans]
    assert computed[0] == 2 * 25 * 200 and computed == sorted(computed, reverse=True) and len(set(computed)) == 3
    plain, remarked = (told(call, "magi-1", f"--config={config}", *words) for words in ([], ["--widths=2"]))
    assert remarked["remarks"][0].startswith("--widths has no say") and remarked["plan"] == plain["plan"]
