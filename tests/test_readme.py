"""The README: its code and commands run as they are written, its claims, table, tree and links."""

import json
import random
import re
import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "plainfit"
README = (ROOT / "README.md").read_text(encoding="utf-8")
LEFT_BY_COMMANDS = {
    "runs", "comparison.html", "digits-augmented.png", "houses-samples.png",
    "houses.csv", "lr-find.png", "mine", "new.csv", "photos", "prices.csv", "run.toml", "train.py",
    "what_is_torch_nn.ipynb",
}  # fmt: skip

MADE = {"command-line.md", "notebooks/what_is_torch_nn.ipynb"}  # when the site is built
MANY = "plainfit train --epochs 3 --schedule one-cycle --clip 1 --average 0.99 --out runs/mine"
SHORTER = {
    "plainfit ladder": "plainfit ladder --rungs 1-2",  # tests/ladder runs every rung
    "plainfit lr-find": "plainfit lr-find --model logistic",  # the ResNet of the default takes 3 s
    MANY: f"{MANY} --model cnn",  # the ResNet takes as long as all commands after it
}


# What the README says, and where it is tested beyond this file.
PROOFS = {
    "on your own images, tables and arrays": "data/test_sources.py",
    "`fit` calls\n`loss_batch`": "training/test_loop.py::test_two_hops_from_fit_to_the_model",
    "Each line works without the others": "parity/test_plain_loop.py",
    "iterable of batches": "training/test_loop.py",
    "with equal losses": "test_examples.py",
    "The target says": "runs/test_tasks.py",
    "`--data` also takes": "data/test_sources.py",
    "masks for a\nsegmentation": "data/test_segmentation.py",
    "a column of text": "data/test_text.py",
    "A run folder has": "runs/test_run_folder.py::test_a_run_is_read_back",
    "After Ctrl-C, a time limit": "cli/test_cli.py",
    "a power cut": "training/test_kills.py",
    "even within an epoch": "parity/test_resume.py::test_stopped_at_every_step",
    "calls `Small` in `nets.py`": "cli/test_cli.py::test_a_model_of_the_users_own",
    "**Fine-tune**": "models/transfer/test_fine_tuning.py",
    "stopped and resumed at will": "tuning/test_tuning_kills.py",
    "1, 2 or 4 give the same bits": "training/test_processes.py",
    "`pf.predict`": "runs/test_inference.py",
    "ONNX": "runs/test_export.py",
    "`plainfit serve RUN`": "web/test_serving.py",
    "**scikit-learn**": "estimators/test_estimator_checks.py",
    "Invalid input": "cli/test_bad_input.py",
    "draw a digit": "web/test_try.py",
    "watch trainings, start and stop them": "web/test_runs_page.py",
    "walk the tutorial": "web/test_ladder.py",
    "mend labels": "web/test_clean.py",
    "bit for bit. `--verify`": "eject/test_runs.py",
    "with your own classes": "eject/test_own_code.py",
    "where plainfit cannot be imported": "eject/test_verify.py::test_plainfit_cannot_be_imported",
    "Lower levels": "eject/test_levels.py",
    "checks each step": "ladder/test_relations.py",
    "runs code": "models/test_trust.py",
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def in_tmp(tmp_path, monkeypatch):
    """An empty working folder; torch's number of threads is restored afterwards."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)


def test_the_chinese_readme_has_the_same_code_and_links():
    chinese = (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")
    fenced = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
    assert fenced.findall(chinese) == fenced.findall(README)
    links = re.compile(r"\]\(((?:docs|tests)/[^)]+|[A-Z]+\.md)\)")
    assert sorted(links.findall(chinese)) == sorted([*links.findall(README), "README.md"])
    assert len(README.splitlines()) <= 200


def test_the_three_lines_run(in_tmp, capsys):
    (code,) = blocks("python")
    exec(code + "print(history)\n", {})
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 6
    assert printed[:3] == printed[3:]  # while training, and again by print(history)


def test_the_longer_lines_run_after_them_and_resume(in_tmp, capsys):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    code = "".join(blocks("python") + blocks("py"))
    outputs = []
    for _ in range(2):
        exec(code, {})
        outputs.append(capsys.readouterr().out)
    assert "resumed" not in outputs[0]
    assert "resumed in epoch " in outputs[1]


def write_own_data():
    """The table and the folder that the README has."""
    draw, rows = random.Random(0), []
    for i in range(600):
        area, built = draw.randint(30, 200), draw.randint(1900, 2025)
        price = f"{3000 * area - 200 * (2025 - built) + draw.gauss(0, 20_000):.2f}"
        cell = "" if i % 37 == 14 else f"{area},5"
        sold = f"{i % 28 + 1:02}.01.2025"
        rows.append(f"H{i};{cell};{built};{sold};{price.replace('.', ',')}\n")
    for name, part in (("houses.csv", rows), ("new.csv", rows[:9])):
        Path(name).write_text("".join(["id;area;built;sold;price\n", *part]), "utf-8")
    for kind, level in (("cat", 60), ("dog", 180)):
        Path("photos", kind).mkdir(parents=True)
        for i in range(10):
            Image.new("RGB", (8, 8), (level + i, i, 0)).save(f"photos/{kind}/{i}.jpg")


@pytest.mark.filterwarnings("default::RuntimeWarning")  # how the table is read
def test_the_commands_run_in_order(in_tmp, plainfit):
    write_own_data()
    commands = "".join(blocks("sh")).splitlines()
    assert len(commands) > 20
    code, _, err = plainfit("data", "houses.csv", "--target", "price")  # with the column `id`
    assert code == 2
    assert re.search(r"refused: \*(.*?)\*", README, re.DOTALL)[1].replace("\n", " ") in err
    printed = []
    for command in commands:
        name, *arguments = shlex.split(SHORTER.get(command, command))
        code, out, err = plainfit(*arguments)
        assert (name, code) == ("plainfit", 0), f"{command}\n{err}"
        printed += [*out.splitlines(), *err.splitlines()]
    shown = re.search(r"^data   houses.csv.*?(?=^```)", README, re.MULTILINE | re.DOTALL)[0]
    assert [line for line in shown.splitlines() if line not in printed] == []
    assert {path.name for path in in_tmp.iterdir()} == LEFT_BY_COMMANDS


def test_what_is_claimed_is_tested():
    for claim, name in PROOFS.items():
        path, _, test = name.partition("::")
        assert claim in README
        assert f"def {test}" in (ROOT / "tests" / path).read_text(encoding="utf-8"), name
    assert len(list(PACKAGE.glob("ladder/rungs/r*.py"))) == 16  # "sixteen short programs"


def test_the_table_of_other_libraries_is_what_was_measured():
    """`benchmarks/compare.py` runs them; the README has its rows in the same words."""
    (path,) = ROOT.glob("benchmarks/results/compare.*.json")
    measured = json.loads(path.read_text(encoding="utf-8"))
    table = re.search(r"^\|.*?(?=\n\n)", README[README.index("## Why") :], re.MULTILINE | re.DOTALL)
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", table[0])  # without the links
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in plain.splitlines()]
    assert [cells[0], *cells[2:]] == [measured["columns"], *measured["rows"]]


PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere_and_pictures_have_a_text(page):
    text = re.sub(
        r"^```.*?^```|`[^`\n]*`", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    for mark, words, target in re.findall(r"(!?)\[([^]]*)\]\(([^)\s]+)\)", text):
        assert words.strip() or not mark, f"a picture must say what it shows: {target}"
        name, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", name) or name in MADE:
            continue
        other = page.parent / name if name else page
        assert other.exists(), target
        assert not anchor or anchor in anchors(other), target


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MyST make them."""
    titles = re.findall(r"^#+ (.*)", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def test_the_tree_names_every_room_and_fits_on_a_screen():
    tree = README[README.index("## The tree") :].split("```")[1].strip().splitlines()
    assert len(tree) <= 40
    start = tree.index("├── src/plainfit/")
    rooms = []
    for line in tree[start + 1 :]:
        if not line.startswith("│   "):
            break
        rooms.append(line.split()[2].rstrip("/").removesuffix(".py"))
    real = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert sorted(rooms) == sorted(real - {"__init__", "__main__", "__pycache__"})
    assert all(f"make {target}" in README for target in ("run", "test"))


def test_the_library_stays_small():
    files = list((ROOT / "src").rglob("*.py"))
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)
    rooms = [path for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()]
    rooms = [path for path in rooms if path.stem not in ("__init__", "__main__", "__pycache__")]
    assert len(rooms) <= 12
    assert len(files) <= 185
    # 18,512 before the hardening; 20,541 before batches, steps, metrics, data and estimators took
    # what people bring, predictions, and scripts of any code (docs/decisions/0031); 24,739 before
    # tables and folders as people have them, and programs on CUDA; 29,020 before several processes,
    # pretrained text models and serving; 31,400 before the pages of `plainfit app`.
    assert lines <= 35_000


def test_every_promise_names_tests_that_exist():
    text = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    for row in rows:
        *_, tests, _ = re.split(r"(?<!\\)\|", row)
        assert tests.strip() == "Test" or re.findall(r"`([^`]+)`", tests), row
        for name in re.findall(r"`([^`]+)`", tests):
            assert (ROOT / "tests" / name).exists(), name
