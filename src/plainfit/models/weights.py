"""A model's weights as a safetensors file."""

from pathlib import Path

from torch import nn

from plainfit.common.files import write_bytes


def save_weights(path: Path, model: nn.Module, metadata: dict[str, str] | None = None) -> None:
    """Write parameters and buffers, tied ones once; `write_whole` makes it safe."""
    from safetensors.torch import save_model

    save_model(model, str(path), metadata)
    data = path.read_bytes()
    path.unlink()  # it is readable by its owner only: write it as any other file is written
    write_bytes(path, data)
