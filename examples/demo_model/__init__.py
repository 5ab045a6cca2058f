"""A small trained diffusion-forcing video model with the interfaces of diffusers' SkyReels-V2 pipeline."""
