"""Wan in diffusers: a host in no document of ours, added by somebody who had the page `Add your model` alone."""

from scope_patch.patch.host import Dit, Entry, Host
from scope_patch.patch.loops import Clock


def refuse(pipeline, network, arguments):
    """Wan 2.2: one network is looked at, and timesteps of a batch or of latent frames are known, none of tokens."""
    if pipeline.config.boundary_ratio is not None:
        return "two networks share the steps (boundary_ratio), and only one would be accelerated"
    if pipeline.config.expand_timesteps:
        return "every token has a timestep of its own (expand_timesteps)"
    return Host.refuse(pipeline, network, arguments)


HOST = Host(
    name="wan-diffusers",
    title="Wan text to video (diffusers)",
    source="diffusers 0.42.1",
    triggers=("diffusers",),
    videos=(Entry("diffusers.pipelines.wan.pipeline_wan", "WanPipeline", bases=("DiffusionPipeline",)),),
    loop=Clock(),
    refuse=refuse,
    dit=Dit(
        "diffusers.models.transformers.transformer_wan",
        "WanTransformer3DModel",
        latents="hidden_states",
        timestep="timestep",
        condition="encoder_hidden_states",
    ),
    versions={"torch": ">=2.4", "diffusers": ">=0.42"},
)
