"""Random layers, optimizers, schedules and batch sizes: the script gives the bits, every time."""

import tempfile
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn, optim
from torch.utils.data import TensorDataset

import plainfit as pf
from ejecting import differing, run_here
from plainfit.models.weights import weights_to_bytes
from plainfit.training.callbacks import Averaging, GradientAccumulation, GradientClipping
from plainfit.training.schedules import BY_NAME

WIDTHS = st.integers(1, 9)
RATES = st.sampled_from([0.01, 0.1])
OPTIMIZERS = st.one_of(
    st.builds(
        lambda lr, momentum, decay: lambda p: optim.SGD(
            p, lr, momentum=momentum, weight_decay=decay, nesterov=momentum > 0.5
        ),
        RATES, st.sampled_from([0.0, 0.5, 0.9]), st.sampled_from([0.0, 0.01]),
    ),
    st.builds(
        lambda kind, lr: lambda p: kind(p, lr),
        st.sampled_from([optim.Adam, optim.AdamW, optim.RMSprop]), st.just(1e-3),
    ),
)  # fmt: skip


@st.composite
def layers(draw):
    """Layers from 6 features to 3 classes."""
    width, made = 6, []
    for _ in range(draw(st.integers(1, 3))):
        wider = draw(WIDTHS)
        made.append(nn.Linear(width, wider, bias=draw(st.booleans())))
        width = wider
        made += draw(
            st.lists(
                st.sampled_from(
                    [nn.ReLU(), nn.Tanh(), nn.Dropout(0.3), nn.BatchNorm1d(width),
                     nn.LayerNorm(width), nn.Identity(), nn.Sequential(nn.Linear(width, width))]
                ),
                max_size=2,
                unique_by=type,
            )
        )  # fmt: skip
    return nn.Sequential(*made, nn.Linear(width, 3))


CALLBACKS = st.tuples(
    st.sampled_from([None, lambda: GradientAccumulation(3)]),
    st.sampled_from([None, lambda: GradientClipping(0.5)]),
    st.sampled_from([None, lambda: Averaging(0.9), lambda: Averaging(None, start=1)]),
)


def check(seed, model, make_opt, schedule, callbacks, batch_size, samples, level):
    g = torch.Generator().manual_seed(seed)
    sets = [
        TensorDataset(torch.randn(n, 6, generator=g), torch.randint(3, (n,), generator=g))
        for n in (samples, 5)
    ]
    history = pf.fit(
        2, model, F.cross_entropy, make_opt(model.parameters()),
        *pf.get_data(*sets, batch_size, seed=seed), schedule=schedule,
        callbacks=[make() for make in callbacks if make], echo=None,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "train.py"
        history.run.eject(script, level=level, echo=None)
        losses, weights = run_here(script)
        (Path(folder) / "run.safetensors").write_bytes(weights_to_bytes(model))
        assert losses == history.step_losses
        assert differing(weights, load_file(Path(folder) / "run.safetensors")) == []


EVERYTHING = given(
    seed=st.integers(0, 2**40),
    model=layers(),
    make_opt=OPTIMIZERS,
    schedule=st.sampled_from([None, *BY_NAME]),
    callbacks=CALLBACKS,
    batch_size=st.integers(2, 9),
    samples=st.sampled_from([4, 8, 12, 18]),
    level=st.sampled_from(["loop", "data"]),
)
OPTIONS = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow], "derandomize": True}


@settings(max_examples=12, **OPTIONS)
@EVERYTHING
def test_random_models(**drawn):
    drawn["samples"] += drawn["samples"] % drawn["batch_size"] == 1  # batch norm needs two
    check(**drawn)


@pytest.mark.soak
@settings(max_examples=500, **OPTIONS)
@EVERYTHING
def test_many_random_models(**drawn):
    drawn["samples"] += drawn["samples"] % drawn["batch_size"] == 1
    check(**drawn)
