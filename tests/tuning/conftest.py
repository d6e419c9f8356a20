"""Studies without pictures, which are most of what a short study costs."""

import pytest

from plainfit.common import plots


@pytest.fixture
def pictures():
    """Draw the page of a study and the curves of its runs after all."""


@pytest.fixture(autouse=True)
def _no_pictures(request, monkeypatch):
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr("plainfit.tuning.work.write_page", lambda *_: None)
        monkeypatch.setattr(plots, "curves", lambda *_: plots.Picture())
