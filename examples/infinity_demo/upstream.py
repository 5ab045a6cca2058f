"""Upstream's Infinity on a CPU: a clone on the import path, and stand-ins for what needs CUDA.

Nothing of upstream is copied: it is imported from `$SCOPE_PATCH_UPSTREAM/Infinity` (commit 4c27bbb).
shims/ stands in for flash_attn (PyTorch's own attention), shims/_fallback for what is imported and hardly used.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from pathlib import Path

HERE = Path(__file__).resolve().parent
UPSTREAM = Path(os.environ.get("SCOPE_PATCH_UPSTREAM", "~/.cache/scope_patch/upstream")).expanduser()


def prepare(clone: Path | None = None) -> None:
    """Environment, import path and stand-ins; call before the first import of upstream, or of torch's compiler."""
    clone = clone or UPSTREAM / "Infinity"
    if not (clone / "infinity").is_dir():
        sys.exit(
            f"no clone of github.com/FoundationVision/Infinity in {clone}: clone it there, or set SCOPE_PATCH_UPSTREAM"
        )
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # fused_op.py's decorators: plain functions, no compiler
    sys.dont_write_bytecode = True  # leave no __pycache__ in the clone
    for path in (str(clone), str(HERE / "shims")):  # the shims end up first
        if path in sys.path:
            sys.path.remove(path)
        sys.path.insert(0, path)
    sys.path.append(str(HERE / "shims" / "_fallback"))  # last: an installed package wins
    warnings.filterwarnings("ignore", message=".*torch.cuda.amp.autocast.*")
    warnings.filterwarnings("ignore", message=".*CUDA is not available.*")
    import torch

    torch.set_num_threads(1)  # tensors this small only lose time to a second thread


def schedule(pn: str = "0.06M", ratio: float = 1.0) -> list[tuple[int, int, int]]:
    """(1, height, width) of every scale: upstream's own table (7, 10, 12, 13 scales at 0.06M, 0.25M, 0.60M, 1M)."""
    from infinity.utils.dynamic_resolution import dynamic_resolution_h_w

    return [(1, h, w) for _, h, w in dynamic_resolution_h_w[ratio][pn]["scales"]]


def build(vae, *, depth=4, width=128, heads=4, text=128, pn="0.06M", chunks=2, patchify=False, seed=0, **more):
    """Upstream's class as tools/run_infinity.py builds it, with small sizes, in training mode; what it prints is kept
    off the terminal."""
    import torch
    from infinity.models.infinity import Infinity

    options = dict(
        text_channels=text, text_maxlen=64, shared_aln=True, raw_scale_schedule=None, checkpointing=None,
        customized_flash_attn=False, fused_norm=True, pad_to_multiplier=1, use_flex_attn=False,
        add_lvl_embeding_only_first_block=1, use_bit_label=1, rope2d_each_sa_layer=1, rope2d_normalized_by_hw=2,
        pn=pn, apply_spatial_patchify=int(patchify), inference_mode=True, train_h_div_w_list=[1.0], depth=depth,
        embed_dim=width, num_heads=heads, drop_path_rate=0.0, mlp_ratio=4, block_chunks=chunks,
    )  # fmt: skip
    with contextlib.redirect_stdout(open(os.devnull, "w")), torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Infinity(vae_local=vae, **{**options, **more})
    model.rng = torch.Generator(device="cpu")
    return model
