"""A run's model as a file for elsewhere: the same scores, or no file."""

import dataclasses
import json
import shutil
import subprocess
import sys
import textwrap
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

import plainfit.models.networks
from plainfit.common.errors import ConfigError, ModelError, RunError
from plainfit.runs import export as formats
from plainfit.runs.export import batches, compare, export_run, samples_of
from plainfit.runs.folder import open_run
from plainfit.runs.settings import RunConfig
from plainfit.runs.train import train

NEEDED = ("onnx", "onnxscript", "onnxruntime")
ABSENT = [name for name in NEEDED if find_spec(name) is None]
with_onnx = pytest.mark.skipif(
    bool(ABSENT), reason=f"not installed: {', '.join(ABSENT)} (pip install 'plainfit[onnx]')"
)
FORMATS = ["safetensors", "torch-export", pytest.param("onnx", marks=with_onnx)]
BUILT_IN = ("logistic", "mlp", "cnn", "resnet")
NETS = '''
import torch
from torch import nn


class Small(nn.Module):
    """Dropout, a tied pair, a layer that is never called."""

    def __init__(self, in_features, classes):
        super().__init__()
        self.rows = nn.Sequential(nn.Flatten(), nn.Linear(in_features, 16), nn.Tanh())
        self.one, self.two = nn.Linear(16, 16), nn.Linear(16, 16)
        self.two.weight = self.one.weight
        self.spare = nn.Linear(2, 2)
        self.out = nn.Sequential(nn.LayerNorm(16), nn.Dropout(0.5), nn.Linear(16, classes))

    def forward(self, xb):
        return self.out(self.two(torch.relu(self.one(self.rows(xb)))))


class Branching(Small):
    def forward(self, xb):
        return super().forward(xb) if xb.sum() > 0 else super().forward(-xb)


class OneByOne(Small):
    def forward(self, xb):
        return torch.cat([super(OneByOne, self).forward(x[None]) for x in xb])


class Squeezing(Small):
    def forward(self, xb):
        return super().forward(xb).squeeze()
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the user's nets.py, for a short run of each model."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "nets.py").write_text(NETS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        yield folder
        sys.modules.pop("nets", None)


@pytest.fixture
def get_run(folder, tmp_path):
    """Return a copy of a run, so that a test can write into it."""

    def copied(name, **model):
        if not (folder / name).exists():
            model_name = "nets:Small" if name == "Small" else name
            train(RunConfig(model=model_name, epochs=1, out=folder / name), echo=None)
        out = tmp_path / f"run-{name}"
        shutil.copytree(folder / name, out, dirs_exist_ok=True)
        if model:
            record = json.loads((out / "run.json").read_text())
            record["model"] |= model
            (out / "run.json").write_text(json.dumps(record))
        return open_run(out, trust_code="target" in model)

    return copied


def run_plain(code, cwd):
    """Run code in a new process in which there is no plainfit, and return what it prints."""
    blocked = "import sys\nsys.modules['plainfit'] = None\n"
    of_torch_2_10 = "ignore:The given buffer is not writable:UserWarning"
    command = [sys.executable, "-W", "error", "-W", of_torch_2_10, "-c", blocked + code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def listing(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("name", "format"),
    [
        *((name, "safetensors") for name in ("logistic", "cnn", "Small")),
        *(pytest.param(name, "safetensors", marks=pytest.mark.soak) for name in ("mlp", "resnet")),
        ("Small", "torch-export"),
        pytest.param("Small", "onnx", marks=with_onnx),
        *(pytest.param(name, "torch-export", marks=pytest.mark.soak) for name in BUILT_IN),
        *(
            pytest.param(name, "onnx", marks=[with_onnx, pytest.mark.soak])
            for name in ("logistic", "mlp", "cnn", "resnet")
        ),
    ],
)
def test_the_file_gives_the_scores_of_the_model(get_run, name, format, capfd):
    run = get_run(name)
    state = torch.get_rng_state()
    result = export_run(run, format)
    assert torch.equal(torch.get_rng_state(), state)
    assert capfd.readouterr() == ("", "")
    assert result.path == run.folder / f"export{formats.FORMATS[format].suffix}"
    assert result.bytes == result.path.stat().st_size
    assert result.checked_on == "256 validation samples of digits, in batches of 1, 2 and 64"
    call = formats.FORMATS[format].reopen(result.path, run)
    for size in (1, 3, 64, 100):  # two of them are not among those that the export tried
        xb = torch.rand(size, 1, 8, 8, generator=torch.Generator().manual_seed(size))
        with torch.no_grad():
            ours, theirs = run.model(xb), call(xb)
        assert theirs.dtype == torch.float32
        if format == "safetensors":
            assert torch.equal(ours, theirs)
        assert (ours - theirs).abs().max() <= result.tolerance
    expected = 0 if format != "onnx" else 5e-6  # measured: at most 2e-6 after one epoch
    assert result.difference <= expected
    assert not list(run.folder.glob(".*"))


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("cnn", "safetensors"),
        pytest.param("Small", "onnx", marks=[with_onnx, pytest.mark.soak]),
        pytest.param("Small", "torch-export", marks=pytest.mark.soak),
        pytest.param("Small", "safetensors", marks=pytest.mark.soak),
        pytest.param("cnn", "torch-export", marks=pytest.mark.soak),
    ],
)
def test_the_snippet_runs_where_there_is_no_plainfit(folder, get_run, tmp_path, name, format):
    run = get_run(name)
    result = export_run(run, format, tmp_path / f"it's{formats.FORMATS[format].suffix}")
    assert len(result.snippet.splitlines()) < 20
    shutil.copy(plainfit.models.networks.__file__, tmp_path / "networks.py")
    shutil.copy(folder / "nets.py", tmp_path)
    check_snippet(result, run, tmp_path)


def check_snippet(result, run, folder):
    with torch.no_grad():
        best = run.model(torch.zeros(2, 1, 8, 8)).argmax(1)
    assert run_plain(result.snippet, folder) == f"{[str(int(label)) for label in best]}\n"


def test_a_pt2_file_says_what_it_is_and_holds_no_torchscript_and_no_local_paths(get_run):
    run = get_run("cnn")
    result = export_run(run, "torch-export")
    with zipfile.ZipFile(result.path) as file:
        names = file.namelist()
        graph = json.loads(file.read(next(n for n in names if n.endswith("model.json"))))
        facts = json.loads(file.read(next(n for n in names if n.endswith("plainfit.json"))))
    assert not [name for name in names if "/code/" in name or "tmp" in name]
    assert graph["graph_module"]["graph"]["nodes"]
    check_facts(facts, run)
    content = result.path.read_bytes()
    assert str(Path(plainfit.models.networks.__file__).parent).encode() not in content
    assert str(run.folder).encode() not in content


@with_onnx
def test_an_onnx_file_says_what_it_is_holds_no_local_paths_and_runs(get_run, tmp_path):
    import onnx

    run = get_run("cnn")
    result = export_run(run, "onnx")
    model = onnx.load(result.path)
    onnx.checker.check_model(model, full_check=True)
    assert [(used.domain, used.version) for used in model.opset_import] == [("", formats.OPSET)]
    (x,), (scores,) = model.graph.input, model.graph.output
    dims = [dim.dim_param or dim.dim_value for dim in x.type.tensor_type.shape.dim]
    assert (x.name, dims) == ("x", ["batch", 1, 8, 8])
    dims = [dim.dim_param or dim.dim_value for dim in scores.type.tensor_type.shape.dim]
    assert (scores.name, dims) == ("scores", ["batch", 10])
    check_facts(json.loads({p.key: p.value for p in model.metadata_props}["plainfit"]), run)
    content = result.path.read_bytes()
    assert str(Path(plainfit.models.networks.__file__).parent).encode() not in content
    check_snippet(result, run, tmp_path)


def test_safetensors_hold_the_weights_and_what_they_are(get_run):
    run = get_run("Small")
    result = export_run(run, "safetensors")
    with safe_open(result.path, framework="pt") as file:
        facts = json.loads(file.metadata()["plainfit"])
        names = set(file.keys())
    assert names == set(run.model.state_dict()) - {"two.weight"}  # tied: it is there once
    check_facts(facts, run)
    assert facts["model"]["target"] == "nets:Small"


def check_facts(facts, run):
    assert facts["classes"] == list("0123456789")
    assert facts["model"] == run.record["model"]
    assert facts["input"] == {
        "name": "x",
        "dtype": "float32",
        "shape": ["batch", 1, 8, 8],
        "values": "the bytes of gray images divided by 256, in [0, 1)",
    }
    assert facts["preprocessing"] == run.record["data"]["preprocessing"]
    assert facts["output"]["shape"] == ["batch", 10]


def test_the_result_as_text_and_for_machines(get_run):
    run = get_run("logistic")
    result = export_run(run, "safetensors")
    path, size, allowed = result.path, result.bytes, result.tolerance
    assert allowed == 0
    assert str(result) == textwrap.dedent(f"""\
        file   {path}: safetensors, {size:,} bytes
        input  x: float32 (batch, 1, 8, 8), the bytes of gray images divided by 256, in [0, 1)
        output scores: (batch, 10), one score a class, before softmax
        check  256 validation samples of digits, in batches of 1, 2 and 64: scores differ by at \
most 0.0e+00 (0.0e+00 is allowed)""")
    assert json.loads(json.dumps(result.to_dict()))["path"] == str(path)


@pytest.mark.parametrize(
    ("format", "there_before"),
    [
        ("safetensors", False),
        ("torch-export", True),
        pytest.param("onnx", True, marks=[with_onnx, pytest.mark.soak]),
        pytest.param("safetensors", True, marks=pytest.mark.soak),
        pytest.param("torch-export", False, marks=pytest.mark.soak),
        pytest.param("onnx", False, marks=[with_onnx, pytest.mark.soak]),
    ],
)
def test_a_file_that_differs_is_not_put_in_place(get_run, monkeypatch, format, there_before):
    run = get_run("mlp")
    kind = formats.FORMATS[format]

    def other_bytes(model, facts):
        other = open_run(run.folder).model
        with torch.no_grad():
            other.out.bias[3] += 0.01
        return kind.to_bytes(other, facts)

    if there_before:
        (run.folder / f"export{kind.suffix}").write_text("mine")
    before = listing(run.folder)
    monkeypatch.setitem(formats.FORMATS, format, dataclasses.replace(kind, to_bytes=other_bytes))
    expected = "out.bias must equal the model's" if format == "safetensors" else "differ by 1.0e-02"
    with pytest.raises(RunError, match=expected) as caught:
        export_run(run, format, force=there_before)
    assert "\n" not in str(caught.value)
    assert listing(run.folder) == before


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_that_does_not_load_is_not_put_in_place(get_run, monkeypatch, format):
    run = get_run("logistic")
    kind = dataclasses.replace(formats.FORMATS[format], to_bytes=lambda model, facts: b"x" * 99)
    before = listing(run.folder)
    monkeypatch.setitem(formats.FORMATS, format, kind)
    with pytest.raises(RunError, match="must load again") as caught:
        export_run(run, format)
    assert "\n" not in str(caught.value)
    assert listing(run.folder) == before


def test_weights_that_no_score_depends_on_are_compared_too(get_run, monkeypatch):
    run = get_run("Small")
    kind = formats.FORMATS["safetensors"]

    def other_bytes(model, facts):
        other = open_run(run.folder).model
        with torch.no_grad():
            other.spare.bias.add_(1)
        return kind.to_bytes(other, facts)

    other = dataclasses.replace(kind, to_bytes=other_bytes)
    monkeypatch.setitem(formats.FORMATS, "safetensors", other)
    with pytest.raises(RunError, match=r"spare\.bias must equal the model's"):
        export_run(run, "safetensors")


class Fixed(nn.Module):
    """Gives the same scores for every sample."""

    def __init__(self, *values):
        super().__init__()
        self.values = torch.tensor(values)

    def forward(self, xb):
        return self.values.expand(len(xb), -1)


def test_the_best_class_must_be_the_same_where_it_is_clear():
    xb = torch.zeros(5, 3)
    difference, allowed = compare("onnx", Fixed(1.0, 0.95), Fixed(0.93, 0.97), xb, 0.1)
    assert (round(difference, 3), round(allowed, 3)) == (0.07, 0.1)  # the two best are as close
    with pytest.raises(RunError, match="name another class for 67 samples"):
        compare("onnx", Fixed(1.0, 0.85), Fixed(0.91, 0.94), xb, 0.1)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_never_pass(value):
    xb = torch.zeros(70, 3)
    with pytest.raises(RunError, match=f"differ by {value}"):
        compare("onnx", Fixed(1.0, 0.5), Fixed(1.0, value), xb, 1.0)
    with pytest.raises(RunError, match="must be finite"):
        compare("onnx", Fixed(1.0, value), Fixed(1.0, value), xb, 1.0)


def test_few_samples_are_repeated():
    parts = batches(torch.arange(3.0)[:, None])
    assert [len(part) for part in parts] == [1, 2, 64]
    assert parts[2][:5, 0].tolist() == [0, 1, 2, 0, 1]
    assert [len(part) for part in batches(torch.zeros(100, 1))] == [1, 2, 64, 36]


@pytest.mark.parametrize("format", FORMATS[1:])
@pytest.mark.parametrize("name", ["Branching", "OneByOne"])
def test_a_model_that_cannot_be_traced_is_one_line(get_run, name, format, capfd):
    run = get_run("Small", target=f"nets:{name}")
    before = listing(run.folder)
    with pytest.raises(ModelError, match=f"follow {name}.forward for any batch size") as caught:
        export_run(run, format)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert listing(run.folder) == before
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "format", [*FORMATS[:2], pytest.param("onnx", marks=[with_onnx, pytest.mark.soak])]
)
def test_a_model_that_drops_the_batch_of_one_is_found_out(get_run, format, capfd):
    run = get_run("Small", target="nets:Squeezing")
    with pytest.raises(RunError, match=r"for 1 gave shapes \(10,\) and \(10,\)"):
        export_run(run, format)
    assert capfd.readouterr() == ("", "")
    assert not list(run.folder.glob("export*"))


def test_a_table_that_is_gone_is_replaced_by_random_bytes(tmp_path):
    table = tmp_path / "points.csv"
    rows = [f"{i % 7},{i % 3},{'ab'[i % 2]},{'yes' if i % 7 > 3 else 'no'}" for i in range(84)]
    table.write_text("\n".join(["width,height,kind,label", *rows]))
    config = RunConfig(data=str(table), model="mlp", epochs=1, out=tmp_path / "run")
    run = open_run(train(config, echo=None).folder)
    result = export_run(run, "torch-export")
    assert result.checked_on.startswith("12 validation samples of ")
    assert result.facts["features"] == ["width", "height", "kind=a", "kind=b"]
    assert result.facts["input"]["shape"] == ["batch", 4]
    table.unlink()
    result = export_run(run, "safetensors")
    assert result.checked_on.startswith(
        "256 samples of random bytes, in batches of 1, 2 and 64, because the validation set cannot "
        "be opened ("
    )
    assert str(table) in str(result)


def test_data_that_cannot_be_opened_is_replaced_by_random_bytes(get_run):
    for changes, says in (
        ({"data": "nowhere"}, "unknown data 'nowhere'"),
        ({"split_seed": 1}, "digits has changed since"),
    ):
        run = get_run("logistic")
        run.record["config"] |= changes
        xb, description = samples_of(run)
        assert xb.shape == (256, 1, 8, 8)
        assert says in description


def test_what_is_there_is_kept_unless_forced(get_run, tmp_path):
    run = get_run("logistic")
    out = tmp_path / "mine.safetensors"
    out.write_text("mine")
    with pytest.raises(ConfigError, match="force must be set to overwrite"):
        export_run(run, "safetensors", out)
    assert out.read_text() == "mine"
    export_run(run, out=out, force=True)
    assert out.read_bytes()[:4] != b"mine"
    assert export_run(run, out=tmp_path / "mine.pt2").format == "torch-export"


def test_paths_and_formats_that_cannot_be(get_run, tmp_path):
    run = get_run("logistic")
    (tmp_path / "folder.onnx").mkdir()
    for format, out, message in (
        ("tflite", None, "unknown format 'tflite': choose from safetensors, torch-export, onnx"),
        ("torch-export", tmp_path / "a.onnx", "must be called NAME.pt2, got a.onnx"),
        (None, tmp_path / "a.bin", "out must end with .safetensors, .pt2, .onnx, got"),
        ("torch-export", tmp_path / "no" / "a.pt2", "must exist; create it first"),
        ("onnx", tmp_path / "folder.onnx", "must be a file, and is a folder"),
        ("safetensors", run.folder / "model.safetensors", "must not be a run's own"),
    ):
        with pytest.raises(ConfigError, match=message):
            export_run(run, format, out, force=True)


@pytest.mark.parametrize("package", NEEDED)
def test_a_missing_package_is_one_line_that_says_what_to_install(get_run, monkeypatch, package):
    for name in NEEDED[: NEEDED.index(package)]:
        monkeypatch.setitem(sys.modules, name, sys)  # as if it were there
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"{package}.*pip install 'plainfit\[onnx\]'") as caught:
        export_run(get_run("logistic"), "onnx")
    assert "\n" not in str(caught.value)


def test_a_package_that_does_not_fit_torch_is_one_line():
    with (
        pytest.raises(ConfigError, match=r"that fit torch .*: no part; pip install --upgrade"),
        formats.failing_as_model_error(nn.Identity(), "torch.onnx.export"),
    ):
        raise ModuleNotFoundError("no part")
