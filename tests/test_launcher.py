"""`run` in subprocesses: what becomes of the exit code, the environment and the command itself."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import clean_environ
from launching import Tree, make_tree

PRINT_PATH = "import os; print(repr(os.environ['PYTHONPATH']))"
IMPORT_HOST = "import skyreels_v2_infer"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    return make_tree(tmp_path_factory.mktemp("launching"))


def python(code: str) -> list[str]:
    return ["--", sys.executable, "-c", code]


@pytest.mark.parametrize("code", [0, 3])
def test_exit_code_is_the_commands(tree: Tree, code: int) -> None:
    assert tree.run("run", *python(f"raise SystemExit({code})")).returncode == code


def test_death_by_signal_is_the_commands(tree: Tree) -> None:
    result = tree.run("run", *python("import os, signal; os.kill(os.getpid(), signal.SIGTERM)"))
    assert result.returncode == -signal.SIGTERM


def test_process_id_stays_so_signals_reach_the_command(tree: Tree) -> None:
    with subprocess.Popen(
        tree.launcher("run", *python("import os; print(os.getpid())")),
        cwd=tree.work,
        env=clean_environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        out, _ = process.communicate(timeout=60)
        assert int(out) == process.pid


def test_sigpipe_is_not_left_ignored(tree: Tree) -> None:
    result = tree.run("run", "--", "bash", "-c", "kill -PIPE $$; echo survived")
    assert result.returncode == -signal.SIGPIPE
    assert "survived" not in result.stdout


def test_command_not_found_is_127(tree: Tree) -> None:
    result = tree.run("run", "--", "no-such-command-here")
    assert result.returncode == 127
    assert "command not found: no-such-command-here" in result.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_are_no_reason_not_to_start(tree: Tree, closed: str) -> None:
    words = shlex.join(tree.launcher("run", "--", "sh", "-c", "echo ran > ran"))
    done = subprocess.run(["sh", "-c", f"{words} {closed}"], cwd=tree.work, env=clean_environ(), check=False)
    assert done.returncode == 0
    assert (tree.work / "ran").read_text() == "ran\n"


def test_command_not_executable_is_126(tree: Tree) -> None:
    script = tree.work / "plain.py"
    script.write_text("print(1)\n")
    result = tree.run("run", "--", "./plain.py")
    assert result.returncode == 126
    assert "chmod +x" in result.stderr
    assert tree.run("run", "--", str(tree.work)).returncode == 126


def test_script_with_a_missing_interpreter_is_126(tree: Tree) -> None:
    script = tree.work / "lost"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    assert tree.run("run", "--", "./lost").returncode == 126


def test_everything_behind_the_first_dashes_is_untouched(tree: Tree) -> None:
    words = ["--preset", "--", "", "a b", "--help", "--", "é"]
    result = tree.run("run", "--preset", "slow", *python("import sys; print(repr(sys.argv[1:]))"), *words)
    assert result.stdout.strip() == repr(words)


@pytest.mark.parametrize("inherited", [None, "", "/a:/b", ":/a", "/a:", "/a::/b", ":"])
def test_pythonpath_keeps_its_bytes(tree: Tree, inherited: str | None) -> None:
    given = {} if inherited is None else {"PYTHONPATH": inherited}
    result = tree.run("run", *python(PRINT_PATH), python=given)
    expected = tree.bootstrap + (os.pathsep + inherited if inherited else "")
    assert result.stdout.strip() == repr(expected)


def test_sys_path_of_the_host_is_its_own(tree: Tree) -> None:
    code = "import sys; print(sys.path)"
    plain = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tree.work,
        env=clean_environ(PYTHONPATH=":/a"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert tree.run("run", *python(code), python={"PYTHONPATH": ":/a"}).stdout == plain.stdout


def test_importing_a_host_arms_once_without_torch(tree: Tree) -> None:
    result = tree.run("run", "--max-skip", "2", "--policy", "never", *python(IMPORT_HOST + "; " + IMPORT_HOST))
    assert result.stderr == "ARMED never 2 light\n"


def test_nothing_happens_before_a_host_is_imported_and_it_is_said(tree: Tree) -> None:
    code = "import sys, json; assert 'torch' not in sys.modules and 'scope_patch' not in sys.modules; print('fine')"
    result = tree.run("run", *python(code))
    assert result.stdout == "fine\n"
    assert result.stderr.startswith(
        "scope_patch: nothing was patched in effect (no host): no process was seen to start"
    )
    assert len(result.stderr.splitlines()) == 1


def test_the_finder_after_ours_is_not_stepped_over(tree: Tree) -> None:
    code = """
import sys
class Next:
    asked = []
    def find_spec(self, name, path=None, target=None):
        self.asked.append(name)
sys.meta_path.insert(1, Next())
assert type(sys.meta_path[0]).__name__ == '_Trigger'
import skyreels_v2_infer
print(Next.asked.count('skyreels_v2_infer'), type(sys.meta_path[0]).__name__)
"""
    assert tree.run("run", *python(code)).stdout == "1 Next\n"


def test_failure_of_ours_is_one_line_and_the_host_goes_on(tree: Tree) -> None:
    result = tree.run("run", *python(IMPORT_HOST + "; print('went on')"), python={"STUB_FAILS": "1"})
    assert result.stdout == "went on\n"
    assert result.stderr.splitlines()[1:] == [
        "scope_patch: off, skyreels_v2_infer runs unpatched: ValueError: the stub was told to fail"
    ]


def test_failure_of_ours_raises_under_strict(tree: Tree) -> None:
    result = tree.run("run", "--strict", *python(IMPORT_HOST + "; print('went on')"), python={"STUB_FAILS": "1"})
    assert result.returncode == 1
    assert result.stdout == ""
    assert "ValueError: the stub was told to fail" in result.stderr


def test_bash_script_that_calls_python(tree: Tree) -> None:
    script = tree.work / "run.sh"
    script.write_text(f'export PYTHONPATH="$PYTHONPATH:."\n{sys.executable} -c "{IMPORT_HOST}"\necho "$1"\nexit 5\n')
    result = tree.run("run", "--", "bash", "run.sh", "--")
    assert (result.returncode, result.stdout) == (5, "--\n")
    assert result.stderr == "ARMED scope None light\n"


def test_exec_into_another_python_and_spawned_children(tree: Tree) -> None:
    script = tree.work / "spawning.py"
    script.write_text(
        "import multiprocessing as mp, os, sys\n"
        "def child():\n    import skyreels_v2_infer\n"
        "if __name__ == '__main__':\n"
        "    if sys.argv[1:] == ['again']:\n"
        "        os.execv(sys.executable, [sys.executable, __file__])\n"
        "    process = mp.get_context('spawn').Process(target=child)\n"
        "    process.start(); process.join(); sys.exit(process.exitcode)\n"
    )
    result = tree.run("run", "--", sys.executable, "spawning.py", "again")
    assert result.returncode == 0
    assert result.stderr.splitlines()[0] == "ARMED scope None light"
    assert len(result.stderr.splitlines()) == 2  # and what the parent says of the job


def test_kill_switch(tree: Tree) -> None:
    code = IMPORT_HOST + "; import os; print(os.environ.get('PYTHONPATH'))"
    result = tree.run("run", *python(code), python={"SCOPE_PATCH": "0"})
    assert result.stdout == "None\n"
    assert result.stderr == "scope_patch: nothing will be patched: SCOPE_PATCH=0 switches everything off\n"


def test_kill_switch_inside_a_script(tree: Tree) -> None:
    command = f'SCOPE_PATCH=off {sys.executable} -c "{IMPORT_HOST}"'
    assert tree.run("run", "--", "bash", "-c", command).stderr == ""


def test_run_within_run_keeps_one_bootstrap_and_flags_win(tree: Tree) -> None:
    inner = tree.launcher("run", "--preset", "slow", "--dry-run", "--", "python")
    result = tree.run("run", "--max-skip", "1", "--cache-threshold", "0.2", "--", *inner)
    assert result.stdout.count(tree.bootstrap) == 1
    lines = [line.split(None, 2) for line in result.stdout.splitlines()]
    assert ["preset", "slow", "flag --preset"] in lines and ["cache_threshold", "-", "default"] in lines
    assert ["max_skip", "1", "environment SCOPE_PATCH_MAX_SKIP"] in lines


@pytest.mark.parametrize("flag", ["-I", "-E", "-S"])
def test_flags_that_keep_us_out_are_reported(tree: Tree, flag: str) -> None:
    result = tree.run("run", "--", sys.executable, flag, "-c", "print('runs')")
    assert result.stdout == "runs\n"
    assert f"nothing will be patched: the interpreter is started with {flag} " in result.stderr
    strict = tree.run("run", "--strict", "--", sys.executable, flag, "-c", "print('runs')")
    assert (strict.returncode, strict.stdout) == (2, "")


def test_report_says_not_applied_until_a_host_overwrites_it(tree: Tree) -> None:
    target = tree.work / "stale.json"
    target.write_text("a report of last week")
    tree.run("run", "--report", "stale.json", "--", "true")
    report = json.loads(target.read_text())
    assert (report["schema"], report["status"], report["generations"]) == (2, "not-applied", [])
    assert report["reasons"]
    assert report["settings"]["report"] == str(target)


def test_report_is_left_alone_when_the_command_cannot_start(tree: Tree) -> None:
    target = tree.work / "kept.json"
    target.write_text("kept")
    tree.run("run", "--report", "kept.json", "--", "no-such-command-here")
    assert target.read_text() == "kept"


def test_auto_equals_run(tree: Tree) -> None:
    code = f"import sys; sys.path.insert(0, {str(tree.package)!r}); import scope_patch.auto"
    for switch, expected in (("1", "ARMED scope 1 light\n"), ("0", "")):
        environ = clean_environ(SCOPE_PATCH_MAX_SKIP="1", SCOPE_PATCH=switch)
        result = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
        assert result.stderr == expected


def test_torchrun_with_two_ranks(tree: Tree) -> None:
    script = tree.work / "ranks.py"
    script.write_text(
        "import os, sys, skyreels_v2_infer\n"
        "import torch.distributed as dist\n"
        "dist.init_process_group('gloo'); dist.barrier(); dist.destroy_process_group()\n"
        "sys.stdout.write(f'rank {os.environ[\"RANK\"]} {sys.argv[1:]}\\n')\n"
    )
    torchrun = Path(sys.executable).with_name("torchrun")
    command = [torchrun] if torchrun.exists() else [sys.executable, "-m", "torch.distributed.run"]
    result = tree.run("run", "--", *command, "--standalone", "--nproc_per_node", "2", "ranks.py", "x", timeout=120)
    assert result.returncode == 0, result.stderr
    assert sorted(result.stdout.splitlines()) == ["rank 0 ['x']", "rank 1 ['x']"]
    assert result.stderr.count("ARMED scope None light") == 2
