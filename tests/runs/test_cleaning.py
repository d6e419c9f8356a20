"""Labels that the tests made wrong are found; what is decided of them becomes new data."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest
import torch

from plainfit import open_data
from plainfit.common.errors import ConfigError, DataError, RunError
from plainfit.data.relabel import write_arrays
from plainfit.data.splits import labels_of
from plainfit.runs.cleaning import clean, draw_folds, judge
from plainfit.runs.decisions import DECISIONS, DROP, KEEP, RELABEL, Cleaning, Decision, cleanings
from plainfit.runs.settings import RunConfig


@pytest.fixture(scope="module")
def flipped(tmp_path_factory):
    """The digits with 3 % of the labels wrong; the true labels by the path of the file."""
    data, draw = open_data("digits"), torch.Generator().manual_seed(1)
    changes, truth = {}, {}
    for part in ("train", "valid"):
        labels = labels_of(data.parts()[part])
        for row in torch.randperm(len(labels), generator=draw)[: round(0.03 * len(labels))]:
            other = int(labels[row] + 1 + torch.randint(9, (), generator=draw)) % 10
            changes[data.origins()[part][row]] = str(other)
            truth[f"{part}/{other}/{row:06}.png"] = str(int(labels[row]))
    folder = tmp_path_factory.mktemp("flipped") / "digits"
    write_arrays(data, folder, changes)
    return folder, truth


@pytest.fixture(scope="module")
def ranked(flipped, tmp_path_factory):
    out = tmp_path_factory.mktemp("ranked") / "result"
    settings = {"model": "logistic", "epochs": 15, "optimizer": "adam", "lr": 0.02}
    return clean(RunConfig(data=str(flipped[0]), out=out, **settings), folds=3, echo=None)


@pytest.fixture
def result(ranked, tmp_path):
    """The result, with nothing decided yet."""
    for name in ("clean.json", "samples.csv"):
        os.link(ranked / name, tmp_path / name)
    return Cleaning.open(tmp_path)


def write_table(path, count=120):
    """A table whose label is whether x > 0, except in two rows; one row has none."""
    draw = torch.Generator().manual_seed(0)
    numbers = torch.randn(count, generator=draw).mul(3).tolist()
    kinds = ["yes" if x > 0 else "no" for x in numbers]
    wrong = sorted(range(count), key=lambda row: abs(numbers[row]))[-2:]
    for row in wrong:
        kinds[row] = "no" if kinds[row] == "yes" else "yes"
    kinds[3] = ""
    rows = [f'{x:.3f},"a, b",{kind}\r\n' for x, kind in zip(numbers, kinds, strict=True)]
    path.write_text("# a comment\nx,words,kind\n" + "".join(rows), newline="")
    return {str(row + 1) for row in wrong}


def counted(images, labels):
    rows = [tuple(row) for row in images.flatten(1).tolist()]
    return Counter(zip(rows, labels.tolist(), strict=True))


def images_of(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_flipped_labels_are_at_the_top(flipped, ranked):
    _, truth = flipped
    found = Cleaning.open(ranked)
    first = [sample.origin for sample in found.samples[: len(truth)]]
    flipped_first = truth.keys() & {*first}
    assert len(flipped_first) >= 0.8 * len(truth)
    suggested = [found.by_origin[o].suggested == truth[o] for o in flipped_first]
    assert sum(suggested) >= 0.8 * len(suggested)
    suspects = [sample for sample in found.samples if sample.is_suspect]
    assert suspects == found.samples[: found.record["suspects"]]
    assert len(truth) / 2 < len(suspects) < 2 * len(truth)
    assert Counter(sample.part for sample in found.samples) == {
        "train": 1259, "valid": 269, "test": 269,
    }  # fmt: skip
    assert all((sample.part == "test") == (not sample.probabilities) for sample in found.samples)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_no_model_judges_what_it_has_seen(tmp_path):
    draw = torch.Generator().manual_seed(0)  # labels that can only be learned by heart
    rows = torch.randn(120, 20, generator=draw).tolist()
    labels = torch.randint(2, (120,), generator=draw).tolist()
    lines = [",".join(f"x{n}" for n in range(20)) + ",y"]
    lines += [",".join(map(str, [*row, label])) for row, label in zip(rows, labels, strict=True)]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    settings = {"model": "mlp", "optimizer": "adam", "epochs": 40, "test_share": 0, "target": "y"}
    config = RunConfig(data=str(tmp_path / "t.csv"), out=tmp_path / "r", **settings)
    assert Cleaning.open(clean(config, 3, echo=None)).record["accuracy"] < 0.75


def test_a_class_counts_from_its_own_mean_on():
    # Of class 1 all are unsure: 0.5 is much for it, and 0.45 of class 0 is little.
    p = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.45, 0.55], [0.5, 0.5], [0.55, 0.45]])
    found = judge(torch.tensor([0, 0, 0, 1, 1]), p)
    assert found.thresholds.tolist() == pytest.approx([0.75, 0.475])
    assert found.is_suspect.tolist() == [False, False, True, False, False]
    assert found.suggested.tolist() == [0, 0, 1, 1, 1]
    assert found.joint.tolist() == [[2, 1], [0, 1]]


def test_folds_have_all_classes_alike_and_equal_samples_together():
    labels = torch.tensor([0, 1] * 50 + [2] * 7)
    groups = torch.arange(107)
    groups[[3, 40, 90]] = 0  # equal to the first
    fold_of = draw_folds(labels, groups, 5, seed=0)
    assert len({*fold_of[[0, 3, 40, 90]].tolist()}) == 1
    for label, least, most in ((0, 9, 12), (1, 9, 12), (2, 1, 2)):
        counts = fold_of[labels == label].bincount(minlength=5)
        assert least <= counts.min() <= counts.max() <= most


def test_a_decision_is_a_line_and_so_is_taking_it_back(result):
    first, second = (sample.origin for sample in result.samples[:2])
    result.decide(Decision(first, RELABEL, "5"))
    result.decide(Decision(second, DROP, None))
    result.decide(Decision(first, KEEP, None))
    assert result.changes(result.decisions()) == {second: None}
    result.undo()
    assert result.changes(result.decisions()) == {first: "5", second: None}
    lines = [json.loads(line) for line in (result.folder / DECISIONS).read_text().splitlines()]
    assert [line["action"] for line in lines] == ["relabel", "drop", "keep", "undo"]
    assert lines[0]["from"] == result.samples[0].label
    for _ in range(3):
        result.undo()  # one more than there are
    assert result.changes(result.decisions()) == {}


def test_a_line_that_was_cut_off_is_no_decision(result):
    origins = [sample.origin for sample in result.samples[:3]]
    path = result.folder / DECISIONS
    for origin in origins[:2]:
        result.decide(Decision(origin, DROP, None))
    whole = path.read_bytes()
    for cut in range(whole.index(b"\n") + 1, len(whole)):
        path.write_bytes(whole[:cut])
        assert [*result.decisions()] == origins[:1]
    result.decide(Decision(origins[2], DROP, None))
    assert [*result.decisions()] == [origins[0], origins[2]]
    path.write_bytes(b'{"sample": 3}\n' + whole)
    with pytest.raises(RunError, match="line 1 has none"):
        result.decisions()


@pytest.mark.parametrize(
    ("decision", "message"),
    [
        (("nowhere.png", DROP, None), "must be one of the samples"),
        ((None, "forget", None), "unknown action 'forget'"),
        ((None, RELABEL, "11"), "has one of the classes"),
        ((None, RELABEL, None), "has one of the classes"),
        ((None, DROP, "1"), "has one of the classes"),
    ],
)
def test_other_decisions_are_refused(result, decision, message):
    origin, action, label = decision
    with pytest.raises(ConfigError, match=message):
        result.decide(Decision(origin or result.samples[0].origin, action, label))
    assert not (result.folder / DECISIONS).exists()


def test_a_new_folder_has_the_images_in_their_new_classes(flipped, result, tmp_path):
    root, truth = flipped
    before = images_of(root)
    moved, left, kept = sorted(truth)[:3]
    result.decide(Decision(moved, RELABEL, truth[moved]))
    result.decide(Decision(left, DROP, None))
    result.decide(Decision(kept, KEEP, None))
    commands = result.apply(tmp_path / "new")
    part, _, name = moved.split("/")
    after = images_of(tmp_path / "new")
    place = f"{part}/{truth[moved]}/{name}"
    assert after == {n: c for n, c in before.items() if n not in (moved, left)} | {
        place: before[moved]
    }
    assert (tmp_path / "new" / kept).samefile(root / kept)  # no copies of large images
    assert images_of(root) == before
    assert commands[0].startswith(f"plainfit train --data {root} --model logistic")
    assert f"--data {tmp_path / 'new'} --model logistic" in commands[1]
    assert commands[2] == "plainfit compare runs/new-before runs/new-after"
    with pytest.raises(DataError, match="must have a new name"):
        result.apply(tmp_path / "new")
    with pytest.raises(DataError, match="must be outside of"):
        result.apply(root / "new")


def test_digits_become_a_folder(tmp_path):
    out = clean(RunConfig(model="logistic", epochs=1, out=tmp_path / "r"), folds=2, echo=None)
    result = Cleaning.open(out)
    with pytest.raises(ConfigError, match="must be relabelled or dropped"):
        result.apply(tmp_path / "new")
    assert cleanings(tmp_path) == [out]
    data = open_data("digits")
    first, second = (data.origins()["train"][row] for row in (0, 1))
    result.decide(Decision(first, RELABEL, "7"))
    result.decide(Decision(second, DROP, None))
    command = result.apply(tmp_path / "new")[1]
    assert "valid-share" not in command
    new = open_data(tmp_path / "new")
    labels = data.train.tensors[1].clone()
    labels[0] = 7
    kept = torch.arange(len(labels)) != 1
    assert counted(*new.train.tensors) == counted(data.train.tensors[0][kept], labels[kept])
    assert torch.equal(new.test.tensors[0].sum(0), data.test.tensors[0].sum(0))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_equal_samples_in_several_parts_or_classes(tmp_path):
    rows = [f"{n},{'ab'[n % 2]}" for n in range(60)]
    rows[1] = "0,b"  # other labels, in training both
    rows[3] = "2.0,b"
    rows[20] = rows[22] = "21,a"  # no more than a copy
    (tmp_path / "t.csv").write_text("x,kind\n" + "\n".join(rows) + "\n")
    config = RunConfig(data=str(tmp_path / "t.csv"), target="kind", epochs=1, out=tmp_path / "r")
    found = Cleaning.open(clean(config, 2, echo=None))
    groups = [{one["sample"] for one in group} for group in found.record["equal"]]
    assert {"1", "2"} in groups
    assert {"3", "4"} in groups
    parts = {found.by_origin[row].part for row in ("21", "22", "23")}
    labels = {found.by_origin[row].label for row in ("21", "22", "23")}
    assert ({"21", "22", "23"} in groups) == (len(parts) > 1 or len(labels) > 1)
    assert all(len(group) > 1 for group in groups)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_table_on_the_command_line(plainfit, tmp_path):
    wrong = write_table(tmp_path / "t.csv")
    code, told, _ = plainfit(
        "clean", "t.csv", "--target", "kind", "--epochs", 20, "--folds", 3, "--out", "runs/c"
    )
    assert code == 0
    assert "fold 3 of 3" in told
    assert "next   plainfit app runs, page Clean" in told
    result = Cleaning.open(Path("runs/c"))
    assert {sample.origin for sample in result.samples[:2]} == wrong
    assert result.record["equal"] == []
    assert "4" not in result.by_origin  # it has no label
    first, second = sorted(wrong, key=int)
    label = result.by_origin[first].suggested
    result.decide(Decision(first, RELABEL, label))
    result.decide(Decision(second, DROP, None))
    code, told, _ = plainfit("relabel", "runs/c", "--out", "new.csv")
    assert code == 0
    assert "1 relabelled, 1 left out" in told
    assert "--data new.csv --target kind" in told
    lines = (tmp_path / "t.csv").read_bytes().splitlines(keepends=True)
    old = lines[int(first) + 1].rpartition(b",")[0]
    lines[int(first) + 1] = old + f",{label}\r\n".encode()
    del lines[int(second) + 1]
    assert (tmp_path / "new.csv").read_bytes() == b"".join(lines)
    (tmp_path / "t.csv").write_bytes(b"".join(lines[:40]))
    code, _, error = plainfit("relabel", "runs/c", "--out", "other.csv")
    assert code == 2
    assert "t.csv must be what was ranked" in error
    assert not (tmp_path / "other.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["relabel", "nowhere", "--out", "x"], "has no clean.json"),
        (["clean", "digits", "--folds", 3, "--valid-share", 2], "--valid-share must be"),
        (["clean", "numbers.csv", "--target", "y"], "the task is regression"),
        (["clean", "f.npz"], "labels of images and tables can be ranked"),
        (["clean", "digits", "--out", "."], "must be new or empty"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_cannot_be_ranked(plainfit, tmp_path, arguments, message):
    import numpy as np

    rows = "".join(f"{row},{row / 7}\n" for row in range(40))
    (tmp_path / "numbers.csv").write_text("x,y\n" + rows)
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    np.savez(tmp_path / "f.npz", x_train=x, y_train=np.arange(40) % 2)
    code, _, error = plainfit(*arguments)
    assert code == 2
    assert message in error
    assert not (tmp_path / "runs").exists()
    assert not list(tmp_path.rglob("clean.json"))
