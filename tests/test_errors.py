"""The exception tree, and suggestions for names that are nearly right."""

import pytest

from plainfit.common import errors
from plainfit.common.errors import ConfigError, DataError, near_miss, reason, unknown_name


def test_every_error_is_in_the_tree_that_the_module_draws():
    tree = {
        "PlainfitError": (Exception,),
        "ConfigError": (errors.PlainfitError, ValueError),
        "DataError": (errors.PlainfitError, ValueError),
        "DownloadError": (errors.DataError,),
        "ModelError": (errors.PlainfitError, ValueError),
        "TrustError": (errors.ModelError,),
        "EjectError": (errors.PlainfitError,),
        "MismatchError": (errors.EjectError,),
        "RunError": (errors.PlainfitError,),
        "CheckpointError": (errors.RunError,),
        "TrainingError": (errors.PlainfitError,),
        "NonFiniteError": (errors.TrainingError, ArithmeticError),
    }
    defined = {
        name: value.__bases__
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    assert defined == tree
    assert all(name in errors.__doc__ for name in tree)


def test_one_except_catches_them_all():
    for error in (errors.DownloadError, errors.ModelError, errors.RunError):
        with pytest.raises(errors.PlainfitError, match="why"):
            raise error("why")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnett", "; did you mean 'resnet'?"),
        ("RESNET", "; did you mean 'resnet'?"),
        ("mlpp", "; did you mean 'MLP'?"),
        ("transformer", ""),
        ("", ""),
    ],
)
def test_near_miss(name, expected):
    assert near_miss(name, ["cnn", "resnet", "MLP"]) == expected


def test_near_miss_with_nothing_known():
    assert near_miss("cnn", []) == ""


def test_unknown_name_lists_what_is_known_even_from_a_generator():
    message = unknown_name("model", "cn", (name for name in ("cnn", "mlp")))
    assert message == "unknown model 'cn': choose from cnn, mlp; did you mean 'cnn'?"


def test_a_config_error_is_a_value_error():
    with pytest.raises(ValueError, match="no"):
        raise ConfigError("no")


def test_the_reason_of_a_worker_is_that_of_its_last_line():
    text = (
        "Caught DataError in DataLoader worker process 0.\nOriginal Traceback (most recent call "
        'last):\n  File "a.py", line 1\nplainfit.common.errors.DataError: a.png is gone\n'
    )
    assert reason(DataError(text)) == "a.png is gone"
    assert "\n" not in str(DataError(text))
