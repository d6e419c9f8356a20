"""A column of text as input: its words as numbers, and runs on them, from training to script."""

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from sklearn.feature_extraction.text import CountVectorizer

import plainfit as pf
from ejecting import differing, run_here
from plainfit.common.errors import DataError
from plainfit.data.alone import words_in
from plainfit.data.tables.text import PATTERN
from plainfit.eject import eject_run
from plainfit.eject.verify import outcome_of
from plainfit.models.text import Transformer
from plainfit.runs.export import export_run
from plainfit.runs.folder import load_run, open_run, read_record
from plainfit.runs.settings import RunConfig
from plainfit.runs.train import resume, train

N = 120
WORDS = [*"abcdefgh", "film", "was", ".", ","]
OWN = """
from torch import nn
class Own(nn.Module):
    def __init__(self, vocabulary, classes):
        super().__init__()
        self.words = nn.Embedding(vocabulary, 4)
        self.out = nn.Linear(4, classes)
    def forward(self, xb):
        return self.out(self.words(xb).mean(1))
"""


def reviews():
    rng = np.random.default_rng(0)
    texts = []
    for i in range(N):
        words = [*rng.choice(WORDS, 3 + i % 9), ["Great", "awful"][i % 2], f"only{i}"]
        texts.append(" ".join(rng.permutation(words)))
    return pd.DataFrame({"id": range(N), "review": texts, "label": ["good", "bad"] * (N // 2)})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a table, and of a run of each model on it."""
    folder = tmp_path_factory.mktemp("text")
    reviews().to_csv(folder / "rows.csv", index=False)
    for model in ("bag", "transformer"):
        config = {"model": model, "epochs": 2, "batch_size": 16, "out": folder / model}
        train(RunConfig(data=str(folder / "rows.csv"), text="review", **config), echo=None)
    return folder


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't stop, 3.5 km!", "don ' t stop , 3 . 5 km !"),
        ("Straße\nÜBER—über", "straße über — über"),
        ("Cafe\u0301 \uff21\uff22", "caf\u00e9 ab"),  # written in other ways
        ("你好, abc世界123", "你 好 , abc 世 界 123"),
        ("東京タワー", "東 京 タ ワ ー"),
        ("हिन्दी में।", "हिन्दी में ।"),
        ("한국어 Привет", "한국어 привет"),
        ("\U0001f600\U0001f600 :-)", "\U0001f600 \U0001f600 : - )"),
        (" \n\t", ""),
    ],
)
def test_words_of_any_language(text, words):
    assert words_in(text, PATTERN) == words.split()


def test_words_and_numbers_are_those_of_scikit_learn(tmp_path):
    frame = reviews()
    frame.to_parquet(tmp_path / "rows.parquet")
    data = pf.open_data(tmp_path / "rows.parquet", text="review", target="label", order_by="id")
    made, ids = data.columns["review"], data.train.tensors[0]
    texts = frame.review[: len(ids)]
    counter = CountVectorizer(token_pattern=PATTERN)
    counts = counter.fit_transform(texts).toarray()
    total = dict(zip(counter.get_feature_names_out(), counts.sum(0).tolist(), strict=True))
    assert {*made["vocabulary"]} == {word for word, count in total.items() if count > 1}
    ordered = [total[word] for word in made["vocabulary"]]
    assert ordered == sorted(ordered, reverse=True)
    assert (ids.dtype, data.vocabulary) == (torch.int64, 2 + len(made["vocabulary"]))
    lengths = counts.sum(1)
    length = int(np.percentile(lengths, 95, method="higher"))
    assert data.input_shape == (length,) == (made["length"],)
    assert torch.equal((ids > 0).sum(1), torch.from_numpy(lengths.clip(max=length)))
    number = {word: at for at, word in enumerate(made["vocabulary"], 2)}
    for row, text in zip(ids.tolist(), texts, strict=True):
        words = [number.get(word, 1) for word in words_in(text, PATTERN)]
        assert row == (words + [0] * length)[:length]
    others = torch.cat([data.valid.tensors[0], data.test.tensors[0]])
    unknown = (others == 1).sum() / (others > 0).sum()
    assert data.notes[0] == "--text is the only input; left out: 'id'"
    assert data.notes[2] == (
        f"column 'review' is text: the first {length} words of each row; {len(ordered)} words are "
        f"known; {(lengths > length).sum()} of {len(ids)} training rows are cut, and "
        f"{unknown:.1%} of the other rows' words are unknown"
    )


def test_rows_without_words_and_copies(tmp_path):
    frame = reviews().drop(columns="id")
    frame.loc[::10, "review"] = None
    frame.to_csv(tmp_path / "rows.csv", index=False)
    data = pf.open_data(tmp_path / "rows.csv", text="review")
    empty = torch.cat([part.tensors[0] for part in data.parts().values()])[:, 1] == 0
    assert int(empty.sum()) == 12
    assert any("rows with the inputs of a training row" in note for note in data.notes)
    dropped = pf.open_data(tmp_path / "rows.csv", text="review", missing="drop")
    assert sum(dropped.counts().values()) == N - 12


@pytest.mark.parametrize("model", ["bag", "transformer"])
def test_filled_up_words_change_no_score(model):
    net, _ = pf.get_model(model, vocabulary=20, input_shape=(6,), classes=3, device="cpu")
    net.eval()
    row = torch.tensor([[5, 1, 7, 0, 0, 0]])
    scores = net(row)
    if model == "bag":
        total = net.embedding.weight[[5, 1, 7]].sum(0) / 3**0.5
        assert torch.allclose(scores, net.out(total)[None], atol=1e-6)
    state = net.state_dict()
    shorter, _ = pf.get_model(model, vocabulary=20, input_shape=(3,), classes=3, device="cpu")
    if model == "transformer":
        state["positions"] = state["positions"][:3]
    shorter.load_state_dict(state)
    assert torch.allclose(shorter.eval()(row[:, :3]), scores, atol=1e-6)


def test_the_transformer_is_that_of_torch():
    torch.manual_seed(0)
    net = Transformer(20, (6,), 3, dropout=0.0).double().eval()
    xb = torch.randint(1, 20, (4, 6))
    xb[1, 4:] = 0
    x = net.embedding(xb) + net.positions
    for block in net.blocks:
        layer = torch.nn.TransformerEncoderLayer(
            64, 4, 256, 0.0, "gelu", batch_first=True, norm_first=True, dtype=torch.float64
        )
        names = ("self_attn.in_proj_", "self_attn.out_proj.", "linear1.", "linear2.", "norm1.",
                 "norm2.")  # fmt: skip
        parts = (block.qkv, block.mix, block.fc1, block.fc2, block.norm1, block.norm2)
        layer.load_state_dict(
            {
                f"{n}{k}": t
                for n, p in zip(names, parts, strict=True)
                for k, t in p.state_dict().items()
            }
        )
        x = layer(x, src_key_padding_mask=xb == 0)
    means = torch.stack([row[at].mean(0) for row, at in zip(net.norm(x), xb != 0, strict=True)])
    assert torch.allclose(net(xb), net.out(means), atol=1e-10)


@pytest.mark.filterwarnings("always::RuntimeWarning")
@pytest.mark.parametrize("model", ["bag", "transformer"])
def test_a_run_predicts_from_files_and_texts(trained, plainfit, model):
    frame, run = reviews(), load_run(trained / model, best=False)
    data = run.open_data()
    scores = pf.predict(run, data.valid, output="probabilities")
    made = data.columns["review"]
    texts = {tuple(ids_of(text, made)): text for text in frame.review}
    valid = [texts[tuple(row)] for row in data.valid.tensors[0].tolist()]
    assert torch.equal(pf.predict(run, valid, output="probabilities"), scores)
    pd.DataFrame({"review": valid}).to_json("new.jsonl", orient="records", lines=True)
    code, out, errors = plainfit("predict", trained / model, "new.jsonl")
    assert code == 0, errors
    assert "of the words are unknown" in errors
    rows = list(csv.DictReader(io.StringIO(out)))
    found = [[float(row[f"p({name})"]) for name in ("bad", "good")] for row in rows]
    assert torch.equal(torch.tensor(found), pf.predict(load_run(trained / model), data.valid,
                                                       output="probabilities"))  # fmt: skip
    labels = [["bad", "good"][y] for y in data.valid.tensors[1]]
    pd.DataFrame({"review": valid, "label": labels}).to_csv("valid.csv", index=False)
    wanted = pf.evaluate(run, data.valid)
    assert pf.evaluate(run, "valid.csv") == wanted
    loss = F.cross_entropy(pf.predict(run, valid), data.valid.tensors[1])
    assert wanted["loss"] == pytest.approx(loss.item(), rel=1e-6)


def ids_of(text, made):
    number = {word: at for at, word in enumerate(made["vocabulary"], 2)}
    words = [number.get(word, 1) for word in words_in(text, PATTERN)]
    return (words + [0] * made["length"])[: made["length"]]


@pytest.mark.parametrize("model", ["bag", "transformer"])
def test_a_resumed_run_and_a_script_have_its_bits(trained, tmp_path, model):
    config = open_run(trained / model).config.to_dict()
    first = RunConfig.from_dict(config, out=tmp_path / "run", epochs=1)
    train(first, echo=None)
    resume(tmp_path / "run", epochs=2, echo=None)
    whole = outcome_of(trained / model, read_record(trained / model))
    again = outcome_of(tmp_path / "run", read_record(tmp_path / "run"))
    assert again.losses == whole.losses
    assert differing(again.weights, whole.weights) == []
    eject_run(trained / model, tmp_path / "script.py")
    losses, weights = run_here(tmp_path / "script.py")
    assert losses == whole.losses
    assert differing(weights, whole.weights) == []


@pytest.mark.parametrize(
    ("model", "format"),
    [
        ("bag", "safetensors"),
        pytest.param("bag", "torch-export", marks=pytest.mark.soak),
        pytest.param("transformer", "torch-export", marks=pytest.mark.soak),
        pytest.param("bag", "onnx", marks=pytest.mark.soak),
        pytest.param("transformer", "onnx", marks=pytest.mark.soak),
    ],
)
def test_an_export_takes_the_numbers_that_prepare_gives(trained, tmp_path, model, format):
    shutil.copytree(trained / model, tmp_path / "run")
    result = export_run(open_run(tmp_path / "run"), format)
    facts = result.facts
    assert (facts["input"]["dtype"], facts["features"]) == ("int64", [])
    alone: dict = {}
    exec(compile(Path(tmp_path, "run", "prepare.py").read_text(), "prepare.py", "exec"), alone)
    made = open_run(tmp_path / "run").open_data().columns["review"]
    ids = alone["prepare"](
        {"review": [*reviews().review, None]}, json.loads(json.dumps(facts))["preprocessing"]
    )
    assert ids.dtype == np.int64
    assert ids.tolist() == [ids_of(text, made) for text in [*reviews().review, "\u2603"]]


def test_a_page_shows_the_words(trained, plainfit, tmp_path):
    shutil.copytree(trained / "bag", tmp_path / "run")
    assert plainfit("report", "run")[0] == 0
    page = Path("run", "report.html").read_text()
    assert 'scope="col">review</th>' in page
    assert "(unknown)" in page
    layers = plainfit("summary", "run")[1].splitlines()
    assert layers[1].split() == ["(input)", "13"]
    assert layers[2].split()[:3] == ["embedding", "Embedding", "13x64"]


def test_a_model_of_ones_own(plainfit, trained):
    Path("own.py").write_text(OWN)
    options = ("--text", "review", "--target", "label", "--epochs", 1)
    run = plainfit(
        "train", "--data", trained / "rows.csv", *options, "--model", "own:Own", "--out", "r"
    )
    assert run[0] == 0, run[2]
    arguments = read_record(Path("r"))["model"]["arguments"]
    assert arguments == {"vocabulary": open_run(Path("r")).vocabulary, "classes": 2}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"text": "reviw"}, "no column 'reviw' for --text: choose from id, review; did you mean"),
        ({"text": "review", "drop": "review"}, "--numeric and --text, and 'review' is named twice"),
        ({"text": "id,review"}, "--text must name one column, got id, review; join them in one"),
        ({"text": "id"}, "must have words that occur 2 times or more in the 84 training rows"),
        ({}, ", or have its words be the input by --text review"),
    ],
)
def test_what_cannot_be_text(trained, options, says):
    with pytest.raises(DataError) as error:
        pf.open_data(trained / "rows.csv", **options)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            ["--text", "review", "--model", "mlp"],
            "MLP must be given images or numbers, and this is",
        ),
        (["--drop", "review", "--model", "bag"], "BagOfWords must be given text, by --text"),
        (["--text", "review", "--augment", "light"], "augment requires images"),
    ],
)
def test_what_does_not_go_together(trained, plainfit, options, says):
    code, _, errors = plainfit("train", "--data", trained / "rows.csv", *options)
    assert (code, errors.count("\n")) == (2, 1)
    assert says in errors


def test_a_run_on_text_is_no_source(trained, plainfit):
    code, _, errors = plainfit(
        "fine-tune", trained / "bag", "--data", trained / "rows.csv", "--text", "review"
    )
    assert (code, errors.count("\n")) == (2, 1)
    assert "a fine-tuning must be on images or numbers, and" in errors
