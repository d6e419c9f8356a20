"""One file for a fitted estimator: safetensors, without pickle."""

from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from plainfit.common.errors import CheckpointError, ConfigError, RunError, raised_as
from plainfit.models.build import Factory, target_name
from plainfit.models.trust import code_of, remember, trusted
from plainfit.models.weights import Uncompiled
from plainfit.runs.folder import write_output
from plainfit.training.checkpoints import from_bytes, pack, to_bytes
from plainfit.training.history import History


class Saving(BaseEstimator):  # type: ignore[misc]  # scikit-learn is untyped
    """Saving and loading an estimator."""

    def save(self, path: str | Path) -> None:
        """Write the fitted estimator to one safetensors file: its weights, the rest as JSON.

        Raises:
            ConfigError: if a parameter is an object, or a function or class without a name.
            RunError: if the file cannot be written.
        """
        check_is_fitted(self)
        params = {name: plain(value) for name, value in self.get_params(deep=False).items()}
        named = {name: target for name in params if (target := name_of(name, params[name]))}
        fitted = {name: value for name, value in vars(self).items() if name.endswith("_")}
        model, history = fitted.pop("model_"), fitted.pop("history_")
        fitted.pop("optimizer_", None)  # of the training, for which a pickle is
        arrays = {name: value for name, value in fitted.items() if isinstance(value, np.ndarray)}
        state = {
            "estimator": type(self).__name__,
            "params": params | dict.fromkeys(named),
            "named": named,
            "fitted": {name: fitted[name] for name in fitted.keys() - arrays.keys()},
            "arrays": {name: (value.tolist(), value.dtype.str) for name, value in arrays.items()},
            "epochs": history.epochs,
            "factory": asdict(model.plainfit_factory),
            "weights": Uncompiled(model).state_dict(),
        }
        for target in (model.plainfit_factory.target, *named.values()):
            remember(target)
        write_output(Path(path), to_bytes(state))

    @classmethod
    def load(cls, path: str | Path, *, trust_code: bool = False) -> Self:
        """Read back what `save` wrote; the model is built on the CPU. No pickle is loaded.

        Args:
            path: of the file; it may come from someone else, as nothing in it is executed.
            trust_code: import the source of the model and of the loss that it names, whatever it
                is, and trust it from now on. By default it is imported only if it is plainfit's or
                torch's own, or an estimator with it was saved on this machine.

        Raises:
            RunError: if the file cannot be read, or holds something else.
            TrustError: if the source of the model or the loss is not trusted.
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
        with raised_as(RunError, f"{path} must be what `save` wrote"):
            named = {
                name: trusted(
                    target, code_of(target), trust_code=trust_code, builds_model=name == "model"
                )
                for name, target in state["named"].items()
            }
            estimator = cls(**state["params"] | named)
            factory, history = Factory(**state["factory"]), History()
            trusted(factory.target, code_of(factory.target), trust_code=trust_code)
            model = factory.build_quietly()
            Uncompiled(model).load_state_dict(state["weights"])
            model.plainfit_factory = factory  # type: ignore[assignment]  # as in get_model
            history.epochs = state["epochs"]
            arrays = {name: np.array(*given) for name, given in state["arrays"].items()}
            for name, value in {**state["fitted"], **arrays, "history_": history}.items():
                setattr(estimator, name, value)
            estimator.model_ = model.eval()
            return estimator


def plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def name_of(parameter: str, value: Any) -> str | None:
    """Return `module:name` of a function or class, None for a value that JSON can hold."""
    if callable(value):
        name = target_name(value)
        if "<" not in name and hasattr(value, "__qualname__"):
            return name
    else:
        with suppress(CheckpointError):
            pack(value, parameter, {}, {})
            return None
    raise ConfigError(
        f"must be numbers and strings, or a class or function at the top of a module, to be saved, "
        f"got {value!r}",
        field=parameter,
    )
