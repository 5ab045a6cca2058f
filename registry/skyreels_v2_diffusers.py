"""SkyReels-V2 in diffusers: the three diffusion-forcing pipelines, and the two synchronous ones beside them."""

from scope_patch.hosts import wan
from scope_patch.patch.host import Dit, Entry, Host, Keys
from scope_patch.patch.loops import Clock, Watched

ARGS = ("num_latent_frames", "step_template", "base_num_latent_frames", "ar_step", "num_pre_ready", "causal_block_size")
STAIRCASE = Watched("generate_timestep_matrix", ("self", *ARGS), wan.asynchronous_table)
FORCING = "SkyReelsV2DiffusionForcing"


def entry(module, owner, title, loop):
    """One pipeline class."""
    module = f"diffusers.pipelines.skyreels_v2.pipeline_skyreels_v2{module}"
    return Entry(module, owner, bases=("DiffusionPipeline",), title=title, loop=loop)


HOST = Host(
    name="skyreels-v2-diffusers",
    title="SkyReels-V2, diffusion forcing and synchronous (diffusers)",
    source="diffusers 0.35 - 0.42 (Apache-2.0)",
    triggers=("diffusers",),
    videos=(
        entry("_diffusion_forcing", f"{FORCING}Pipeline", "text to video", STAIRCASE),
        entry("_diffusion_forcing_i2v", f"{FORCING}ImageToVideoPipeline", "image to video", STAIRCASE),
        entry("_diffusion_forcing_v2v", f"{FORCING}VideoToVideoPipeline", "video to video", STAIRCASE),
        entry("", "SkyReelsV2Pipeline", "synchronous, text to video", Clock()),
        entry("_i2v", "SkyReelsV2ImageToVideoPipeline", "synchronous, image to video", Clock()),
    ),
    dit=Dit(
        "diffusers.models.transformers.transformer_skyreels_v2",
        "SkyReelsV2Transformer3DModel",
        latents="hidden_states",
        timestep="timestep",
        condition="encoder_hidden_states",
        more=("enable_diffusion_forcing", "fps", "return_dict"),
        per_sample=("encoder_hidden_states", "encoder_hidden_states_image", "fps"),
        modulation=("temb", 2),
        embedding="condition_embedder.act_fn",
    ),
    versions={"torch": ">=2.4", "diffusers": ">=0.35"},
    cost=wan.diffusers_cost,
    keys=Keys(
        "attn1",
        ("rotary_emb", 3),
        wan.diffusers_rotary,
        wan.diffusers_block,
        wan.diffusers_obstacle,
        wan.diffusers_bytes,
        wan.noised,
    ),
    bypass=lambda pipeline: "",
    independent=lambda model: model.config.num_frame_per_block > 1,
)
