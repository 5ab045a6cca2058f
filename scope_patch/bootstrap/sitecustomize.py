"""What `scope_patch run` puts in front of PYTHONPATH: this directory, with this one file.

Every Python under the command starts here, helper processes and old interpreters included. So: standard library
only, nothing that a Python 3.6 cannot parse, no threads, no torch, and nothing at all happens until a trigger module
(a host's top-level package) is looked for. Any failure of ours is one line on stderr and the host goes on unpatched;
`--strict` raises.
"""

import os
import sys


def _say(message: str) -> None:
    try:  # noqa: SIM105 - contextlib is not worth its import in every helper process
        sys.stderr.write("scope_patch: " + message + "\n")
    except Exception:  # no stderr, or a closed one: nothing to be done, and no reason to disturb the host
        pass


def _on(name: str, default: str) -> bool:
    return (os.environ.get(name) or default).strip().lower() not in ("0", "off", "false", "no")


def _launcher() -> "tuple[str, str, str]":
    """(pid, version, executable) of the interpreter that `run` was started with."""
    pid, version, executable = os.environ.get("_SCOPE_PATCH_LAUNCHER", "::").split(":", 2)
    return pid, version, executable


class _Trigger:
    """A meta-path finder that finds nothing itself: being asked for a host's package, it arms the hooks, once."""

    def __init__(self, names: "tuple[str, ...]") -> None:
        self.names = names
        self.fired = False

    def find_spec(self, fullname, path=None, target=None):  # type: ignore[no-untyped-def]  # the protocol's own types
        if self.fired or fullname not in self.names:
            return None
        self.fired = True
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        try:
            _arm()
        except Exception as error:
            if _on("SCOPE_PATCH_STRICT", "0"):
                raise
            _say(f"off, {fullname} runs unpatched: {type(error).__name__}: {error}")
        # The caller is walking sys.meta_path, from which we have just gone: with None it would step over the finder
        # after us, and it would not ask one that arming has put in front. So the rest of its walk is done here.
        for finder in list(sys.meta_path):
            find_spec = getattr(finder, "find_spec", None)
            spec = find_spec(fullname, path, target) if find_spec is not None else None
            if spec is not None:
                return spec
        return None


def _arm() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("torch", "wrapt", "packaging") if name not in sys.modules and find_spec(name) is None]
    if sys.version_info < (3, 10):  # noqa: UP036 - the command may start any Python
        missing.insert(0, "Python >= 3.10")
    if missing:
        raise RuntimeError(
            "{} (Python {}.{}) has no {}; scope_patch was launched with {} (Python {}): launch it with the interpreter "
            "of the command, or install it there".format(
                sys.executable, sys.version_info[0], sys.version_info[1], ", ".join(missing), *reversed(_launcher()[1:])
            )
        )
    _load_package()
    from scope_patch.patch.attach import arm

    arm()


def _load_package() -> None:
    """Import scope_patch from where this file lies, installed there or not, without touching sys.path."""
    if "scope_patch" in sys.modules:
        return
    from importlib.util import module_from_spec, spec_from_file_location

    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    spec = spec_from_file_location("scope_patch", os.path.join(here, "__init__.py"), submodule_search_locations=[here])
    if spec is None or spec.loader is None:
        raise ImportError("no scope_patch in " + here)
    module = module_from_spec(spec)
    sys.modules["scope_patch"] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules["scope_patch"]
        raise


def _install() -> None:
    names = tuple(filter(None, os.environ.get("_SCOPE_PATCH_TRIGGERS", "").split(",")))
    if not names or not _on("SCOPE_PATCH", "1"):
        return
    trigger = _Trigger(names)
    sys.meta_path.insert(0, trigger)
    job, _, speaker = os.environ.get("_SCOPE_PATCH_JOB", "").partition(":")
    if speaker in ("", str(os.getpid())):  # nobody above us; or it was us, before an exec
        os.environ["_SCOPE_PATCH_JOB"] = f"{job}:{os.getpid()}"
        _speak_at_exit(trigger)


def _speak_at_exit(trigger: _Trigger) -> None:
    """In the first Python of the job: say at the end what became of it all, in whatever process it was done.

    What is registered first comes last: after multiprocessing has waited for its children.
    """
    import atexit

    pid, root = os.getpid(), _launcher()[0] == str(os.getpid())
    try:  # as `stamp` of report/sink.py
        found = os.stat(os.environ.get("SCOPE_PATCH_REPORT", ""))
    except OSError:
        before = None
    else:
        before = found.st_ino, found.st_mtime_ns

    def speak() -> None:
        if os.getpid() != pid:
            return
        try:
            _load_package()
            from scope_patch.report.sink import speak

            speak(before, trigger.fired)
        except Exception:  # this Python may be too old for us
            if root and not trigger.fired:
                _say("nothing was patched in this process: it imported no known host (what others did is not known)")

    atexit.register(speak)


def _chain() -> None:
    """Run the sitecustomize that we hide, under its own name, as if we were not there."""
    here = os.path.dirname(os.path.abspath(__file__))
    # This process needs our directory no longer (its children have PYTHONPATH), and the host sees its own sys.path.
    sys.path[:] = [entry for entry in sys.path if not entry or os.path.abspath(entry) != here]
    ours = sys.modules.pop("sitecustomize", None)
    try:
        import sitecustomize  # noqa: F401 - for what it does
    except ImportError as error:
        if getattr(error, "name", None) != "sitecustomize":  # site.py's own criterion
            raise
        if ours is not None:
            sys.modules["sitecustomize"] = ours


try:
    _install()
except Exception as error:
    _say(f"off: {type(error).__name__}: {error}")
finally:
    _chain()
