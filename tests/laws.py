"""What holds for every host, each law once; run over `Subject`s by test_laws.py and by the official_*.py scripts.

A law is a function (subject, case) that returns nothing, or raises AssertionError. Unpatched and predicted generations
are made once a process and case.
"""

from __future__ import annotations

import itertools
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hosting import SEED, Subject, at_forward, embedder
from no_sync import no_sync
from turns import Turns

import scope_patch
from scope_patch import registry
from scope_patch.errors import NotApplied
from scope_patch.patch.attach import bindings
from scope_patch.patch.session import Session

PREDICT = {"cache_threshold": 0.0, "predict_threshold": 1e9, "max_skip": 5}
NEVER = {"policy": "never"}
ABSENT = "no registry file yet"


class AbsentError(Exception):
    """No registry file names the subject's entry, and no request for it is taken."""


@dataclass(frozen=True)
class Made:
    """One generation: what came out, and what really ran."""

    latents: torch.Tensor
    forwards: int
    frames: int
    blocks: int
    tokens: int
    draws: torch.Tensor
    report: dict[str, Any]

    @property
    def generation(self) -> dict[str, Any]:
        (generation,) = self.report["generations"]
        return generation


def make(subject: Subject, options: dict[str, Any], seed: int = SEED, settings: dict[str, Any] | None = None) -> Made:
    """A generation of a new pipeline; `settings`: of ours, None is unpatched."""
    pipe, report = subject.make(**options), {}
    with subject.count(pipe) as count:
        if settings is None:
            latents = subject.generate(pipe, seed, **options)
        else:
            with scope_patch.patched(pipe, **settings, strict=True) as run:
                latents = subject.generate(pipe, seed, **options)
            report = run.report
    draws = torch.random.get_rng_state()
    return Made(latents, count.forwards, count.frames, count.blocks, count.tokens, draws, report)


_made: dict[Any, Made] = {}


def alone(subject: Subject, case: str, seed: int = SEED) -> Made:
    """The unpatched host."""
    return _once(subject, case, seed, None)


def predicted(subject: Subject, case: str, seed: int = SEED) -> Made:
    """A new pipeline that skips what it can."""
    return _once(subject, case, seed, PREDICT)


def _once(subject: Subject, case: str, seed: int, settings: dict[str, Any] | None) -> Made:
    key = (subject.name, case, seed, settings is None)
    if key not in _made:
        _made[key] = make(subject, dict(subject.cases[case]), seed, settings)
    return _made[key]


def check_known(subject: Subject) -> None:
    """Raises AbsentError where there is no registry file for it."""
    if absent := why_absent(subject):
        raise AbsentError(absent)


@cache
def why_absent(subject: Subject) -> str:
    """Why there is no host for it; "" where there is."""
    files = [path for folder in registry.__path__ for path in Path(folder).glob("*.py")]
    if any(f'"{subject.entry}"' in file.read_text() for file in files):
        return ""
    options = dict(subject.cases[subject.usual])
    pipe = subject.make(**options)
    try:
        with scope_patch.patched(pipe, **NEVER) as run:
            subject.generate(pipe, SEED, **options)
    except NotApplied as reason:
        return f"{ABSENT}: {reason}"
    return "" if run.report["generations"] else f"{ABSENT}: {subject.entry} runs unpatched"


def check_builder(subject: Subject, case: str) -> None:
    """The unpatched host: another run of it is equal, another seed is not, forwards are as many as arithmetic says."""
    options, made = dict(subject.cases[case]), alone(subject, case)
    assert made.latents.isfinite().all() and made.forwards > 3
    if subject.expected is not None:
        assert made.forwards == subject.expected(**options)
    pipe = subject.make(**options)
    assert torch.equal(made.latents, subject.generate(pipe, SEED, **options))
    assert not torch.equal(made.latents, subject.generate(pipe, SEED + 1, **options))


# For every case.


def never(subject: Subject, case: str) -> None:
    """Policy `never` is the unpatched host, bit by bit and draw by draw."""
    expected = alone(subject, case)
    if subject.expected is not None:
        assert expected.forwards == subject.expected(**subject.cases[case])
    made = make(subject, dict(subject.cases[case]), settings=NEVER)
    assert made.report["status"] == "applied", made.report["reasons"]
    assert made.latents.dtype == expected.latents.dtype and torch.equal(made.latents, expected.latents)
    assert torch.equal(made.draws, expected.draws), "other draws from the global generator"
    forwards = made.generation["forwards"]
    assert forwards == {"baseline": expected.forwards, "run": expected.forwards, "skipped": 0}
    assert (made.forwards, made.blocks) == (expected.forwards, expected.blocks)


def counts(subject: Subject, case: str) -> None:
    """The report says what the hooks counted; a skipped forward runs no block and takes no draw of the host's away."""
    expected, made = alone(subject, case), predicted(subject, case)
    assert made.report["status"] == "applied", made.report["reasons"]
    assert made.latents.shape == expected.latents.shape and made.latents.dtype == expected.latents.dtype
    assert made.latents.isfinite().all()
    assert torch.equal(made.draws, expected.draws), "other draws from the global generator"
    generation = made.generation
    forwards, segments = generation["forwards"], generation["segments"]
    assert forwards["run"] == made.forwards < expected.forwards == forwards["baseline"]
    assert forwards["skipped"] == forwards["baseline"] - forwards["run"]
    assert made.blocks * expected.forwards == expected.blocks * made.forwards
    assert sum(segment["slots_computed"] for segment in segments) == made.frames
    assert made.frames < sum(segment["slots_baseline"] for segment in segments)
    assert generation["finished"] and generation["error"] is None and generation["reasons"] == []
    assert set(generation["guards"]) <= {"stability"}
    for segment in segments:
        iterations = segment["iterations"]
        assert len(segment["modes"]) == len(segment["reasons"]) == len(segment["intervals"]) == iterations
        runs = [len([*group]) for skipped, group in itertools.groupby(segment["modes"], "R".__ne__) if skipped]
        assert max(runs, default=0) <= PREDICT["max_skip"]


# For the usual case.


def target(subject: Subject, case: str) -> None:
    """Who asks for three times less work gets it within a tenth, as planned and as counted."""
    options = dict(subject.target)
    expected, made = make(subject, options), make(subject, options, settings={"target_speedup": 3.0})
    assert made.generation["forwards"]["run"] == made.forwards
    planned = [plan["speedup"] for plan in made.generation["planned"]]
    assert planned and all(abs(speedup / 3 - 1) <= 0.1 for speedup in planned), planned
    if subject.tokens:
        assert abs(expected.tokens / made.tokens / 3 - 1) <= 0.1, (expected.tokens, made.tokens)
    assert made.tokens < expected.tokens / 2
    assert made.latents.isfinite().all()


class HostsOwnError(Exception):
    """What a host raises in the midst of a forward."""


def fails(subject: Subject, case: str) -> None:
    """The host's own error passes unchanged, and leaves nothing behind."""
    options, usual = dict(subject.cases[case]), predicted(subject, case)
    pipe, error = subject.make(**options), HostsOwnError("on purpose")

    def fail() -> None:
        raise error

    with scope_patch.patched(pipe, **PREDICT, strict=True) as run:
        hook = at_forward(subject.model(pipe), max(2, usual.forwards // 2), fail)
        caught = None
        try:
            subject.generate(pipe, SEED + 1, **options)
        except HostsOwnError as raised:
            caught = raised
        hook.remove()
        assert caught is error and error.__cause__ is None and error.__context__ is None
        assert traceback.extract_tb(error.__traceback__)[-1].name == "fail"
        again = subject.generate(pipe, SEED, **options)
    failed, done = run.report["generations"]
    assert not failed["finished"] and "on purpose" in failed["error"] and done["finished"]
    assert failed["forwards"]["run"] == max(2, usual.forwards // 2)
    assert torch.equal(again, usual.latents), "what failed has left something behind"
    unpatched = subject.generate(pipe, SEED, **options)
    assert torch.equal(unpatched, alone(subject, case).latents), "what was patched has left something behind"


def interrupt(subject: Subject, case: str) -> None:
    """`_interrupt` makes the loop turn without forwards: as without us, and nothing is left behind."""
    options, usual = dict(subject.cases[case]), predicted(subject, case)

    def interrupted(pipe: Any) -> torch.Tensor:
        hook = at_forward(subject.model(pipe), 2, lambda: setattr(pipe, "_interrupt", True))
        try:
            return subject.generate(pipe, SEED, **options)
        finally:
            hook.remove()

    pipe = subject.make(**options)
    expected = interrupted(pipe)
    with scope_patch.patched(pipe, **NEVER, strict=True) as run:
        assert torch.equal(interrupted(pipe), expected)
    with scope_patch.patched(pipe, **PREDICT, strict=True) as run:
        made = interrupted(pipe)
        assert made.shape == expected.shape and made.isfinite().all()
        assert torch.equal(subject.generate(pipe, SEED, **options), usual.latents)
    first, second = run.report["generations"]
    assert first["finished"] and first["forwards"]["run"] < second["forwards"]["run"]


def nested(subject: Subject, case: str) -> None:
    """A generation within a forward of another one."""
    options = dict(subject.cases[case])
    outer, inner = subject.make(**options), subject.make(**options)
    made = []
    with scope_patch.patched(outer, **PREDICT, strict=True), scope_patch.patched(inner, **PREDICT, strict=True):

        def within() -> None:
            draws = torch.random.get_rng_state()
            made.append(subject.generate(inner, SEED + 1, **options))
            torch.random.set_rng_state(draws)

        hook = at_forward(subject.model(outer), 3, within)
        made.append(subject.generate(outer, SEED, **options))
        hook.remove()
    assert torch.equal(made[1], predicted(subject, case).latents), "the outer one is another"
    assert torch.equal(made[0], predicted(subject, case, SEED + 1).latents), "the inner one is another"


def threads(subject: Subject, case: str) -> None:
    """Two pipelines in two threads, which take turns within every forward."""
    options, turns = dict(subject.cases[case]), Turns()
    seeds = (SEED, SEED + 1)
    pipes = [subject.make(**options) for _ in seeds]
    hooks = [embedder(subject.model(pipe)).register_forward_pre_hook(turns.switch) for pipe in pipes]
    handles = [scope_patch.apply(pipe, **PREDICT, strict=True) for pipe in pipes]
    try:
        made = turns.run(
            [lambda k=k: subject.generate(pipes[k], seeds[k], **options) for k in range(len(seeds))],
        )
    finally:
        for hook in (*hooks, *handles):
            hook.remove()
    assert turns.switches > 3, "they really took turns"
    for seed, latents in zip(seeds, made, strict=True):
        assert torch.equal(latents, predicted(subject, case, seed).latents)


def removal(subject: Subject, case: str) -> None:
    """Classes hold the very same objects as before, instances the same names; also after a generation."""
    options = dict(subject.cases[case])
    twin, pipe = subject.make(**options), subject.make(**options)
    subject.generate(twin, SEED, **options)
    before = _classes(subject, pipe)
    handle = scope_patch.apply(pipe, **PREDICT, strict=True)
    during = _classes(subject, pipe)
    assert not _same(before, during), "nothing was patched that this law knows of"
    subject.generate(pipe, SEED, **options)
    handle.remove()
    after = _classes(subject, pipe)
    assert before.keys() == after.keys()
    assert _same(before, after), [owner for owner in before if not _same_object(before[owner], after[owner])]
    for one, two in zip(_instances(subject, twin), _instances(subject, pipe), strict=True):
        assert vars(one).keys() == vars(two).keys()


def _instances(subject: Subject, pipe: Any) -> list[Any]:
    found = [pipe, subject.model(pipe), getattr(pipe, "scheduler", None)]
    return [instance for instance in found if instance is not None]


def _classes(subject: Subject, pipe: Any) -> dict[type, dict[str, Any]]:
    classes = [type(instance) for instance in _instances(subject, pipe)] + [*subject.owners()]
    return {owner: dict(vars(owner)) for cls in classes for owner in cls.__mro__ if owner is not object}


def _same(one: dict[type, Any], two: dict[type, Any]) -> bool:
    return all(_same_object(one[owner], two[owner]) for owner in one)


def _same_object(one: dict[str, Any], two: dict[str, Any]) -> bool:
    return one.keys() == two.keys() and all(one[name] is two[name] for name in one)


def looks(subject: Subject, case: str) -> None:
    """While the loop runs, our code looks at no number of a tensor; at two a section where a clock is compared."""
    options = dict(subject.cases[case])
    pipe = subject.make(**options)
    with scope_patch.patched(pipe, **PREDICT, strict=True) as run, no_sync() as operations:
        latents = subject.generate(pipe, SEED, **options)
    (generation,) = run.report["generations"]
    assert generation["finished"] and generation["forwards"]["skipped"] > 3 and operations.seen > 20
    assert operations.looks <= subject.looks * subject.sections(**options)
    assert torch.equal(latents, predicted(subject, case).latents)


def switched_off(subject: Subject, case: str) -> None:
    """Whatever ends the acceleration in mid-run, the report goes on counting, and says from where on that was."""
    options, expected, usual = dict(subject.cases[case]), alone(subject, case), predicted(subject, case)
    modes = "".join(segment["modes"] for segment in usual.generation["segments"])
    # The first recompute after a skip, where there is one.
    again = modes.find("R", modes.find("P")) if "P" in modes else -1
    each, more = divmod(expected.forwards, len(modes))
    at = 1 + more + each * modes[:again].count("R") if again > 0 else usual.forwards // 2
    for how, error in OFF.items():
        pipe, serve = subject.make(**options), Session.serve

        def failing(session: Session, call: Any, error: Exception | None = error, serve: Any = serve) -> Any:
            Session.serve = serve  # type: ignore[method-assign]
            assert error is not None
            raise error

        keeper = scope_patch.apply(subject.make(**options), **NEVER)  # the wrappers stay for its sake
        handle = scope_patch.apply(pipe, **PREDICT)

        def end(handle: Any = handle, error: Exception | None = error, failing: Any = failing) -> None:
            if error is None:
                handle.remove()
            else:
                Session.serve = failing  # type: ignore[method-assign]

        hook = at_forward(subject.model(pipe), at, end)
        try:
            with subject.count(pipe) as count:
                made = subject.generate(pipe, SEED, **options)
        finally:
            Session.serve = serve  # type: ignore[method-assign]
            hook.remove()
            handle.remove()
            keeper.remove()
        (generation,) = handle.report["generations"]
        forwards, segments = generation["forwards"], generation["segments"]
        assert made.isfinite().all() and generation["finished"], how
        assert forwards["run"] == count.forwards < expected.forwards == forwards["baseline"], (
            how,
            forwards,
            count.forwards,
        )
        assert sum(segment["slots_computed"] for segment in segments) == count.frames, how
        assert handle.report["status"] == generation["status"] == "partly", how
        (reason,) = generation["reasons"]
        decided = len(segments[-1]["modes"])
        places = [f"unpatched from iteration {k} of segment {len(segments)} on" for k in (decided - 1, decided)]
        assert how in reason and any(place in reason for place in places)


OFF = {
    "of a test": NotApplied("of a test"),
    "a failure of ours": ZeroDivisionError("on purpose"),
    "out of memory": torch.OutOfMemoryError("on purpose"),
    "removed": None,
}


def prompt(subject: Subject, case: str) -> None:
    """A prompt that changes in mid-run is the same job in place and by another tensor: its first forward is run."""
    usual = predicted(subject, case).generation
    each, more = divmod(usual["forwards"]["baseline"], sum(segment["iterations"] for segment in usual["segments"]))
    at = more + each * (usual["segments"][0]["modes"].index("PP") + 1)
    expected = [_texts(subject, case, _replaced(at, in_place), NEVER) for in_place in (False, True)]
    assert torch.equal(expected[0].latents, expected[1].latents), "the host itself takes them for two"
    assert not torch.equal(expected[0].latents, alone(subject, case).latents), "the prompt says nothing here"
    made = [_texts(subject, case, _replaced(at, in_place), PREDICT) for in_place in (False, True)]
    assert torch.equal(made[0].latents, made[1].latents)
    for each in made:
        assert each.generation["guards"]["branch"] == 1 and not each.generation["reasons"]
        assert each.generation["forwards"]["run"] == usual["forwards"]["run"] + 1 == each.forwards


def cloned(subject: Subject, case: str) -> None:
    """Texts that are cloned for every step cost no skipped step, and are told of; keys are not kept then."""
    made, usual = _texts(subject, case, lambda number, text: text.clone(), PREDICT), predicted(subject, case)
    assert made.generation["forwards"] == usual.generation["forwards"]
    if usual.generation.get("frozen_bytes_peak"):  # sums are rounded otherwise
        assert torch.allclose(made.latents, usual.latents, rtol=1e-4, atol=1e-4)
    else:
        assert torch.equal(made.latents, usual.latents)
    remarks = [each for each in made.generation["remarks"] if each not in usual.generation["remarks"]]
    assert remarks and all("another tensor at every step" in remark for remark in remarks)


def _replaced(at: int, in_place: bool) -> Callable[[int, torch.Tensor], torch.Tensor]:
    """From the call number `at` on, another text in the place of the one that it has.

    Texts are copies that are kept: the host's own may be views of one tensor, and what is written into one counts for
    all of them.
    """
    kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    changed: list[torch.Tensor] = []

    def text(number: int, given: torch.Tensor) -> torch.Tensor:
        own = kept.setdefault(id(given), (given, given.clone()))[1]
        if number == at:
            changed.extend([own, given.flip(-1)])
            if in_place:
                own.copy_(changed[1])
        return changed[1] if changed and own is changed[0] and not in_place else own

    return text


def _texts(
    subject: Subject, case: str, text: Callable[[int, torch.Tensor], torch.Tensor], settings: dict[str, Any]
) -> Made:
    """A generation in which the DiT is called with `text(number of the call, the host's own text)`."""
    dit = bindings()[subject.host].host.dit
    owner, calls = getattr(sys.modules[dit.module], dit.owner), itertools.count()

    def ours(pipe: Any, *args: Any, **kwargs: Any) -> Any:
        raw = vars(owner)[dit.seam.replaced]

        def called(model: Any, *args: Any, **kwargs: Any) -> Any:
            kwargs[dit.condition] = text(next(calls), kwargs[dit.condition])
            return raw.__get__(model, owner)(*args, **kwargs)

        setattr(owner, dit.seam.replaced, called)
        try:
            return subject.generate(pipe, *args, **kwargs)
        finally:
            setattr(owner, dit.seam.replaced, raw)

    return make(replace(subject, generate=ours), dict(subject.cases[case]), settings=settings)


Law = Callable[[Subject, str], None]
EVERY: dict[str, Law] = {"never": never, "counts": counts}
USUAL: dict[str, Law] = {
    "target": target,
    "fails": fails,
    "interrupt": interrupt,
    "nested": nested,
    "threads": threads,
    "removal": removal,
    "looks": looks,
    "switched off": switched_off,
    "prompt": prompt,
    "cloned": cloned,
}


def proofs(subject: Subject) -> Iterator[tuple[str, str]]:
    """(law, case) of all that is to be proven of a subject."""
    yield from itertools.product(EVERY, subject.cases)
    for law in USUAL:
        able = {"interrupt": subject.interrupts, "prompt": subject.texts, "cloned": subject.texts}
        if able.get(law, True):
            yield law, subject.usual


def prove(subject: Subject, law: str, case: str) -> None:
    """Raises AssertionError where a law does not hold, AbsentError where there is no host to hold it."""
    try:
        check_known(subject)
    except AbsentError:
        if law == "never":
            check_builder(subject, case)
        raise
    {**EVERY, **USUAL}[law](subject, case)


def outcomes(subjects: list[Subject]) -> Iterator[dict[str, str]]:
    """For a script: of every law and case of every subject, what is wrong ("" for nothing), or why it was skipped."""
    for subject in subjects:
        for law, case in proofs(subject):
            problem, absent = "", ""
            try:
                prove(subject, law, case)
            except AbsentError as reason:
                absent = str(reason)
            except Exception:
                problem = traceback.format_exc()
            yield {"subject": subject.name, "law": law, "of": case, "problem": problem, "absent": absent}
        for key in [key for key in _made if key[0] == subject.name]:
            del _made[key]
