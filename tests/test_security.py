"""Data stays data, nothing is loaded that nobody named, and no odd path loses or blocks a generation."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import ROOT, clean_environ
from hosts import ALWAYS_PREDICT, fake_pipeline
from launching import make_tree
from reports import report

import scope_patch
from scope_patch import UsageError, catalogue
from scope_patch.cli import main
from scope_patch.method import policies, profile
from scope_patch.report import job
from scope_patch.report.page import page
from scope_patch.report.read import read
from scope_patch.report.summary import text

# What the sources call


FORBIDDEN = {
    *("eval", "exec", "compile", "__import__", "breakpoint", "pickle.load", "pickle.loads", "pickle.Unpickler"),
    *("marshal.load", "marshal.loads", "shelve.open", "yaml.load", "dill.load", "joblib.load", "os.system", "os.popen"),
    *("torch.hub.load", "torch.jit.load", "urllib.request.urlopen", "socket.socket", "runpy.run_path"),
}
ALLOWED = {
    ("scope_patch/compare/lpips.py", "pickle.Unpickler"): "a subclass that knows numpy's arrays alone",
}


def calls(source):
    """(name as written, keywords) of every call and base class in a text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
        elif isinstance(node, ast.ClassDef):
            yield from ((ast.unparse(base), {}) for base in node.bases)


def unsafe(source):
    for name, given in calls(source):
        if (
            name in FORBIDDEN
            or (name == "torch.load" and given.get("weights_only") != "True")
            or given.get("shell", "False") != "False"
            or given.get("allow_pickle", "False") != "False"
        ):
            yield name


SOURCES = [path for folder in ("scope_patch", "registry") for path in sorted((ROOT / folder).rglob("*.py"))]


def test_nothing_is_run_that_was_read():
    found = {(path.relative_to(ROOT).as_posix(), name) for path in SOURCES for name in unsafe(path.read_text())}
    assert found - ALLOWED.keys() == set() and len(SOURCES) > 40
    assert ALLOWED.keys() - found == set(), "an exception that nothing needs"


@pytest.mark.parametrize(
    "source",
    [
        "eval(x)",
        "pickle.loads(x)",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "subprocess.run(x, shell=True)",
        "np.load(f, allow_pickle=True)",
        "class A(pickle.Unpickler): pass",
    ],
)
def test_the_reader_of_sources_can_fail(source):
    assert list(unsafe(source))


# Hostile files


NASTY = "</script><script>alert(1)</script>\x1b]0;owned\x07\x1b[2J\u202e\r\x00"
DEEP = "[" * 100_000
HOSTILE = {
    "deep": DEEP,
    "deep in a report": f'{{"schema": 1, "generations": {DEEP}',
    "a number without end": '{"schema": 1, "generations": [], "settings": {"max_skip": ' + "9" * 5000 + "}}",
    "not a number": '{"schema": 1, "generations": [{"segments": [], "seconds": {"total": NaN}}]}',
    "huge": '{"schema": 1, "generations": [{"segments": [], "seconds": {"total": 1e999}}]}',
    "wrong types": '{"schema": 1, "generations": {"segments": 3}}',
    "many iterations": json.dumps(report({"iterations": 10**12, "modes": "", "reasons": [], "intervals": []})),
    "a long video": json.dumps(
        report({"iterations": 1, "modes": "R", "reasons": ["growth"], "intervals": [[0, 10**15]]})
    ),
    "omitted by a word": '{"schema": 1, "generations": [], "omitted": {"generations": "all"}}',
    "empty": "",
    "text": NASTY,
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("reader", [read, profile.read], ids=["report", "profile"])
def test_hostile_files_are_refused_or_read_as_data(reader, case, tmp_path):
    path = tmp_path / "hostile.json"
    path.write_text(HOSTILE[case])
    made, told = None, ""
    try:
        made = reader(str(path))
    except UsageError as error:
        told = str(error)
    if made is None:
        assert str(path) in told and "\x1b" not in told
    else:
        assert reader is read
        assert "\x1b" not in text(made) and page(made)


@pytest.mark.parametrize("place", ["host", "signal", "reasons"])
def test_what_a_report_says_stays_text(place, tmp_path):
    path = tmp_path / "run.json"
    path.write_text(json.dumps({**report(), place: [NASTY] if place == "reasons" else NASTY}))
    made = read(str(path))
    assert not {"\x1b", "\x07", "\x00", "\r"} & set(text(made))
    assert "<script" not in page(made) and "\x1b" not in page(made)


def test_a_plan_of_a_hostile_configuration_is_refused(tmp_path, capsys):
    for case in ("deep", "text", "empty", "wrong types"):
        path = tmp_path / "config.json"
        path.write_text(HOSTILE[case])
        assert main(["plan", "magi-1", "--config", str(path)]) == 2
        told = capsys.readouterr().err
        assert told.startswith("scope_patch: ") and "\x1b" not in told and "Traceback" not in told


# Where a report shall go


def fifo(folder):
    os.mkfifo(folder / "fifo")
    return folder / "fifo"


def loop(folder):
    (folder / "a").symlink_to(folder / "b")
    (folder / "b").symlink_to(folder / "a")
    return folder / "a"


def to_a_directory(folder):
    (folder / "there").mkdir()
    (folder / "link").symlink_to(folder / "there")
    return folder / "link"


def below_a_file(folder):
    (folder / "file").write_text("")
    return folder / "file" / "run.json"


def dangling_into_nowhere(folder):
    (folder / "link").symlink_to(folder / "no" / "such" / "folder.json")
    return folder / "link"


PLACES = {
    "a symlink to a directory": to_a_directory,
    "a loop of symlinks": loop,
    "below a file": below_a_file,
    "a symlink into no directory": dangling_into_nowhere,
    "in /proc": lambda folder: Path("/proc/run.json"),
    "a full device": lambda folder: Path("/dev/full"),
    "a pipe that nobody reads": fifo,
    "a directory": lambda folder: folder,
    "a name too long": lambda folder: folder / ("x" * 300),
}
NUL = {"a name with a NUL": lambda folder: folder / "a\0b.json"}


@pytest.mark.parametrize("place", PLACES | NUL)
def test_no_place_of_a_report_loses_or_blocks_a_generation(place, tmp_path, caplog):
    path = (PLACES | NUL)[place](tmp_path)
    pipe, made = fake_pipeline(), []

    def work():
        with scope_patch.patched(pipe, **ALWAYS_PREDICT, report=str(path)) as run:
            made.append(pipe("a disc", num_frames=10))
        made.append(run.report["generations"][0])

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive(), "it waits for somebody who reads the report"
    assert made[1]["finished"] and made[1]["forwards"]["skipped"] > 0
    assert caplog.text.count("could not be written") == 1 and "failed on" not in caplog.text
    assert [each.name for each in tmp_path.rglob("*.part")] == []


@pytest.mark.parametrize("place", PLACES)
def test_the_launcher_says_so_before_the_command_runs(place, tmp_path, capsys):
    path = PLACES[place](tmp_path)
    assert main(["run", "--report", str(path), "--", "touch", str(tmp_path / "ran")]) == 2
    assert capsys.readouterr().err.startswith("scope_patch: --report") and not (tmp_path / "ran").exists()


def test_a_symlink_to_nothing_yet_is_followed(tmp_path):
    (tmp_path / "link.json").symlink_to(tmp_path / "new.json")
    pipe = fake_pipeline()
    with scope_patch.patched(pipe, report=str(tmp_path / "link.json")):
        pipe("a disc", num_frames=10)
    assert (tmp_path / "link.json").is_symlink() and json.loads((tmp_path / "new.json").read_text())["schema"] == 2


def test_a_disk_that_fills_up_keeps_the_last_report(tmp_path, monkeypatch, caplog):
    path, pipe = tmp_path / "run.json", fake_pipeline()
    write = Path.write_text

    def full(self, text, **options):
        write(self, text[: len(text) // 2], **options)
        raise OSError(28, "No space left on device")

    with scope_patch.patched(pipe, report=str(path)) as run:
        pipe("a disc", num_frames=10)
        before = path.read_text()
        monkeypatch.setattr(Path, "write_text", full)
        pipe("a disc", num_frames=10)
    assert path.read_text() == before and "No space left" in caplog.text
    assert [generation["finished"] for generation in run.report["generations"]] == [True, True]
    assert os.listdir(tmp_path) == ["run.json"]


# What the launcher adds


def test_one_directory_and_documented_variables_are_all_that_is_added(tmp_path):
    tree = make_tree(tmp_path)
    question = "import json, os; print(json.dumps(dict(os.environ)))"
    result = tree.run("run", "--max-skip", "2", "--", sys.executable, "-c", question, python={"PYTHONPATH": "/mine"})
    environ, clean = json.loads(result.stdout), clean_environ(PYTHONPATH="/mine")
    added = {name for name in environ.keys() - clean.keys() if name not in ("LC_CTYPE", "_", "PWD", "SHLVL")}
    assert environ["PYTHONPATH"] == f"{tree.bootstrap}{os.pathsep}/mine"
    assert [each for each in clean if environ.get(each) != clean[each]] == ["PYTHONPATH"]
    private = {name for name in added if name.startswith("_SCOPE_PATCH_")}
    assert private == {"_SCOPE_PATCH_TRIGGERS", "_SCOPE_PATCH_LAUNCHER", "_SCOPE_PATCH_JOB"}
    options = (ROOT / "README.md").read_text()
    for name in added - private:
        assert name.startswith("SCOPE_PATCH_")
        option = name.removeprefix("SCOPE_PATCH_").lower().replace("_", "-")
        assert f"--{option}" in options or f"--no-{option}" in options, f"{name} is in no row of README's options"
    assert sorted(os.listdir(tree.bootstrap)) in (["sitecustomize.py"], ["__pycache__", "sitecustomize.py"])


# Plugins, and a registry file that the user names


GOOD = """
from dataclasses import replace
from scope_patch.registry.skyreels_v2 import HOST
HOST = replace(HOST, name="mine", title="a model of mine", triggers=("my_host",))
"""


class Point:
    """An entry point that does what a test wants when it is loaded."""

    dist = None

    def __init__(self, name, made):
        self.name, self.value, self.made = name, f"plugin:{name}", made

    def load(self):
        if isinstance(self.made, type) and issubclass(self.made, BaseException):
            raise self.made(f"{self.name} is broken")
        return self.made


@pytest.fixture
def plugins(monkeypatch):
    """`plugins(name=thing, ...)`: what other packages bring, in every group."""

    def bring(**things):
        points = [Point(name, made) for name, made in things.items()]
        monkeypatch.setattr(catalogue, "entry_points", lambda group: points)
        monkeypatch.setattr("scope_patch.method.entry_points", lambda group: points)

    return bring


def mine(**more):
    from dataclasses import replace

    from scope_patch.registry import skyreels_v2

    return replace(skyreels_v2.HOST, **{"name": "mine", **more})


def test_a_plugin_that_is_broken_is_skipped_and_named_and_the_others_work(plugins):
    plugins(
        raises=ValueError, exits=SystemExit, wrong="a host", taken=mine(name="skyreels-v2"), mine=mine(),
        again=mine(title="another one"),
    )  # fmt: skip
    found, problems = catalogue.read_hosts()
    assert {host.name for host, _ in found} == {
        "framepack-diffusers", "infinity", "longcat-video", "magi-1", "skyreels-v2", "skyreels-v2-diffusers", "mine",
    }  # fmt: skip
    told = {problem.split()[0]: problem for problem in problems}
    assert told.keys() == {f"plugin:{name}" for name in ("raises", "exits", "wrong", "taken", "again")}
    assert "raises is broken" in told["plugin:raises"] and "SystemExit" in told["plugin:exits"]
    assert "is a str" in told["plugin:wrong"]
    assert "'skyreels-v2' is taken by" in told["plugin:taken"] and "'mine' is taken by" in told["plugin:again"]


def test_an_interrupt_of_the_user_is_his(plugins):
    plugins(slow=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        catalogue.read_hosts()


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_a_policy_that_is_broken_is_an_error_where_it_is_asked_for_and_nowhere_else(plugins, error):
    from scope_patch.settings import Settings

    plugins(mine=error)
    policies.create(Settings())
    with pytest.raises(UsageError, match=r"'mine' .*failed to load"):
        policies.create(Settings(policy="mine"))


def test_a_registry_file_is_named_by_the_user(tmp_path, capsys, monkeypatch):
    path = tmp_path / "mine.py"
    path.write_text(GOOD)
    assert main(["list", "--registry", str(path)]) == 0
    assert f"armed by my_host; from {path}" in capsys.readouterr().out
    main(["doctor", "--registry", str(path)])
    assert f"mine: a model of mine ({path})" in capsys.readouterr().out
    monkeypatch.setenv("SCOPE_PATCH_REGISTRY", str(path))
    assert main(["list"]) == 0 and str(path) in capsys.readouterr().out
    assert main(["run", "--dry-run", "--", "true"]) == 0
    assert "my_host" in capsys.readouterr().out


BAD = {
    "no file": (None, "No such file"),
    "raises": ("1 / 0", "ZeroDivisionError"),
    "exits": ("raise SystemExit(3)", "SystemExit"),
    "does not parse": ("def", "SyntaxError"),
    "defines nothing": ("", "it defines no HOST; see `Add your model` in docs/patching.md"),
    "defines something else": ("HOST = 3", "is a int"),
    "leaves out an answer": (
        "from scope_patch.patch.host import Host\nHOST = Host(name='mine')",
        "it leaves out 'title', 'source', ",
    ),
    "takes a name": ("from scope_patch.registry.skyreels_v2 import HOST", "'skyreels-v2' is taken"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_registry_file_that_is_bad_is_an_error(case, tmp_path, capsys):
    path, (text, words) = tmp_path / "mine.py", BAD[case]
    if text is not None:
        path.write_text(text)
    for command in (["list"], ["doctor"], ["run", "--", "touch", str(tmp_path / "ran")]):
        assert main([command[0], "--registry", str(path), *command[1:]]) == 2
        told = capsys.readouterr().err
        assert f"--registry {path} cannot be used" in told and words in told and "Traceback" not in told
    assert not (tmp_path / "ran").exists()
    with pytest.raises(UsageError, match="cannot be used"):
        scope_patch.apply(fake_pipeline(), registry=str(path))
    (tmp_path / "mine.txt").write_text(GOOD)
    assert main(["list", "--registry", str(tmp_path / "mine.txt")]) == 2
    assert "it is no .py file" in capsys.readouterr().err


def test_a_registry_file_of_the_old_form_is_told_what_is_missing(tmp_path):
    (tmp_path / "mine.py").write_text("ARCHITECTURE = 3")
    with pytest.raises(UsageError, match="ARCHITECTURE, which was read before, but no HOST; see `Add your"):
        catalogue.read_hosts(str(tmp_path / "mine.py"))


OTHER = """
import sys
sys.path.insert(0, {fakes!r})
sys.dont_write_bytecode = True
import my_host.pipelines, json
pipe = my_host.pipelines.DiffusionForcingPipeline()
pipe("a disc", num_frames=10)
"""


def test_a_host_that_only_the_users_file_describes_is_accelerated(tmp_path, run_python):
    fakes = tmp_path / "my_host"
    for path in (ROOT / "tests" / "fakes" / "official" / "skyreels_v2_infer").rglob("*.py"):
        copy = fakes / path.relative_to(ROOT / "tests" / "fakes" / "official" / "skyreels_v2_infer")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text())
    registry = (ROOT / "registry" / "skyreels_v2.py").read_text().replace("skyreels_v2_infer", "my_host")
    (tmp_path / "mine.py").write_text(registry.replace('name="sky', 'name="my-sky'))
    words = ["run", "--registry", str(tmp_path / "mine.py"), "--report", str(tmp_path / "run.json"), "--"]
    done = run_python("-m", "scope_patch", *words, sys.executable, "-c", OTHER.format(fakes=str(tmp_path)))
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "run.json").read_text())
    assert (told["status"], told["host"]) == ("applied", "my-skyreels-v2"), done.stderr
    assert told["settings"]["registry"] == str(tmp_path / "mine.py")


@pytest.mark.parametrize("folders", [["registry", "."], ["scope_patch/registry"]], ids=str)
def test_nothing_beside_the_user_is_loaded_by_itself(folders, tmp_path):
    for place in (tmp_path / "work" / folder for folder in folders):
        place.mkdir(parents=True, exist_ok=True)
        (place / "mine.py").write_text(f"open({str(tmp_path / 'loaded')!r}, 'w')\n" + GOOD)
    start = (
        f"import sys; sys.path.append({str(ROOT)!r}); from scope_patch.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    for command in (["list"], ["run", "--dry-run", "--", "true"]):
        safe = ["-P"] if sys.version_info >= (3, 11) and "." not in folders else []
        done = subprocess.run(
            [sys.executable, *safe, "-c", start, *command],
            cwd=tmp_path / "work", env=clean_environ(), capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "mine" not in done.stdout and not (tmp_path / "loaded").exists()


def test_rank_and_pid_files_of_others_stay(tmp_path):
    """Only our own part file is ever removed."""
    other = tmp_path / "run.json.1.part"
    other.write_text("another process's")
    job.put(tmp_path / "run.json", "{}\n")
    assert other.read_text() == "another process's" and (tmp_path / "run.json").read_text() == "{}\n"
