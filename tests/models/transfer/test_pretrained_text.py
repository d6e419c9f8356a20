"""Fine-tuning a text model of transformers: a small one, as `save_pretrained` leaves it.

What needs transformers imports it: the process that runs other files can do without its 3 seconds.
"""

import csv
import io
import json
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

import plainfit as pf
from ejecting import differing, run_here
from plainfit.eject import eject_run
from plainfit.eject.verify import outcome_of
from plainfit.runs.export import export_run
from plainfit.runs.folder import load_run, open_run, read_record
from plainfit.runs.settings import RunConfig
from plainfit.runs.train import resume, train
from plainfit.training.hooks import Callback

SPECIAL = ["[UNK]", "[CLS]", "[SEP]", "[PAD]"]  # padding is not 0
PIECES = [*"abcdefgh", *(f"##{sign}" for sign in "abcdefgh"), "film", "was", "great", "awful"]
N = 60


def save_tokenizer(folder, **settings):
    from transformers import PreTrainedTokenizerFast

    vocabulary = {piece: number for number, piece in enumerate(SPECIAL + PIECES)}
    tokens = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokens.normalizer = normalizers.BertNormalizer()
    tokens.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokens.decoder = decoders.WordPiece()
    tokens.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    settings = names | settings
    PreTrainedTokenizerFast(tokenizer_object=tokens, **settings).save_pretrained(folder)


def save_model(folder, kind="BertModel", **settings):
    import transformers

    torch.manual_seed(1)
    config = transformers.BertConfig(
        vocab_size=len(SPECIAL + PIECES),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=24,
        pad_token_id=3,
        **settings,
    )
    getattr(transformers, kind)(config).save_pretrained(folder)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a table, a pretrained model and a run."""
    folder = tmp_path_factory.mktemp("hub")
    save_tokenizer(folder / "tiny")
    save_model(folder / "tiny")
    texts = [
        " ".join(["abc"] * (i % 7) + [["Great", "awful"][i % 2], f"was {'abcdefgh'[i % 8]}, film"])
        for i in range(N)
    ]
    rows = pd.DataFrame({"review": texts, "label": ["good", "bad"] * (N // 2)})
    rows.to_csv(folder / "rows.csv", index=False)
    train(config_of(folder, out=folder / "run"), echo=None)
    (folder / "tiny").rename(folder / "moved")  # a run needs its source no longer
    return folder


def config_of(place, source="tiny", **changes):
    source = f"hf:{place / source}"
    given = {"source": source, "model": source, "text": "review", "epochs": 2, "batch_size": 16}
    return RunConfig(data=str(place / "rows.csv"), **given | changes)


class Stop(Callback):
    """Stops within the last epoch."""

    observer = True

    def on_step_end(self, context):
        if context.global_step == 5:
            context.stop = "enough"


def test_the_scores_are_those_of_transformers(place):
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, BertModel

    run = load_run(place / "run", best=False)
    first = load_file(place / "run" / "first.safetensors")
    given = BertModel.from_pretrained(place / "moved").state_dict()
    assert all(torch.equal(first[f"model.bert.{name}"], value) for name, value in given.items())
    texts = ["Great abc", "was awful, film", "xyz " * 30, ""]
    tokens = AutoTokenizer.from_pretrained(place / "moved")
    batch = tokens(texts, truncation=True, max_length=24, padding=True, return_tensors="pt")
    config = BertConfig.from_pretrained(place / "moved", num_labels=2)
    model = BertForSequenceClassification(config).eval()
    state = load_file(place / "run" / "model.safetensors")
    model.load_state_dict({name.removeprefix("model."): value for name, value in state.items()})
    assert not torch.equal(state["model.bert.pooler.dense.weight"], given["pooler.dense.weight"])
    with torch.no_grad():
        wanted = model(**{n: v for n, v in batch.items() if n != "token_type_ids"}).logits
    torch.testing.assert_close(pf.predict(run, texts), wanted, rtol=1e-5, atol=1e-6)


def test_a_run_is_scored_and_predicts(place, plainfit):
    run, rows = load_run(place / "run", best=False), pd.read_csv(place / "rows.csv")
    scores = pf.evaluate(run, run.open_data().valid)
    assert scores["loss"] == pytest.approx(run.last["valid_loss"], rel=1e-6)
    rows[["review"]].to_csv("new.csv", index=False)
    code, out, errors = plainfit("predict", place / "run", "new.csv")
    assert (code, errors) == (0, "")
    found = [float(row["p(good)"]) for row in csv.DictReader(io.StringIO(out))]
    best = pf.predict(load_run(place / "run"), list(rows.review), output="probabilities")
    assert found == pytest.approx(best[:, 1].tolist(), abs=1e-6)
    shutil.copytree(place / "run", "run")
    assert plainfit("report", "run")[0] == 0
    assert "<td>abc awful was h film</td>" in Path("run", "report.html").read_text()


def test_a_stopped_run_and_a_script_have_the_same_bits(place, tmp_path):
    shutil.copytree(place / "moved", tmp_path / "tiny")
    config = config_of(place, tmp_path / "tiny", out=tmp_path / "run")
    train(config, echo=None, callbacks=[Stop()])
    shutil.rmtree(tmp_path / "tiny")
    resume(tmp_path / "run", echo=None)
    whole, again = (outcome_of(run, read_record(run)) for run in (place / "run", tmp_path / "run"))
    assert again.losses == whole.losses
    assert differing(again.weights, whole.weights) == []
    eject_run(place / "run", tmp_path / "script.py")
    assert "plainfit" not in (tmp_path / "script.py").read_text().split('"""')[2]
    losses, weights = run_here(tmp_path / "script.py")
    assert losses == whole.losses
    assert differing(weights, whole.weights) == []


@pytest.mark.parametrize(
    "format",
    [
        "safetensors",
        pytest.param("torch-export", marks=pytest.mark.soak),
        pytest.param("onnx", marks=pytest.mark.soak),
    ],
)
def test_an_export_takes_the_tokens_that_prepare_gives(place, tmp_path, format):
    from transformers import AutoTokenizer

    shutil.copytree(place / "run", tmp_path / "run")
    facts = export_run(open_run(tmp_path / "run"), format).facts
    alone: dict = {}
    exec(compile(Path(tmp_path, "run", "prepare.py").read_text(), "prepare.py", "exec"), alone)
    made = json.loads(json.dumps(facts))["preprocessing"]
    ids = alone["prepare"]({"review": ["Great, abc", None]}, made)
    tokens = AutoTokenizer.from_pretrained(place / "moved")
    wanted = tokens(["Great, abc", ""], padding="max_length", max_length=24, return_tensors="np")
    assert ids.tolist() == wanted["input_ids"].tolist()
    assert ids.dtype == facts["input"]["dtype"]


@pytest.mark.filterwarnings("always::RuntimeWarning")
def test_what_is_new_is_said_and_nothing_else(place, plainfit, capsys):
    save_tokenizer("masked")
    save_model("masked", "BertForMaskedLM")  # has no pooler
    capsys.readouterr()
    rows = ("--data", place / "rows.csv", "--text", "review", "--epochs", 1)
    code, out, errors = plainfit("fine-tune", "hf:masked", *rows, "--out", "run")
    assert code == 0, errors
    assert errors.count("\n") == 1
    assert (
        "hf:masked has no weights for bert.pooler.dense.bias, bert.pooler.dense.weight: they "
        "begin anew" in errors
    )
    assert "the first 24 tokens of each row; 24 tokens are known; 5 of 44 training rows" in out
    assert "for a table: --optimizer adamw" in out
    assert open_run(Path("run")).config.command().startswith("plainfit fine-tune hf:masked --data")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["hf:./nowhere", "--text", "review"], "hf:./nowhere must be a text model (which needs"),
        (["hf:{}", "--text", "review", "--model", "cnn"], "and hf:{} names its own: leave it out"),
        (["hf:{}"], "or name the column that a text model reads by --text"),
        (["{}/../run", "--text", "review"], "is text, whose words have other numbers than"),
        (["hf:{}", "--model", "hf:{}"], "tokenizer is for a column of text: name it by text"),
        (["hf:bare", "--text", "review"], "must have a tokenizer.json with a padding token"),
        (["hf:pickled", "--text", "review"], "no file named model.safetensors"),
    ],
)
def test_a_source_that_cannot_be_used_is_one_line(place, plainfit, options, says):
    shutil.copytree(place / "moved", "bare")
    save_tokenizer("bare", pad_token=None)
    shutil.copytree(place / "moved", "pickled")
    torch.save({}, "pickled/pytorch_model.bin")
    Path("pickled/model.safetensors").unlink()
    given = [option.format(place / "moved") for option in options]
    code, _, errors = plainfit("fine-tune", *given, "--data", place / "rows.csv")
    assert (code, errors.count("\n")) == (2, 1), errors
    assert says.format(place / "moved") in errors


def test_a_text_model_is_not_trained_anew(plainfit):
    code, _, errors = plainfit("train", "--model", "hf:distilbert-base-uncased")
    assert (code, errors.count("\n")) == (2, 1)
    assert "--model must be another than hf:NAME, which is a source of plainfit fine-tune" in errors


@pytest.mark.parametrize("missing", ["transformers", "tokenizers"])
def test_a_missing_package_is_one_line(place, plainfit, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)  # what Python takes for one that is not there
    Path("new.csv").write_text("review\nfilm\n")
    code, _, errors = plainfit("predict", place / "run", "new.csv")
    assert (code, errors.count("\n")) == (2, 1), errors
    assert missing in errors
    if missing == "tokenizers":
        return
    source = (f"hf:{place / 'moved'}", "--data", place / "rows.csv", "--text", "review")
    code, _, errors = plainfit("fine-tune", *source)
    assert (code, errors.count("\n")) == (2, 1), errors
    assert "pip install 'plainfit[text]'" in errors


def test_tokens_of_a_table(place):
    tokens = Tokenizer.from_file(str(place / "moved" / "tokenizer.json"))
    data = pf.open_data(place / "rows.csv", text="review", tokenizer=tokens.to_str())
    texts = pd.read_csv(place / "rows.csv").review
    wanted = sorted(tokens.encode(text).ids for text in texts)
    ids = torch.cat([part.tensors[0] for part in data.parts().values()]).tolist()
    assert data.input_shape == (len(ids[0]),)
    assert data.vocabulary == len(SPECIAL + PIECES)
    assert sorted(row[: len(row) - row[::-1].index(2)] for row in ids if 2 in row) == wanted
