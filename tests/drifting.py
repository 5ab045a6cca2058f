"""Runs a host, and mutated copies of it, unpatched and under us; a script, started by tests/test_drift.py.

    python drifting.py HOST FOLDER [CHECKOUT] < NAMES     one JSON line a mutation

All mutations of a host in one process: importing torch takes longer than any of them. A copy lies in FOLDER, and takes
the place of the host in `sys.modules`.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import shutil
import sys
import warnings
from pathlib import Path
from typing import ClassVar

SETTINGS = {
    "never": {"policy": "never"},
    "accelerated": {"target_speedup": 2.5},  # intervals are SCOPE's
    "whole": {"target_speedup": 2.5, "selective": False, "per_chunk": False},  # intervals are the host's
}
TRACED = {"cache_threshold": 0.0, "predict_threshold": 1e9, "max_skip": 5}
"""In place of a target where the DiT has changed: its timestep signal is traced, which takes longer than the rest."""
HERE = Path(__file__).parent


class Counter:
    """Forwards and latent frames that really ran, counted where the latents are embedded."""

    def __init__(self, embedder):
        self.forwards = self.frames = 0
        self._handle = embedder.register_forward_pre_hook(self._embed)

    def _embed(self, module, args):
        self.forwards += 1
        self.frames += args[0].shape[2] * (args[0].shape[0] if self.rows else 1)

    rows = False

    def remove(self):
        self._handle.remove()


class FakeOfficial:
    packages = ("skyreels_v2_infer",)
    dit = "transformer"
    options: ClassVar = {"num_frames": 10, "num_inference_steps": 9, "ar_step": 2}

    def __init__(self, checkout=None):
        self.source = HERE / "fakes" / "official"

    def copy(self, folder):
        shutil.copytree(self.source, folder, ignore=shutil.ignore_patterns("__pycache__"))

    def load(self, folder):
        """Import what lies in a folder in the place of what was imported before."""
        for name in [name for name in sys.modules if name.partition(".")[0] in self.packages]:
            del sys.modules[name]
        sys.path.insert(0, str(folder))
        try:
            importlib.invalidate_caches()
            return self.prepare()
        finally:
            sys.path.remove(str(folder))

    def prepare(self):
        from skyreels_v2_infer.pipelines import DiffusionForcingPipeline

        pipe = DiffusionForcingPipeline()
        return pipe, pipe.transformer.patch_embedding, lambda **options: pipe("a disc", **options)


class FakeMagi(FakeOfficial):
    packages = ("inference",)
    dit = "dit_model"
    options: ClassVar = {}

    def __init__(self, checkout=None):
        self.source = HERE / "fakes" / "magi"

    def prepare(self):
        from inference import tiny

        model = tiny.make_model(num_steps=16)
        return model, model.x_embedder, lambda **options: tiny.generate(model, **options)


class Diffusers(FakeOfficial):
    options: ClassVar = {"num_frames": 37, "num_inference_steps": 10, "ar_step": 2}
    modules = (
        "diffusers.models.transformers.transformer_skyreels_v2",
        "diffusers.pipelines.skyreels_v2.pipeline_skyreels_v2_diffusion_forcing",
    )

    def __init__(self, checkout=None):
        import diffusers

        self.source = Path(diffusers.__file__).parent

    def copy(self, folder):
        for module in self.modules:
            name = module.rpartition(".")[2] + ".py"
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.source.joinpath(*module.split(".")[1:]).with_suffix(".py"), folder / name)

    def load(self, folder):
        import diffusers
        from hosts import generate, tiny_pipeline

        made = []
        for module in self.modules:
            spec = importlib.util.spec_from_file_location(module, folder / f"{module.rpartition('.')[2]}.py")
            sys.modules[module] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[module])
            made.append(sys.modules[module])
        diffusers.SkyReelsV2Transformer3DModel = made[0].SkyReelsV2Transformer3DModel
        diffusers.SkyReelsV2DiffusionForcingPipeline = made[1].SkyReelsV2DiffusionForcingPipeline
        pipe = tiny_pipeline()
        return pipe, pipe.transformer.patch_embedding, lambda **options: generate(pipe, **options)


class Official(FakeOfficial):
    """The clone of SkyReels-V2."""

    options: ClassVar = {"num_frames": 57, "base_num_frames": 57}

    def __init__(self, checkout):
        self.source = Path(checkout)

    def copy(self, folder):
        shutil.copytree(self.source / "skyreels_v2_infer", folder / "skyreels_v2_infer")

    def load(self, folder):
        import official_skyreels
        import torch

        official_skyreels.torch = torch  # as its own main does
        for name in [name for name in sys.modules if name.partition(".")[0] in self.packages]:
            del sys.modules[name]
        try:
            pipe = official_skyreels.build(official_skyreels.import_upstream(folder))
        finally:
            sys.path.remove(str(folder))
        return pipe, pipe.transformer.patch_embedding, lambda **options: official_skyreels.generate(pipe, **options)


HOSTS = {
    "fake official": FakeOfficial,
    "fake magi": FakeMagi,
    "diffusers": Diffusers,
    "official": Official,
}


def run(loaded, options, traced):
    """Every setting on one host: what came out, what was told, what ran."""
    from scope_patch import NotApplied, patched

    target, embedder, generate = loaded
    found = {"unpatched": {"made": generate(**options)}}
    for name, settings in SETTINGS.items():
        if traced and name == "whole":
            settings = {**TRACED, "selective": False, "per_chunk": False}
        counter = Counter(embedder)
        counter.rows = not hasattr(target, "transformer")
        told = {"error": "", "reasons": []}
        try:
            with patched(target, **settings) as record:
                told["made"] = generate(**options)
            report = record.report
            told["status"], told["reasons"] = report["status"], report["reasons"]
            told["generation"] = report["generations"][-1] if report["generations"] else {}
        except NotApplied as reason:  # `apply` says so, and the user generates without us
            told["status"], told["reasons"], told["generation"] = "not-applied", [str(reason)], {}
            told["made"] = generate(**options)
        except Exception as error:  # the host's generation is lost
            told["error"] = f"{type(error).__name__}: {error}"
        counter.remove()
        told["forwards"], told["frames"] = counter.forwards, counter.frames
        found[name] = told
    return found


def compare(mutated, base):
    """What a test asks: numbers and words, no tensors."""
    import torch

    unpatched, result = mutated["unpatched"]["made"], {}
    same_host = torch.equal(unpatched, base["unpatched"]["made"])
    for name in SETTINGS:
        told, was = mutated[name], base[name]
        if told["error"]:
            result[name] = {"error": told["error"]}
            continue
        made, generation = told["made"], told["generation"]
        result[name] = {
            "error": "",
            "status": told["status"],
            "reasons": told["reasons"],
            "remarks": generation.get("remarks", []),
            "guards": generation.get("guards", {}),
            "skipped": generation.get("forwards", {}).get("skipped", 0),
            "reported": [
                generation.get("forwards", {}).get("run", 0),
                sum(segment["slots_computed"] for segment in generation.get("segments", [])),
            ],
            "counted": [told["forwards"], told["frames"]],
            "unpatched": torch.equal(made, unpatched),
            "as before": same_host and torch.equal(made, was["made"]),
            "same host": same_host,
            "error of it": distance(made, unpatched),
            "error before": distance(was["made"], base["unpatched"]["made"]),
        }
    return result


def distance(made, expected):
    return float((made.double() - expected.double()).norm() / expected.double().norm())


def main(name, folder, *checkout):
    from drifts import MUTATIONS

    host, bases = HOSTS[name](*checkout), {}
    for k, mutation in enumerate(MUTATIONS[name]):
        options: ClassVar = {**host.options, **mutation.options}
        traced = any(host.dit in file for file, _, _ in mutation.edits)
        key = repr((options, traced))
        if key not in bases:
            plain = Path(folder, f"base{k}")
            host.copy(plain)
            bases[key] = run(host.load(plain), options, traced)
        copy = Path(folder, str(k))
        host.copy(copy)
        for file, old, new in mutation.edits:
            text = (copy / file).read_text()
            assert old in text, f"{mutation.name}: {file} has no {old!r}"
            (copy / file).write_text(text.replace(old, new))
        with contextlib.redirect_stdout(sys.stderr):
            found = compare(run(host.load(copy), options, traced), bases[key])
        print(json.dumps({"name": mutation.name, **found}), flush=True)


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(1)
    main(*sys.argv[1:])
