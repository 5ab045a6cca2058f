"""LongCat-Video, the official repository: text and image to video, continuation, refinement; all frames in step."""

import sys

from scope_patch.patch import defaults
from scope_patch.patch.host import Dit, Entry, Host
from scope_patch.patch.loops import Clock

METHODS = ("generate_t2v", "generate_i2v", "generate_vc", "generate_refine")


def refuse(pipeline, model, arguments):
    """A distilled model's few steps lie too far apart for anything between them to be predicted."""
    if arguments.get("use_distill"):
        return "use_distill: a distilled model takes few steps, far apart, and every one of them counts"
    return defaults.refuse(pipeline, model, arguments)


def guided(pipeline, arguments):
    """What the pipeline says of its last call with guidance; refinement has none, whatever that was."""
    return "stage1_video" not in arguments and pipeline.do_classifier_free_guidance


def extra(arguments):
    """The forward that fills the KV cache of the condition frames, and returns it beside a velocity of none."""
    return "context" if arguments.get("return_kv") else ""


def ranks(pipeline):
    """The ranks of this one's context parallel group."""
    parallel = sys.modules.get("longcat_video.context_parallel.context_parallel_util")
    return parallel.get_cp_rank_list() if parallel is not None and parallel.get_cp_size() > 1 else ()


HOST = Host(
    name="longcat-video",
    title="LongCat-Video (official repository)",
    source="github.com/meituan-longcat/LongCat-Video @ 6b3f4b8",
    triggers=("longcat_video",),
    videos=(Entry("longcat_video.pipeline_longcat_video", "LongCatVideoPipeline", METHODS),),
    loop=Clock(),
    dit=Dit(
        "longcat_video.modules.longcat_video_dit",
        "LongCatVideoTransformer3DModel",
        latents="hidden_states",
        timestep="timestep",
        condition="encoder_hidden_states",
        more=("return_kv",),
    ),
    versions={"torch": ">=2.4"},
    model=lambda pipeline: pipeline.dit,
    guided=guided,
    refuse=refuse,
    extra=extra,
    bypass=lambda pipeline: "its blocks return keys and values beside the hidden states",
    ranks=ranks,
)
