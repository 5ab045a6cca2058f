"""Jobs of several processes that make videos with the fake host: a script that tests/test_jobs.py runs."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor

if "auto" in sys.argv:
    import scope_patch.auto  # noqa: F401 - before torch, as its users have it
import torch
from hosts import ALWAYS_PREDICT, fake_pipeline


def video(pipe=None):
    return (pipe or fake_pipeline())("a disc", num_frames=10, num_inference_steps=4, ar_step=0)


def ends(how):
    """One video, and then the process is gone without any of Python's own endings."""
    video()
    if how == "killed":
        pipe = fake_pipeline()
        pipe.transformer.register_forward_pre_hook(lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        video(pipe)
    os._exit(0)


def at_once(barrier):
    pipe = fake_pipeline()
    barrier.wait(120)
    video(pipe)


def applied(path):
    import scope_patch

    pipe = fake_pipeline()
    for _ in range(2):
        with scope_patch.patched(pipe, report=path, **ALWAYS_PREDICT) as run:
            video(pipe)
    assert len(run.report["generations"]) == 1, "what this one did; the file has all"


def several(context, target, arguments):
    """One process for each tuple of arguments, all at the same time."""
    processes = [context.Process(target=target, args=each) for each in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


def main(case, way="", path=""):
    context = multiprocessing.get_context(way if way in ("spawn", "fork", "forkserver") else "fork")
    if case in ("children", "family", "ends", "twenty"):
        fake_pipeline()  # the host is imported: forks inherit what that has set up
    if case == "children":
        for each in way.split("+"):
            several(multiprocessing.get_context(each), video, [(), ()])
    elif case == "family":
        several(context, video, [()])
        video()
    elif case == "ends":
        several(multiprocessing.get_context("fork"), ends, [("killed",), ("exits",)])
    elif case == "twenty":
        barrier = context.Barrier(20)
        several(context, at_once, [(barrier,)] * 20)
    elif case == "torch":
        torch.multiprocessing.spawn(_ranked, nprocs=2)
    elif case == "pool":
        with ProcessPoolExecutor(2, context) as pool:
            list(pool.map(_numbered, range(6)))
    elif case == "applied":
        several(context, applied, [(path,), (path,)])
    elif case == "orphan":  # the parent ends first
        if way == "parent":
            video()
            child = subprocess.Popen([sys.executable, __file__, "orphan", "child", str(os.getpid())])
            child.returncode = 0  # nobody waits for it
        else:
            while os.getppid() == int(path):
                time.sleep(0.01)
            video()
    elif case == "forked":  # no multiprocessing, and both processes end by themselves
        pipe = fake_pipeline()
        video(pipe)
        child = os.fork()
        video(pipe)
        if child:
            os.waitpid(child, 0)
    elif case == "asked":  # of us, in the midst of a job that has been told of us
        import scope_patch

        pipe = fake_pipeline()
        video(pipe)
        with scope_patch.patched(pipe, **ALWAYS_PREDICT):
            video(pipe)
        if os.fork():
            os.wait()
        else:
            video(pipe)
            applied(None)


def _ranked(rank):
    video()


def _numbered(number):
    video()


if __name__ == "__main__":
    main(*(word for word in sys.argv[1:] if word != "auto"))
