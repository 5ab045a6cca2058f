"""The films of simulated bodies in examples/physics, and the training of a model on them from nothing."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

torch = pytest.importorskip("torch")
pytest.importorskip("pymunk", reason="needs the demo extra: pymunk")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what other people's packages say on import
    pytest.importorskip("diffusers")
    sys.path.insert(0, str(EXAMPLES))
    try:
        from benchmark.hosts import HOSTS
        from benchmark.prompts import PHYSICS, PHYSICS_TUNING
        from benchmark.suites import SUITES
        from demo_model.text import split_prompt
        from demo_model.training_pictures import SCENES
        from physics import picture, scenes, words
    finally:
        sys.path.remove(str(EXAMPLES))

FRAMES = 4 * scenes.LATENT_FRAMES - 3


def test_a_film_is_drawn_from_its_seed_from_any_frame_on():
    caption, film = picture.drawn_scene(7, 60)
    assert film.shape == (3, 60, scenes.SIZE, scenes.SIZE)
    assert film.min() >= -1
    assert film.max() <= 1
    later = picture.drawn_scene(7, 20, start=40)
    assert later[0] == caption
    assert torch.equal(later[1], film[:, 40:])


def test_bodies_stay_in_the_picture_and_do_not_come_to_rest():
    for seed in range(60):
        late = 0.0
        for track in scenes.simulate(scenes.random_scene(seed), FRAMES):
            x, y = track.centres.unbind(1)
            assert x.min() > 0
            assert x.max() < scenes.SIZE
            assert y.min() > -1
            assert y.max() < scenes.GROUND
            late += float((track.centres[-20:] - track.centres[-21:-1]).norm(dim=1).mean())
        assert late > 0.3, seed  # one may have given another all it had


def test_every_caption_is_understood():
    captions = [scenes.random_scene(seed).caption for seed in range(200)]
    for caption in [*captions, *PHYSICS_TUNING, *PHYSICS, *SCENES]:
        known, unknown = split_prompt(caption, words.KNOWN)
        assert unknown == [], caption
        assert len(known) > 3
    seen = {word for caption in captions for word in split_prompt(caption, words.KNOWN)[0]}
    assert seen == set(words.KNOWN.words)
    assert words.encode([""]).abs().sum() == 0


def test_trained_from_nothing_by_its_command(run_python, tmp_path):
    """Shortened: autoencoder, latents and the full-attention DiT, whose weights the pipeline then loads."""
    folders = ["--weights", tmp_path / "weights", "--cache", tmp_path / "cache"]
    short = ["--vae-steps", "1", "--clips", "17", "--held-out", "4", "--steps", "2", "--threads", "1", "--no-compile"]
    command = [EXAMPLES / "train.py", "--model", "physics", "--stages", "vae", "latents", "dit", *folders, *short]
    done = run_python(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "weights" / "dit" / "training.json").read_text())["step"] == 2
    assert (tmp_path / "weights" / "vae" / "config.json").exists()


def test_every_suites_host_has_its_weights_and_prompts():
    for name, suite in SUITES.items():
        for host in {point.host for point in suite.points}:
            found = HOSTS[host or "demo"]
            assert len(found.filmed) >= suite.prompts, name
            assert list(found.dit.glob("*.safetensors")) and list(found.vae.glob("*.safetensors")), name
    assert not set(PHYSICS) & set(PHYSICS_TUNING)
