"""FramePack in diffusers: a video section by section, each denoised in step."""

from scope_patch.patch import defaults
from scope_patch.patch.host import Dit, Entry, Host
from scope_patch.patch.loops import Clock


def _cost(pipeline, arguments, schedule, section):
    """FLOPs of both lists of blocks, over the latents alone: what is known of earlier sections is a constant share."""
    lists = ("transformer_blocks", "single_transformer_blocks")
    parts = [defaults.cost(pipeline.transformer, blocks, arguments["hidden_states"].shape) for blocks in lists]
    return lambda iteration, slots: sum(part(iteration, slots) for part in parts)


def _guided(pipeline, arguments):
    """The guidance that takes two forwards; that which the model was distilled to takes one."""
    negative = any(arguments.get(name) is not None for name in ("negative_prompt", "negative_prompt_embeds"))
    return negative and (arguments.get("true_cfg_scale") or 1.0) > 1


HOST = Host(
    name="framepack-diffusers",
    title="FramePack, section by section (diffusers)",
    source="diffusers 0.35 - 0.42 (Apache-2.0)",
    triggers=("diffusers",),
    videos=(
        Entry(
            "diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video_framepack",
            "HunyuanVideoFramepackPipeline",
            bases=("DiffusionPipeline",),
        ),
    ),
    loop=Clock(),
    dit=Dit(
        "diffusers.models.transformers.transformer_hunyuan_video_framepack",
        "HunyuanVideoFramepackTransformer3DModel",
        latents="hidden_states",
        timestep="timestep",
        condition="encoder_hidden_states",
        more=("return_dict",),
        # What is known of earlier sections is cast anew at every step, and changes between sections alone.
        conditioning=(
            "encoder_hidden_states",
            "encoder_attention_mask",
            "pooled_projections",
            "image_embeds",
            "guidance",
        ),
        blocks="transformer_blocks",
    ),
    versions={"torch": ">=2.4", "diffusers": ">=0.35"},
    guided=_guided,
    cost=_cost,
    bypass=lambda pipeline: "there are two lists of blocks, which return pairs",
)
