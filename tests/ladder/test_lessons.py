"""What a page shows of the ladder: programs, what they change, lessons, steps from the inside."""

import pytest
import torch

from plainfit.ladder.catalog import RUNGS
from plainfit.ladder.inside import PHASES, STEPPABLE, lines_of_step, look_inside
from plainfit.ladder.lessons import figures, lessons
from plainfit.ladder.listing import changes, listing, marked, parts
from plainfit.ladder.runner import Setting


@pytest.fixture
def digits_setting(digits_file):
    return Setting(digits_file, epochs=1)


def test_a_page_shows_the_whole_program_and_what_changed():
    for rung in RUNGS:
        lines = [line for _, _, part in parts(rung) for line in part]
        assert ["".join(span.text for span in line) for line in lines] == rung.source.splitlines()
        if rung.number < 2:
            continue
        old, new = (RUNGS[at].source.splitlines() for at in (rung.number - 1, rung.number))
        rows = [row for group in changes(RUNGS[rung.number - 1], rung) for row in group]
        for row in rows:
            text = "".join(span.text for span in row.spans)
            assert row.old is None or old[row.old - 1] == text
            assert row.new is None or new[row.new - 1] == text
        gone = {row.old for row in rows if row.sign == "-"}
        come = {row.new for row in rows if row.sign == "+"}
        start = old.index("import argparse")  # the docstrings are left out
        kept = [line for at, line in enumerate(old, 1) if at > start and at not in gone]
        start = new.index("import argparse")
        assert kept == [line for at, line in enumerate(new, 1) if at > start and at not in come]


def test_words_that_changed_are_marked():
    old = ["n, c = x.shape", "loss_func = nll", "weights.grad.zero_()"]
    new = ["c = x.shape[1]", "    loss_func = F.cross_entropy", "class Lambda(nn.Module):"]
    gone, come = marked(old, new)
    sides = ((gone, old), (come, new))
    words = [
        {at: "".join(lines[at][place] for place in sorted(places)) for at, places in marks.items()}
        for marks, lines in sides
    ]
    assert words == [{0: "n, ", 1: "nll"}, {0: "[1]", 1: "F.cross_entropy"}]
    kinds = {span.text: span.kind for line in listing('x = f"{len(a)}"  # b\n') for span in line}
    assert kinds["# b"] == "comment"
    assert "string" in kinds.values()


def test_a_lesson_is_that_of_the_notebook():
    for language in ("en", "zh"):
        found = lessons(language)
        assert list(found) == ["first", *(rung.label for rung in RUNGS), "last"]
        assert all(found[rung.label].cells[0][0] == "text" for rung in RUNGS)
    assert lessons("en")["05"].title == "optim.SGD"


def test_the_tutorials_figures_are_those_of_the_documentation(pytestconfig):
    table = (pytestconfig.rootpath / "docs" / "ladder.md").read_text(encoding="utf-8")
    for figure in figures():
        numbers = (figure.tutorial, figure.least, figure.median, figure.greatest)
        row = f"| {figure.rung} | {figure.name} | {' | '.join(f'{n:.4f}' for n in numbers)} | "
        assert (
            row + ("inside" if figure.least <= figure.tutorial <= figure.greatest else "") in table
        )


@pytest.mark.parametrize("rung", STEPPABLE, ids=lambda rung: rung.name)
def test_a_step_is_the_programs_own(rung, digits_setting):
    phases = lines_of_step(rung)
    assert list(phases) == [*PHASES, "update"]
    assert all(phases.values())
    found = look_inside(rung, digits_setting, 2, samples=1259)
    assert found.xb.shape in ((64, 64), (64, 1, 8, 8))
    assert found.yb.shape == (64,)
    logits = found.pred - found.pred.logsumexp(1, keepdim=True)
    assert found.loss == pytest.approx(-logits[range(64), found.yb].mean().item(), rel=1e-5)
    assert found.loss_after < found.loss or rung.number >= 10
    for name, gradient in found.gradients.items():
        moved = found.updated[name] - found.parameters[name]
        assert gradient.shape == moved.shape
        if rung.number < 10:  # without momentum
            assert torch.allclose(moved, -0.5 * gradient, atol=1e-6)
