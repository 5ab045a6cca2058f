from .diffusion_forcing_pipeline import DiffusionForcingPipeline  # noqa: F401
