from .dataclass import InferenceParams, ModelMetaArgs  # noqa: F401
