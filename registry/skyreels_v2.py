"""SkyReels-V2, the official repository: diffusion forcing, short, long and extended videos."""

import sys

from scope_patch.patch.architecture import FORWARD, GENERATION, SCHEDULE, Architecture, Fact, ForwardNames, Seam

PIPELINES = "skyreels_v2_infer.pipelines.diffusion_forcing_pipeline"
TRANSFORMER = "skyreels_v2_infer.modules.transformer"
SCHEDULE_PARAMETERS = (
    "self",
    "num_frames",
    "step_template",
    "base_num_frames",
    "ar_step",
    "num_pre_ready",
    "casual_block_size",
)


def refuse(pipeline, model):
    """Two accelerators that skip forwards independently would each believe the other's output."""
    if getattr(model, "enable_teacache", False):
        return "upstream's own TeaCache is switched on; drop --teacache, or run without scope_patch"
    return ""


def bypass(pipeline):
    """Sequence parallelism gives every rank the same part of the tokens, which is not slot by slot."""
    forward = getattr(vars(pipeline.transformer).get("forward"), "__name__", "")
    return "use_usp splits the tokens among ranks" if forward == "usp_dit_forward" else ""


def ranks(pipeline):
    """With use_usp every rank of xfuser's sequence-parallel group has a part of the tokens; upstream takes all."""
    if getattr(pipeline, "sp_size", 1) < 2:
        return ()
    xfuser = sys.modules.get("xfuser.core.distributed")
    if xfuser is not None:
        return xfuser.get_sp_group().ranks
    import torch.distributed as dist

    return range(dist.get_world_size())


def cost(pipeline, arguments, schedule, index):
    """FLOPs of one branch's forward over an interval of latent frames."""
    from scope_patch.hosts.wan import WanShape, forward_flops

    shape = WanShape.of(getattr(pipeline.transformer, "_orig_mod", pipeline.transformer))
    *_, height, width = arguments["x"].shape
    return lambda iteration, slots: forward_flops(shape, slots[1] - slots[0], height, width)


ARCHITECTURE = Architecture(
    name="skyreels-v2",
    title="SkyReels-V2 diffusion forcing (official repository)",
    source="github.com/SkyworkAI/SkyReels-V2 @ abed76f",
    triggers=("skyreels_v2_infer",),
    groups={
        "diffusion forcing": (
            Seam(GENERATION, PIPELINES, "DiffusionForcingPipeline", "__call__", ("self", "prompt")),
            Seam(GENERATION, PIPELINES, "DiffusionForcingPipeline", "extend_video", ("self", "prompt")),
            Seam(SCHEDULE, PIPELINES, "DiffusionForcingPipeline", "generate_timestep_matrix", SCHEDULE_PARAMETERS),
            Seam(
                FORWARD,
                TRANSFORMER,
                "WanModel",
                "forward",
                ("self", "x", "t", "context", "fps"),
                bases=("ModelMixin",),
                patched="__call__",
            ),
        )
    },
    facts=(Fact(TRANSFORMER, "WanModel", "blocks", "ModuleList"),),
    versions={"torch": ">=2.4"},
    forward=ForwardNames(
        "x", "t", "context", per_sample=("context", "fps"), modulation=("e", 1), embedding="time_projection"
    ),
    model=lambda pipeline: pipeline.transformer,
    noise_level=lambda timestep: timestep / 1000.0,
    refuse=refuse,
    cost=cost,
    bypass=bypass,
    ranks=ranks,
    size=lambda model: (model.dim, len(model.blocks)),
    block_causal=lambda model: bool(model.flag_causal_attention),
    # The block-causal mask depends on shapes alone, is large, and has no part in the timestep signal.
    neutral={"flag_causal_attention": False, "enable_teacache": False},
)
