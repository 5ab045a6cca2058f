"""Failing on purpose in any function of ours that a host can reach, and watching what the host makes of it.

Functions are found and made to fail by a profiler: it sees every call, also of closures and of names that were
imported elsewhere, and what it raises is raised where that function begins.
"""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType
from typing import Any

import torch
from conftest import ROOT
from hosts import fake_magi, fake_pipeline, tiny_pipeline
from hosts import generate as generate_diffusers

import scope_patch
from scope_patch.errors import UsageError
from scope_patch.patch.attach import bindings
from scope_patch.report.read import parse

OURS = (f"{ROOT}/scope_patch/", f"{ROOT}/registry/")


class InjectedError(Exception):
    """Ours, on purpose."""


def place(code: CodeType) -> str:
    """`file.py:function`, as it is told."""
    return f"{Path(code.co_filename).name}:{code.co_name}"


class Calls:
    """Counts calls of functions of ours while it lasts. Attributes: of, code -> calls."""

    def __init__(self) -> None:
        self.of: Counter[CodeType] = Counter()

    def __enter__(self) -> Calls:
        sys.setprofile(self._event)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _event(self, frame: Any, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(OURS):
            self.of[frame.f_code] += 1


@dataclass
class Failure:
    """Raises `error` where the call number `at` of a function begins. `then` is called right before that."""

    code: CodeType
    at: int
    error: BaseException
    then: Callable[[], None] = lambda: None
    seen: int = 0

    def __enter__(self) -> Failure:
        sys.setprofile(self._event)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _event(self, frame: Any, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code is self.code:
            self.seen += 1
            if self.seen == self.at:
                sys.setprofile(None)
                self.then()
                raise self.error


class Watch:
    """How many blocks really ran in each call of the DiT's forward by the host; a patch on top of ours.

    Attributes: calls, one number a call; whole, the number of blocks of a whole forward.
    """

    def __init__(self, model: torch.nn.Module, name: str) -> None:
        binding = bindings()[name]
        seam = binding.host.dit.seam
        self._owner, self._name = getattr(sys.modules[seam.module], seam.owner), seam.replaced
        blocks = model.get_submodule(binding.host.dit.blocks)
        blocks = list(getattr(blocks, "layers", blocks))
        self.whole, self.calls = len(blocks), []
        self._hooks = [block.register_forward_pre_hook(self._ran) for block in blocks]

    def __enter__(self) -> Watch:
        self._raw = vars(self._owner)[self._name]

        def called(model: Any, *args: Any, **kwargs: Any) -> Any:
            self.calls.append(0)
            return self._raw.__get__(model, self._owner)(*args, **kwargs)

        setattr(self._owner, self._name, called)
        return self

    def _ran(self, *_: object) -> None:
        self.calls[-1] += 1

    def __exit__(self, *_: object) -> None:
        setattr(self._owner, self._name, self._raw)
        for hook in self._hooks:
            hook.remove()


class Warned(logging.Handler):
    """Warnings of ours while it lasts, with their tracebacks' last words. Attributes: said."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())

    def __enter__(self) -> Warned:
        logging.getLogger("scope_patch").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("scope_patch").removeHandler(self)


def owners(name: str) -> list[dict[str, Any]]:
    """What every class that owns a seam of a host holds now."""
    host = bindings()[name].host
    seams = (seam for entry in host.videos for seam in host.seams(entry))
    found = [getattr(sys.modules.get(seam.module), seam.owner, None) for seam in seams]
    return [dict(vars(owner)) for owner in found if owner is not None]


def same(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> bool:
    """Whether they hold the very same objects."""
    pairs = zip(before, after, strict=True)
    return all(one.keys() == two.keys() and all(one[name] is two[name] for name in one) for one, two in pairs)


@dataclass
class Case:
    """A host with settings.

    Attributes:
        name: of its architecture.
        make: -> (what `apply` gets, its DiT).
        run: what `apply` gets -> latents.
        settings: of ours; a Path stands for a file in a temporary folder.
    """

    name: str
    make: Callable[[], tuple[Any, torch.nn.Module]]
    run: Callable[[Any], torch.Tensor]
    settings: dict[str, Any] = field(default_factory=dict)


def _official():
    pipe = fake_pipeline()
    return pipe, pipe.transformer


def _diffusers():
    pipe = tiny_pipeline()
    return pipe, pipe.transformer


def _magi():
    model = fake_magi().make_model(num_frames=72, num_steps=12)
    return model, model


def _run_official(pipe):
    torch.manual_seed(7)
    return pipe("a disc", num_frames=15, num_inference_steps=6, ar_step=2)


def _run_diffusers(pipe):
    return generate_diffusers(pipe, num_frames=17, num_inference_steps=5, ar_step=2, causal_block_size=1)


def _run_magi(model):
    return fake_magi().generate(model)


SIGNAL = {"cache_threshold": 0.05, "predict_threshold": 0.6, "selective": False}
REPORT = {"report": Path("run.json")}
CASES = {
    "signal": Case("skyreels-v2", _official, _run_official, {**SIGNAL, **REPORT}),
    "placed": Case("skyreels-v2", _official, _run_official, {"target_speedup": 2.0, "placement": "error", **REPORT}),
    "profile": Case("skyreels-v2", _official, _run_official, {"target_speedup": 1.5, "profile": Path("profile.json")}),
    "residual": Case("skyreels-v2", _official, _run_official, {**SIGNAL, "level": "residual"}),
    "delta-dit": Case("skyreels-v2", _official, _run_official, {"policy": "delta-dit", "selective": False}),
    "teacache": Case("skyreels-v2", _official, _run_official, {"policy": "teacache", "selective": False}),
    "calibrate": Case("skyreels-v2", _official, _run_official, {"policy": "never", "calibrate": Path("new.json")}),
    "magi": Case("magi-1", _magi, _run_magi, {"cache_threshold": 0.0, "predict_threshold": 0.1, "max_skip": 9}),
    "magi placed": Case("magi-1", _magi, _run_magi, {"target_speedup": 1.5, "placement": "error"}),
    "diffusers": Case("skyreels-v2-diffusers", _diffusers, _run_diffusers, {**SIGNAL, **REPORT}),
}
BLOCKS = {"num_frames": 33, "num_inference_steps": 5, "ar_step": 2, "causal_block_size": 2}


def _run_blocks(pipe):
    return generate_diffusers(pipe, **BLOCKS)


CASES["frozen"] = Case("skyreels-v2-diffusers", _diffusers, _run_blocks, {"target_speedup": 1.3, **REPORT})
ABSORBED = "decisions are made from the timestep itself"
"""What is said where the signal cannot be had; the generation stays ours then."""


class Trial:
    """One case, as often as wanted: what the host makes alone, what it makes with us, and with us failing."""

    def __init__(self, case: str, folder: Path) -> None:
        self.case = CASES[case]
        self.settings = {
            key: str(folder / value) if isinstance(value, Path) else value for key, value in self.case.settings.items()
        }
        self._calibrated(folder)
        self.target, self.model = self.case.make()
        self.alone = self.case.run(self.target)
        self.before = owners(self.case.name)
        with Calls() as first, self.patched() as run:
            self.with_us = self.case.run(self.target)
        assert run.report["status"] == "applied" and not run.report["reasons"]
        with Calls() as again, self.patched():
            assert torch.equal(self.case.run(self.target), self.with_us)
        outside = Calls()  # functions that only `apply` and `remove` call
        with outside, self.patched():
            pass
        self.calls = {code: again.of[code] - outside.of[code] for code in again.of}
        self.calls = {code: number for code, number in self.calls.items() if number > 0}
        self.fresh = {code: number for code, number in first.of.items() if again.of[code] < number}
        """Functions called (more often) in the first generation of a model."""

    def _calibrated(self, folder: Path) -> None:
        if "profile" in self.settings:
            target, _ = self.case.make()
            with scope_patch.patched(target, policy="never", calibrate=self.settings["profile"]):
                self.case.run(target)

    def patched(self, **more: Any):
        return scope_patch.patched(self.target, **{**self.settings, **more})

    def renew(self) -> None:
        """A new model, of which nothing is known yet."""
        self.target, self.model = self.case.make()

    def complaints(self, code: CodeType, at: int, error: BaseException, *, follow: bool) -> list[str]:
        """Run with that failure. Returns what is wrong with what came of it; nothing, if all is well.

        Args:
            follow: look at the generation after it, too.
        """
        wrong: list[str] = []
        modules = [dict(module._modules) for module in self.model.modules()]
        handle = scope_patch.apply(self.target, **self.settings)
        failed: list[tuple[int, bool]] = []
        made: Any = None
        with ExitStack() as stack:
            warned = stack.enter_context(Warned())
            watch = stack.enter_context(Watch(self.model, self.case.name))

            def now(watch: Watch = watch) -> None:
                failed.append((len(watch.calls), any(blocks < watch.whole for blocks in watch.calls[:-1])))

            moment = Failure(code, at, error, now)
            try:
                with moment:
                    made = self.case.run(self.target)
            except BaseException as raised:
                if raised is not error or isinstance(error, Exception):
                    wrong.append(f"the host got {raised!r}")
        if not failed:
            wrong.append(f"was called {moment.seen} times only")
        interrupt = not isinstance(error, Exception)
        (record,) = handle.run.generations or (None,)
        try:
            parse(json.loads(json.dumps(handle.report)))
        except UsageError as problem:
            wrong.append(f"nobody can read the report: {problem}")
        if interrupt:
            if made is not None:
                wrong.append("the interrupt was swallowed")
            if warned.said:
                wrong.append(f"warned of an interrupt: {warned.said}")
        elif made is not None:
            wrong += self._of_result(made, record, warned.said, failed, watch)
        if bindings()[self.case.name]._current.generations:
            wrong.append("a generation is still under way")
        if [dict(module._modules) for module in self.model.modules()] != modules:
            wrong.append("the model has other modules than before")
        memory = follow and isinstance(error, torch.OutOfMemoryError)
        if memory and not torch.equal(self.case.run(self.target), self.with_us):
            wrong.append("the next generation is not as usual")
        handle.remove()
        if not same(self.before, owners(self.case.name)):
            wrong.append("vars(owner) are not what they were")
        if interrupt:
            self.case.run(self.target)  # the fakes count their calls: without any, the next one would not trace anew
        if follow:
            with self.patched(strict=True):
                if not torch.equal(self.case.run(self.target), self.with_us):
                    wrong.append("the generation after a new apply is not as usual")
        return wrong

    def _of_result(self, made: Any, record: Any, said: list[str], failed: list[Any], watch: Watch) -> list[str]:
        wrong = []
        if len(said) != 1:
            wrong.append(f"{len(said)} warnings: {said}")
        if made.shape != self.alone.shape or made.dtype != self.alone.dtype or not made.isfinite().all():
            wrong.append("the result is not of the host's kind")
        absorbed = bool(said) and ABSORBED in said[0]
        if absorbed or not failed:
            return wrong
        number, skipped = failed[0]
        late = watch.calls[number:]
        if any(blocks != watch.whole for blocks in late):
            wrong.append(f"after it, in the calls from {number} on, blocks ran so often: {late}")
        if not skipped and "selective" in self.settings and not torch.equal(made, self.alone):
            wrong.append("nothing had been skipped, and the result is not the host's own")
        return wrong
