"""The small MAGI-1: its forward is upstream's, its levels are the sampler's, it trains by its command, and it runs.

It runs in the fake's loop (trained_magi.py), as in upstream's, and under us.
"""

from __future__ import annotations

import importlib.util
import json
import sys

import pytest
import torch
from conftest import ROOT
from hosting import Count

import scope_patch

sys.path.insert(0, str(ROOT / "examples"))
pytest.importorskip("safetensors", reason="needs the demo extra: safetensors")

import trained_magi
from safetensors.torch import load_file

import train_magi
from magi_demo import levels
from magi_demo.distil import Distiller
from magi_demo.model import Sizes, VideoDiT

COMMAND = ROOT / "examples" / "train_magi.py"


@pytest.mark.long
@pytest.mark.upstream
def test_the_forward_and_the_names_are_those_of_upstream(run_python, upstream):
    """Strict loading both ways, then every forward of two runs of the official loop; check.py."""
    clone = upstream("MAGI-1")
    done = run_python(COMMAND, "--check", env={"SCOPE_PATCH_UPSTREAM": str(clone.parent)}, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("previous chunks, a finished chunk goes along") == 4


def test_it_fits_into_six_megabytes():
    assert sum(p.numel() for p in VideoDiT().parameters()) * 2 < 6e6


def test_a_chunk_is_alone_with_what_it_sees():
    """Changing a chunk changes those that see it, and no other."""
    torch.manual_seed(0)
    model = VideoDiT(Sizes(num_layers=2)).requires_grad_(False)
    torch.nn.init.normal_(model.final_linear.linear.weight)
    x, t, text = torch.randn(1, 16, 18, 8, 8), torch.rand(1, 3), torch.randn(1, 4, 64)
    flags, sees = torch.ones(1, 3, dtype=torch.bool), torch.eye(3, dtype=torch.bool)[None].clone()
    sees[0, 2, 0] = True

    def out(x):
        return model(x, t, text, torch.tensor([4]), flags, flags, sees).unflatten(2, (3, 6))[0]

    before, after = out(x), out(torch.cat([x[:, :, :6] + 1, x[:, :, 6:]], dim=2))
    changed = [not torch.equal(before[:, k], after[:, k]) for k in range(3)]
    assert changed == [True, False, True]


@pytest.mark.parametrize("chunks", [2, 3, 5])
def test_levels_are_possible(chunks):
    rng = torch.Generator().manual_seed(0)
    drawn = levels.draw_levels([True, False] * 100, chunks, rng)
    assert drawn.t.shape == (200, chunks) and drawn.t.min() >= 0 and drawn.t.max() <= 1
    history = drawn.weight == 0
    assert (drawn.t[history] == levels.CLEAN_T).all() and not drawn.reads_text[history].any()
    assert drawn.sees.diagonal(dim1=1, dim2=2).all() and not drawn.sees.triu(1).any()
    own = torch.eye(chunks, dtype=torch.bool).expand_as(drawn.sees)
    assert torch.equal(drawn.sees[history], own[history]), "a finished chunk's keys are made of it alone"
    assert (drawn.weight.sum(dim=1) > 0).all()
    others = (drawn.sees & ~own).any(dim=2)
    assert others[drawn.says_text & ~history].any() == (others & ~drawn.says_text & ~history).any() == (chunks > 1)
    t = torch.linspace(0, 1, 65)
    assert torch.allclose(levels.time_of(levels.progress_of(t)), t, atol=1e-6)


def test_training_goes_from_nothing_and_resumes(run_python, tmp_path, monkeypatch):
    """From nothing by its command in a process; what goes on from there in this one."""
    if importlib.util.find_spec("matplotlib") is None:
        pytest.skip("needs the demo extra: matplotlib")
    data = {"latents": torch.randn(4, 16, 30, 4, 4).half(), "text": torch.randn(4, 16, 64).half()}
    for name in ("latents.pt", "held_out.pt"):
        torch.save(data, tmp_path / name)
    weights, distilled, state = (tmp_path / name for name in ("weights", "distilled", "magi_state.pt"))
    short = ["--cache", str(tmp_path), "--no-compile", "--float32", "--layers=1"]
    no_clone = {"SCOPE_PATCH_UPSTREAM": str(tmp_path)}  # a contact sheet takes longer than this training
    done = run_python(COMMAND, *short, "--weights", weights, "--steps=2", cwd=tmp_path, env=no_clone, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "no contact sheet" in done.stderr and (weights / "loss_curve.png").exists()

    def train(folder, *words):
        monkeypatch.setattr(sys, "argv", ["train_magi.py", *short, "--stages=dit", "--weights", str(folder), *words])
        train_magi.main()

    def trained(steps):
        kept = json.loads((weights / "training.json").read_text())
        return kept["step"] == steps and kept["curve"][-1]["held_out"] > 0

    assert trained(2) and state.exists()
    train(weights, "--resume", "--steps=3")
    assert trained(3)
    state.unlink()  # from here on only the weights are at hand
    train(weights, "--resume", "--steps=4")
    assert trained(4)
    train(distilled, "--distil", "--teacher", str(weights), "--steps=2")
    taught, teacher = (load_file(folder / "dit.safetensors") for folder in (distilled, weights))
    assert taught.keys() == teacher.keys() and not torch.equal(*(w["x_embedder.weight"] for w in (taught, teacher)))


def test_what_a_distilled_model_learns_is_what_guidance_makes():
    """Two chunks by upstream's formula, the older one nearly clean: there its loop mixes in a chunk that is alone."""
    torch.manual_seed(0)
    model = VideoDiT(Sizes(num_layers=2)).requires_grad_(False)
    torch.nn.init.normal_(model.final_linear.linear.weight)
    data = {"latents": torch.randn(2, 16, 30, 8, 8), "text": torch.randn(2, 16, 64)}
    learner = Distiller(data, data, model, dtype=torch.float32, compiled=False)
    x, t, text, lengths = (
        torch.randn(1, 16, 12, 8, 8),
        torch.tensor([[0.5, 0.1]]),
        torch.randn(1, 4, 64),
        torch.tensor([4]),
    )
    running, sees = torch.ones(1, 2, dtype=torch.bool), torch.ones(1, 2, 2, dtype=torch.bool).tril()

    def run(reads, sees):
        return model(x, t, text, lengths, reads, reads, sees).unflatten(2, (2, 6))[0].unbind(1)

    made = learner.guided(x, t, text, lengths, running, sees).unflatten(2, (2, 6))[0].unbind(1)
    told, seen, alone = run(running, sees), run(~running, sees), run(~running, torch.eye(2, dtype=torch.bool)[None])
    assert torch.allclose(0.7 * made[0] + 0.3 * alone[0], seen[0], atol=1e-5)
    assert torch.allclose(made[1], 4 * told[1] + (1.5 - 4) * seen[1] + (1 - 1.5) * alone[1], atol=1e-4)


@pytest.mark.long
@pytest.mark.upstream
def test_in_the_loop_of_the_fake_it_is_upstream(run_python, upstream, tmp_path):
    """Fake loop and our forward against official loop and official model: same weights, noise, caption and prefix."""
    file = tmp_path / "official.pt"
    done = run_python(ROOT / "tests" / "trained_magi.py", upstream("MAGI-1"), file, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    errors = {}  # of rounding: upstream's shims sum in another order
    for name, expected in torch.load(file).items():
        case = dict(trained_magi.CASES[name])
        prefix = case.pop("prefix_frames", 0)
        latents = trained_magi.generate(trained_magi.make_model(**case), prefix)
        errors[name] = float((latents - expected).norm() / expected.norm())
    assert errors.keys() == trained_magi.CASES.keys() and max(errors.values()) < 1e-3, errors


@pytest.fixture(scope="module")
def film():
    """(model, what it makes unpatched, what really ran for that)"""
    model = trained_magi.make_model(cfg=3, steps=16, num_frames=48)
    with Count(model) as count:
        return model, trained_magi.generate(model), count


def test_under_us_it_is_itself_where_nothing_is_skipped(film):
    model, expected, ran = film
    with Count(model) as count, scope_patch.patched(model, strict=True, policy="never") as run:
        assert torch.equal(trained_magi.generate(model), expected)
    assert run.report["status"] == "applied" and (count.forwards, count.frames) == (ran.forwards, ran.frames)


def test_under_us_it_runs_with_half_the_work(film):
    model, _, ran = film
    with Count(model) as count, scope_patch.patched(model, strict=True, target_speedup=2) as run:
        latents = trained_magi.generate(model)
    (generation,) = run.report["generations"]
    (segment,) = generation["segments"]
    assert run.report["status"] == "applied" and generation["finished"] and latents.isfinite().all()
    assert generation["forwards"]["run"] == count.forwards < generation["forwards"]["baseline"] == ran.forwards
    assert segment["slots_computed"] == count.frames < 0.6 * ran.frames
