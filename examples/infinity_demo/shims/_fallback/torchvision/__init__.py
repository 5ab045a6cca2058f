"""Import-only: upstream's VAE module imports it for training-time logging."""

from . import transforms  # noqa: F401
