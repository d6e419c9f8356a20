"""The estimators beside the three lines, and beside scikit-learn's own."""

import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.sparse import csr_matrix
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import (
    load_diabetes,
    load_digits,
    load_iris,
    make_multilabel_classification,
)
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight
from torch import nn
from torch.utils.data import TensorDataset

import plainfit as pf
from ejecting import run_here
from plainfit.common.devices import cpu_threads
from plainfit.common.errors import ConfigError, EjectError, ModelError, NonFiniteError, RunError
from plainfit.common.seeding import stream
from plainfit.data.loaders import make_loader

DIGITS = load_digits(return_X_y=True)
IRIS = load_iris(return_X_y=True)


class Small(nn.Module):
    def __init__(self, in_features, classes, width=8):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(in_features, width), nn.Dropout(0.2), nn.Linear(width, classes)
        )

    def forward(self, xb):
        return self.layers(xb)


def half(out, yb):
    return F.cross_entropy(out, yb) / 2


def equal(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


def by_hand(x, y, outputs, loss, **options):
    """The three lines, with the same settings."""
    model, opt = pf.get_model(
        Small, optimizer="adamw", lr=0.01, input_shape=x.shape[1:], classes=outputs, seed=3
    )
    train_dl = make_loader(TensorDataset(x, y), 32, True, seed=3)
    with cpu_threads(1):
        history = pf.fit(
            2, model, loss, opt, train_dl, None, schedule="one-cycle", echo=None, **options
        )
    return model, history


def test_a_classifier_is_the_three_lines_bit_for_bit():
    x, y = DIGITS
    model, history = by_hand(torch.tensor(x).float(), torch.tensor(y), 10, F.cross_entropy)
    state = torch.get_rng_state()
    ours = pf.PlainfitClassifier(
        Small, epochs=2, batch_size=32, optimizer="adamw", lr=0.01, schedule="one-cycle",
        random_state=3,
    ).fit(x, y)  # fmt: skip
    assert ours.history_.step_losses == history.step_losses
    assert equal(ours.model_.state_dict(), model.state_dict())
    assert torch.equal(torch.get_rng_state(), state)  # the caller's generator is as it was
    with torch.no_grad():
        expected = torch.cat([model.eval()(xb) for xb in torch.tensor(x).float().split(64)])
    assert np.array_equal(ours.predict_proba(x), expected.softmax(1).numpy())


def test_a_regressor_is_the_three_lines_bit_for_bit():
    x, y = load_diabetes(return_X_y=True)
    targets = torch.tensor(y).float().unsqueeze(1)
    model, history = by_hand(torch.tensor(x).float(), targets, 1, F.mse_loss)
    ours = pf.PlainfitRegressor(
        Small, epochs=2, batch_size=32, optimizer="adamw", lr=0.01, schedule="one-cycle",
        random_state=np.int64(3),
    ).fit(x, y)  # fmt: skip
    assert ours.history_.step_losses == history.step_losses
    assert equal(ours.model_.state_dict(), model.state_dict())
    assert ours.predict(x).shape == y.shape


def test_early_stopping_goes_back_to_the_best_epoch():
    x, y = DIGITS
    ours = pf.PlainfitClassifier(
        "mlp", epochs=30, lr=0.02, patience=2, validation_fraction=0.25, random_state=5
    ).fit(x, y)
    losses = [row["valid_loss"] for row in ours.history_.epochs]
    best = int(np.argmin(losses))
    assert "no better validation loss for 2 epochs" in ours.history_.stopped
    assert len(losses) == best + 3 < 30
    train, valid = train_test_split(np.arange(len(x)), test_size=0.25, stratify=y, random_state=5)
    x, y = torch.tensor(x).float(), torch.tensor(y)
    model, opt = pf.get_model(
        "mlp", optimizer="adam", lr=0.02, input_shape=(64,), classes=10, seed=5
    )
    train_dl, valid_dl = pf.get_data(
        TensorDataset(x[train], y[train]), TensorDataset(x[valid], y[valid]), 64, seed=5
    )
    with cpu_threads(1):  # only so far
        pf.fit(best + 1, model, F.cross_entropy, opt, train_dl, valid_dl, echo=None)
    assert equal(ours.model_.state_dict(), model.state_dict())


def test_a_logistic_regression_is_about_as_good_as_scikit_learns():
    x, y = DIGITS
    ours = make_pipeline(StandardScaler(), pf.PlainfitClassifier("logistic", epochs=20, lr=0.01))
    theirs = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    mine, reference = (cross_val_score(model, x, y, cv=3).mean() for model in (ours, theirs))
    assert reference > 0.9
    assert abs(mine - reference) < 0.015


def test_grid_search_over_parameters_and_arguments():
    pipeline = make_pipeline(StandardScaler(), pf.PlainfitClassifier("mlp", epochs=5))
    grid = {
        "plainfitclassifier__lr": np.logspace(-4, -2, 2),
        "plainfitclassifier__model_args": [{"hidden": (8,)}, {"hidden": (64,)}],
    }
    search = GridSearchCV(pipeline, grid, cv=2).fit(*IRIS)
    assert search.best_params_["plainfitclassifier__lr"] == 0.01
    assert search.best_score_ > 0.8 > min(search.cv_results_["mean_test_score"])


def test_several_targets():
    x = np.random.default_rng(0).normal(size=(200, 3))
    y = np.stack([x[:, 0] + x[:, 1], x[:, 2]], 1)
    ours = pf.PlainfitRegressor(epochs=30).fit(x, y)
    assert ours.predict(x).shape == (200, 2)
    assert ours.score(x, y) > 0.9
    scaled = TransformedTargetRegressor(
        pf.PlainfitRegressor("mlp", epochs=30), transformer=StandardScaler()
    )
    assert scaled.fit(x, 1000 * y[:, 0]).score(x, 1000 * y[:, 0]) > 0.9


def test_targets_that_are_no_numbers():
    with pytest.raises(ValueError, match=r"could not convert string to float: .*low"):
        pf.PlainfitRegressor(epochs=1).fit([[0.0], [1.0]], np.array(["low", "high"]))


def test_images_as_bytes_and_rows_seen_as_images():
    x, y = DIGITS
    images = (x * 15).astype(np.uint8).reshape(-1, 1, 8, 8)
    of_bytes = pf.PlainfitClassifier("cnn", epochs=1, lr=0.01).fit(images, y)
    of_floats = clone(of_bytes).fit(images.astype(np.float32) / 256, y)
    of_rows = clone(of_bytes).set_params(input_shape=(1, 8, 8)).fit(images.reshape(-1, 64) / 256, y)
    for other in (of_floats, of_rows):
        assert equal(of_bytes.model_.state_dict(), other.model_.state_dict())
    assert np.array_equal(of_bytes.predict(images), of_rows.predict(images.reshape(-1, 64) / 256))


@pytest.mark.parametrize("dtype", [np.int64, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("largest", [1, 16, 240])
def test_the_same_values_in_another_type_give_the_same_answer(dtype, largest):
    x, y = DIGITS[0][:200], DIGITS[1][:200]
    images = (x * (largest / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    of_bytes = pf.PlainfitClassifier("cnn", epochs=1, lr=0.01).fit(images, y)
    of_others = clone(of_bytes).fit(images.astype(dtype), y)
    assert equal(of_bytes.model_.state_dict(), of_others.model_.state_dict())
    assert of_bytes.divisor_ == (256 if largest == 240 else 1)
    dark = images[:20] // 3  # looks like no bytes by itself
    wanted = of_bytes.predict_proba(dark)
    assert np.array_equal(wanted, of_others.predict_proba(dark))
    assert np.array_equal(wanted, of_bytes.predict_proba(dark.astype(dtype)))


def test_data_frames():
    pandas = pytest.importorskip("pandas")
    frame, y = load_iris(return_X_y=True, as_frame=True)
    names = pandas.Series(np.array(["setosa", "versicolor", "virginica"])[y], name="species")
    ours = pf.PlainfitClassifier(epochs=20, lr=0.01).fit(frame, names)
    assert list(ours.feature_names_in_) == list(frame)
    assert set(ours.predict(frame)) == set(names)
    assert np.array_equal(ours.predict_proba(frame), clone(ours).fit(*IRIS).predict_proba(IRIS[0]))
    with pytest.raises(ValueError, match="feature names should match"):
        ours.predict(frame.rename(columns=str.upper))


@pytest.mark.parametrize(
    "ours",
    [
        pf.PlainfitClassifier("mlp", epochs=2, model_args={"hidden": (8, 4)}, lr=np.float64(0.01)),
        pf.PlainfitClassifier(Small, epochs=np.int64(1), loss=half, patience=1),
        pf.PlainfitRegressor("mlp", epochs=1),
    ],
)
def test_saved_and_loaded_it_is_the_same(tmp_path, ours):
    x, y = IRIS
    if isinstance(ours, pf.PlainfitClassifier):
        y = np.array(["a", "b", "cc"])[y]
    ours.fit(x, y).save(tmp_path / "model.safetensors")
    state = torch.get_rng_state()
    again = type(ours).load(tmp_path / "model.safetensors")
    assert torch.equal(torch.get_rng_state(), state)
    assert again.get_params() == ours.get_params()
    assert again.history_.epochs == ours.history_.epochs
    assert equal(again.model_.state_dict(), ours.model_.state_dict())
    assert np.array_equal(again.predict(x), ours.predict(x))
    assert again.predict(x).dtype == ours.predict(x).dtype
    pickled = pickle.loads(pickle.dumps(ours))  # as GridSearchCV does, to its workers
    assert np.array_equal(pickled.predict(x), ours.predict(x))
    assert pickled.history_.run is None


def test_what_cannot_be_saved_or_loaded(tmp_path):
    path = tmp_path / "model.safetensors"
    for name, value in (
        ("model", lambda: nn.Linear(4, 3)),
        ("loss", nn.CrossEntropyLoss()),
        ("random_state", np.random.RandomState(0)),
        ("model_args", {"hidden": range(8, 9)}),
    ):
        fitted = pf.PlainfitClassifier(epochs=1).set_params(**{name: value}).fit(*IRIS)
        with pytest.raises(ConfigError) as refused:
            fitted.save(path)
        assert str(refused.value) == (
            f"{name} must be numbers and strings, or a class or function at the top of a module, "
            f"to be saved, got {value!r}"
        )
        assert not list(tmp_path.iterdir())
    with pytest.raises(RunError, match="must be a file that an estimator's `save` wrote"):
        pf.PlainfitClassifier.load(path)
    path.write_bytes(b"12345678")
    with pytest.raises(RunError, match="must be a file that an estimator's `save` wrote"):
        pf.PlainfitClassifier.load(path)
    pf.PlainfitRegressor(epochs=1).fit(*IRIS).save(path)
    with pytest.raises(RunError, match="must hold a PlainfitClassifier, and holds a PlainfitRegr"):
        pf.PlainfitClassifier.load(path)


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"model": "mpl"}, ConfigError, "unknown model 'mpl'.*did you mean 'mlp'"),
        ({"optimizer": "adm"}, ConfigError, "unknown optimizer 'adm'.*did you mean 'adam'"),
        ({"schedule": "onecycle"}, ConfigError, "unknown schedule.*did you mean 'one-cycle'"),
        ({"epochs": 0}, ConfigError, "^epochs must be at least 1 "),
        ({"batch_size": 0}, ConfigError, "^batch_size must be at least 1 "),
        ({"lr": -1.0}, ConfigError, "^lr must be at least 1e-38"),
        ({"lr": "auto"}, ConfigError, "lr must be a number here.*plainfit.lr_find"),
        ({"model_args": {"hiden": (8,)}}, ConfigError, "unknown argument.*did you mean 'hidden'"),
        ({"model_args": [8]}, ConfigError, r"must be a dict, by name, got \[8\]"),
        ({"model": "cnn"}, ModelError, r"given images, of input_shape .*\(4,\); reshape them"),
        ({"input_shape": (1, 2, 3)}, ValueError, r"the 4 values of a row of X, got \(1, 2, 3\)"),
        ({"input_shape": 4}, ValueError, "must be a shape.* the 4 values of a row of X, got 4"),
        ({"model": nn.Linear(4, 3)}, ModelError, "got a built Linear"),
        ({"model": lambda: nn.Linear(4, 2)}, ModelError, "one score for each of the 3 classes"),
        ({"optimizer": "sgd", "lr": 1e30}, NonFiniteError, "the loss must be finite"),
        ({"validation_fraction": 2.0, "patience": 1}, ValueError, "test_size.*Got 2.0"),
    ],
)
def test_parameters_that_cannot_be(params, error, message):
    with pytest.raises(error, match=message):
        pf.PlainfitClassifier(**params).fit(*IRIS)


def test_a_class_of_one_sample_cannot_be_held_out():
    y = np.where(np.arange(150) == 7, 3, IRIS[1])
    pf.PlainfitClassifier(epochs=1).fit(IRIS[0], y)
    with pytest.raises(ValueError, match=r"^patience must hold out a validation_fraction: The lea"):
        pf.PlainfitClassifier(epochs=1, patience=1).fit(IRIS[0], y)


def test_samples_of_another_shape():
    ours = pf.PlainfitClassifier(epochs=1).fit(*IRIS)
    with pytest.raises(ValueError, match="X has 3 features, but PlainfitClassifier is expecting 4"):
        ours.predict(IRIS[0][:, :3])
    images = np.zeros((10, 1, 8, 8), np.uint8)
    of_images = pf.PlainfitClassifier("mlp", epochs=1).fit(images, np.arange(10) % 2)
    with pytest.raises(ValueError, match=r"shape \(1, 8, 8\) of those in fit, got \(1, 9, 8\)"):
        of_images.predict(np.zeros((2, 1, 9, 8), np.uint8))


def test_a_script_of_its_training(tmp_path):
    ours = pf.PlainfitClassifier("mlp", epochs=1).fit(*IRIS)
    losses, weights = run_here(ours.history_.run.eject(tmp_path / "train.py", echo=None))
    assert losses == ours.history_.step_losses
    assert equal(weights, ours.model_.state_dict())


@pytest.mark.parametrize("level", ["loop", pytest.param("tensors", marks=pytest.mark.soak)])
def test_a_script_keeps_the_weights_of_the_best_epoch_too(level, tmp_path):
    net = pf.PlainfitClassifier(patience=1, lr=0.1).fit(*IRIS)
    assert net.history_[-1]["valid_loss"] > min(row["valid_loss"] for row in net.history_)
    check = level != "loop"  # as run_here does below
    script = net.history_.run.eject(tmp_path / "train.py", level=level, verify=check, echo=None)
    assert "best" in script.read_text()
    if not check:
        losses, weights = run_here(script)
        assert losses == net.history_.step_losses
        assert equal(weights, net.model_.state_dict())


class Normed(Small):
    def __init__(self, in_features, classes):
        super().__init__(in_features, classes)
        self.layers[1] = nn.BatchNorm1d(8)


def test_a_last_batch_of_one_is_left_out_where_a_norm_needs_more():
    """As cross-validation has folds of whatever size."""
    x, y = DIGITS[0][:65], DIGITS[1][:65]
    options = {"epochs": 2, "batch_size": 16}
    with pytest.warns(
        RuntimeWarning, match=r"65 = 4 \* 16 \+ 1 samples: each epoch leaves out one"
    ):
        found = pf.PlainfitClassifier(Normed, **options).fit(x, y)
    with pytest.warns(RuntimeWarning, match="65 = "):
        weighted = pf.PlainfitClassifier(Normed, **options).fit(x, y, sample_weight=np.ones(65))
    assert len(weighted.history_.step_losses) == 2 * 4
    asked = pf.PlainfitClassifier(Normed, **options, drop_last=True).fit(x, y)
    assert found.history_.step_losses == asked.history_.step_losses
    assert len(found.history_.step_losses) == 2 * 4
    with pytest.raises(ConfigError, match="set drop_last"):
        pf.PlainfitClassifier(Normed, **options, drop_last=False).fit(x, y)
    whole = pf.PlainfitClassifier(Small, **options).fit(x, y)
    assert len(whole.history_.step_losses) == 2 * 5


class Deep(nn.Module):
    """Without dropout, so that rounding is all that may differ from scikit-learn's."""

    def __init__(self, in_features, classes):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(in_features, 8), nn.Tanh(), nn.Linear(8, classes))

    def forward(self, xb):
        return self.layers(xb)


@pytest.mark.parametrize("weighted", ["samples", "classes", "both"])
def test_weights_are_those_of_a_hand_loop(weighted):
    x, y = DIGITS[0][:200].astype(np.float32), DIGITS[1][:200]
    own = np.random.default_rng(0).random(200).astype(np.float32)
    params, given = {}, np.ones(200, np.float32)
    if weighted != "classes":
        params["sample_weight"], given = own, own
    class_weight = None if weighted == "samples" else "balanced"
    if class_weight:
        given = given * compute_sample_weight("balanced", y)
    ours = pf.PlainfitClassifier(
        Deep, epochs=2, batch_size=32, class_weight=class_weight, threads=1
    ).fit(x, y, **params)
    model, opt = pf.get_model(Deep, optimizer="adam", input_shape=(64,), classes=10)
    x, y, weights = torch.tensor(x), torch.tensor(y), torch.tensor(given).float()
    losses = []
    with cpu_threads(1):
        for epoch in range(2):
            for rows in torch.randperm(200, generator=stream(0, "order", epoch)).split(32):
                each = F.cross_entropy(model(x[rows]), y[rows], reduction="none")
                loss = (each * weights[rows]).sum() / weights[rows].sum()
                loss.backward()
                opt.step()
                opt.zero_grad()
                losses.append(loss.item())
    assert ours.history_.step_losses == losses
    assert equal(ours.model_.state_dict(), model.state_dict())
    wanted = accuracy_score(y, ours.predict(x), sample_weight=given)
    assert ours.score(x, y, sample_weight=given) == wanted
    with pytest.raises(EjectError, match="several inputs, or weights of samples"):
        ours.history_.run.eject(echo=None)


def test_a_validation_loss_is_the_weighted_mean_over_what_is_held_out():
    x, y = load_diabetes(return_X_y=True)
    weights = np.random.default_rng(1).random(len(x)).astype(np.float32)
    ours = pf.PlainfitRegressor(
        Deep, epochs=1, patience=1, batch_size=8, random_state=2, loss=nn.L1Loss()
    ).fit(x, y, sample_weight=weights)
    _, held_out = train_test_split(np.arange(len(x)), test_size=0.15, random_state=2)
    errors = np.abs(ours.predict(x[held_out]) - y[held_out])
    wanted = np.average(errors, weights=weights[held_out])
    assert ours.history_[-1]["valid_loss"] == pytest.approx(wanted, rel=1e-5)


def test_samples_of_no_weight_are_left_out():
    x, y = IRIS
    ours = pf.PlainfitClassifier(Small, epochs=2)
    some = clone(ours).fit(x, y, sample_weight=(y > 0).astype(float))
    without = clone(ours).set_params(loss=half).fit(x[y > 0], y[y > 0])
    assert len(some.history_.step_losses) == len(without.history_.step_losses) == 4
    with pytest.raises(ConfigError, match="loss must have a parameter `reduction`"):
        without.fit(x, y, sample_weight=np.ones(150))
    with pytest.raises(ValueError, match=r"not be negative, got -1\.0"):
        ours.fit(x, y, sample_weight=-np.ones(150))


@pytest.mark.parametrize("kind", [pf.PlainfitClassifier, pf.PlainfitRegressor])
def test_calls_of_partial_fit_are_the_epochs_of_fit(kind):
    x, y = IRIS
    first = {"classes": [0, 1, 2]} if kind is pf.PlainfitClassifier else {}
    whole, ours = kind(Small, epochs=3).fit(x, y), kind(Small).partial_fit(x, y, **first)
    ours.partial_fit(x, y)
    pickled = pickle.loads(pickle.dumps(ours))
    for each in (ours, pickled):
        each.partial_fit(x, y)
        assert equal(each.model_.state_dict(), whole.model_.state_dict())
        assert each.n_iter_ == whole.n_iter_ == 3
    ours.partial_fit(x[:9], y[:9])
    assert len(ours.history_.step_losses) == 1
    assert ours.predict_proba(x).shape[1] == 3 if first else ours.predict(x).shape == (150,)


def test_warm_start_goes_on_with_the_weights_in_a_new_optimizer(tmp_path):
    x, y = IRIS
    ours = pf.PlainfitClassifier(Deep, epochs=1, optimizer="sgd", momentum=0.9, warm_start=True)
    ours.fit(x, y).save(tmp_path / "model.safetensors")
    again = pf.PlainfitClassifier.load(tmp_path / "model.safetensors")
    model = Deep(4, 3)
    model.load_state_dict(ours.model_.state_dict())
    opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    dl = make_loader(TensorDataset(torch.tensor(x).float(), torch.tensor(y)), 64, True)
    dl.seek(1, 0)
    with cpu_threads(1):
        pf.fit(1, model, F.cross_entropy, opt, dl, None, echo=None)
    for each in (ours, again):
        each.fit(x, y)
        assert each.n_iter_ == 2
        assert equal(each.model_.state_dict(), model.state_dict())
    with pytest.raises(EjectError, match="it was trained or changed before"):
        ours.history_.run.eject(tmp_path / "train.py", echo=None)
    again = pf.PlainfitClassifier.load(tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match="the optimizer's state, which is not in a file"):
        again.partial_fit(x, y)


@pytest.mark.parametrize(
    ("params", "call", "error", "message"),
    [
        ({}, {}, ValueError, "classes must be passed in the first call"),
        ({}, {"classes": [0, 1]}, ValueError, r"must be among \[0, 1\], got \[2\]"),
        ({"patience": 2}, {"classes": [0, 1, 2]}, ConfigError, "patience and schedule"),
        (
            {"schedule": "one-cycle"},
            {"classes": [0, 1, 2]},
            ConfigError,
            "patience and schedule",
        ),
        ({"class_weight": "balanced"}, {"classes": [0, 1, 2]}, ConfigError, "must be a dict"),
    ],
)
def test_what_partial_fit_cannot_do(params, call, error, message):
    with pytest.raises(error, match=message):
        pf.PlainfitClassifier(epochs=1, **params).partial_fit(*IRIS, **call)
    with pytest.raises(ConfigError, match="class_weight applies to classifiers only"):
        pf.PlainfitRegressor(class_weight="balanced").fit(*IRIS)


def test_several_labels_for_a_sample(tmp_path):
    x, y = make_multilabel_classification(n_samples=90, random_state=0)
    ours = pf.PlainfitClassifier(Deep, epochs=20, lr=0.02, batch_size=32).fit(x, y)
    model, opt = pf.get_model(Deep, optimizer="adam", lr=0.02, input_shape=(20,), classes=5)
    dl = make_loader(TensorDataset(torch.tensor(x).float(), torch.tensor(y).float()), 32, True)
    with cpu_threads(1):
        history = pf.fit(20, model, F.binary_cross_entropy_with_logits, opt, dl, None, echo=None)
    assert ours.history_.step_losses == history.step_losses
    theirs = MLPClassifier().partial_fit(x, y, classes=range(5))
    probabilities, labels = ours.predict_proba(x), ours.predict(x)
    assert probabilities.shape == theirs.predict_proba(x).shape == (90, 5)
    assert labels.shape == theirs.predict(x).shape
    assert np.array_equal(ours.classes_, theirs.classes_)
    assert np.array_equal(labels, (probabilities > 0.5).astype(int))
    assert ours.score(x, y) == accuracy_score(y, labels)
    assert np.mean(labels == y) > 0.7
    assert np.array_equal(clone(ours).fit(x, csr_matrix(y)).predict(x), labels)
    ours.save(tmp_path / "model.safetensors")
    again = pf.PlainfitClassifier.load(tmp_path / "model.safetensors")
    assert np.array_equal(again.predict(x), labels)
    assert clone(ours).partial_fit(x, y).partial_fit(x, y).n_iter_ == 2


@pytest.mark.parametrize("optimizer", ["NAdam", "lbfgs", torch.optim.Adagrad])
def test_any_optimizer_has_the_defaults_of_torch(optimizer, tmp_path):
    ours = pf.PlainfitClassifier("logistic", epochs=2, optimizer=optimizer, batch_size=150)
    ours.fit(*IRIS)
    kinds = {"NAdam": torch.optim.NAdam, "lbfgs": torch.optim.LBFGS}
    model, _ = pf.get_model("logistic", input_shape=(4,), classes=3)
    opt = kinds.get(optimizer, optimizer)(model.parameters())
    dl = make_loader(TensorDataset(torch.tensor(IRIS[0]).float(), torch.tensor(IRIS[1])), 150, True)
    with cpu_threads(1):
        pf.fit(2, model, F.cross_entropy, opt, dl, None, echo=None)
    assert equal(ours.model_.state_dict(), model.state_dict())
    ours.save(tmp_path / "model.safetensors")
    again = pf.PlainfitClassifier.load(tmp_path / "model.safetensors")
    assert again.optimizer == optimizer


def test_arguments_of_the_optimizer_and_callbacks():
    options = {"betas": (0.8, 0.9), "eps": 1e-6}
    seen = []

    class Watch(pf.Callback):
        def on_step_end(self, context):
            seen.append(context.opt.defaults)

    ours = pf.PlainfitClassifier(epochs=1, optimizer_args=options, callbacks=[Watch()])
    clone(ours).fit(*IRIS)
    assert len(seen) == 3
    assert {name: seen[0][name] for name in options} == options
    with pytest.raises(ConfigError, match=r"argument of Adam 'beta'.*did you mean 'betas'"):
        pf.PlainfitClassifier(epochs=1, optimizer_args={"beta": 1}).fit(*IRIS)
