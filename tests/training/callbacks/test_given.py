"""What a callback may be, and what LBFGS makes of a loss that one puts in place."""

import pytest
from torch import optim

from plainfit.common.errors import ConfigError
from plainfit.training.callbacks import TimeLimit
from plainfit.training.hooks import Callback
from small import batches, fit, network, same, sgd


def test_lbfgs_trains_on_the_loss_that_is_put_in_place():
    class Nothing(Callback):
        def on_loss(self, context):
            context.loss = 0 * context.loss

        def on_step_end(self, context):
            assert not context.loss.requires_grad

    model = network()
    history = fit(
        model, optim.LBFGS(model.parameters(), max_iter=3), batches(20), callbacks=[Nothing()]
    )
    assert same(model, network())
    assert history.step_losses[0] > 0


@pytest.mark.parametrize("wrong", [TimeLimit, object(), print])
def test_a_callback_must_be_one(wrong):
    model = network()
    with pytest.raises(
        ConfigError, match="callbacks must be objects of subclasses of Callback, got"
    ):
        fit(model, sgd(model), batches(5), callbacks=[wrong])
