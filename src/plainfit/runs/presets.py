"""Settings that go together: `plainfit train --preset NAME`; what is given beside it wins."""

from typing import Any

from plainfit.common.errors import ConfigError, unknown_name

_FAST: dict[str, Any] = {
    "model": "compact",
    "lr": 0.2,
    "schedule": "one-cycle",
    "nesterov": True,
    "weight_decay": 5e-4,
    "label_smoothing": 0.1,
    "channels_last": True,
    "precision": "bf16",
}
# Chosen on MNIST's validation samples; docs/benchmarks.md has what they give on its test set.
PRESETS: dict[str, dict[str, Any]] = {
    "fastest": _FAST | {"model_args": "width=16, blocks=0", "epochs": 1},
    "fast": _FAST
    | {"model_args": "width=16", "epochs": 6, "batch_size": 128, "augment": "warp=0.5"},
    "accurate": _FAST
    | {"model_args": "width=32", "epochs": 18, "batch_size": 128, "augment": "warp=0.8"},
}


def settings_of(name: str) -> dict[str, Any]:
    """Return the settings of a preset.

    Raises:
        ConfigError: if there is none of that name.
    """
    if name not in PRESETS:
        raise ConfigError(unknown_name("preset", name, PRESETS))
    return dict(PRESETS[name])
