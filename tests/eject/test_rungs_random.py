"""Random networks, optimizers, schedules and ragged batches: every rung keeps its promise."""

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from eject.running import assert_same, run
from eject.scripts import IMAGES, OPTIMIZERS, VECTORS, script
from eject.test_rungs_training import CYCLE, SET_RATES

ACTIVATIONS = ("ReLU()", "Tanh()", "Sigmoid()", "LeakyReLU(0.1)", "Identity()", "Dropout(0.3)")
FLAT = st.sampled_from([f"nn.{name}" for name in ACTIVATIONS])
WIDTHS = st.integers(1, 6)


@st.composite
def perceptrons(draw):
    layers, width = [], 12
    for _ in range(draw(st.integers(0, 3))):
        after = draw(WIDTHS)
        layers.append(f"nn.Linear({width}, {after}, bias={draw(st.booleans())})")
        width = after
        if draw(st.booleans()):
            layers.append(
                draw(st.sampled_from([f"nn.BatchNorm1d({width})", f"nn.LayerNorm({width})"]))
            )
        layers.append(draw(FLAT))
    return [*layers, f"nn.Linear({width}, 4)"], VECTORS


@st.composite
def convolutional(draw):
    layers, width = [], 1
    for block in range(draw(st.integers(1, 2))):
        after = draw(st.integers(1, 4))
        stride, padding = draw(st.integers(1, 2)), draw(st.integers(1, 2))
        layers.append(f"nn.Conv2d({width}, {after}, 3, stride={stride}, padding={padding})")
        width = after
        if draw(st.booleans()):
            layers.append(f"nn.BatchNorm2d({width})")
        layers.append(draw(FLAT))
        if block == 0:
            layers.append(draw(st.sampled_from(["nn.MaxPool2d(2)", "nn.AvgPool2d(2)"])))
    layers += ["nn.AdaptiveAvgPool2d(1)", "nn.Flatten()", f"nn.Linear({width}, 4)"]
    return layers, IMAGES


@st.composite
def trainings(draw):
    layers, data = draw(st.one_of(perceptrons(), convolutional()))
    lines = "".join(f"    {layer},\n" for layer in layers)
    text = script(
        CYCLE,
        make=f"nn.Sequential(\n{lines})",
        opt=draw(st.sampled_from(sorted(OPTIMIZERS.values()))),
        start=draw(st.sampled_from(["", SET_RATES])),
        data=data.replace("40", "41"),
    )
    size = draw(st.sampled_from([3, 7, 14, 16, 19, 41]))  # batch norm needs two in the last one
    return text.replace("bs = 16", f"bs = {size}").replace("epochs = 2", "epochs = 1")


def check(text):
    expected = run(text)
    for rung in ("optim", "layers", "tensors"):
        assert_same(text, rung, expected)


slow = [HealthCheck.too_slow]


@settings(
    deadline=None,
    max_examples=15,
    derandomize=True,
    database=None,
    suppress_health_check=slow,
    phases=[Phase.generate],
)
@given(trainings())
def test_some_random_trainings(text):
    check(text)


@pytest.mark.soak
@settings(
    deadline=None,
    max_examples=200,
    database=None,
    suppress_health_check=slow,
    phases=[Phase.generate],
)
@given(trainings())
def test_many_random_trainings(text):
    check(text)
