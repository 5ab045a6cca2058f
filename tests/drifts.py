"""Mutations of hosts' source text, and what shall become of each: the table of tests/test_drift.py.

Expected: "handled" (accelerated as ever), "refused: WORDS" (runs as if we were not there, and is told WORDS), or "late:
WORDS" (the same, but what cannot be seen before the first forward is seen then: SCOPE's first interval was given).
"""

# ruff: noqa: E501 - pieces of other people's text
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Mutation:
    """`edits`: (file, old text, new text); `options`: of the generation."""

    name: str
    expected: str
    edits: tuple[tuple[str, str, str], ...]
    options: dict[str, Any] = field(default_factory=dict)


PIPE = "skyreels_v2_infer/pipelines/diffusion_forcing_pipeline.py"
DIT = "skyreels_v2_infer/modules/transformer.py"
RETURN = "return template[index], index, torch.tensor(masks).repeat_interleave(size, dim=1), intervals"
FOUR = "template[index], index, torch.tensor(masks).repeat_interleave(size, dim=1), intervals"
CALL = """self.generate_timestep_matrix(
            frames, template, frames, ar_step, ready, size
        )"""
BY_NAME = """self.generate_timestep_matrix(
            frames, template, frames, ar_step=ar_step, num_pre_ready=ready, casual_block_size=size
        )"""
READ = "start, end = valid_interval[i]"
LOOP = "for i, timestep_i in enumerate(step_matrix):"
FORWARD = "def forward(self, x, t, context, clip_fea=None, y=None, fps=None):"
HEADER = "class WanModel(nn.Module, ModelMixin):"
LAST = 'return torch.einsum("bfhwpqc->bcfhpwq", x).reshape(batch, 4, frames, height, width).float()'
MADE = LAST.removeprefix("return ")
COND = "self.transformer(x, t=timestep, context=context, fps=[int(fps != 16)])"
UNCOND = "self.transformer(x, t=timestep, context=negative, fps=[int(fps != 16)])"
GUIDED = "velocity = other + guidance * (velocity - other)"
SYNCHRONOUS = {"ar_step": 0, "causal_block_size": 1}
SQUARE = {"num_frames": 24, "causal_block_size": 6, "ar_step": 4, "num_inference_steps": 12}
"""As many iterations as latent frames."""
DECORATOR = """import functools


def logged(method):
{wraps}
    def wrapper({given}):
        return method({passed})

    return wrapper


class Block("""


def returns(name, expected, new, *more):
    return Mutation(name, expected, ((PIPE, RETURN, new), *more))


def of_matrix(name, expected, matrix, *more):
    return returns(name, expected, RETURN.replace("template[index]", matrix, 1), *more)


def intervals(name, expected, made):
    return returns(name, expected, RETURN.replace("intervals", made))


def decorated(name, expected, wraps, given="*args, **kwargs", passed="*args, **kwargs", *more):
    made = DECORATOR.format(wraps=wraps, given=given, passed=passed)
    edits = ((DIT, "class Block(", made), (DIT, FORWARD, f"@logged\n    {FORWARD}"), *more)
    return Mutation(name, expected, edits)


def read(name, expected, new, *more):
    return Mutation(name, expected, ((PIPE, READ, new), *more))


def forward(name, expected, new, *more, **options):
    return Mutation(name, expected, ((DIT, FORWARD, new), *more), options)


def output(name, expected, made, taken):
    edits = ((DIT, LAST, f"return {made}"), (PIPE, f"{COND}[0]", taken(COND)), (PIPE, f"{UNCOND}[0]", taken(UNCOND)))
    return Mutation(name, expected, edits)


OFFICIAL = [
    # The schedule function's parameters
    Mutation(
        "a schedule parameter renamed",
        "refused: no parameter num_pre_ready",
        ((PIPE, "num_pre_ready", "num_ready"),),
    ),
    Mutation(
        "schedule parameters reordered",
        "refused: expected the order",
        (
            (PIPE, "ar_step=5,\n        num_pre_ready=0,", "num_pre_ready=0,\n        ar_step=5,"),
            (PIPE, CALL, CALL.replace("ar_step, ready", "ready, ar_step")),
        ),
    ),
    Mutation(
        "schedule parameters keyword-only",
        "handled",
        ((PIPE, "        ar_step=5,\n", "        *,\n        ar_step=5,\n"), (PIPE, CALL, BY_NAME)),
    ),
    Mutation(
        "schedule parameters positional-only",
        "handled",
        ((PIPE, "        ar_step=5,\n", "        /,\n        ar_step=5,\n"),),
    ),
    Mutation(
        "a schedule parameter more in between",
        "handled",
        ((PIPE, "        ar_step=5,\n", "        jitter=0.0,\n        ar_step=5,\n"), (PIPE, CALL, BY_NAME)),
    ),
    Mutation(
        "a schedule parameter more at the end",
        "handled",
        ((PIPE, "shrink_interval_with_mask=False,", "shrink_interval_with_mask=False,\n        jitter=0.0,"),),
    ),
    # What it returns
    returns(
        "a fifth value",
        "refused: returns 4 things",
        f"{RETURN}, None",
        (PIPE, "step_update_mask, valid_interval = self", "step_update_mask, valid_interval, _ = self"),
    ),
    returns(
        "a fifth value, made before it is returned",
        "refused: returns 4 things",
        f"made = ({FOUR}, None)\n        return made",
        (PIPE, "step_update_mask, valid_interval = self", "step_update_mask, valid_interval, _ = self"),
    ),
    returns("a list of the four", "refused: returns 4 things", f"return [{FOUR}]"),
    returns(
        "a named tuple of the four",
        "refused: returns 4 things",
        "from collections import namedtuple\n        made = namedtuple('Schedule', 'matrix index mask intervals')"
        f"\n        return made({FOUR})",
        (PIPE, "step_matrix, _, step_update_mask, valid_interval = ", "made = "),
        (
            PIPE,
            "if ends is not None:\n            step_matrix",
            "step_matrix, step_update_mask, valid_interval = made.matrix, made.mask, made.intervals"
            "\n        if ends is not None:\n            step_matrix",
        ),
    ),
    Mutation(
        "a decorator that makes a named tuple of the four",
        "refused: returned a Schedule",
        (
            (
                PIPE,
                "class DiffusionForcingPipeline:",
                "import collections\nimport functools\n\n"
                "Schedule = collections.namedtuple('Schedule', 'matrix index mask intervals')\n\n\n"
                "def named(method):\n    @functools.wraps(method)\n    def wrapper(*args):\n"
                "        return Schedule(*method(*args))\n\n    return wrapper\n\n\nclass DiffusionForcingPipeline:",
            ),
            (PIPE, "    def generate_timestep_matrix", "    @named\n    def generate_timestep_matrix"),
        ),
    ),
    returns(
        "an object with the four",
        "refused: returns 4 things",
        f"from dataclasses import make_dataclass\n        return make_dataclass('Four', list('abcd'))({FOUR})",
        (
            PIPE,
            f"step_matrix, _, step_update_mask, valid_interval = {CALL}",
            f"made = {CALL}\n        step_matrix, step_update_mask, valid_interval = made.a, made.c, made.d",
        ),
    ),
    # Dtypes and units
    of_matrix("timesteps in float64", "handled", "template[index].double()"),
    of_matrix("timesteps in float32", "handled", "template[index].float()"),
    of_matrix("timesteps in int32", "handled", "template[index].int()"),
    of_matrix("timesteps in bf16", "handled", "template[index].bfloat16()"),
    of_matrix(
        "timesteps of 0..1",
        "refused: noise levels",
        "template[index] / 1000",
        (PIPE, "timestep_i[None, start:end].clone()", "(1000 * timestep_i[None, start:end]).round()"),
        (PIPE, "step / 1000 * velocity", "step * velocity"),
    ),
    of_matrix(
        "timesteps of 0..10000",
        "refused: noise levels",
        "template[index] * 10",
        (PIPE, "timestep_i[None, start:end].clone()", "(timestep_i[None, start:end] / 10).round()"),
        (PIPE, "step / 1000 * velocity", "step / 10000 * velocity"),
    ),
    of_matrix(
        "timesteps that rise to 1000",
        "refused: noise levels",
        "1000 - template[index]",
        (PIPE, "timestep_i[None, start:end].clone()", "1000 - timestep_i[None, start:end]"),
        (
            PIPE,
            "step = (following[j] if following[j] < timestep_i[j] else 0) - timestep_i[j]",
            "step = timestep_i[j] - (following[j] if following[j] > timestep_i[j] else 1000)",
        ),
    ),
    Mutation(
        "timesteps scaled where the DiT is called",
        "handled",
        (
            (PIPE, "t=timestep,", "t=timestep / 1000,"),
            (DIT, "t.flatten()[:, None] / 1000", "t.flatten()[:, None]"),
        ),
    ),
    returns("a step index in int32", "handled", RETURN.replace("index, torch", "index.int(), torch")),
    returns("a step index in float32", "handled", RETURN.replace("index, torch", "index.float(), torch")),
    returns("a mask of integers", "refused: update mask is torch.int64", RETURN.replace("dim=1),", "dim=1).long(),")),
    returns("a mask of floats", "refused: update mask is torch.float32", RETURN.replace("dim=1),", "dim=1).float(),")),
    returns(
        "a mask that is transposed",
        "refused: is not an [iterations, latent frames] tensor",
        RETURN.replace("dim=1),", "dim=1).T,"),
        (PIPE, "step_update_mask[i, j]", "step_update_mask[j, i]"),
    ),
    Mutation(
        "a square mask that is transposed",
        "refused: update mask",
        (
            (PIPE, RETURN, RETURN.replace("dim=1),", "dim=1).T,")),
            (PIPE, "step_update_mask[i, j]", "step_update_mask[j, i]"),
        ),
        SQUARE,
    ),
    returns(
        "a mask that says what is kept",
        "refused: update mask",
        RETURN.replace("torch.tensor(masks)", "~torch.tensor(masks)"),
        (PIPE, "step_update_mask[i, j].item()", "not step_update_mask[i, j].item()"),
    ),
    # Its intervals
    intervals("intervals as lists", "refused: (start, end) pairs", "[list(pair) for pair in intervals]"),
    intervals("intervals as a tensor", "refused: a Tensor, expected a list", "torch.tensor(intervals)"),
    intervals("intervals as an array", "refused: a ndarray, expected a list", "torch.tensor(intervals).numpy()"),
    intervals("intervals as a tuple", "refused: a tuple, expected a list", "tuple(intervals)"),
    intervals("intervals of tensors", "handled", "[tuple(torch.tensor(pair)) for pair in intervals]"),
    intervals("intervals one too many", "refused: not a list of", "[*intervals, intervals[-1]]"),
    # How the loop reads them
    read(
        "intervals read once before the loop",
        "refused: loop counter",
        "pass",
        (PIPE, f"        {LOOP}", f"        start, end = valid_interval[0]\n        {LOOP}"),
    ),
    read(
        "intervals iterated, not indexed",
        "refused: indexes the intervals",
        "pass",
        (PIPE, LOOP, "for i, (timestep_i, (start, end)) in enumerate(zip(step_matrix, valid_interval)):"),
    ),
    read(
        "intervals iterated, and indexed for nothing",
        "refused: loop counter",
        "pass",
        (
            PIPE,
            f"        {LOOP}",
            "        first = valid_interval[0]\n"
            "        for i, (timestep_i, (start, end)) in enumerate(zip(step_matrix, valid_interval)):",
        ),
    ),
    read("intervals read twice", "handled", f"{READ}\n            start, end = valid_interval[i]"),
    read(
        "intervals read one ahead",
        "refused: loop counter",
        "start, end = valid_interval[min(i + 1, len(valid_interval) - 1)]",
    ),
    read(
        "the next interval read as well",
        "refused: loop counter",
        f"{READ}\n            following = valid_interval[min(i + 1, len(valid_interval) - 1)]",
    ),
    read(
        "the next interval read as well, by a name",
        "refused: out of order",
        f"k = min(i + 1, len(valid_interval) - 1)\n            following = valid_interval[k]\n            {READ}",
    ),
    read(
        "the next interval read last, by a name",
        "late: before the DiT",
        f"{READ}\n            k = min(i + 1, len(valid_interval) - 1)\n            following = valid_interval[k]",
    ),
    read(
        "intervals read in reverse", "refused: loop counter", "start, end = valid_interval[len(valid_interval) - 1 - i]"
    ),
    read(
        "intervals read in reverse, by a name",
        "refused: out of order",
        "k = len(valid_interval) - 1 - i\n            start, end = valid_interval[k]",
    ),
    read("an interval kept as a pair", "handled", "pair = valid_interval[i]\n            start, end = pair"),
    read(
        "a copy of the intervals is read",
        "refused: denoise loop",
        READ,
        (PIPE, f"        {LOOP}", f"        valid_interval = [*valid_interval]\n        {LOOP}"),
    ),
    Mutation(
        "latents cut elsewhere",
        "refused: cuts",
        ((PIPE, "latents[None, :, start:end]", "latents[None, :, 0:frames]"),),
    ),
    Mutation(
        "timesteps cut elsewhere",
        "refused: cuts",
        ((PIPE, "timestep_i[None, start:end]", "timestep_i[None, 0:frames]"),),
    ),
    # How the DiT is called
    Mutation(
        "both branches in one forward",
        "handled",
        (
            (
                PIPE,
                "latents = torch.randn(4, frames",
                "both = torch.cat([context, negative])\n        latents = torch.randn(4, frames",
            ),
            (
                PIPE,
                f"velocity = {COND}[0]",
                "velocity, other = self.transformer(\n                x.expand(2, -1, -1, -1, -1), "
                "t=timestep.expand(2, -1), context=both, fps=[int(fps != 16)] * 2\n            )",
            ),
            (PIPE, f"other = {UNCOND}[0]\n                ", ""),
        ),
    ),
    Mutation(
        "both branches in one forward, joined anew at every step",
        "handled",
        (
            (
                PIPE,
                f"velocity = {COND}[0]",
                "velocity, other = self.transformer(\n                x.expand(2, -1, -1, -1, -1), "
                "t=timestep.expand(2, -1), context=torch.cat([context, negative]), fps=[int(fps != 16)] * 2\n            )",
            ),
            (PIPE, f"other = {UNCOND}[0]\n                ", ""),
        ),
    ),
    forward(
        "one timestep a sample",
        "late: [batch, latent frames]",
        f"{FORWARD}\n        if t.dim() == 1:\n            t = t[:, None].expand(-1, x.shape[2])",
        (PIPE, "t=timestep,", "t=timestep[:, 0],"),
        **SYNCHRONOUS,
    ),
    Mutation("timesteps flattened", "late: [batch, latent frames]", ((PIPE, "t=timestep,", "t=timestep.flatten(),"),)),
    Mutation(
        "forward called past the seam",
        "late: before the DiT",
        ((PIPE, "self.transformer(x", "self.transformer.forward(x"),),
    ),
    Mutation(
        "a third forward with the same text",
        "handled",
        ((PIPE, GUIDED, f"{GUIDED}\n                {COND}"),),
    ),
    Mutation(
        "the velocity spoilt when it has been used",
        "handled",
        (
            (
                PIPE,
                "following = step_matrix",
                "used, velocity = velocity, velocity.clone()\n            used.fill_(7)\n            following = step_matrix",
            ),
        ),
        {"guidance_scale": 1.0},
    ),
    # Its forward
    forward(
        "a parameter of the DiT renamed",
        "refused: no parameter t among",
        FORWARD.replace(" t,", " timestep,") + "\n        t = timestep",
        (PIPE, "t=timestep", "timestep=timestep"),
    ),
    forward(
        "parameters of the DiT reordered",
        "refused: expected the order",
        FORWARD.replace("t, context", "context, t"),
    ),
    forward(
        "parameters of the DiT keyword-only",
        "handled",
        FORWARD.replace("x, t,", "x, *, t,"),
    ),
    forward(
        "parameters of the DiT positional-only",
        "refused: by keyword",
        FORWARD.replace("x, t,", "x, t, /,"),
        (PIPE, "t=timestep,", "timestep,"),
    ),
    forward(
        "further arguments of the DiT collected",
        "refused: by keyword",
        FORWARD.replace("x, t,", "x, t, *rest,").replace("context,", "context=None,"),
    ),
    forward(
        "a parameter of the DiT more in between",
        "handled",
        FORWARD.replace("x, t,", "x, scale=1.0, t=None,").replace("context,", "context=None,"),
    ),
    forward("a parameter of the DiT more at the end", "handled", FORWARD.replace("fps=None", "fps=None, scale=1.0")),
    decorated("a decorator that says what it wraps", "handled", "    @functools.wraps(method)"),
    decorated("a decorator that does not", "refused: among (args, kwargs)", "    "),
    decorated(
        "a decorator that turns parameters round",
        "late: tensor",
        "    @functools.wraps(method)",
        "self, t, x, **kwargs",
        "self, x, t, **kwargs",
        (PIPE, "self.transformer(x, t=timestep", "self.transformer(timestep, x"),
    ),
    output("a dictionary returned", "late: a dict", f"{{'sample': {MADE}}}", lambda call: f"{call}['sample'][0]"),
    output("a tuple of one returned", "handled", f"({MADE},)", lambda call: f"{call}[0][0]"),
    output("a tuple of two returned", "late: 2 things", f"({MADE}, None)", lambda call: f"{call}[0][0]"),
    output(
        "an object returned",
        "handled",
        f"Output({MADE})",
        lambda call: f"{call}.sample[0]",
    ),
    output(
        "an object with more in it returned",
        "late: extra",
        f"Output({MADE}, 1)",
        lambda call: f"{call}.sample[0]",
    ),
    output("a velocity in bf16", "handled", f"({MADE}).bfloat16()", lambda call: f"{call}[0].float()"),
    output(
        "a velocity laid out otherwise",
        "late: shape",
        f"({MADE}).transpose(1, 2)",
        lambda call: f"{call}[0].transpose(0, 1)",
    ),
    Mutation("blocks renamed", "refused: has blocks", ((DIT, "self.blocks", "self.layers"),)),
    Mutation("blocks called by keyword", "handled", ((DIT, "x = block(x, e=e", "x = block(x=x, e=e"),)),
    Mutation(
        "the DiT's class renamed, an alias left",
        "handled",
        ((DIT, HEADER, HEADER.replace("WanModel", "WanModel2")), (DIT, LAST, f"{LAST}\n\n\nWanModel = WanModel2")),
    ),
    Mutation(
        "the pipeline's class renamed, an alias left",
        "handled",
        (
            (PIPE, "class DiffusionForcingPipeline:", "class Pipeline2:"),
            (PIPE, "        return latents\n", "        return latents\n\n\nDiffusionForcingPipeline = Pipeline2\n"),
        ),
    ),
    Mutation("another base class", "refused: WanModel is a ModelMixin", ((DIT, "ModelMixin", "ModuleMixin"),)),
]
# What some of them return, defined where the blocks are.
OUTPUT = """class Output:
    def __init__(self, sample, extra=None):
        self.sample = sample
        if extra is not None:
            self.extra = extra


class Block("""
OFFICIAL = [
    Mutation(each.name, each.expected, ((DIT, "class Block(", OUTPUT), *each.edits), each.options)
    if any("Output(" in new for _, _, new in each.edits)
    else each
    for each in OFFICIAL
]

WALK = "inference/pipeline/video_generate.py"
DISPATCHER = "inference/model/dit/dit_model.py"
FIVE = "(chunk_offset, start, end, t_start, t_end)"
DISPATCHED = "velocity = find_dit_model(self.model).forward_dispatcher("
SIGNATURE = "def forward_dispatcher(self, x, timestep, y, mask, kv_range, inference_params, **kwargs):"
FLIPPED = ".unflatten(2, (-1, kwargs['chunk_width'])).flip(2).flatten(2, 3)"
MAGI = [
    Mutation(
        "a parameter of the step renamed",
        "refused: no parameter cur_denoise_step",
        ((WALK, "cur_denoise_step", "denoise_step"),),
    ),
    Mutation(
        "the dispatcher called by position",
        "handled",
        ((WALK, "x=x_chunk,\n            timestep=t,", "x_chunk,\n            t,"),),
    ),
    Mutation(
        "timesteps given youngest chunk first",
        "refused: cleanest first",
        (
            (
                WALK,
                "        return torch.cat([clean, t_total[parts * denoise_step_per_stage + denoise_idx]])",
                "        return torch.cat([clean, t_total[parts * denoise_step_per_stage + denoise_idx]]).flip(0)",
            ),
            (
                WALK,
                "t = self.get_timestep(self.ts[infer_idx], *window)",
                "t = self.get_timestep(self.ts[infer_idx], *window).flip(0)",
            ),
            (WALK, "per_stage, t_start, t_end, index)", "per_stage, t_start, t_end, index).flip(0)"),
        ),
    ),
    Mutation(
        "the DiT called youngest chunk first",
        "part: is called with the timesteps",
        (
            (
                WALK,
                "x=x_chunk,\n            timestep=t,",
                "x=x_chunk.unflatten(2, (-1, width)).flip(2).flatten(2, 3),\n            timestep=t.flip(1),",
            ),
            (
                WALK,
                "self.x_chunks[infer_idx], self.velocities[infer_idx] = x_chunk, velocity",
                "velocity = velocity.unflatten(2, (-1, width)).flip(2).flatten(2, 3)\n"
                "        self.x_chunks[infer_idx], self.velocities[infer_idx] = x_chunk, velocity",
            ),
            (
                DISPATCHER,
                "        assert x.shape[0] == 2\n",
                f"        if not kwargs.get('extract_prefix_video_feature'):\n            x, timestep = x{FLIPPED}, timestep.flip(1)\n",
            ),
            (DISPATCHER, "        return torch.cat([x, x])\n", f"        return torch.cat([x, x]){FLIPPED}\n"),
        ),
    ),
    Mutation(
        "timesteps of 0..1000 given to the DiT",
        "refused: is called with the timesteps",
        (
            (WALK, "            timestep=t,", "            timestep=1000 * t,"),
            (DISPATCHER, "        assert x.shape[0] == 2\n", "        timestep = timestep / 1000\n"),
        ),
    ),
    Mutation(
        "a sixth thing said of a stage",
        "refused: cannot be read",
        (
            (WALK, "*(values[stage] for values in lists))", "*(values[stage] for values in lists), None)"),
            (WALK, FIVE, FIVE.replace("t_end)", "t_end, _)")),
        ),
    ),
    Mutation(
        "a third tuple said of a stage",
        "refused: cannot be read",
        (
            (WALK, "*(values[stage] for values in lists))", "*(values[stage] for values in lists)), None"),
            (WALK, f"{FIVE} = (", f"{FIVE}, _ = ("),
        ),
    ),
    Mutation(
        "velocities integrated in place",
        "handled",
        (
            (
                WALK,
                "x_chunk + velocity * (then - now).view(1, 1, -1, 1, 1, 1)",
                "x_chunk + velocity.mul_((then - now).view(1, 1, -1, 1, 1, 1))",
            ),
        ),
    ),
    Mutation(
        "two forwards a step",
        "handled",
        (
            (
                WALK,
                DISPATCHED,
                "dispatch = find_dit_model(self.model).forward_dispatcher\n"
                "        velocity = (lambda **given: (dispatch(**given), dispatch(**given))[1])(",
            ),
        ),
    ),
    Mutation(
        "a parameter of the dispatcher renamed",
        "refused: no parameter timestep",
        (
            (DISPATCHER, SIGNATURE, SIGNATURE.replace("timestep", "t") + "\n        timestep = t"),
            (WALK, "            timestep=t", "            t=t"),
        ),
    ),
    Mutation(
        "parameters of the dispatcher positional-only",
        "refused: by keyword",
        (
            (DISPATCHER, SIGNATURE, SIGNATURE.replace("timestep,", "timestep, /,")),
            (WALK, "x=x_chunk,\n            timestep=t,", "x_chunk,\n            t,"),
        ),
    ),
    Mutation(
        "what the dispatcher is told renamed",
        "refused: no fwd_extra_1st_chunk",
        (
            (WALK, "fwd_extra_1st_chunk", "extra_chunk"),
            (DISPATCHER, 'kwargs["fwd_extra_1st_chunk"]', 'kwargs["extra_chunk"]'),
            (DISPATCHER, "fwd_extra_1st_chunk=False", "extra_chunk=False"),
        ),
    ),
    Mutation(
        "a tuple of two returned by the dispatcher",
        "refused: 2 things",
        (
            (DISPATCHER, "        return torch.cat([x, x])\n", "        return torch.cat([x, x]), None\n"),
            (WALK, DISPATCHED, DISPATCHED.replace("velocity =", "velocity, _ =")),
        ),
    ),
    Mutation(
        "a velocity of the dispatcher in bf16",
        "handled",
        (
            (DISPATCHER, "        return torch.cat([x, x])\n", "        return torch.cat([x, x]).bfloat16()\n"),
            (
                WALK,
                "= x_chunk, velocity\n        return velocity",
                "= x_chunk, velocity.float()\n        return velocity",
            ),
        ),
    ),
    Mutation(
        "the walk renamed",
        "refused: method SampleTransport.walk",
        ((WALK, "def walk(", "def stroll("), (WALK, ".walk()", ".stroll()")),
    ),
    Mutation(
        "MAGI's blocks renamed",
        "refused: has videodit_blocks",
        ((DISPATCHER, "videodit_blocks", "blocks"), ("inference/tiny.py", "videodit_blocks", "blocks")),
    ),
    Mutation(
        "parameters of get_timestep reordered",
        "refused: expected the order",
        (
            (
                WALK,
                "denoise_step_per_stage, start, end, denoise_idx, has_clean_t=False):\n        clean",
                "start, end, denoise_step_per_stage, denoise_idx, has_clean_t=False):\n        clean",
            ),
            (
                WALK,
                "window = (per_stage, t_start, t_end, denoise_idx, extra)\n",
                "window = (per_stage, t_start, t_end, denoise_idx, extra)\n        turned = (t_start, t_end, per_stage, denoise_idx, extra)\n",
            ),
            (WALK, "self.get_timestep(self.ts[infer_idx], *window)", "self.get_timestep(self.ts[infer_idx], *turned)"),
            (
                WALK,
                "self.ts[infer_idx], per_stage, t_start, t_end, index)",
                "self.ts[infer_idx], t_start, t_end, per_stage, index)",
            ),
        ),
    ),
]

DF = "pipeline_skyreels_v2_diffusion_forcing.py"
TRANSFORMER = "transformer_skyreels_v2.py"
MATRICES = "step_matrix = torch.stack(step_matrix, dim=0)"
FOUR_OF_DF = "return step_matrix, step_index, step_update_mask, valid_interval"
UNPACKED = "step_matrix, _, step_update_mask, valid_interval = self"
READ_DF = "valid_interval_start, valid_interval_end = valid_interval[i]"
LOOP_DF = "for i, t in enumerate(step_matrix):"
CUT_DF = "latents[:, :, valid_interval_start:valid_interval_end, :, :]"
DIFFUSERS = [
    Mutation("num_pre_ready renamed", "refused: no parameter num_pre_ready", ((DF, "num_pre_ready", "num_ready"),)),
    Mutation(
        "a new parameter",
        "handled",
        ((DF, "causal_block_size: int = 1,\n", "causal_block_size: int = 1,\n        jitter: float = 0.0,\n"),),
    ),
    Mutation(
        "a fifth value",
        "refused: returns 4 things",
        ((DF, FOUR_OF_DF, f"{FOUR_OF_DF}, None"), (DF, UNPACKED, UNPACKED.replace("interval =", "interval, _ ="))),
    ),
    Mutation("timesteps in float64", "handled", ((DF, MATRICES, f"{MATRICES}.double()"),)),
    Mutation(
        "intervals as lists",
        "refused: (start, end) pairs",
        ((DF, FOUR_OF_DF, f"valid_interval = [list(pair) for pair in valid_interval]\n        {FOUR_OF_DF}"),),
    ),
    Mutation(
        "intervals iterated, not indexed",
        "refused: indexes the intervals",
        (
            (DF, READ_DF, "pass"),
            (
                DF,
                LOOP_DF,
                "for i, (t, (valid_interval_start, valid_interval_end)) in enumerate(zip(step_matrix, valid_interval)):",
            ),
        ),
    ),
    Mutation(
        "intervals read one ahead",
        "refused: loop counter",
        ((DF, READ_DF, READ_DF.replace("[i]", "[min(i + 1, len(step_matrix) - 1)]")),),
    ),
    Mutation(
        "intervals read once",
        "refused: loop counter",
        (
            (DF, READ_DF, "pass"),
            (
                DF,
                f"                {LOOP_DF}",
                f"                {READ_DF.replace('[i]', '[0]')}\n                {LOOP_DF}",
            ),
        ),
    ),
    Mutation("intervals read twice", "handled", ((DF, READ_DF, f"{READ_DF}\n                    {READ_DF}"),)),
    Mutation(
        "latents cut elsewhere", "refused: cuts", ((DF, CUT_DF, "latents[:, :, 0:current_num_latent_frames, :, :]"),)
    ),
    Mutation(
        "hidden_states renamed",
        "refused: no parameter hidden_states",
        (
            (
                TRANSFORMER,
                "        hidden_states: torch.Tensor,\n        timestep: torch.LongTensor,",
                "        latents: torch.Tensor,\n        timestep: torch.LongTensor,",
            ),
            (
                TRANSFORMER,
                "hidden_states.shape\n        p_t, p_h, p_w = self.config.patch_size\n",
                "latents.shape\n        hidden_states = latents\n        p_t, p_h, p_w = self.config.patch_size\n",
            ),
            (DF, "hidden_states=latent_model_input", "latents=latent_model_input"),
        ),
    ),
    Mutation("two things returned", "late: 2 things", ((TRANSFORMER, "return (output,)", "return (output, None)"),)),
    Mutation("blocks renamed", "refused: has blocks", ((TRANSFORMER, "self.blocks", "self.layers"),)),
]

MATRIX_OFFICIAL = "return step_matrix, step_index, step_update_mask, valid_interval"
CALLED = "step_matrix, _, step_update_mask, valid_interval = self"
READ_OFFICIAL = "valid_interval_i = valid_interval[i]"
CLONE = [
    Mutation("num_pre_ready renamed", "refused: no parameter num_pre_ready", ((PIPE, "num_pre_ready", "num_ready"),)),
    Mutation(
        "a new parameter",
        "handled",
        ((PIPE, "shrink_interval_with_mask=False,", "shrink_interval_with_mask=False,\n        jitter=0.0,"),),
    ),
    Mutation(
        "a fifth value",
        "refused: returns 4 things",
        (
            (PIPE, MATRIX_OFFICIAL, f"{MATRIX_OFFICIAL}, None"),
            (PIPE, CALLED, CALLED.replace("interval =", "interval, _ =")),
        ),
    ),
    Mutation(
        "timesteps in float32",
        "handled",
        ((PIPE, MATRIX_OFFICIAL, MATRIX_OFFICIAL.replace("step_matrix", "step_matrix.float()")),),
    ),
    Mutation(
        "intervals read one ahead",
        "refused: loop counter",
        ((PIPE, READ_OFFICIAL, READ_OFFICIAL.replace("[i]", "[min(i + 1, len(step_matrix) - 1)]")),),
    ),
    Mutation(
        "latents cut elsewhere",
        "refused: cuts",
        (
            (
                PIPE,
                "latents[0][:, valid_interval_start:valid_interval_end, :, :]",
                "latents[0][:, 0:latent_length, :, :]",
            ),
        ),
    ),
    Mutation(
        "a mask that says what is kept",
        "refused: update mask",
        (
            (PIPE, MATRIX_OFFICIAL, MATRIX_OFFICIAL.replace("step_update_mask", "~step_update_mask")),
            (PIPE, "if update_mask_i[idx].item()", "if not update_mask_i[idx].item()"),
        ),
    ),
]
MUTATIONS = {
    "fake official": OFFICIAL,
    "fake magi": MAGI,
    "diffusers": DIFFUSERS,
    "official": CLONE,
}
