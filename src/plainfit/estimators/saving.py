"""A fitted estimator as one safetensors file: the weights, and the rest as JSON. No pickle."""

from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from plainfit.common.errors import CheckpointError, ConfigError, RunError
from plainfit.common.files import write_bytes
from plainfit.models.build import Factory, resolve
from plainfit.runs.folder import write_whole
from plainfit.training.checkpoints import from_bytes, pack, to_bytes
from plainfit.training.history import History


class InFile(BaseEstimator):  # type: ignore[misc]  # scikit-learn is untyped
    """Of an estimator: `save` keeps its parameters and what `fit` left, but not the training."""

    def save(self, path: str | Path) -> None:
        """Write the fitted estimator to one safetensors file: its weights, the rest as JSON.

        Raises:
            ConfigError: if a parameter is an object, or a function or class to which no name leads.
            RunError: if the file cannot be written.
        """
        check_is_fitted(self)
        params = {name: plain(value) for name, value in self.get_params(deep=False).items()}
        named = {name: target for name in params if (target := name_of(name, params[name]))}
        fitted = {name: value for name, value in vars(self).items() if name.endswith("_")}
        model, history = fitted.pop("model_"), fitted.pop("history_")
        arrays = {name: value for name, value in fitted.items() if isinstance(value, np.ndarray)}
        state = {
            "estimator": type(self).__name__,
            "params": params | dict.fromkeys(named),
            "named": named,
            "fitted": {name: fitted[name] for name in fitted.keys() - arrays.keys()},
            "arrays": {name: (value.tolist(), value.dtype.str) for name, value in arrays.items()},
            "epochs": history.epochs,
            "factory": model.plainfit_factory.to_dict(),
            "weights": model.state_dict(),
        }
        content = to_bytes(state)
        write_whole(Path(path), lambda scratch: write_bytes(scratch, content))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read back what `save` wrote; the model is built on the CPU. No pickle is loaded.

        Raises:
            RunError: if the file cannot be read, or holds something else.
            ModelError: if the model can no longer be built.
        """
        try:
            state = from_bytes(Path(path).read_bytes())
        except (OSError, CheckpointError) as error:
            raise RunError(
                f"{path} must be a file that an estimator's `save` wrote ({error})"
            ) from error
        if (found := state.get("estimator", "checkpoint")) != cls.__name__:
            raise RunError(f"{path} must hold a {cls.__name__}, and holds a {found}")
        named = {name: resolve(target) for name, target in state["named"].items()}
        estimator = cls(**state["params"] | named)
        factory, history = Factory(**state["factory"]), History()
        with torch.random.fork_rng(devices=[]):  # building draws initial values
            model = factory.build()
        try:
            model.load_state_dict(state["weights"])
        except RuntimeError as error:
            raise RunError(f"{path} must hold the weights of {factory.target}: {error}") from error
        model.plainfit_factory = factory  # type: ignore[assignment]  # as get_model has it
        history.epochs = state["epochs"]
        arrays = {name: np.array(*given) for name, given in state["arrays"].items()}
        for name, value in {**state["fitted"], **arrays, "history_": history}.items():
            setattr(estimator, name, value)
        estimator.model_ = model.eval()
        return estimator


def plain(value: Any) -> Any:
    """Return a number of NumPy as one of Python, the rest as it is."""
    return value.item() if isinstance(value, np.generic) else value


def name_of(parameter: str, value: Any) -> str | None:
    """Return `module:name` of a function or class, None for what is written as it is.

    Raises:
        ConfigError: if it is neither.
    """
    if callable(value):
        name = f"{getattr(value, '__module__', '?')}:{getattr(value, '__qualname__', '<object>')}"
        if "<" not in name:
            return name
    else:
        with suppress(CheckpointError):
            pack(value, parameter, {}, {})
            return None
    raise ConfigError(
        f"to be saved, {parameter} must be made of numbers and texts, or be a class or function at "
        f"the top of a module, got {value!r}"
    )
