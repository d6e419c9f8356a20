"""What all tests of eject share."""

import pytest
from matplotlib.figure import Figure

from plainfit.training.history import History


@pytest.fixture(scope="module", autouse=True)
def empty_curves():
    """Runs without their curves, which take longer to draw than these runs to train."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(History, "plot", lambda self, *args, **options: Figure((0.1, 0.1)))
        yield
