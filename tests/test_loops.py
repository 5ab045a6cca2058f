"""The kinds of denoise loop, on a toy host: what a clock, called steps and their files are held to."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import ROOT

import scope_patch
from scope_patch.cli import main
from scope_patch.errors import NotApplied, UsageError
from scope_patch.patch.session import Session

TOY = Path(__file__).parent / "fakes" / "toy"
sys.path.insert(0, str(TOY))
from toy_host import pipelines, scheduler  # noqa: E402 - the fake lies in a folder of its own

HEAD = """
import torch
from scope_patch.patch.host import Dit, Entry, Host
from scope_patch.patch.loops import Called, Clock
from scope_patch.method.schedule import Table
DIT = Dit("toy_host.model", "ToyDiT", latents="latents", timestep="timestep", condition="text", bases=("Module",))
def host(owner, loop, **more):
    entry = Entry("toy_host.pipelines", owner, methods=more.pop("methods", ("__call__",)))
    return Host(name=f"toy-{owner}-{len(more)}", title="a toy", source="here", triggers=("toy_host",), videos=(entry,),
                dit=DIT, loop=loop, **more)
def steps(pipeline, video):
    times = torch.tensor(pipeline.table(video), dtype=torch.float64)[:, None].expand(-1, 3)
    return Table(times, times / 1000, torch.ones_like(times, dtype=torch.bool), [(0, 3)] * len(times))
"""
PLAIN = 'HOST = host("Pipeline", Clock(), extra=lambda arguments: "fill" if arguments.get("fill") else "")'
LOCAL = 'HOST = host("LocalScheduler", Clock(made_by=("toy_host.scheduler", "Euler")))'
WALKED = """
one = ("one", ("self", "video", "step"), ("video", "step"), steps)
HOST = host("Walked", Called(*one), methods=("walk",))
"""
IDLE = 'HOST = host("Pipeline", Clock(of=lambda pipeline: pipeline.other), refuse=lambda *_: "", signal="expected")'


@pytest.fixture
def file(tmp_path):
    """`file(text)`: a registry file with that end."""

    def write(text: str) -> str:
        path = tmp_path / f"{abs(hash(text))}.py"
        path.write_text(HEAD + text)
        return str(path)

    return write


@pytest.fixture(autouse=True)
def own_bindings(monkeypatch):
    """Files of one test are unknown to the next."""
    from scope_patch.patch import attach

    monkeypatch.setattr(attach, "_bindings", {})
    monkeypatch.setattr(attach, "_files", set())


def both(registry, pipe, call=lambda pipe: pipe(), **settings):
    """(unpatched, patched, the generation's report)."""
    expected = call(pipe)
    with scope_patch.patched(pipe, registry=registry, strict=True, **settings) as run:
        made = call(pipe)
    return expected, made, run.report["generations"][-1]


def test_a_clock_of_the_pipelines_own(file):
    expected, made, generation = both(file(PLAIN), pipelines.Pipeline(), policy="never")
    assert torch.equal(made, expected) and generation["forwards"] == {"baseline": 12, "run": 12, "skipped": 0}
    expected, made, generation = both(file(PLAIN), pipelines.Pipeline(), target_speedup=3)
    assert generation["forwards"] == {"baseline": 12, "run": 4, "skipped": 8}
    held = both(file(PLAIN), pipelines.Pipeline(), target_speedup=3, predictor="hold")[1]
    assert (made - expected).norm() < 0.7 * (held - expected).norm()


def test_a_clock_that_the_loop_makes_itself_section_by_section(file):
    expected, made, generation = both(file(LOCAL), pipelines.LocalScheduler(), policy="never")
    assert torch.equal(made, expected) and len(generation["segments"]) == 2
    _, _, generation = both(file(LOCAL), pipelines.LocalScheduler(), target_speedup=3)
    assert [segment["modes"].count("R") for segment in generation["segments"]] == [4, 4]


def test_steps_that_are_calls_of_a_method_that_is_no_generator(file):
    expected, made, generation = both(file(WALKED), pipelines.Walked(), lambda pipe: pipe.walk(), policy="never")
    assert torch.equal(made, expected) and generation["finished"]
    _, _, generation = both(file(WALKED), pipelines.Walked(), lambda pipe: pipe.walk(), target_speedup=3)
    assert generation["forwards"] == {"baseline": 12, "run": 4, "skipped": 8}


def test_a_table_that_is_overwritten_is_read_as_it_is_stepped(file):
    levels = [1.0, 0.9, 0.8, 0.7, 0.5, 0.3, 0.1]
    call = lambda pipe: pipe(overwrite=levels)  # noqa: E731
    _, made, generation = both(file(PLAIN), pipelines.Pipeline(), call, target_speedup=2)
    assert generation["segments"][0]["iterations"] == 7 and generation["forwards"]["baseline"] == 7


def test_a_forward_that_fills_a_cache_runs_is_counted_and_no_history_point(file):
    call = lambda pipe: pipe(fill=True)  # noqa: E731
    _, _, generation = both(file(PLAIN), pipelines.Pipeline(), call, target_speedup=3)
    assert generation["forced"] == {"fill": 1} and generation["forwards"] == {"baseline": 13, "run": 5, "skipped": 8}
    assert generation["segments"][0]["slots_computed"] == 1 + 4 * 3


def test_wrappers_are_looked_through_and_belong_to_nobody(file):
    """The network in a wrapper is called once, and another one in a wrapper of that class is not ours to count."""

    class Around(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.module = inner

        def forward(self, *args, **kwargs):
            return self.module(*args, **kwargs)

    class Beside(scheduler.Euler):
        other = Around(torch.nn.Linear(1, 1))

        def step(self, *args):
            self.other(torch.ones(1))
            return super().step(*args)

    pipe = pipelines.Pipeline(Beside())
    pipe.transformer = Around(pipe.transformer)
    expected, made, generation = both(file(PLAIN), pipe, lambda pipe: pipe(fill=True), policy="never")
    assert torch.equal(made, expected) and not generation["remarks"]
    assert generation["forced"] == {"fill": 1} and generation["forwards"]["run"] == 13
    _, _, generation = both(file(PLAIN), pipe, target_speedup=3)
    assert generation["forwards"] == {"baseline": 12, "run": 4, "skipped": 8}


@pytest.mark.parametrize(("made", "words"), [(scheduler.Heun, "2 times a step"), (scheduler.Rising, "do not fall")])
def test_a_clock_whose_table_is_none_is_refused(file, made, words):
    pipe = pipelines.Pipeline(made())
    expected = pipe()
    with scope_patch.patched(pipe, registry=file(PLAIN), target_speedup=3) as run:
        assert torch.equal(pipe(), expected)
    assert run.report["status"] == "not-applied" and words in run.report["reasons"][0]


def test_a_loop_that_starts_in_the_middle_is_seen_by_its_timesteps(file):
    pipe = pipelines.Pipeline()
    with (
        scope_patch.patched(pipe, registry=file(PLAIN), target_speedup=3, strict=True),
        pytest.raises(NotApplied, match="but the host's own methods say"),
    ):
        pipe(start=4)


def test_a_failure_half_way_is_the_hosts_and_nothing_is_left_behind(file):
    pipe, registry = pipelines.Pipeline(), file(PLAIN)
    _, usual, _ = both(registry, pipe, target_speedup=3)
    with scope_patch.patched(pipe, registry=registry, target_speedup=3, strict=True):
        with pytest.raises(RuntimeError, match="on purpose"):
            pipe(stop=5)
        assert torch.equal(pipe(), usual)


def test_bound_but_idle_is_told_and_strict_raises(file):
    """The file names another clock than the loop steps."""
    pipe = pipelines.Pipeline()
    pipe.other, expected = scheduler.Euler(), pipe()
    pipe.other.set_timesteps(12)
    with scope_patch.patched(pipe, registry=file(IDLE), target_speedup=3) as run:
        assert torch.equal(pipe(), expected)
    (generation,) = run.report["generations"]
    assert run.report["status"] == "not-applied" and generation["forwards"]["skipped"] == 0
    assert "bound but idle: the DiT was called 12 times" in generation["reasons"][0]
    forwards = []
    hook = pipe.transformer.blocks[0].register_forward_pre_hook(lambda *_: forwards.append(1))
    with (
        scope_patch.patched(pipe, registry=file(IDLE), target_speedup=3, strict=True),
        pytest.raises(NotApplied, match="bound but idle"),
    ):
        pipe()
    hook.remove()
    assert len(forwards) == 2, "at the first that cannot be of the first step, unless its guidance takes many"


@pytest.mark.parametrize("strict", [True, False])
def test_a_loop_that_calls_the_network_past_us_is_told(file, strict, caplog):
    """`forward` instead of a call: the clock steps, and no forward is seen."""
    pipe, expected, stepped = pipelines.Past(), pipelines.Pipeline()(), 0
    text = PLAIN.replace('"Pipeline"', '"Past"')
    with scope_patch.patched(pipe, registry=file(text), target_speedup=3, strict=strict) as run:
        if strict:
            with pytest.raises(NotApplied, match="no forward of the DiT was seen"):
                pipe()
            stepped = pipe.scheduler.done
        else:
            assert torch.equal(pipe(), expected)
    assert run.report["status"] == "not-applied" and "no forward of the DiT was seen" in run.report["reasons"][0]
    assert stepped == 2 if strict else "no forward of the DiT was seen" in caplog.text


def test_another_network_beside_is_counted_in_a_remark(file):
    expected, made, generation = both(file(PLAIN.replace('"Pipeline"', '"Two"')), pipelines.Two(), policy="never")
    assert torch.equal(made, expected) and generation["forwards"]["run"] == 6
    assert "6 forwards went to another network" in generation["remarks"][-1]


def test_a_timestep_for_every_token_is_refused(file):
    pipe, expected = pipelines.Tokens(), pipelines.Tokens()()
    text = PLAIN.replace('"Pipeline"', '"Tokens"')
    with scope_patch.patched(pipe, registry=file(text), target_speedup=3) as run:
        assert torch.equal(pipe(), expected)
    assert "timestep has 12 entries for 3 latent frames" in run.report["reasons"][0]
    with (
        scope_patch.patched(pipe, registry=file(text), target_speedup=3, strict=True) as run,
        pytest.raises(NotApplied, match="12 entries"),
    ):
        pipe()
    assert run.report["status"] == "not-applied" and "12 entries" in run.report["reasons"][0]


def test_latent_frames_that_are_given_are_none_that_err(file):
    """They stand at timestep 0, which the loop's own table does not say: `--verify` is about the others."""
    pipe, seen = pipelines.Given(), []
    with scope_patch.patched(
        pipe, registry=file(PLAIN.replace('"Pipeline"', '"Given"')), target_speedup=3, verify=3
    ) as run:
        session = Session._decide

        def decide(self, call, schedule, iteration, interval):
            verdict = session(self, call, schedule, iteration, interval)
            seen.append(schedule.mask[iteration].tolist())
            return verdict

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Session, "_decide", decide)
            pipe()
    assert run.report["status"] == "applied" and len(seen) == 12
    assert all(mask == [False, True, True] for mask in seen)


def test_a_default_device_of_the_scripts_is_none_of_ours(file):
    """`torch.set_default_device("cuda")`; here it is one on which nothing can be computed."""

    def elsewhere(pipe):
        with torch.device("meta"):
            return pipe()

    expected, made, generation = both(file(PLAIN), pipelines.Pipeline(), elsewhere, target_speedup=3)
    assert made.shape == expected.shape and made.isfinite().all() and generation["forwards"]["skipped"] > 5


def test_a_class_whose_base_is_wrapped_too_is_one_clock(file):
    """Two pipelines of a process, one with a scheduler of a subclass: every step is told once."""

    class Inherits(scheduler.Euler):
        pass

    class Calls(scheduler.Euler):
        def step(self, velocity, t, latents):
            return super().step(velocity, t, latents)

    text, modes = file(PLAIN), []
    for own in (scheduler.Euler, Inherits, Calls):
        pipe = pipelines.Pipeline(own())
        expected, made, generation = both(text, pipe, target_speedup=3)
        modes.append([segment["modes"] for segment in generation["segments"]])
        assert len(modes[0][0]) == 12 and made.isfinite().all()
        keeper = scope_patch.apply(pipelines.Pipeline(own()), registry=text)  # the wrappers stay
    keeper.remove()
    assert modes[0] == modes[1] == modes[2]


def test_a_network_that_runs_outside_of_any_loop_is_idle(file):
    """The clock is made by the loop, and is another one than the file says."""
    wrong = LOCAL.replace('"Euler"', '"Other"')
    pipe = pipelines.LocalScheduler()
    expected = pipe()
    with scope_patch.patched(pipe, registry=file(wrong), target_speedup=3) as run:
        assert torch.equal(pipe(), expected)
    assert run.report["status"] == "not-applied" and "bound but idle: the DiT was called 24 times" in str(run.report)
    with (
        scope_patch.patched(pipe, registry=file(wrong), target_speedup=3, strict=True),
        pytest.raises(NotApplied, match="bound but idle"),
    ):
        pipe()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('HOST = host("Pipeline", None)', "`loop` of Pipeline is not said"),
        ('HOST = host("Pipeline", Clock(step=""))', "a Clock without `step`"),
        ('HOST = host("Pipeline", Clock(begins=""))', "a Clock without `begins`"),
        (
            "from dataclasses import replace\nHOST = replace(host('Pipeline', Clock()), triggers='toy_host')",
            "tuple of package",
        ),
        ("from dataclasses import replace\nHOST = replace(host('Pipeline', Clock()), videos=())", "names no entry"),
    ],
)
def test_a_file_that_says_no_loop_is_refused_when_it_is_read(file, text, words):
    with pytest.raises(UsageError, match=words) as caught:
        scope_patch.apply(pipelines.Pipeline(), registry=file(text))
    assert "`Add your model` in docs/patching.md" in str(caught.value)


def test_doctor_names_the_loop_and_what_its_text_lacks(file, capsys):
    main(["doctor", "--registry", file(PLAIN), "--repo", str(TOY)])
    told = capsys.readouterr().out
    assert "a clock: `step` of what the pipeline holds" in told and "toy-Pipeline-1" in told
    main(["doctor", "--registry", file(PLAIN.replace("Clock()", 'Clock(step="advance")')), "--repo", str(TOY)])
    assert "FAILED Pipeline calls advance of its clock" in capsys.readouterr().out


def test_work_is_counted_by_parameters_and_tokens_or_in_latent_frames(file):
    """The toy says no channels, so that nothing but latent frames can be counted; with channels FLOPs can."""
    _, _, generation = both(file(PLAIN), pipelines.Pipeline(), target_speedup=3)
    assert generation["planned"][0]["unit"] == "latent frames"
    pipe = pipelines.Pipeline()
    pipe.transformer.dim = 4
    _, _, generation = both(file(PLAIN), pipe, target_speedup=3)
    assert generation["planned"][0]["unit"] == "flops"


def test_the_cost_by_parameters_is_near_the_exact_one():
    """The 1.3B model at 540P over 5 to 25 latent frames (design: .077 .215 .415 .677 1 for .075 .212 .412 .675 1)."""
    from scope_patch.hosts.wan import NAMED, forward_flops
    from scope_patch.patch import defaults

    shape = replace(NAMED["1.3B"], fps_embedding=False)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.dim = shape.dim
            with torch.device("meta"):
                self.blocks = torch.nn.ModuleList(
                    torch.nn.ParameterList([torch.empty(8 * shape.dim**2), torch.empty(2 * shape.dim * shape.ffn_dim)])
                    for _ in range(shape.layers)
                )

    flops = defaults.cost(Model(), "blocks", (1, 16, 25, 68, 120))
    for frames in (5, 10, 15, 20, 25):
        exact = forward_flops(shape, frames, 68, 120) / forward_flops(shape, 25, 68, 120)
        assert abs(flops(0, (0, frames)) / flops(0, (0, 25)) - exact) < 0.01


def test_the_page_shows_a_file_that_can_be_read(tmp_path):
    """The example of docs/patching.md, as it stands there."""
    from scope_patch.catalogue import read_hosts

    page = (ROOT / "docs" / "patching.md").read_text()
    (tmp_path / "my_model.py").write_text(page.partition("```python\n")[2].partition("```")[0])
    found, problems = read_hosts(str(tmp_path / "my_model.py"))
    assert found[-1][0].name == "my-model" and not problems
