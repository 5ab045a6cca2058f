"""Profiles: measured exactly on known curves, written by a run, used by the next, and refused where damaged."""

from __future__ import annotations

import json

import pytest
import torch
from hosts import fake_magi, fake_pipeline
from hypothesis import given, settings
from hypothesis import strategies as st

import scope_patch
from scope_patch.cli import main
from scope_patch.errors import UsageError
from scope_patch.method.memory import Anchor
from scope_patch.method.profile import Calibration, Profile, assumed, read


def generate(pipe, **options):
    torch.manual_seed(0)
    return pipe("a disc", num_frames=49, ar_step=2, causal_block_size=5, **options)


@settings(deadline=None, max_examples=25, derandomize=True)
@given(levels=st.lists(st.integers(1, 99), min_size=3, max_size=3, unique=True), scale=st.floats(0.1, 100))
def test_a_parabola_is_measured_exactly(levels, scale):
    """v = a + b s + c s^2 bends by 2 c, whatever the gaps; its backward slope is b + c (s0 + s1)."""
    generator = torch.Generator().manual_seed(0)
    a, b, c = (scale * torch.randn(1, 4, 1, 3, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    sigmas = [level / 100 for level in levels]
    anchors = [
        Anchor((5, 6), torch.tensor([s], dtype=torch.float64), a + b * s + c * s * s) for s in sigmas
    ]  # newest first
    calibration = Calibration()
    calibration.note(anchors, torch.ones(6, dtype=torch.bool))
    found = calibration.profile("host")
    size = anchors[0].velocity.norm()
    assert found.levels == (sigmas[0],) and found.host == "host"
    assert found.curvature[0] == pytest.approx(float(2 * c.norm() / size), rel=1e-6)
    assert found.slope[0] == pytest.approx(float((b + c * (sigmas[0] + sigmas[1])).norm() / size), rel=1e-6)


def test_slots_that_are_not_updated_or_stood_still_do_not_count():
    still = [
        Anchor((0, 2), torch.tensor([0.5, 0.4 + k / 10]).double(), torch.ones(1, 1, 2, 1, 1) * k) for k in (1, 2, 4)
    ]
    for active in ([True, False], [False, False]):
        calibration = Calibration()
        calibration.note(still, torch.tensor(active))
        assert calibration.profile("") is None
    calibration.note(still, torch.tensor([False, True]))
    assert calibration.profile("").levels == (0.5,)


def test_one_run_measures_and_the_next_uses_it(tmp_path):
    pipe, path = fake_pipeline(), tmp_path / "profile.json"
    plain = generate(pipe)
    with scope_patch.patched(pipe, policy="never", calibrate=str(path), strict=True) as run:
        assert torch.equal(generate(pipe), plain), "a calibrating run is the host's own"
    assert any("noise levels; use it with --profile" in line for line in run.report["generations"][0]["remarks"])
    profile = read(path)
    assert profile.host == run.report["host"] and len(profile.levels) > 5
    with scope_patch.patched(pipe, target_speedup=2, profile=str(path), strict=True) as used:
        generate(pipe)
    with scope_patch.patched(pipe, target_speedup=2, strict=True) as without:
        generate(pipe)
    (mine,), (theirs,) = (run.report["generations"][0]["planned"] for run in (used, without))
    assert used.report["signal"] == f"noise levels, {path}" and without.report["signal"] == "noise levels"
    assert mine["thresholds"] is None and mine["speedup"] == pytest.approx(2, rel=0.05)
    late = tuple(100 * (1 - level) ** 9 + 1e-6 for level in profile.levels)
    steep = Profile(profile.levels, late, late)
    other = tmp_path / "steep.json"
    other.write_text(json.dumps(steep.as_dict()))
    with scope_patch.patched(pipe, target_speedup=2, profile=str(other), strict=True) as steeper:
        generate(pipe)
    assert steeper.report["generations"][0]["planned"][0]["modes"] != theirs["modes"], "a profile decides"


def test_generations_add_up_and_one_that_failed_writes_nothing(tmp_path):
    pipe, path = fake_pipeline(), tmp_path / "profile.json"
    with scope_patch.patched(pipe, policy="never", calibrate=str(path)):
        with pytest.raises(TypeError, match="not supported"):
            generate(pipe, guidance_scale="guidance")
        assert not path.exists()
        generate(pipe)
        once = read(path)
        generate(pipe)
    assert read(path).levels == once.levels and read(path).slope == pytest.approx(once.slope)


def test_chunks_are_measured_too(tmp_path):
    tiny, path = fake_magi(), tmp_path / "profile.json"
    model = tiny.make_model(num_steps=16)
    with scope_patch.patched(model, policy="never", calibrate=str(path), strict=True):
        tiny.generate(model)
    profile = read(path)
    assert profile.host == "magi-1" and max(profile.levels) <= 1 and min(profile.slope) >= 0


def test_a_profile_that_cannot_be_written_costs_no_generation(tmp_path, caplog):
    pipe = fake_pipeline()
    plain = generate(pipe)
    folder = tmp_path / "folder"
    folder.mkdir()
    with scope_patch.patched(pipe, policy="never", calibrate=str(folder)):
        assert torch.equal(generate(pipe), plain)
    assert "could not be written" in caplog.text


def test_a_profile_of_another_host_or_a_vanished_one_is_not_used(tmp_path):
    pipe, path = fake_pipeline(), tmp_path / "profile.json"
    for text, said in (
        (json.dumps({**assumed().as_dict(), "host": "magi-1"}), "was measured on magi-1; it is not used"),
        ("{", "recomputes are placed without it"),
    ):
        path.write_text(json.dumps(assumed().as_dict()))
        with scope_patch.patched(pipe, target_speedup=2, profile=str(path), strict=True) as run:
            path.write_text(text)
            generate(pipe)
        assert run.report["signal"] == "noise levels"
        assert any(said in remark for remark in run.report["generations"][0]["remarks"])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "cannot be read"),
        ("[1", "cannot be read"),
        ("[]", "is no profile of schema 1"),
        ('{"kind": "scope_patch profile", "schema": 2}', "is no profile of schema 1"),
        ('{"kind": "scope_patch profile", "schema": 1, "levels": [0.1]}', "is damaged"),
        (
            '{"kind": "scope_patch profile", "schema": 1, "levels": [0.2, 0.1], "change": [1, 1], "bend": [1, 1]}',
            "do not ascend",
        ),
        (
            '{"kind": "scope_patch profile", "schema": 1, "levels": [0.2], "change": [NaN], "bend": [1]}',
            "no number, or negative",
        ),
    ],
)
def test_damaged_profiles(tmp_path, capsys, text, complaint):
    path = tmp_path / "profile.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=complaint):
        read(path)
    with pytest.raises(UsageError, match=complaint):
        scope_patch.apply(fake_pipeline(), profile=str(path))
    assert main(["run", "--profile", str(path), "--", "true"]) == 2
    assert main(["plan", "skyreels-v2", "--num-frames=17", "--profile", str(path)]) == 2
    assert complaint in capsys.readouterr().err


def test_the_command_checks_before_it_starts(tmp_path, capsys):
    assert main(["calibrate"]) == 2
    assert "python -m scope_patch calibrate [OPTIONS] -- COMMAND" in capsys.readouterr().err
    assert main(["calibrate", "--profile", str(tmp_path / "no" / "p.json"), "--", "true"]) == 2
    assert "no" in capsys.readouterr().err
    with pytest.raises(UsageError, match="unaccelerated"):
        scope_patch.apply(fake_pipeline(), calibrate="p.json")


def test_profiles_survive_their_file(tmp_path):
    profile = assumed()
    path = tmp_path / "p.json"
    path.write_text(json.dumps(profile.as_dict()))
    assert read(path) == profile
