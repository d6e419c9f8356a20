"""Who takes part, in which environment, with which options."""

from dataclasses import dataclass

MODELS = {"logistic": "logistic regression", "cnn": "the tutorial's CNN"}


@dataclass(frozen=True)
class Contender:
    """A program of `peers/` with its arguments."""

    title: str
    script: str
    environment: str = "here"
    """`here` is the Python that runs the benchmark; `torch` and `jax` are made for the peers."""
    arguments: tuple[str, ...] = ()
    by_model: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Further arguments for one model."""
    kind: str = "peer"
    """`ours`, `option` (ours with an option), `bare` (a loop without a library) or `peer`."""
    models: tuple[str, ...] = tuple(MODELS)

    def command(self, model: str) -> list[str]:
        """Return the script and its arguments."""
        return [f"{self.script}.py", *self.arguments, *dict(self.by_model).get(model, ())]


def option(title: str, *arguments: str, models: tuple[str, ...] = tuple(MODELS)) -> Contender:
    """Return plainfit with an option."""
    return Contender(
        f"plainfit, {title}", "plainfit_", arguments=arguments, kind="option", models=models
    )


CONTENDERS = {
    "tutorial": Contender("tutorial's loop", "tutorial", kind="bare"),
    "hand_loop": Contender("fast loop by hand", "hand_loop", kind="bare"),
    "plainfit": Contender("plainfit", "plainfit_", kind="ours"),
    "lightning": Contender("Lightning", "lightning_", "torch"),
    "skorch": Contender("skorch", "skorch_", "torch"),
    "ignite": Contender("Ignite", "ignite_", "torch"),
    "accelerate": Contender("Accelerate", "accelerate_", "torch"),
    "fastai": Contender("fastai", "fastai_", "torch"),
    "keras": Contender("Keras on JAX", "keras_", "jax", ("--steps-per-execution", "64")),
    "jax": Contender(
        "plain JAX",
        "jax_",
        "jax",
        # On a CPU of 2 cores a scan takes 3.5 times as long for the CNN, and less otherwise.
        by_model=(("logistic", ("--loop", "scan")), ("cnn", ("--loop", "step"))),
    ),
    "plainfit-bytes": option("images as bytes", "--bytes"),
    "plainfit-free-memory": option("keep_memory=False", "--free-memory"),
    "plainfit-fused": option("fused", "--fused"),
    "plainfit-channels-last": option("channels_last", "--channels-last", models=("cnn",)),
    "plainfit-compile": option('compile="step"', "--compile", "step"),
    "plainfit-epoch": option('compile="epoch"', "--compile", "epoch"),
    "plainfit-epoch-bytes": option('compile="epoch", bytes', "--compile", "epoch", "--bytes"),
    "plainfit-epoch-1-thread": option(
        'compile="epoch", bytes, 1 thread',
        "--compile",
        "epoch",
        "--bytes",
        "--threads",
        "1",
        models=("logistic",),
    ),
    "plainfit-epoch-channels-last": option(
        'compile="epoch", bytes, channels_last',
        "--compile",
        "epoch",
        "--bytes",
        "--channels-last",
        models=("cnn",),
    ),
    "plainfit-1-thread": option("1 thread", "--threads", "1"),
    "plainfit-bf16": option("bf16", "--precision", "bf16"),
}
