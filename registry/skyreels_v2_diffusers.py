"""SkyReels-V2 in diffusers: the three diffusion-forcing pipelines."""

from scope_patch.patch.architecture import FORWARD, GENERATION, SCHEDULE, Architecture, Fact, ForwardNames, Seam

TRANSFORMER = "diffusers.models.transformers.transformer_skyreels_v2"
SCHEDULE_PARAMETERS = (
    "self",
    "num_latent_frames",
    "step_template",
    "base_num_latent_frames",
    "ar_step",
    "num_pre_ready",
    "causal_block_size",
)
DIT = Seam(
    FORWARD,
    TRANSFORMER,
    "SkyReelsV2Transformer3DModel",
    "forward",
    ("self", "hidden_states", "timestep", "encoder_hidden_states", "enable_diffusion_forcing", "fps", "return_dict"),
    bases=("ModelMixin",),
    patched="__call__",
)


def refuse(pipeline, model):
    """Two accelerators that skip forwards independently would each believe the other's output."""
    if getattr(model, "is_cache_enabled", False):
        return "a diffusers cache is enabled on the transformer; call disable_cache() first, or run without scope_patch"
    return ""


def pipeline(module, owner):
    """The seams of one pipeline class; all three have the same ones."""
    module = f"diffusers.pipelines.skyreels_v2.{module}"
    return (
        Seam(GENERATION, module, owner, "__call__", ("self",), bases=("DiffusionPipeline",)),
        Seam(SCHEDULE, module, owner, "generate_timestep_matrix", SCHEDULE_PARAMETERS, bases=("DiffusionPipeline",)),
        DIT,
    )


def bypass(pipeline):
    """Context parallelism splits the tokens among ranks where the blocks begin."""
    config = getattr(pipeline.transformer, "_parallel_config", None)
    return "context parallelism splits the tokens among ranks" if config else ""


def ranks(pipeline):
    """The ranks of the mesh that context or tensor parallelism runs over."""
    config = getattr(pipeline.transformer, "_parallel_config", None)
    for name in ("context_parallel_config", "tensor_parallel_config"):
        mesh = getattr(getattr(config, name, None), "_mesh", None)
        if mesh is not None:
            return mesh.mesh.flatten().tolist()
    return ()


def cost(pipeline, arguments, schedule, index):
    """FLOPs of one branch's forward over an interval of latent frames."""
    from dataclasses import replace

    from scope_patch.hosts.wan import WanShape, forward_flops

    shape = WanShape.of(getattr(pipeline.transformer, "_orig_mod", pipeline.transformer))
    shape = replace(shape, text_tokens=arguments["encoder_hidden_states"].shape[1])  # max_sequence_length
    *_, height, width = arguments["hidden_states"].shape
    return lambda iteration, slots: forward_flops(shape, slots[1] - slots[0], height, width)


ARCHITECTURE = Architecture(
    name="skyreels-v2-diffusers",
    title="SkyReels-V2 diffusion forcing (diffusers)",
    source="diffusers 0.35 - 0.42 (Apache-2.0)",
    triggers=("diffusers",),
    groups={
        "text to video": pipeline("pipeline_skyreels_v2_diffusion_forcing", "SkyReelsV2DiffusionForcingPipeline"),
        "image to video": pipeline(
            "pipeline_skyreels_v2_diffusion_forcing_i2v", "SkyReelsV2DiffusionForcingImageToVideoPipeline"
        ),
        "video to video": pipeline(
            "pipeline_skyreels_v2_diffusion_forcing_v2v", "SkyReelsV2DiffusionForcingVideoToVideoPipeline"
        ),
    },
    facts=(Fact(TRANSFORMER, "SkyReelsV2Transformer3DModel", "blocks", "ModuleList"),),
    versions={"torch": ">=2.4", "diffusers": ">=0.35"},
    forward=ForwardNames(
        "hidden_states",
        "timestep",
        "encoder_hidden_states",
        per_sample=("encoder_hidden_states", "encoder_hidden_states_image", "fps"),
        modulation=("temb", 2),
        embedding="condition_embedder.act_fn",
    ),
    model=lambda pipeline: pipeline.transformer,
    noise_level=lambda timestep: timestep / 1000.0,
    refuse=refuse,
    cost=cost,
    bypass=bypass,
    ranks=ranks,
    size=lambda model: (
        model.config.num_attention_heads * model.config.attention_head_dim,
        model.config.num_layers,
    ),
    block_causal=lambda model: model.config.num_frame_per_block > 1,
)
