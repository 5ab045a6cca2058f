"""Infinity: its scales as a table, what is done at each of them, and the FLOPs of that; one decision for plan and run.

A scale is one pass of all blocks over the h x w tokens of a grid; they see the keys and values of all scales before,
as far as those were computed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..method.decision import Decision, Mode, StepDecision
from ..settings import Settings, flag

if TYPE_CHECKING:
    from ..method.resolved import Method
    from ..method.schedule import Table

SKIPS = {
    "C": "the residual of the blocks at the last computed scale, resampled",
    "P": "that residual, extrapolated over log2 of the side",
    "L": "the logits of the last computed scale, resampled",
    "Z": "no codes: the increment is zero",
}
"""What a skipped scale is given, by rule."""
DEFAULT_RULE = "Z"
"""What erred least on the small trained model (examples/studies/scales.py)."""
IDLE = ("profile", "per_chunk", "replay", "selective", "widths", "history_limit", "frozen_keys")
"""Settings that have no say here, which is told where one is given."""


@dataclass(frozen=True)
class InfinityShape:
    """A transformer. Attributes: width; layers; hidden, of a feed-forward layer; out, numbers a token of the head."""

    width: int
    layers: int
    hidden: int
    out: int

    @classmethod
    def of(cls, model: Any) -> InfinityShape:
        """Of the host's model. Raises AttributeError where it is none that we know."""
        blocks = model.unregistered_blocks
        return cls(model.C, len(blocks), blocks[0].ffn.fc1.out_features, model.V)

    @property
    def middle(self) -> tuple[int, int]:
        """Blocks [first, last) that see the chosen tokens alone: those from a tenth to nine tenths of the depth."""
        return max(1, round(0.1 * self.layers)), min(self.layers - 1, round(0.9 * self.layers))


NAMED = {"2B": InfinityShape(2048, 32, 8192, 2 * 32), "8B": InfinityShape(3584, 40, 14336, 2 * 4 * 14)}


@dataclass(frozen=True)
class Image:
    """What a generation is asked for.

    Attributes:
        grids: (rows, columns) of tokens, of every scale that runs.
        cfg: guidance of every scale; 1: none.
        batch: pictures.
        text: tokens of the conditional and of the unconditional captions, all pictures together.
        doubled: unconditional rows run along.
        layers: upstream's cfg_insertion_layer; 0: guidance is on the logits.
    """

    grids: tuple[tuple[int, int], ...]
    cfg: tuple[float, ...]
    batch: int = 1
    text: tuple[int, int] = (0, 0)
    doubled: bool = False
    layers: tuple[int, ...] = (0,)

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Image:
        """Of the arguments of `autoregressive_infer_cfg`. Raises what they raise where they are others."""
        scales = arguments["scale_schedule"][: arguments.get("trunk_scale", 1000)]
        caption, guidance = arguments["label_B_or_BLT"], arguments["cfg_list"]
        negative = arguments.get("negative_label_B_or_BLT") or caption
        return cls(
            grids=tuple((int(h), int(w)) for _, h, w in scales),
            cfg=tuple(float(each) for each in guidance[: len(scales)]),
            batch=arguments.get("B", 1),
            text=(int(sum(caption[1])), int(sum(negative[1]))),
            doubled=any(float(each) != 1 for each in guidance),
            layers=tuple(arguments.get("cfg_insertion_layer", (-5,))),
        )

    @property
    def tokens(self) -> list[int]:
        """Of every scale, of one row."""
        return [h * w for h, w in self.grids]

    def octaves(self) -> list[float]:
        """log2 of the side of every scale."""
        return [math.log2(h * w) / 2 for h, w in self.grids]


@dataclass(frozen=True)
class Action:
    """What is done at a scale. Attributes: mode, R, S or one of SKIPS; share, of the tokens in the middle blocks (S);
    single, the unconditional rows do not run."""

    mode: str = "R"
    share: float = 1.0
    single: bool = False

    def __str__(self) -> str:
        return self.mode + (f"{self.share:g}" if self.mode == "S" else "") + "u" * self.single

    @property
    def runs(self) -> bool:
        return self.mode in "RS"

    @property
    def verdict(self) -> StepDecision:
        """The same in words of the report."""
        mode = Mode.RECOMPUTE if self.runs else Mode.PREDICT if self.mode == "P" else Mode.CACHE
        return StepDecision({(0, 1): Decision(mode, "plan")}, (0, int(self.runs)), mode, "plan")

    def kept(self, tokens: int) -> int:
        """Tokens that enter the middle blocks."""
        return max(1, round(self.share * tokens))


def asked(text: str | None) -> tuple[str, list[Action]]:
    """`--scales`: (the rule for skipped scales, what is done at the last scales where that is said one by one)."""
    words = [word.strip() for word in (text or DEFAULT_RULE).split(",")]
    if len(words) == 1 and words[0] in SKIPS:
        return words[0], []
    # R, Ru, S0.5, S0.5u, or a letter of SKIPS; `Settings` has looked.
    return DEFAULT_RULE, [Action(word[0], float(word[1:].rstrip("u") or 1), word.endswith("u")) for word in words]


def table(image: Image) -> Table:
    """One slot; its noise level falls alike from octave to octave, from 1 at one token to 0 one behind the last."""
    import torch

    from ..method.schedule import Table

    octaves = torch.tensor(image.octaves(), dtype=torch.float64)[:, None]
    levels, mask = 1 - octaves / (octaves.max() + 1), torch.ones(octaves.shape, dtype=torch.bool)
    return Table(torch.arange(len(octaves))[:, None], levels, mask, [(0, 1)] * len(octaves))


def flops(shape: InfinityShape, image: Image, actions: Sequence[Action]) -> list[float]:
    """Of every scale: the blocks, with the keys and values that are there by then, and the head."""
    c, (first, last) = shape.width, shape.middle
    seen, out = [0] * shape.layers, []
    for tokens, cfg, action in zip(image.tokens, image.cfg, actions, strict=True):
        whole = 2 * image.batch if image.doubled else image.batch
        rows = image.batch if action.single else whole
        text = image.text[0] + (image.text[1] if rows > image.batch else 0)
        heads = 0 if action.mode == "L" else whole if cfg != 1 and 0 in image.layers else image.batch
        total = 2.0 * heads * tokens * c * shape.out
        for layer in range(shape.layers) if action.runs else ():
            count = action.kept(tokens) if action.mode == "S" and first <= layer < last else tokens
            seen[layer] += count
            total += rows * count * (12 * c * c + 4 * c * shape.hidden + 4 * seen[layer] * c)
            total += text * 4 * c * c + 4 * count * text * c
        out.append(total)
    return out


@dataclass(frozen=True)
class Decided:
    """All that is done in a generation.

    Attributes:
        actions: one a scale.
        work, baseline, host: FLOPs of every scale: as decided; of all scales, but for rows that are waste; of the host.
        target: the speed-up that was aimed at, from `baseline`; None where none was.
        bound: it cannot be had, and this is the most there is.
        remarks: what the user should know.
    """

    actions: tuple[Action, ...]
    work: Sequence[float]
    baseline: Sequence[float]
    host: Sequence[float]
    target: float | None
    bound: bool
    remarks: Sequence[str]

    @property
    def summary(self) -> dict[str, Any]:
        """For reports, as `Plan.summary`."""
        work, baseline = sum(self.work), sum(self.baseline)
        modes = "".join(action.verdict.mode.value for action in self.actions)
        return {
            "target": self.target, "unit": "flops", "modes": modes, "work": work, "baseline": baseline,
            "speedup": round(baseline / work, 4), "bound": self.bound, "thresholds": None, "host": sum(self.host),
        }  # fmt: skip


def decide(method: Method, shape: InfinityShape, image: Image) -> Decided:
    """What is done at every scale, from what is known before the first one.

    Raises UsageError for a `--scales` that cannot be carried out on such a generation.
    """
    count, active, settings, unsaid = len(image.grids), method.policy.active, method.settings, Settings()
    # From this scale on guidance is off for good, and unconditional rows are waste.
    waste = max((k + 1 for k, each in enumerate(image.cfg) if each != 1), default=0)
    waste = waste if active and image.doubled else count
    full = [Action(single=k >= waste) for k in range(count)]
    host, baseline = flops(shape, image, [Action()] * count), flops(shape, image, full)
    target, bound, remarks = None, False, []
    if waste < count:
        remarks.append(
            f"guidance is off at the last {count - waste} scales: their unconditional rows, on which nothing depends, "
            f"are left out ({sum(host) / sum(baseline):.2f} times less work); speed-ups count from there"
        )
    rule, said = asked(settings.scales) if active else (DEFAULT_RULE, [])
    if said:
        actions = [*full[: max(0, count - len(said))], *said[-count:]]
        actions = [replace(each, single=each.runs and (each.single or k >= waste)) for k, each in enumerate(actions)]
        if not actions[0].runs:
            raise UsageError("--scales skips the first scale, from which everything follows; let it run (R)")
        apart = [k for k, each in enumerate(actions) if each.single and image.doubled and image.cfg[k] != 1]
        if apart and any(layer < 0 for layer in image.layers):
            raise UsageError(
                f"--scales leaves out the unconditional rows of scale {apart[0] + 1}, but guidance is put in at block "
                f"{min(image.layers)}, where both are needed; guide the logits (cfg_insertion_layer=[0]), or write no u"
            )
    elif method.placed and settings.placement is None:
        target = settings.target(method.defaults.presets)
        actions, bound = from_the_end(shape, image, full, rule, target, settings.max_skip)
        if bound:
            times = sum(baseline) / sum(flops(shape, image, actions))
            remarks.append(f"a speed-up of {target:g} was aimed at; {times:.2f} is the most there is")
    else:
        from ..method.plan import Planner
        from ..method.schedule import Schedule

        # Nothing is taken again here: an image has no step that could be.
        once = replace(method, settings=replace(settings, replay=False))
        plans = Planner(once, Schedule.of(table(image)), lambda scale, slots: baseline[scale], guided=image.doubled)
        plan = plans.resolved()
        target, bound = plan.target, plan.bound
        remarks += [plan.remark] if plan.remark else []
        actions = [each if verdict.runs else Action(rule) for each, verdict in zip(full, plan.verdicts, strict=True)]
    idle = [flag(name) for name in IDLE if getattr(settings, name) != getattr(unsaid, name)]
    remarks += [f"{', '.join(idle)}: without effect on an image that is made scale by scale"] if idle else []
    skipped = dict.fromkeys(each.mode for each in actions if not each.runs)
    remarks += [f"skipped scales are given {SKIPS[letter]} ({letter})" for letter in skipped]
    return Decided(tuple(actions), flops(shape, image, actions), baseline, host, target, bound, remarks)


def from_the_end(
    shape: InfinityShape, image: Image, full: Sequence[Action], rule: str, target: float, most: int | None
) -> tuple[list[Action], bool]:
    """What is done at every scale so that 1/target of the work is left, at the most; whether that cannot be had.

    The last scales are skipped (`most` at the most; None: all but the first) and the one before them runs in part, or
    none is skipped and the last two run in part: of such choices, the one that leaves most.
    """
    count, budget = len(full), sum(flops(shape, image, full)) / target
    within = any(layer < 0 for layer in image.layers)
    # In part is without unconditional rows; where these are out already, or needed, with half of the tokens.
    part = [
        replace(each, mode="S", share=0.5) if cfg == 1 or within else replace(each, single=True)
        for each, cfg in zip(full, image.cfg, strict=True)
    ]
    most = count - 1 if most is None else min(most, count - 1)
    choices = [
        [*full[: end - partly], *part[end - partly : end], *[Action(rule)] * (count - end)]
        for end in range(count - most, count + 1)
        for partly in range(min((2 if end == count else 1) if most else 0, end - 1) + 1)
    ]
    work = [sum(flops(shape, image, choice)) for choice in choices]
    fitting = [each for each in work if each <= budget]
    return choices[work.index(max(fitting) if fitting else min(work))], not fitting


def refuse(pipeline: Any, model: Any, arguments: Mapping[str, Any]) -> str:
    """What is broken upstream at this commit, or is not known."""
    blocks = model.unregistered_blocks
    if model.use_flex_attn:
        return "use_flex_attn is on, with which upstream's inference does not run at this commit; switch it off"
    if any(not hasattr(block, "ca") for block in blocks):
        return "its blocks have no cross-attention (a class-conditional model), which we do not know"
    if any(block.fused_norm_func is None for block in blocks):
        return "fused_norm is off, where upstream gives every scale the positions of the first one; switch it on"
    if not model.add_lvl_embeding_only_first_block:
        return "the level embedding is added before every chunk of blocks (add_lvl_embeding_only_first_block=0)"
    if not arguments.get("vae_type", 0):
        return "vae_type is 0: the codes are no bits of a BSQ autoencoder"
    if arguments.get("gt_leak", 0):
        return "gt_leak gives scales that are not drawn; set it to 0"
    return ""
