"""Figures: names in Chinese."""

from io import BytesIO

import numpy as np
import pytest
from matplotlib.font_manager import get_font_names

from plainfit.common import plots


def drawn(name):
    png = BytesIO()
    plots.sample_sheet([np.zeros((8, 8))], [name], 1).savefig(png, format="png")
    return png.getvalue()


@pytest.mark.skipif(
    not set(plots.CHINESE) & set(get_font_names()), reason="no font with Chinese is installed"
)
def test_chinese_names_are_drawn_by_a_font_that_has_them():
    assert drawn("猫") != drawn("狗")  # a sign that is missing is a box, and a warning


def test_a_font_that_is_not_installed_is_a_warning_and_changes_no_other_name(monkeypatch):
    cat = drawn("cat")
    monkeypatch.setattr(plots, "CHINESE", ())
    assert drawn("cat") == cat
    with pytest.warns(UserWarning, match="missing from font"):
        drawn("猫")
