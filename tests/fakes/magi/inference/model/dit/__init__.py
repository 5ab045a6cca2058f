from .dit_model import get_dit  # noqa: F401
