"""Malformed input from the command line: one clear line, exit code 2, nothing left behind."""

import gzip
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

LABELS = np.arange(60) % 3


def npz(name: str = "data.npz", **arrays: np.ndarray) -> Callable[[Path], None]:
    return lambda folder: np.savez(folder / name, **arrays)


def text(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content)


def binary(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content)


def parquet(**columns: object) -> Callable[[Path], None]:
    return lambda folder: pyarrow.parquet.write_table(pa.table(columns), folder / "t.parquet")


def images(*names: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for name in names:
            path = folder / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix:
                Image.new("L", (8, 8)).save(path)
            else:
                path.mkdir()

    return write


class Exploit:
    """Runs a command when it is unpickled, if anyone does."""

    def __reduce__(self) -> object:
        import os

        return os.system, ("touch EXPLOITED",)


NET = "from torch import nn\n"
CSV = "a,b,target\n" + "".join(f"{i},{i % 7},{i % 2}\n" for i in range(40))
NOTHING = lambda folder: None  # noqa: E731

# what, how it comes about, the arguments after `plainfit train`, what the line must say
CASES: list[tuple[str, Callable[[Path], object], str, str]] = [
    ("unknown data", NOTHING, "--data mnits", "did you mean 'mnist'?"),
    ("no such path", NOTHING, "--data no/such.npz", "there is no file or folder no/such.npz"),
    ("unknown kind of file", text("a.xlsx", "x"), "--data a.xlsx", "must be a folder or one of"),
    ("unknown model", NOTHING, "--model resnett", "did you mean 'resnet'?"),
    ("unknown optimizer", NOTHING, "--optimizer adamm", "did you mean 'adam"),
    ("unknown device", NOTHING, "--device cuda0", "unknown device 'cuda0'"),
    ("unknown option", NOTHING, "--epoch 3", "--epochs"),
    ("epochs not a number", NOTHING, "--epochs many", "'--epochs'"),
    ("no epochs", NOTHING, "--epochs 0", "--epochs must be at least 1 and at most 1,000,000,"),
    ("negative rate", NOTHING, "--lr=-1", "at most 1e+38, or auto, got -1"),
    ("rate not finite", NOTHING, "--lr nan", "--lr must be at least 1e-38 and at most 1e+38"),
    ("momentum of 1", NOTHING, "--momentum 1", "--momentum must be at least 0 and at most"),
    ("momentum with adam", NOTHING, "--optimizer adam --momentum 0.9",
     "--momentum applies to sgd and rmsprop"),
    ("empty batches", NOTHING, "--batch-size 0", "--batch-size must be at least 1 and at most"),
    ("negative seed", NOTHING, "--seed=-1", "--seed must be at least 0 and at most 9,"),
    ("model not a module", NOTHING, "--model nosuch:Net", "the module 'nosuch' must import"),
    ("model not in module", text("m.py", NET + "class Net: pass"), "--model m:Nett", "'Net'?"),
    ("model of syntax error", text("m.py", "def"), "--model m:Net", "SyntaxError"),
    ("model that ends Python", text("m.py", "exit()"), "--model m:Net", "failed with SystemExit"),
    ("ending when called", text("m.py", "def f(): exit()"), "--model m:f", "with SystemExit"),
    ("model no Module", text("m.py", "def f(): return 3"), "--model m:f", "Module, got int"),
    ("too few outputs", text("m.py", NET + "def f(): return nn.Sequential(nn.Flatten(), "
     "nn.Linear(64, 3))"), "--model m:f", "one output for each of 10 (0, 1, 2, 3, 4 and 5 more)"),
    ("last batch of one", text("m.py", NET + "def f(): return nn.Sequential(nn.Flatten(), "
     "nn.Linear(64, 10), nn.BatchNorm1d(10))"), "--model m:f --batch-size 74",
     "got 1,259 = 17 * 74 + 1 samples; set --drop-last, or choose another --batch-size"),
    ("wrong input shape", text("m.py", NET + "def f(): return nn.Linear(5, 10)"), "--model m:f",
     "must take samples of shape (1, 8, 8)"),
    ("image model on a table", text("t.csv", CSV), "--data t.csv --model cnn", "model logistic"),
    ("damaged npz", binary("a.npz", b"PK\3\4 junk"), "--data a.npz", "cannot be read"),
    ("pickled npz", npz(x=np.array([{}, {}]), y=LABELS[:2]), "--data data.npz", "cannot be read"),
    ("npz without x", npz(z=LABELS), "--data data.npz", "must hold x and y"),
    ("mismatched lengths", npz(x=np.ones((60, 4)), y=LABELS[:50]), "--data data.npz",
     "got 60 samples and 50 labels"),
    ("NaN in npz", npz(x=np.full((60, 4), np.nan), y=LABELS), "--data data.npz", "NaN or infinity"),
    ("empty data set", npz(x=np.ones((0, 4)), y=LABELS[:0]), "--data data.npz", "it is empty"),
    ("one class", npz(x=np.ones((60, 4)), y=LABELS * 0), "--data data.npz", "at least two classes"),
    ("decimal labels", npz(x=np.ones((60, 4)), y=LABELS / 2),
     "--data data.npz --task classification", "labels must be classes"),
    ("many whole numbers", npz(x=np.ones((60, 4)), y=np.arange(60)), "--data data.npz",
     "60 different whole numbers, which may be classes or amounts: set task (--task regression"),
    ("many whole floats", text("t.csv", "a,y\n" + "".join(f"1,{i}.0\n" for i in range(40))),
     "--data t.csv", "t.csv: the target has 40 different whole numbers"),
    ("rows of a single 1", npz(x=np.ones((60, 4)), y=np.eye(3)[LABELS]), "--data data.npz",
     "has a single 1: take argmax(1) of them for classes, or set task (--task multi-label)"),
    ("text for a number", text("t.csv", "a,target\n1,x\n2,y\n3,x\n"),
     "--data t.csv --task regression", "column 'target' must be numbers: "),
    ("a constant number", npz(x=np.ones((60, 4)), y=np.full(60, 0.5)), "--data data.npz",
     "the target must vary, and 'y0' is 0.5 in every training row"),
    ("a number beyond float32", npz(x_train=np.ones((60, 4)), y_train=np.arange(60) / 7,
     x_valid=np.ones((4, 4)), y_valid=np.array([0.5, 1.5, 1e300, 2.5])), "--data data.npz",
     "'y0' has 1e+300 in valid (standard deviation 2.47"),
    ("numbers that do not differ in float64", npz(x=np.ones((60, 4)), y=np.arange(60) * 5e-324),
     "--data data.npz --task regression", "must be within 3e38 standard deviations of their mean"),
    ("a loss of another task", text("t.csv", CSV), "--data t.csv --loss huber",
     "unknown loss for classification 'huber'"),
    ("smoothed numbers", npz(x=np.ones((60, 4)), y=np.arange(60) / 7),
     "--data data.npz --label-smoothing 0.1", "--label-smoothing is for classification"),
    ("a class missing from training", npz(x_train=np.ones((60, 4)), y_train=LABELS,
     x_valid=np.ones((4, 4)), y_valid=np.array([0, 1, 2, 7])), "--data data.npz",
     "must be in the training set; missing: "),
    ("table without target", text("t.csv", "a,b\n1,2\n"), "--data t.csv",
     "must be named with target"),
    ("target not there", text("t.csv", CSV), "--data t.csv --target targt", "you mean 'target'"),
    ("NaN in a table", text("t.csv", CSV + ",3,1\n"), "--data t.csv --missing error",
     "column 'a' has 1 missing, the first in data row 41"),
    ("ragged table", text("t.csv", "a,target\n1,2\n1,2,3\n"), "--data t.csv", "cannot be read"),
    ("empty table", text("t.csv", ""), "--data t.csv", "cannot be read"),
    ("header only", text("t.csv", "a,target\n"), "--data t.csv", "must have rows"),
    ("column twice", text("t.csv", "a,a,target\n1,2,3\n"), "--data t.csv", "'a' twice"),
    ("damaged parquet", binary("t.parquet", b"PAR1 junk"), "--data t.parquet", "cannot be read"),
    ("lists in a parquet", parquet(a=[[1], [2]], y=[0, 1]), "--data t.parquet", "convert it, or"),
    ("folder without classes", images(), "--data taken", "must have a folder of images"),
    ("empty class", images("a/1.png", "b/nothing"), "--data images", "it is empty"),
    ("image of another format", images("a/1.png", "b/1.ppm"), "--data images",
     "no images but 1.ppm"),
    ("size of no folder", NOTHING, "--image-size 8",
     "--image-size is for a folder of images or a folder of images and masks, and cannot be 8 "
     "for digits; leave it out"),
    ("mode of a table", text("t.csv", CSV), "--data t.csv --image-mode gray",
     "--image-mode is for a folder of images or a folder of images and masks, and cannot be gray "
     "for t.csv, a table; leave it out"),
    ("target of mnist", NOTHING, "--target y --data mnist", "--target is for a table"),
    ("files of digits", NOTHING, "--data-dir x", "--data-dir is for mnist or fashion-mnist, and"),
    ("unknown image mode", images("a/1.png", "b/1.png"), "--data images --image-mode grey",
     "unknown image mode 'grey': choose from gray, rgb; did you mean 'gray'?"),
    ("unknown resize", images("a/1.png", "b/1.png"), "--data images --resize pda",
     "unknown image resize 'pda': choose from crop, pad, squash; did you mean 'pad'?"),
    ("exploit pickle", lambda folder: (folder / "m.pkl").write_bytes(pickle.dumps(Exploit())),
     "--data m.pkl", "nothing of it was run"),
    ("cut pickle", binary("m.pkl.gz", gzip.compress(b"\x80")[:-9]), "--data m.pkl.gz", "too soon"),
    ("pickle of something else", binary("m.pkl", pickle.dumps([])), "--data m.pkl", "x_train"),
    ("no mnist offline", images(), "--data mnist --data-dir mnist", "has a wrong file"),
    ("unknown preset", NOTHING, "--preset fats", "unknown preset 'fats': choose from fastest"),
    ("unknown argument", NOTHING, "--model-args widht=3", "unknown argument of ResNet 'widht'"),
    ("positional argument", NOTHING, "--model-args 3", "--model-args must be names with values"),
    ("unknown augmentation", NOTHING, "--augment warpp", "unknown augmentation 'warpp': choose"),
    ("no strength", NOTHING, "--augment warp=x", "the range of warp must be a strength, above 0"),
    ("nesterov with adam", NOTHING, "--optimizer adam --nesterov", "--nesterov applies to sgd"),
    ("nesterov alone", NOTHING, "--momentum 0 --nesterov", "--nesterov applies to sgd with mom"),
    ("fused rmsprop", NOTHING, "--optimizer rmsprop --fused", "--fused applies to sgd, adam and"),
    ("optimizer argument", NOTHING, "--optimizer radam --optimizer-args epss=1",
     "unknown argument of RAdam 'epss': choose from params, lr, betas, eps, "),
    ("optimizer value", NOTHING, "--optimizer radam --optimizer-args eps=-1",
     "RAdam must take the parameters and arguments, and failed with ValueError: Invalid epsilon"),
    ("argument not finite", NOTHING, "--optimizer radam --optimizer-args eps=1e999",
     "--optimizer-args must be names with values, as in a call, such as"),
    ("rate as an argument", NOTHING, "--optimizer-args lr=1",
     "--optimizer-args must be without lr, which is --lr"),
    ("code in an argument", NOTHING, "--optimizer-args eps=open('x')",
     "--optimizer-args must be names with values, as in a call, such as 'betas=(0.9, 0.95), eps"),
    ("momentum of nadam", NOTHING, "--optimizer NAdam --momentum 0.9", "--momentum applies to"),
    ("muon with biases", NOTHING, "--optimizer muon", "Muon only supports 2D parameters"),
    ("dense gradients", NOTHING, "--optimizer sparseadam", "SparseAdam needs sparse gradients"),
    ("weights", NOTHING, "--class-weights balance",
     "--class-weights must be balanced, or names with numbers, such as "),
    ("weight of no class", NOTHING, '--class-weights {"zero":1}', "unknown class 'zero': choose "),
    ("weights of some", NOTHING, '--class-weights {"0":1,"1":2,"3":1}',
     "--class-weights must be of all classes, and lacks 2, 4, 5, 6, 7 and 2 more"),
    ("negative weight", NOTHING, '--class-weights {"0":-1}', "class_weights.0 must be at least"),
    ("weights of numbers", npz(x=np.ones((60, 4)), y=LABELS / 2), "--data data.npz --model mlp "
     "--task regression --class-weights balanced", "--class-weights is for classification, and"),
    ("augmented table", text("t.csv", CSV), "--data t.csv --model mlp --augment warp",
     "augment requires images, and the samples of"),
    ("run folder taken", text("taken/x.txt", "x"), "--out taken", "must be new or empty"),
    ("run folder not writable", text("file", "x"), "--out file/run", "must be writable"),
]  # fmt: skip
assert len(CASES) >= 30


@pytest.mark.parametrize(
    ("prepare", "arguments", "says"), [pytest.param(*case[1:], id=case[0]) for case in CASES]
)
def test_bad_input_is_one_clear_line(plainfit, tmp_path, monkeypatch, prepare, arguments, says):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "taken").mkdir()
    prepare(tmp_path)
    if "mnist " in arguments:  # a file with the wrong content: no network is asked
        (tmp_path / "mnist").mkdir()
        (tmp_path / "mnist" / "train-images-idx3-ubyte").write_bytes(b"wrong")
        says = "must have the SHA-256"
    before = sorted(tmp_path.rglob("*"))
    code, out, err = plainfit("train", *arguments.split())
    assert (code, out) == (2, ""), err
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert says in err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("predict . x.png", "must be a run folder with a run.json, and has none"),
        ("summary cnnn", "did you mean 'cnn'?"),
        ("summary cnn --input-shape 28x28", "--input-shape must be like 1,28,28"),
        ("summary cnn --classes 0", "'--classes'"),
        ("data no-such", "unknown data 'no-such'"),
        ("data digits --picture x.abc", "must be writable as PNG, PDF or SVG"),
        ("tran", "did you mean 'train'?"),
    ],
)
def test_other_commands_too(plainfit, tmp_path, arguments, says):
    code, out, err = plainfit(*arguments.split())
    assert code == 2, err + out
    assert err.count("\n") == 1
    assert says.lower() in err.lower()
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback(plainfit):
    code, _, err = plainfit("train", "--model", "cnnn", "--debug")
    assert code == 2
    assert "Traceback" in err
    assert "unknown model 'cnnn'" in err.splitlines()[-1]


GREEDY = """
import numpy as np
import torch
from torch import nn


class Greedy(nn.Module):
    def __init__(self, how, training=False):
        super().__init__()
        self.lin, self.how, self.of_training = nn.Linear(64, 10), how, training

    def forward(self, x):
        if self.training == self.of_training:
            x = x + {"torch": torch.empty, "numpy": np.empty}[self.how](2**58)
        return self.lin(x.flatten(1))
"""


@pytest.mark.parametrize("how", ["torch", "numpy"])
@pytest.mark.parametrize("training", [False, True])
def test_running_out_of_memory_names_the_flags_that_help(plainfit, tmp_path, how, training):
    (tmp_path / "nets.py").write_text(GREEDY)
    arguments = f"how='{how}', training={training}"
    code, _, errors = plainfit(
        "train", "--model", "nets:Greedy", "--model-args", arguments, "--epochs", 1, "--out", "run"
    )
    assert (code, errors.count("\n")) == (1 if training else 2, 1)
    assert errors.endswith(
        "memory ran out: train with a smaller --image-size, --batch-size or --memory-budget\n"
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--data images", "repair or remove them, or set --skip-bad\n"),
        ("--data missing/batch_size.npz", "no file or folder missing/batch_size.npz\n"),
        ("--search batch_size=1..1.5", "the range of batch_size must be of whole numbers, got "),
        ("--search widht=1..2", "choose from image_size, image_mode, resize, model, model_args, "),
    ],
)
def test_settings_in_a_remedy_are_options(plainfit, tmp_path, arguments, says):
    images("a/1.png", "b/1.png")(tmp_path)
    (tmp_path / "images" / "b" / "1.png").write_text("no image")
    code, _, error = plainfit("tune" if "search" in arguments else "train", *arguments.split())
    assert (code, says in error) == (2, True), error
