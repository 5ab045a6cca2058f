"""One report and one summary for a job, whatever its processes are: every generation once, and nothing untrue."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, clean_environ
from launching import Tree
from reports import report as handmade

from scope_patch import cli
from scope_patch.errors import UsageError
from scope_patch.report import job as jobs
from scope_patch.report import sink, summary
from scope_patch.report.job import Job
from scope_patch.report.read import parse, read
from scope_patch.report.record import FIRST_KEPT, LAST_KEPT, NOTHING_SEEN, GenerationRecord, Run, Segment, combined
from scope_patch.settings import JOB, Settings

SCRIPT = Path(__file__).with_name("jobs.py")
FAKES = os.pathsep.join([str(Path(__file__).parent / "fakes" / "official"), str(ROOT)])


class Done:
    """What a job left: its exit code, what we said on stderr, its report."""

    def __init__(self, process, path):
        self.code, self.stderr = process.returncode, process.stderr
        self.said = [line for line in self.stderr.splitlines() if line.startswith("scope_patch")]
        self.report = json.loads(path.read_text()) if path.exists() else None

    @property
    def generations(self):
        return self.report["generations"]

    @property
    def processes(self):
        return [generation["pid"] for generation in self.generations]


@pytest.fixture
def job(tmp_path):
    """`job(CASE, ...)`: tests/jobs.py under `run --report`; other ways to start it by keyword."""
    path = tmp_path / "run.json"

    def start(*words, command=None, auto=False, report=True, options=("--target-speedup", "2")):
        python = command or [sys.executable, str(SCRIPT), *map(str, words)]
        environ = clean_environ(PYTHONPATH=FAKES, TMPDIR=str(tmp_path))
        reporting = ["--report", str(path)] if report else []
        line = Tree(ROOT, tmp_path).launcher("run", *options, *reporting, "--", *python)
        if auto:
            line = [*python, "auto"]
            environ.update(SCOPE_PATCH_TARGET_SPEEDUP="2", **({"SCOPE_PATCH_REPORT": "run.json"} if report else {}))
        done = subprocess.run(line, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=300, check=False)
        return Done(done, path)

    return start


def check(done, generations, processes, so_far=False):
    """So many applied generations in so many processes; one summary that says so; nothing beside the report."""
    assert done.code == 0, done.stderr
    assert done.report["schema"] == 2 and done.report["status"] == "applied" and done.report["reasons"] == []
    assert [generation["status"] for generation in done.generations] == ["applied"] * generations
    assert all(generation["finished"] and generation["segments"] for generation in done.generations)
    assert len(set(done.processes)) == processes
    (line,) = done.said
    assert f", {generations} generations{' so far' if so_far else ''}, policy scope" in line, done.stderr


LONG = pytest.mark.long


@pytest.mark.parametrize("ways", ["fork+spawn", pytest.param("forkserver", marks=LONG)])
def test_children_of_a_parent_that_only_imports_the_host(job, tmp_path, ways):
    children = 2 * len(ways.split("+"))
    check(job("children", ways), children, children)
    assert os.listdir(tmp_path) == ["run.json"]


@pytest.mark.parametrize("case", [pytest.param("torch", marks=LONG), "pool"])
def test_other_ways_to_have_children(job, case):
    check(job(case), {"torch": 2, "pool": 6}[case], 2)


def test_a_raw_fork_tells_what_is_its_own_and_not_what_was_there(job, tmp_path):
    sink.add(tmp_path / "run.json", Job(f"{time.time_ns()}-1"), part(record(), record()))  # of the run before
    check(job("forked"), 3, 2)


def test_workers_that_die_lose_only_what_they_had_not_finished(job, tmp_path):
    """One is killed, the other exits."""
    check(job("ends"), 2, 2)
    assert os.listdir(tmp_path) == ["run.json"]


def test_twenty_children_at_once(job):
    check(job("twenty"), 20, 20)


def test_what_a_child_does_after_its_parent_is_in_the_report(job, tmp_path):
    done = job("orphan", "parent")  # the pipes are closed when both have ended
    assert f"{done.said}".count("1 generation so far") == 1 == len(done.said)
    assert len(done.generations) == 2 == len(set(done.processes)) and os.listdir(tmp_path) == ["run.json"]


@pytest.mark.parametrize(
    ("way", "auto"),
    [
        ("fork", True),
        ("fork", False),
        pytest.param("spawn", True, marks=LONG),
        pytest.param("spawn", False, marks=LONG),
    ],
)
def test_the_summary_needs_no_report(job, tmp_path, way, auto):
    done = job("family", way, report=False, auto=auto)
    (line,) = done.said
    assert "2 generations, policy" in line and done.report is None
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("way", ["spawn", pytest.param("fork", marks=LONG)])
def test_a_script_that_imports_auto(job, way):
    check(job("family", way, auto=True), 2, 2)


def test_children_that_apply_by_themselves_make_one_report(job, tmp_path):
    """Whatever else they are, they are children of one process, which knows nothing of us."""
    path = tmp_path / "run.json"
    command = [sys.executable, str(SCRIPT), "applied", "fork", str(path)]
    subprocess.run(command, env=clean_environ(PYTHONPATH=FAKES), timeout=120, check=True)
    generations = json.loads(path.read_text())["generations"]
    assert len(generations) == 4 and len({each["pid"] for each in generations}) == 2


@pytest.mark.parametrize("report", [True, False])
def test_what_a_script_asks_for_by_itself_is_the_jobs_too(job, tmp_path, report):
    """Beside what the run makes of its other videos, and in a fork as well."""
    done = job("asked", report=report)
    (line,) = done.said
    assert "5 generations, policy" in line
    assert {*os.listdir(tmp_path)} - {"torchinductor_root"} == ({"run.json"} if report else set())
    if report:
        own, same, *forks = done.processes
        assert own == same != forks[0] and len(forks) == 3 and len(set(forks)) == 1
        assert done.report["status"] == "applied"


def test_scripts_and_runs_behind_bash_are_one_job_and_told_so_far(job):
    python, run = sys.executable, f"{sys.executable} -m scope_patch run --max-skip 2 -- "
    forked = f"{python} {SCRIPT} forked"
    words = [f"{python} -c pass", f"{python} {SCRIPT} children fork", forked, run + forked, f"{run}bash -c '{forked}'"]
    done = job(command=["bash", "-c", "; ".join([*words, "true"])])
    assert len(done.generations) == 11 and len(set(done.processes)) == 8
    assert [line.split(", ")[1] for line in done.said] == [f"{n} generations so far" for n in (2, 5, 8, 11)]
    assert "a generation ran under other settings: max_skip 2 (not None)" in done.stderr


def test_a_job_in_which_nothing_was_done_says_it_once_and_for_all_its_processes(job):
    done = job(command=[sys.executable, "-c", "import os; os.fork() and os.wait()"])
    assert done.said == [f"scope_patch: nothing was patched in effect (no host): {NOTHING_SEEN}"]
    assert (done.report["status"], done.report["reasons"]) == ("not-applied", [NOTHING_SEEN])


@LONG
def test_torchrun_with_a_video_a_rank(job):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(SCRIPT)]
    done = job(command=[*command, "forked"])
    check(done, 6, 4)
    assert sorted(generation["rank"] for generation in done.generations) == [0, 0, 0, 1, 1, 1]


def test_ranks_that_share_the_dit_make_one_generation(job, tmp_path):
    ranks = str(SCRIPT.with_name("ranks.py"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", ranks]
    done = job(command=[*command, str(tmp_path), "skyreels", "unpatched"])
    assert [each["ranks"] for each in done.generations] == [[0, 1]] and done.generations[0]["rank"] == 0
    assert "1 generation, policy" in done.said[0]


# The file


def record(**more):
    segment = Segment(2, ["R", "P"], ["growth", "plan"], [(0, 1)] * 2, 2, 1, frames=1, active=[[0, 1]] * 2)
    return GenerationRecord(
        **{
            "segments": [segment],
            "forwards_run": 1,
            "forwards_skipped": 1,
            "finished": True,
            "pid": os.getpid(),
            **more,
        }
    )


def part(*generations, **more):
    return Run(Settings(**more), hosts=["a host"], generations=list(generations)).report


BUSY = """
import os, sys
sys.path[:0] = sys.argv[2:]
from test_jobs import record
from scope_patch.report.record import Run
from scope_patch.report.sink import Sink
from scope_patch.settings import Settings
sink = Sink(Run(Settings(report=sys.argv[1]), hosts=["a host"]))
print("ready", flush=True)
sys.stdin.readline()
for number in range(10**6):
    sink.tell(record(signal=str(number)))
    print(number, flush=True)
"""


def test_killed_at_any_moment_a_process_loses_nothing_that_it_has_told(tmp_path):
    """Four write as fast as they can and are killed; what each has told last is there, and so is all before it."""
    path = tmp_path / "run.json"
    environ = clean_environ(_SCOPE_PATCH_JOB="5-7:")
    words = [sys.executable, "-c", BUSY, str(path), str(ROOT), str(SCRIPT.parent)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    processes = [subprocess.Popen(words, env=environ, text=True, **pipes) for _ in range(4)]
    try:
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in processes:
            for _ in range(5):
                process.stdout.readline()
            process.send_signal(signal.SIGKILL)
        told = [5 + len(process.stdout.read().split()) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    made = read(str(path)).run
    total = len(made.generations) + made.omitted.generations
    assert sum(told) <= total <= sum(told) + 4  # one may have been told of when its process had no time to say so
    sink.add(path, Job("5-7"), part(record()))
    assert os.listdir(tmp_path) == ["run.json"]
    made = read(str(path)).run
    assert len(made.generations) + made.omitted.generations == total + 1


def test_an_earlier_jobs_report_is_replaced_whole_and_a_later_ones_left_alone(tmp_path, caplog):
    path = tmp_path / "run.json"
    one, two, future = Job("100-1"), Job("200-1"), Job(f"{time.time_ns() + 10**12}-1")
    for job in (future, one, two):  # the first was made before the clock was put right
        sink.add(path, job, part(record()))
        sink.add(path, job, part(record(), record()))
        assert len(read(str(path)).run.generations) == 3
    with pytest.raises(OSError, match="a later job"):
        sink.add(path, one, part(record()))
    assert sink.load(path)["job"] == "200-1" and len(read(str(path)).run.generations) == 3


@pytest.mark.parametrize("unlocked", [False, True], ids=["read-only", "no locks"])
def test_folders_that_cannot_do_what_is_needed(tmp_path, monkeypatch, caplog, unlocked):
    monkeypatch.delenv(JOB, raising=False)
    path = tmp_path / "run.json"
    if unlocked:
        monkeypatch.setattr(jobs, "fcntl", None)
    else:
        monkeypatch.setattr(jobs.os, "open", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    telling = sink.Sink(Run(Settings(report=str(path)), hosts=["a host"]))
    for _ in range(3):
        telling.tell(record())
    monkeypatch.undo()
    if unlocked:
        assert not caplog.records and os.listdir(tmp_path) == ["run.json"]
        made = json.loads(path.read_text())
        assert len(made["generations"]) == 3 and made["reasons"] == [sink.NO_LOCKS]
        assert sink.NO_LOCKS in "\n".join(summary.lines(parse(made).run))
    else:
        assert caplog.text.count("could not be written") == 1 and not path.exists()
        telling.tell()  # it can be written now, and nothing is lost
        assert len(read(str(path)).run.generations) == 3


def test_a_lock_that_is_not_given_up_is_not_waited_for_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "PATIENCE", 0.05)
    with jobs.turn(tmp_path / "run.json"), pytest.raises(OSError, match="has locked"), jobs.turn(tmp_path / "run.json"):
        raise AssertionError("it is another's turn")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("made", [os.mkfifo, lambda path: os.symlink("elsewhere", path)], ids=["fifo", "symlink"])
def test_what_others_put_in_our_place_is_not_followed(tmp_path, made):
    made(tmp_path / "run.json.part")
    with pytest.raises(OSError, match=r"run\.json\.part"), jobs.turn(tmp_path / "run.json"):
        raise AssertionError("it is no file of ours")
    assert not (tmp_path / "elsewhere").exists()


def test_what_a_process_has_not_finished_when_it_ends_is_said(tmp_path):
    path = tmp_path / "run.json"
    telling = sink.Sink(Run(Settings(report=str(path)), hosts=["a host"]))
    for under_way in (record(finished=False), record(finished=False, pid=1)):  # the other is that of a parent
        telling.run.begin(under_way)
    telling.close()
    telling.tell(telling.run.generations[0])  # as the interpreter throws it away
    (made,) = read(str(path)).run.generations
    assert (made.finished, made.error) == (False, sink.UNFINISHED)


def test_a_fork_does_not_tell_what_its_parent_could_not(tmp_path, caplog):
    path = tmp_path / "none" / "run.json"
    telling = sink.Sink(Run(Settings(report=str(path)), hosts=["a host"]))
    telling.tell(record(signal="the parent's"))
    telling._process, path = -1, path.parent.mkdir() or path  # as if this were a child of it
    telling.tell(record(signal="its own"))
    assert [each.signal for each in read(str(path)).run.generations] == ["its own"]


def test_a_folder_of_somebody_elses_is_not_written_to(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    job = Job("5-7", os.getppid())
    assert job.scratch() == job.scratch_of(os.getppid()) and job.scratch().parent.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(os, "getuid", lambda: -1)
    with pytest.raises(OSError, match="somebody else's"):
        job.scratch()
    assert Job("5-7", os.getpid()).scratch() is None and Job("5-7").scratch() is None


def test_living_children_are_seen_without_proc(run_python):
    code = """
import pathlib, subprocess, sys
from scope_patch.report.job import Job
if sys.argv[1:]:
    pathlib.Path.exists = lambda path: False
job = Job("5-7")
assert not job.goes_on()
child = subprocess.Popen(["sleep", "60"])
assert job.goes_on()
child.kill()
child.wait()
assert not job.goes_on()
"""
    for way in ([], ["without /proc"]):
        done = run_python("-c", code, *way)
        assert done.returncode == 0, done.stderr


# What is made of several parts


def test_of_many_generations_the_first_and_the_last_stay_and_all_are_counted():
    whole, number = part(), 0
    for count in (1, 5, 30, 1, 40):
        records = [record(signal=str(number + k)) for k in range(count)]
        number += count
        run = Run(Settings(), hosts=["a host"])
        for each in records:
            run.begin(each)
        whole = sink.merged(whole, run.report)
        assert sink.merged(whole, part()) == whole
    signals = [int(each["signal"]) for each in whole["generations"]]
    assert signals[:FIRST_KEPT] == [0, *range(1, FIRST_KEPT)] and signals[-LAST_KEPT:] == [*range(77 - LAST_KEPT, 77)]
    totals = summary.Totals.of(parse(whole).run.generations, parse(whole).run.omitted)
    assert (totals.generations, totals.forwards, totals.modes["P"]) == (77, "154 → 77", 77)


def ranked(rank, call="a", **more):
    return record(rank=rank, ranks=[rank], call=call, pid=100 + rank, **more)


def test_a_generation_of_several_ranks_is_one_whoever_tells_first():
    for order in ((0, 1, 2), (2, 0, 1)):
        whole = part()
        for rank in order:
            problem = {"finished": False, "error": "gone", "reasons": ["a rank was lost"]} if rank == 1 else {}
            whole = sink.merged(whole, part(ranked(rank, history_bytes_peak=rank, **problem), ranked(rank, "b")))
        first, second = whole["generations"]
        assert (first["ranks"], first["rank"], first["pid"], first["history_bytes_peak"]) == ([0, 1, 2], 0, 100, 0)
        assert (first["finished"], first["error"], first["reasons"]) == (False, "gone", ["a rank was lost"])
        assert second["finished"] and second["ranks"] == [0, 1, 2]
    again = sink.merged(whole, part(ranked(0)))
    assert len(again["generations"]) == 3, "the same rank makes another one"


def test_a_status_that_is_not_known_is_carried():
    strange = {**part(record()), "status": "halted"}
    for one, two in ((strange, part(record())), (part(record()), strange), (part(), strange)):
        assert sink.merged(one, two)["status"] == "halted"
    assert combined(["not-applied", "applied"]) == "partly" and combined(["not-applied"]) == "not-applied"


def test_keys_that_are_not_known_are_carried():
    there = {**part(record()), "weather": "fine"}
    there["generations"][0]["planned"] = [{"work": 1.0, "baseline": 2.0, "colour": "red"}]
    made = sink.merged(there, part(record()))
    assert made["weather"] == "fine" and made["generations"][0]["planned"][0]["colour"] == "red"


def test_generations_under_other_settings_are_told():
    whole = sink.merged(part(), part(record(), max_skip=2))
    assert whole["settings"]["max_skip"] == 2 and whole["generations"][0]["remarks"] == []
    whole = sink.merged(whole, part(record(), max_skip=7))
    assert "under other settings: max_skip 7 (not 2)" in "\n".join(summary.lines(parse(whole).run))


def test_absence_in_one_process_is_no_absence_in_the_job():
    idle = Run(Settings(), hosts=[]).report
    assert idle["reasons"] == [NOTHING_SEEN] == sink.merged(idle, idle)["reasons"]
    for one, two in ((idle, part(record())), (part(record()), idle)):
        made = sink.merged(one, two)
        assert (made["status"], made["reasons"], made["host"]) == ("applied", [], "a host")
    refused = Run(Settings(), hosts=["b"], reasons=["a check failed"]).report
    made = sink.merged(sink.merged(idle, refused), idle)
    assert (made["status"], made["reasons"], made["host"]) == ("not-applied", ["a check failed"], "b")


def test_a_report_of_several_processes_is_shown_with_them_and_one_of_the_first_schema_as_it_was(tmp_path, capsys):
    path = tmp_path / "run.json"
    path.write_text(json.dumps(sink.merged(part(record(pid=7)), part(ranked(0), ranked(1)))))
    assert cli.main(["report", str(path)]) == 0
    out = capsys.readouterr().out
    assert "\ngeneration 1, process 7\n" in out and "\ngeneration 2, process 100, ranks 0 and 1\n" in out
    assert cli.main(["report", str(path), "--html", str(tmp_path / "run.html")]) == 0
    assert "process 100, ranks 0 and 1" in (tmp_path / "run.html").read_text()
    old = {**handmade(), "schema": 1}
    path.write_text(json.dumps(old))
    assert cli.main(["report", str(path)]) == 0 and "process" not in capsys.readouterr().out
    with pytest.raises(UsageError, match="'schema' is 3"):
        parse({**old, "schema": 3})
