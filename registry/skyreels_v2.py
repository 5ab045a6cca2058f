"""SkyReels-V2, the official repository: diffusion forcing (short, long, extended), and the synchronous pipelines."""

from scope_patch.hosts import wan
from scope_patch.patch.host import Dit, Entry, Host, Keys
from scope_patch.patch.loops import Clock, Watched

PIPELINES = "skyreels_v2_infer.pipelines"
MODULE = f"{PIPELINES}.diffusion_forcing_pipeline"
STAIRS = Watched(
    "generate_timestep_matrix",
    ("self", "num_frames", "step_template", "base_num_frames", "ar_step", "num_pre_ready", "casual_block_size"),
    wan.asynchronous_table,
)


def refuse(pipeline, model, arguments):
    """Two accelerators that skip forwards independently would each believe the other's output."""
    if getattr(model, "enable_teacache", False):
        return "upstream's own TeaCache is switched on; drop --teacache, or run without scope_patch"
    return ""


HOST = Host(
    name="skyreels-v2",
    title="SkyReels-V2, diffusion forcing and synchronous (official repository)",
    source="github.com/SkyworkAI/SkyReels-V2 @ abed76f",
    triggers=("skyreels_v2_infer",),
    videos=(
        Entry(MODULE, "DiffusionForcingPipeline", ("__call__", "extend_video"), title="diffusion forcing", loop=STAIRS),
        Entry(f"{PIPELINES}.text2video_pipeline", "Text2VideoPipeline", title="text to video", loop=Clock()),
        Entry(f"{PIPELINES}.image2video_pipeline", "Image2VideoPipeline", title="image to video", loop=Clock()),
    ),
    dit=Dit(
        "skyreels_v2_infer.modules.transformer",
        "WanModel",
        latents="x",
        timestep="t",
        condition="context",
        more=("fps",),
        per_sample=("context", "fps"),
        modulation=("e", 1),
        embedding="time_projection",
        # The block-causal mask depends on shapes alone, is large, and has no part in the timestep signal.
        neutral={"flag_causal_attention": False, "enable_teacache": False},
    ),
    versions={"torch": ">=2.4"},
    refuse=refuse,
    cost=wan.official_cost,
    keys=Keys(
        "self_attn",
        ("freqs", 2),
        wan.official_rotary,
        wan.official_block,
        wan.official_obstacle,
        wan.official_bytes,
        wan.noised,
    ),
    bypass=lambda pipeline: "",
    independent=lambda model: bool(model.flag_causal_attention),
)
