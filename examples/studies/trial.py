"""What the studies share: videos of the unpatched host once, each setting's against them, and a table.

Import it before what lies in examples/: a script has its own folder on the path, and this puts examples/ there too.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from functools import partial
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

EXAMPLES = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(EXAMPLES))

ALWAYS = {"cache_threshold": 0.0, "predict_threshold": 1e9}
"""Predict wherever it may be: equal forwards for all predictors."""


@dataclass(frozen=True)
class Made:
    """One video: latents; frames, uint8 [F, H, W, 3] (None without a decoder); seconds; DiT FLOPs by hooks."""

    latents: Any
    frames: Any
    seconds: float
    flops: int


@dataclass(frozen=True)
class Score(Made):
    """A patched video against its reference: dB and SSIM of the frames (nan without), relative error of the latents.

    Attributes: generation, its part of the report.
    """

    psnr: float
    ssim: float
    error: float
    generation: dict[str, Any]

    def slots(self, which: str) -> int:
        """Latent frames forwarded; `which`: "computed" or "baseline"."""
        return sum(segment[f"slots_{which}"] for segment in self.generation["segments"])


class Trial:
    """The unpatched videos, made at once; `score` and `scores` make patched ones.

    Args:
        target: what is patched.
        videos: {name: makes its latents, the same at every call}.
        decode: frames of latents.
        counted: the DiT whose FLOPs are counted.
    """

    def __init__(
        self,
        target: Any,
        videos: dict[str, Callable[[], Any]],
        decode: Callable[[Any], Any] | None = None,
        counted=None,
    ) -> None:
        self.target, self.videos, self._decode, self._counted = target, videos, decode, counted
        self.references = {name: self._made(name) for name in videos}

    def score(self, name: str, **settings: Any) -> Score:
        """One of the videos under these settings."""
        import scope_patch
        from scope_patch.compare.metrics import psnr, ssim

        with scope_patch.patched(self.target, strict=True, **settings) as run:
            made = self._made(name)
        plain = self.references[name]
        quality = {"psnr": float("nan"), "ssim": float("nan")}
        if made.frames is not None:
            quality = {"psnr": psnr(plain.frames, made.frames), "ssim": ssim(plain.frames, made.frames)}
        error = ((made.latents - plain.latents).norm() / plain.latents.norm()).item()
        return Score(**vars(made), **quality, error=error, generation=run.report["generations"][0])

    def scores(self, **settings: Any) -> list[Score]:
        """All of them."""
        return [self.score(name, **settings) for name in self.videos]

    def _made(self, name: str) -> Made:
        from benchmark.work import Work

        with nullcontext() if self._counted is None else Work(self._counted) as work:
            begin = time.perf_counter()
            latents = self.videos[name]()
            seconds = time.perf_counter() - begin
        frames = self._decode(latents) if self._decode else None
        return Made(latents, frames, seconds, work.flops if work else 0)


def mean(scores: Iterable[Score], key: str) -> float:
    return fmean(getattr(score, key) for score in scores)


def told(values: list[float], form: str) -> str:
    """Their mean, and its standard error where there are several; `form`: how numbers are written (".1f")."""
    error = f" ± {stdev(values) / sqrt(len(values)):{form.lstrip('+')}}" if len(values) > 1 else ""
    return f"{fmean(values):{form}}{error}"


def demo(prompts: Iterable[str], threads: int = 1, host: str = "demo", **options: Any) -> Trial:
    """One of the trained models; a video's seed is its prompt's place in the list, `options` are for its `sample`.

    Args:
        threads: on a busy machine two are many times slower than one.
    """
    import torch

    from benchmark.hosts import film

    torch.set_num_threads(threads)
    made = film(host)
    videos = {text: partial(made.sample, text, seed=k, **options) for k, text in enumerate(prompts)}
    return Trial(made.target, videos, made.decode, made.dit)


def magi(args: argparse.Namespace) -> Trial:
    """The official MAGI-1 loop with the options of `magi_parser`, a video a seed. Needs a clone (see magi_cpu/host.py).

    The model is tiny and random, but smooth in the timestep (magi_cpu/weights.py): it can rank predictors and rules, it
    cannot say how a film looks. So latents are compared, and no frames.
    """
    from magi_cpu import host

    options = host.Options(**{f.name: getattr(args, f.name) for f in fields(host.Options) if hasattr(args, f.name)})
    host.prepare()
    model = host.build(options)
    seeds = range(options.seed, options.seed + args.seeds)
    return Trial(model, {str(seed): partial(host.generate, model, replace(options, seed=seed)) for seed in seeds})


def parser(about: str | None, prompts: int, *, hosts: bool = False) -> argparse.ArgumentParser:
    """For a study on the demo: --prompts and --threads. `hosts`: --host and --options too, see `asked`."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--prompts", type=int, default=prompts, help="how many (default: %(default)s)")
    made.add_argument("--threads", type=int, default=1)
    if hosts:
        made.add_argument("--host", default="demo", help="one of benchmark/hosts.py (default: %(default)s)")
        made.add_argument("--options", nargs="*", default=[], metavar="NAME=N", help="of the host: ar_step=0, cfg=1")
    return made


def asked(args: argparse.Namespace) -> dict[str, int]:
    """What --options says."""
    return {name: int(value) for name, value in (text.split("=") for text in args.options)}


def magi_parser(about: str | None) -> argparse.ArgumentParser:
    """For a study on MAGI-1: the sizes of magi_cpu.host.Options, and --seeds."""
    from magi_cpu import host

    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = host.Options(num_frames=240, steps=64)
    for field in fields(host.Options):
        value = getattr(defaults, field.name)
        if not isinstance(value, bool):
            made.add_argument("--" + field.name.replace("_", "-"), type=type(value), default=value)
    made.add_argument("--seeds", type=int, default=1, help="noises to average over")
    return made


class Table:
    """A table in Markdown, printed as it grows; `lines` has it all."""

    def __init__(self, *names: str) -> None:
        self.lines: list[str] = []
        self.row(*names)
        self._print("|" + "---|" * len(names))

    def row(self, *cells: object) -> None:
        self._print("| " + " | ".join(map(str, cells)) + " |")

    def _print(self, line: str) -> None:
        self.lines.append(line)
        print(line, flush=True)
