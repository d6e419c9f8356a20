"""The README's code and commands, run as they are written; its tree against the real one."""

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

MANY = "plainfit train --epochs 3 --schedule one-cycle --clip 1 --average 0.99 --out runs/mine"
SHORTER = {
    "plainfit ladder": "plainfit ladder --rungs 1-2",  # tests/ladder runs every rung
    "plainfit lr-find": "plainfit lr-find --model logistic",  # the ResNet of the default takes 3 s
    MANY: f"{MANY} --model cnn",  # the ResNet takes as long as all commands after it
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
    """The table and the folder that the README has, smaller."""
    draw = random.Random(0)
    rows = [
        f"H{i};{area},5;{draw.randint(1900, 2025)};{i % 28 + 1:02}.01.2025;{area}.000,{i:02}\n"
        for i in range(60)
        for area in [draw.randint(30, 200)]
    ]
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
    for command in commands:
        name, *arguments = shlex.split(SHORTER.get(command, command))
        code, _, err = plainfit(*arguments)
        assert (name, code) == ("plainfit", 0), f"{command}\n{err}"
    assert {path.name for path in in_tmp.iterdir()} == LEFT_BY_COMMANDS


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
    assert len(files) <= 187
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
