"""The paper's tables on your own GPU: python examples/paper.py TABLE --host HOST --repo DIR --prompts FILE [...].

Prints, or with --run runs, the `scope_patch bench` command whose table stands for one of the paper's (arXiv
2604.02979), for the official repositories at the paper's settings. `--tell FOLDER` sets what was measured beside what
the paper prints, as far as it is known here or in a `--figures FILE`; `--vbench FOLDER` lays the videos out as VBench's
custom input wants them. docs/benchmark-paper.md goes through it.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import fmean

SCOPE = ("scope:slow", "scope:fast", "scope:2", "scope:3", "scope:4")
PAIRS = {  # the range that the paper gives for its thresholds, and its operating points
    "skyreels-v2": ("0.12,0.30", "0.15,0.36", "0.18,0.42", "0.20,0.48", "0.25,0.55"),
    "magi-1": ("0.03,0.06", "0.05,0.10", "0.06,0.12", "0.08,0.15"),
}
TABLES = {
    "table-1": "methods at their slow and fast points",
    "table-2": "cache and predict thresholds",
    "table-12": "memory: the same methods as table 1, of which the column `peak MB` counts",
    "figure-7": "at most K skips in a row",
    "figure-8": "the length of the video",
}
LENGTHS = {"skyreels-v2": (97, 177, 257, 417, 577, 737), "magi-1": (96, 144, 240, 480)}
FRAMES = {"skyreels-v2": 257, "magi-1": 240}
SELECTIVE = "scope-thresholds:0,0"
"""Nothing is skipped; latent frames that have not started are left out."""
FROM = {
    "summary": "arxivlens.com's summary of the paper, under key results; the 4.73 stands in the abstract, too",
    "notes": "this project's own notes on the paper: second hand",
}
"""Where figures were read. Of the paper's page only the first 2,000 letters could be had (arxiv.org/html/2604.02979v1,
26 November 2026), which have no table."""
PAPER = {
    "skyreels-v2": {
        "original": {"PFLOP": (245.01, "notes")},
        "scope:slow": {"DiT work": (4.55, "notes")},
        "scope:fast": {
            "DiT work": (5.27, "notes"), "PFLOP": (46.45, "notes"), "times": (4.73, "summary"),
            "VBench off": (0.06, "summary"),
        },
        SELECTIVE: {"times": (1.27, "summary")},
    },
    "magi-1": {
        "original": {"PFLOP": (81.09, "notes")},
        "scope:slow": {"DiT work": (2.66, "notes")},
        "scope:fast": {"DiT work": (3.32, "notes"), "times": (2.55, "summary"), "VBench off": (0.06, "summary")},
    },
}  # fmt: skip
"""{host: {method: {quantity: (the paper's figure, where it was read)}}}. Nothing is made up or interpolated: what is
not here was not found. The summary gives the most that is reached ("up to"), so that stands at fast."""
QUANTITIES = {
    "DiT work": 2, "times": 2, "PFLOP": 2, "seconds": 1, "peak GB": 2,
    "PSNR": 2, "SSIM": 4, "LPIPS": 4, "VBench off": 2,
}  # fmt: skip
"""What figures may be of, and their decimal places. DiT work and times (of seconds): how many times less than the
original. VBench off: percentage points from the original's, at most."""
MAGI_NEEDS = (
    "PYTHONPATH=.", "MASTER_ADDR=localhost", "MASTER_PORT=6009", "GPUS_PER_NODE=1", "NNODES=1", "WORLD_SIZE=1",
    "PAD_HQ=1", "PAD_DURATION=1", "OFFLOAD_T5_CACHE=true", "OFFLOAD_VAE_CACHE=true",
)  # fmt: skip
"""What its example/4.5B/run.sh exports."""
ENDINGS = (".mp4", ".gif", ".png")  # what VBench's loader takes
LONGEST = 200
"""Letters of a prompt in a file's name, which file systems limit to 255 bytes."""


def main(argv: list[str] | None = None) -> int:
    about = "\n".join(f"  {name:9} {words}" for name, words in TABLES.items())
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=f"tables:\n{about}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", nargs="?", choices=TABLES, metavar="TABLE", help="one of those below")
    parser.add_argument("--host", choices=PAIRS, default="skyreels-v2", help="default: %(default)s")
    parser.add_argument("--repo", type=Path, metavar="DIR", help="a clone of the official repository, with its weights")
    parser.add_argument(
        "--model", default="Skywork/SkyReels-V2-DF-1.3B-540P", help="SkyReels-V2's (default: %(default)s)"
    )
    parser.add_argument("--config", default="example/4.5B/4.5B_distill_config.json", help="MAGI-1's, in its repository")
    parser.add_argument(
        "--prompts", type=Path, metavar="FILE", help="VBench's all_dimension.txt, or any, a prompt a line"
    )
    parser.add_argument("--folder", type=Path, default=Path("out/paper"), help="where runs go (default: %(default)s)")
    parser.add_argument("--run", action="store_true", help="run the commands, and do not only print them")
    parser.add_argument("--tell", type=Path, metavar="FOLDER", help="measured beside the paper's, of a folder of runs")
    parser.add_argument(
        "--figures", type=Path, metavar="FILE", help="with --tell: more of the paper's figures, as JSON, "
        '{"scope:fast": {"LPIPS": ..., "peak GB": ...}, "original": {...}}',
    )  # fmt: skip
    parser.add_argument(
        "--vbench", type=Path, metavar="FOLDER", help="lay out the videos of a folder of runs for VBench"
    )
    args = parser.parse_args(argv)
    if args.figures and not args.tell:
        parser.error("--figures are set beside what a folder measured: name it by --tell FOLDER")
    if args.tell or args.vbench:
        print(beside(args.tell, args.host, args.figures) if args.tell else laid_out(args.vbench))
        return 0
    if args.table is None or args.prompts is None or args.repo is None:
        parser.error("a TABLE, --repo DIR and --prompts FILE are needed; VBench's list is prompts/all_dimension.txt in "
                     "github.com/Vchitect/VBench, and is not part of this repository")  # fmt: skip
    for command in commands(args.table, args):
        print(shlex.join(command))
        if args.run and (code := subprocess.call(command, cwd=args.repo)):
            return code
    return 0


def commands(table: str, args: argparse.Namespace) -> list[list[str]]:
    """The bench commands of a table; to be run in the clone. Figure 8 has one for each length."""
    lengths = LENGTHS[args.host] if table == "figure-8" else (FRAMES[args.host],)
    return [bench(table, args, frames) for frames in lengths]


def bench(table: str, args: argparse.Namespace, frames: int) -> list[str]:
    """One bench command, all paths absolute."""
    rivals = ["teacache:target_speedup=4.55", "taylorseer:4", "flowcache"]
    methods = {
        "table-1": [*SCOPE, SELECTIVE, *rivals],
        "table-12": [*SCOPE[:2], *rivals],
        "table-2": [f"scope-thresholds:{pair}" for pair in PAIRS[args.host]],
        "figure-7": [f"scope:fast,max_skip={most}" for most in range(1, 9)],
        "figure-8": SCOPE[:2],
    }[table]
    folder = args.folder.resolve() / f"{args.host}-{frames}"  # tables of one length share their originals and runs
    ours = [sys.executable, "-m", "scope_patch", "bench", "--folder", str(folder), "--prompts",
            str(args.prompts.resolve()), "--methods", *methods, "--"]  # fmt: skip
    # Before our own command, not behind it: what stands behind would hide our place in PYTHONPATH.
    ours = ["env", *MAGI_NEEDS, *ours] if args.host == "magi-1" else ours
    return [*ours, *(skyreels if args.host == "skyreels-v2" else magi)(args, frames)]


def skyreels(args: argparse.Namespace, frames: int) -> list[str]:
    """Base 97, overlap 17, 50 steps, 544 x 960, asynchronous, as in the paper."""
    return [
        sys.executable, "generate_video_df.py", "--model_id", args.model, "--resolution", "540P",
        "--num_frames", str(frames), "--base_num_frames", "97", "--overlap_history", "17", "--ar_step", "5",
        "--causal_block_size", "5", "--inference_steps", "50", "--addnoise_condition", "20", "--seed", "{seed}",
        "--prompt", "{prompt}", "--outdir", "{out}",
    ]  # fmt: skip


def magi(args: argparse.Namespace, frames: int) -> list[str]:
    """MAGI-1's own entry; length, size, steps and seed stand in its configuration, of which a copy is written."""
    config = json.loads((args.repo / args.config).read_text(encoding="utf-8"))
    # The paper's 81.09 PFLOP are those of full ranges; the official ones (5, 4, 3, 2) have 61.7.
    config["runtime_config"] |= {
        "num_frames": frames, "num_steps": 64, "video_size_h": 480, "video_size_w": 480, "noise2clean_kvrange": [],
    }  # fmt: skip
    place = args.folder.resolve() / f"magi-1-{frames}.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(config, indent=2), encoding="utf-8")
    return [
        sys.executable, "inference/pipeline/entry.py", "--config_file", str(place),
        "--mode", "t2v", "--prompt", "{prompt}", "--output_path", "{out}.mp4",
    ]  # fmt: skip


def beside(folder: Path, host: str, more: Path | None = None) -> str:
    """A table of the methods that figures of the paper are known of: what it prints, what was measured, the source.

    Raises:
        SystemExit: no `bench` ran in the folder; or `more` cannot be read, or has a method that `bench` does not know,
            or a quantity that is not one of QUANTITIES.
    """
    from scope_patch.tuning.points import ORIGINAL, parse
    from scope_patch.tuning.tables import groups, markdown

    rows = rows_of(folder)
    found = {group.name[1:]: group for group in groups(rows)}
    originals = [row for row in rows if row["method"] == ORIGINAL]
    lines = []
    for name, printed in known(host, more).items():
        if name == ORIGINAL:
            values = measured(originals)
        else:
            point = parse(name)
            group = found.get((point.method, point.name))
            values = {} if group is None else measured(list(group.rows.values()))
            if group is not None:
                values |= {"DiT work": group.ratio, "times": group.times("seconds")}
        for what, (figure, source) in printed.items():
            value, places = values.get(what), QUANTITIES[what]
            told = "not in this folder" if value is None else f"{value:.{places}f}"
            lines.append([name, what, f"{figure:.{places}f}", told, source])
    table = markdown(["method", "what", "the paper", "measured", "from"], lines)
    return "\n".join([table, "", *(f"{source}: {words}" for source, words in FROM.items())])


def known(host: str, more: Path | None) -> dict[str, dict[str, tuple[float, str]]]:
    """PAPER's figures of a host, and those of a file, which win."""
    from scope_patch.errors import UsageError
    from scope_patch.tuning.points import ORIGINAL, parse

    figures = {name: dict(printed) for name, printed in PAPER[host].items()}
    if more is None:
        return figures
    try:
        for name, printed in json.loads(more.read_text(encoding="utf-8")).items():
            if name != ORIGINAL:
                parse(name)
            if strange := printed.keys() - QUANTITIES.keys():
                raise UsageError(f"no figure is of {', '.join(sorted(strange))}: they are of {', '.join(QUANTITIES)}")
            mine = {what: (float(figure), more.name) for what, figure in printed.items()}
            figures.setdefault(name, {}).update(mine)
    except UsageError as error:
        raise SystemExit(f"{more}: {error}") from error
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise SystemExit(f"{more} is not JSON of the form {{method: {{quantity: number}}}}: {error}") from error
    return figures


def measured(rows: list[dict]) -> dict[str, float | None]:
    """Means over the videos of a method, the peak over all; None: not known of every video. VBench is not run here."""

    def mean(key: str) -> float | None:
        values = [row.get(key) for row in rows]
        return fmean(values) if values and None not in values else None

    work = mean("flops")
    peaks = [peak for row in rows if (peak := row.get("memory") or row.get("rss"))]
    return {
        "PFLOP": None if work is None else work / 1e15,
        "seconds": mean("seconds"), "PSNR": mean("psnr"), "SSIM": mean("ssim"), "LPIPS": mean("lpips"),
        "peak GB": max(peaks) / 1e9 if peaks else None,
    }  # fmt: skip


def rows_of(folder: Path) -> list[dict]:
    """The runs of a folder that went well."""
    from scope_patch.tuning.points import LOG, OK, Log

    if not (folder / LOG).is_file():
        raise SystemExit(f"{folder} has no {LOG}: give the folder of a bench")
    return [row for row in Log(folder / LOG).rows.values() if row["status"] == OK]


def laid_out(folder: Path) -> str:
    """`FOLDER/vbench/METHOD/PROMPT-K.mp4` and `METHOD.json`, {file name: prompt}, of every method and the original.

    Returns the commands that evaluate them. The names are those of VBench's standard mode, too.
    """
    told = []
    top = folder / "vbench"
    shutil.rmtree(top, ignore_errors=True)
    prompts: dict[str, dict[str, str]] = {}
    for row in rows_of(folder):
        place = folder / row["folder"]
        videos = [place / name for name in row["outputs"] if Path(name).suffix in ENDINGS]
        method = "-".join(filter(None, (row["method"], row["point"])))
        method = re.sub(r"[^A-Za-z0-9.]+", "-", method)
        for k, video in enumerate(videos):
            number = row["seed"] * len(videos) + k
            words = row["prompt"].replace("/", " ")[:LONGEST] or "video"
            name = f"{words}-{number}{video.suffix}"
            (top / method).mkdir(parents=True, exist_ok=True)
            shutil.copy2(video, top / method / name)
            prompts.setdefault(method, {})[name] = row["prompt"] or "video"
    dimensions = ("subject_consistency background_consistency motion_smoothness dynamic_degree aesthetic_quality "
                  "imaging_quality temporal_flickering")  # fmt: skip
    for method, names in prompts.items():
        (top / f"{method}.json").write_text(json.dumps(names, indent=1), encoding="utf-8")
        told.append(f"vbench evaluate --mode custom_input --dimension {dimensions.split()[0]} --videos_path "
                    f"{shlex.quote(str(top / method))} --prompt_file {shlex.quote(str(top / f'{method}.json'))} "
                    f"--output_path {shlex.quote(str(top / 'results'))}")  # fmt: skip
    told.append(
        f"other dimensions that custom input knows: {dimensions}. Each downloads its own weights at its first use"
    )
    return "\n".join(told)


if __name__ == "__main__":
    raise SystemExit(main())
