"""MAGI-1, the official repository: text, image and video to video, base and distilled models, chunk by chunk."""

from scope_patch.hosts import magi
from scope_patch.patch.host import Dit, Entry, Host
from scope_patch.patch.loops import Called
from scope_patch.patch.seams import Fact

POSITION = ("infer_idx", "cur_denoise_step")
TRANSFORMER = "inference.model.dit.dit_model"


HOST = Host(
    name="magi-1",
    title="MAGI-1, chunk-wise (official repository)",
    source="github.com/SandAI-org/MAGI-1 @ 6ff822e",
    triggers=("inference.model.dit",),
    videos=(Entry("inference.pipeline.video_generate", "SampleTransport", ("walk",), title="chunk-wise"),),
    loop=Called(
        "forward_velocity",
        ("self", *POSITION),
        POSITION,
        table=magi.transport_table,
        mentions=("forward_dispatcher", *magi.PASSED),
        reads=magi.READS,
        integrates="integrate_velocity",
        integrated=magi.integrated,
    ),
    dit=Dit(
        TRANSFORMER,
        "VideoDiTModel",
        latents="x",
        timestep="timestep",
        condition="inference_params",
        conditioning=("inference_params",),  # one object an input, at every step; texts are cut anew
        names=("self", "x", "timestep", "y", "mask", "kv_range", "inference_params"),
        method="forward_dispatcher",
        bases=("Module",),
        blocks="videodit_blocks",
        made_by="TransformerBlock",
    ),
    facts=(Fact(TRANSFORMER, "VideoDiTModel", "t_embedder", "TimestepEmbedder"),),
    versions={"torch": ">=2.4"},
    model=magi.find_model,
    guided=lambda transport, arguments: transport.runtime_config.cfg_number == 3,
    refuse=magi.refuse,
    # The forward over the prefix of a video, which only fills the cache.
    extra=lambda arguments: "prefix" if arguments.get("extract_prefix_video_feature") else "",
    narrow=magi.narrow,
    work=magi.work,
    moving=True,
    bypass=lambda transport: "every block writes the keys and values that later chunks read",
    cost=magi.transport_cost,
    ranks=magi.ranks,
    presets={"slow": 2.66, "fast": 3.32},
    # Of the expected change: with 12 or 16 steps the paper's speed-ups would leave one forward a stage (docs/magi.md).
    preset_limit=0.15,
    signal="expected",
    feature=magi.feature,
)
