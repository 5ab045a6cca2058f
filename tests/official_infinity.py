"""Run the unmodified official Infinity loop on a CPU with tiny random weights; a script, started by a test.

    python official_infinity.py CHECKOUT     one JSON line a case: an unpatched generation and a patched one
    python official_infinity.py fake         the same on the fake of tests/fakes, as far as it goes

Upstream's from `autoregressive_infer_cfg` down: the loop, blocks, KV cache, guidance, sampler, quantiser. FLOPs are
counted by hooks on the submodules of blocks.
"""

from __future__ import annotations

import hashlib
import json
import sys
import zlib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
BITS = 8
CASES = {
    "0.06M": {},
    "0.25M": {"pn": "0.25M"},
    "0.60M": {"pn": "0.60M"},
    "1M": {"pn": "1M"},
    "ratio 2": {"ratio": 2.0},
    "ratio 0.666": {"pn": "0.25M", "ratio": 0.666},
    "no guidance": {"cfg": [1.0] * 7},
    "guidance a scale": {"cfg": [1.0, 5.0, 4.0, 3.0, 2.0, 1.0, 1.0]},
    "guidance comes and goes": {"cfg": [3.0, 1.0, 4.0, 1.0, 2.0, 1.0, 3.0]},
    "guidance within": {"layers": [-2]},
    "guidance within, off at the end": {"layers": [-2], "cfg": [4.0] * 4 + [1.0] * 3},
    "negative prompt": {"negative": True},
    "batch": {"batch": 2, "cfg": [4.0] * 5 + [1.0] * 2},
    "batch, negative prompt": {"batch": 2, "negative": True},
    "patchify": {"patchify": True},
    "five scales": {"trunk_scale": 5},
    "five scales, unguided there": {"trunk_scale": 5, "cfg": [4.0] * 3 + [1.0] * 2 + [4.0] * 2},
}
"""All of the schedules, ratios, guidance and prompts that upstream knows."""
RULES = {
    "zero": "Z", "cached": "C", "predicted": "P", "logits": "L",
    "one by one": "R,S0.6,S0.5,Z", "tokens": "R,S0.5,S0.5,S0.4", "single rows": "R,Ru,R,Ru",
    "rows and tokens": "Ru,S0.5u,R,P",
}  # fmt: skip
UNLOOKED = ("Ru,S0.5u,P", "S0.5,S0.4,L", "R,C,Z")
OFF = [4.0] * 4 + [1.0] * 3


def randomise(model):
    """Fan-in scaled Gaussians by parameter name; sub-layers change the residual stream moderately."""
    import torch

    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
        last = name.rpartition(".")[2]
        if name.endswith("scale_mul_1H11"):
            continue
        if "ada_gss" in name:
            noise = noise * 0.1
            noise[:, :, :2] += 0.3
        elif "ada_lin" in name:
            noise = noise * 0.05 / parameter.shape[-1] ** 0.5 * (last == "weight")
        elif "norm" in name and parameter.dim() == 1:
            noise = torch.full_like(noise, float(last == "weight"))
        elif parameter.dim() == 1:
            noise = noise * 0.02
        elif "embed" not in name and name not in ("cfg_uncond", "pos_start"):
            noise = noise / parameter.shape[-1] ** 0.5
        parameter.data.copy_(noise)
    return model.eval().requires_grad_(False)


class Counter:
    """FLOPs of every scale, by hooks below the blocks."""

    def __init__(self, model):
        self.flops, self.passes = [], 0
        for block in model.unregistered_blocks:
            block.sa.register_forward_hook(self._attended)
            block.ca.register_forward_pre_hook(self._crossed)
            block.ffn.register_forward_pre_hook(self._fed)
        model.unregistered_blocks[0].sa.register_forward_pre_hook(self._passed)
        model.head.register_forward_pre_hook(self._headed)
        model.word_embed.register_forward_pre_hook(lambda *_: self.flops.append(0.0))

    def clear(self):
        self.flops, self.passes = [0.0], 0

    def _passed(self, module, args):
        self.passes += 1

    def _attended(self, module, args, output):
        rows, tokens, width = args[0].shape
        self.flops[-1] += rows * tokens * (8 * width**2 + 4 * module.cached_k.shape[2] * width)

    def _crossed(self, module, args):
        rows, tokens, width = args[0].shape
        text = len(args[1][0])
        self.flops[-1] += rows * tokens * 4 * width**2 + text * 4 * width**2 + 4 * tokens * text * width

    def _fed(self, module, args):
        rows, tokens, width = args[0].shape
        self.flops[-1] += rows * tokens * 4 * width * module.fc1.out_features

    def _headed(self, module, args):
        rows, tokens, width = args[0].shape
        self.flops[-1] += 2 * rows * tokens * width * module.out_features


class Bench:
    """Models by what they are built with, and generations with them. Attributes: cases, those that it can make."""

    cases = tuple(CASES)

    def __init__(self):
        self._models, self._alone = {}, {}

    def alone(self, options):
        """What the unpatched host makes of a case, once."""
        key = json.dumps(options)
        if key not in self._alone:
            self._alone[key] = self.generate(**options)
        return self._alone[key]

    def model(self, pn, patchify):
        key = pn, patchify
        if key not in self._models:
            model, vae = self.build(pn, patchify)
            vae.decode = lambda codes: codes[:, :3]
            self._models[key] = model, vae, Counter(model)
        return self._models[key]

    def build(self, pn, patchify):
        from infinity_demo import upstream
        from infinity_demo.autoencoder import Autoencoder

        vae = Autoencoder(BITS).eval()
        return randomise(upstream.build(vae, width=64, heads=2, pn=pn, patchify=patchify)), vae

    def scales(self, pn, ratio):
        from infinity_demo import upstream

        return upstream.schedule(pn, ratio)

    def generate(
        self, pn="0.06M", ratio=1.0, cfg=None, layers=(0,), negative=False, batch=1, patchify=False, seed=1, **more
    ):
        """(digest of bits, codes, picture; that of the generator; FLOPs a scale; passes of the stack)."""
        import torch

        model, vae, count = self.model(pn, patchify)
        scales = self.scales(pn, ratio)
        lengths = [5 + 3 * k for k in range(batch)]
        count.clear()
        with torch.no_grad():
            _, _, image = model.autoregressive_infer_cfg(
                vae=vae, scale_schedule=scales, label_B_or_BLT=caption(lengths, seed), B=batch, g_seed=seed,
                negative_label_B_or_BLT=caption([n + 2 for n in lengths], 99) if negative else None,
                cfg_list=cfg or [4.0] * len(scales), tau_list=[0.5] * len(scales), top_k=900, top_p=0.97,
                returns_vemb=1, cfg_insertion_layer=[*layers], vae_type=BITS, ret_img=True, inference_mode=True, **more,
            )  # fmt: skip
        return hashlib.sha256(image.numpy().tobytes()).hexdigest(), hashed(model.rng), count.flops, count.passes


FAKED = tuple(name for name, options in CASES.items() if not {"pn", "ratio", "patchify"} & set(options))


class FakeBench(Bench):
    """The same on the fake: one size, no patchify."""

    cases = FAKED

    def build(self, pn, patchify):
        import torch
        from infinity.models.bsq_vae.multiscale_bsq import MultiScaleBSQ
        from infinity.models.infinity import Infinity

        vae = torch.nn.Module()
        vae.embed_dim, vae.quantizer = BITS, MultiScaleBSQ(dim=BITS)
        with torch.random.fork_rng():
            torch.manual_seed(3)
            return Infinity(vae, schedules=[self.scales(pn, 1.0)]).eval().requires_grad_(False), vae

    def scales(self, pn, ratio):
        return [(1, side, side) for side in (1, 2, 4, 6, 8, 12, 16)]


def hashed(generator):
    return hashlib.sha256(generator.get_state().numpy().tobytes()).hexdigest()


def caption(lengths, seed):
    """As upstream's `encode_prompt` makes it."""
    import torch

    tokens = torch.randn(sum(lengths), 128, generator=torch.Generator().manual_seed(seed))
    bounds = torch.nn.functional.pad(torch.tensor(lengths, dtype=torch.int32).cumsum(0, dtype=torch.int32), (1, 0))
    return tokens, list(lengths), bounds, max(lengths)


def patched(bench, options, **settings):
    """(what `generate` gives, the generation's report)."""
    import scope_patch

    model = bench.model(options.get("pn", "0.06M"), options.get("patchify", False))[0]
    with scope_patch.patched(model, **{"strict": True, **settings}) as run:
        made = bench.generate(**options)
    return made, run.report


def compare(bench, name, options, **settings):
    alone, (made, report) = bench.alone(options), patched(bench, options, **settings)
    (generation,) = report["generations"]
    planned = generation["planned"][0]
    return {
        "case": name,
        "equal": made[0] == alone[0],
        "draws": made[1] == alone[1],
        "alone": sum(alone[2]),
        "flops": sum(made[2]),
        "work": planned["work"],
        "host": planned["host"],
        "baseline": planned["baseline"],
        "passes": [alone[3], made[3]],
        "forwards": generation["forwards"],
        "modes": generation["segments"][0]["modes"],
        "tokens": [generation["segments"][0][f"slots_{which}"] for which in ("baseline", "computed")],
        "status": report["status"],
        "remarks": generation["remarks"],
        "guards": generation["guards"],
    }


def refused(bench, name, options, change=None, **settings):
    """Why a generation runs unpatched, and whether it is the unpatched one; with strict, what is raised."""
    from scope_patch.errors import ScopePatchError

    model = bench.model("0.06M", False)[0]
    undo = change(model) if change else lambda: None
    try:
        alone = bench.generate(**options)
        made, report = patched(bench, options, strict=False, **settings)
        try:
            patched(bench, options, **settings)
            raised = ""
        except ScopePatchError as error:
            raised = str(error)
    finally:
        undo()
    return {"case": name, "equal": made[:2] == alone[:2], "status": report["status"], "reasons": report["reasons"],
            "raised": raised}  # fmt: skip


def unlooked(bench, words):
    """A generation in which our code must not look at a tensor's numbers; the same as without that."""
    from no_sync import LookedError, no_sync

    usual, problem = patched(bench, {"cfg": OFF}, scales=words)[0], ""
    try:
        with no_sync() as operations:
            made = patched(bench, {"cfg": OFF}, scales=words)[0]
    except LookedError as looked:
        made, problem = None, str(looked)
    return {"case": f"no look - {words}", "problem": problem, "equal": made == usual, "seen": operations.seen}


def with_(**attributes):
    def change(model):
        before = {name: getattr(model, name) for name in attributes}
        vars(model).update(attributes)
        return lambda: vars(model).update(before)

    return change


def failures(bench):
    """The host fails in the midst of a generation; we do."""
    import scope_patch
    from scope_patch.patch.stack import ScaleSession

    options, settings = {"cfg": OFF, "pn": "0.06M"}, {"scales": "Ru,S0.5u,P,S0.4"}
    model = bench.model("0.06M", False)[0]
    before = {owner: dict(vars(owner)) for owner in owners()}
    usual = patched(bench, options, **settings)[0]
    alone = bench.generate(**options)

    def fail(*_):
        raise RuntimeError("on purpose")

    with scope_patch.patched(model, **settings, strict=True) as run:
        hook = model.unregistered_blocks[2].ffn.register_forward_pre_hook(fail)
        caught = ""
        try:
            bench.generate(**options)
        except RuntimeError as error:
            caught = str(error)
        hook.remove()
        again = bench.generate(**options)
    yield {"case": "the host fails", "caught": caught, "again": again[:2] == usual[:2],
           "finished": [each["finished"] for each in run.report["generations"]]}  # fmt: skip

    call, places = ScaleSession.call, []
    for at in range(1, 28):
        seen = []

        def failing(self, layer, block, arguments, at=at, seen=seen):
            seen.append(layer)
            if len(seen) == at:
                raise ValueError("ours, on purpose")
            return call(self, layer, block, arguments)

        ScaleSession.call = failing
        try:
            made, report = patched(bench, options, **settings, strict=False)
        finally:
            ScaleSession.call = call
        (generation,) = report["generations"]
        places.append([made[1] == alone[1], report["status"], generation["finished"], generation["forwards"]])
    yield {"case": "we fail", "places": places}
    after = {owner: dict(vars(owner)) for owner in owners()}
    yield {
        "case": "removal",
        "restored": before == after,
        "owners": len(before),
        "equal": bench.generate(**options) == alone,
    }


def owners():
    from infinity.models.basic import CrossAttnBlock
    from infinity.models.bsq_vae.multiscale_bsq import BSQ
    from infinity.models.infinity import Infinity

    return CrossAttnBlock, BSQ, Infinity


def everything(bench):
    for name in bench.cases:
        options = CASES[name]
        yield compare(bench, f"never - {name}", options, policy="never")
        yield compare(bench, f"target - {name}", options, target_speedup=2.0)
    for name in ("guidance a scale", "batch", "guidance within, off at the end", "five scales, unguided there"):
        yield compare(bench, f"rows - {name}", CASES[name], target_speedup=1.0)
    for name, words in RULES.items():
        for of, options in (
            ("guided", {}),
            ("off at the end", {"cfg": OFF}),
            ("batch", {"batch": 2, "negative": True}),
        ):
            how = {"scales": words} if "," in words else {"scales": words, "target_speedup": 2.0}
            yield compare(bench, f"{name} - {of}", options, **how)
    within = {"layers": [-2], "cfg": OFF}
    yield compare(bench, "tokens - within", within, scales="R,S0.5,S0.5,S0.5")
    if "patchify" in bench.cases:
        yield compare(bench, "tokens - patchify", {"patchify": True}, scales="R,S0.5,P,Z")

    def unfused(model):
        first = model.unregistered_blocks[0]
        kept, first.fused_norm_func = first.fused_norm_func, None
        return lambda: setattr(first, "fused_norm_func", kept)

    yield refused(bench, "flex attention", {}, with_(use_flex_attn=True))
    yield refused(bench, "no fused norm", {}, unfused)
    yield refused(bench, "rows within", {"layers": [-2]}, scales="Ru,R")
    yield refused(bench, "first scale", {}, scales="Z,R,R,R,R,R,R")
    yield compare(bench, "verify", {}, target_speedup=2.0, verify=1)
    yield from (unlooked(bench, words) for words in UNLOOKED)
    yield from failures(bench)


if __name__ == "__main__":
    if sys.argv[1] == "fake":
        sys.path.insert(0, str(Path(__file__).parent / "fakes" / "infinity"))
        made = FakeBench()
    else:
        from infinity_demo import upstream

        upstream.prepare(Path(sys.argv[1]))
        made = Bench()
    for line in everything(made):
        print(json.dumps(line), flush=True)
