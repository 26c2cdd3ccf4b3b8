"""What the functions accept as a model."""

from pathlib import Path

from physiq_ray.checkpoint import ModelState, load_model_state

Model = str | Path | ModelState  # a model file, the folder that holds it, or a loaded model


def load(model: Model) -> ModelState:
    """Load a model, if it is an address. Raises NotFoundError, CheckpointError."""
    return model if isinstance(model, ModelState) else load_model_state(str(model))
