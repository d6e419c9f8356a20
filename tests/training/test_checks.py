"""What is refused before a training starts, and what is not."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import plainfit as pf
from plainfit.common.errors import ConfigError
from plainfit.data.loaders import WrappedDataLoader
from plainfit.training.callbacks import OverfitOneBatch
from small import fit, samples, sgd

# --- a last batch of one sample ---


class Rows(torch.utils.data.Dataset):
    """Samples that are read one by one."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, row):
        return self.x[row] + 0 * torch.rand(()), self.y[row]


class Stream(IterableDataset):
    def __iter__(self):
        yield from zip(*samples(9), strict=True)


def normed(norm, *before):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), *before, norm, nn.Flatten(), nn.LazyLinear(3)).double()


def built(norm, *before):
    model = normed(norm, *before)
    model.eval()(torch.zeros(2, 4, dtype=torch.float64))
    return model


ONE_VALUE = {
    "batch norm": lambda: built(nn.BatchNorm1d(8)),
    "1x1 maps": lambda: built(nn.BatchNorm2d(8), nn.Unflatten(1, (8, 1, 1))),
    "group norm": lambda: built(nn.GroupNorm(8, 8)),
}
SEVERAL_VALUES = {
    "maps": lambda: built(nn.BatchNorm2d(2), nn.Unflatten(1, (2, 2, 2))),
    "large groups": lambda: built(nn.GroupNorm(2, 8)),
    "layer norm": lambda: built(nn.LayerNorm(8)),
}


def ours(n, **options):
    data = TensorDataset(*samples(n))
    return pf.get_data(data, data, 4, **options)[0]


LOADERS = {
    "tensors": ours,
    "rows": lambda n, **options: pf.get_data(Rows(*samples(n)), Rows(*samples(n)), 4, **options)[0],
    "wrapped": lambda n, **options: WrappedDataLoader(ours(n, **options), lambda xb, yb: (xb, yb)),
    "stock": lambda n, **options: DataLoader(
        Rows(*samples(n)), 4, shuffle=True, num_workers=2, persistent_workers=True, **options
    ),
}


@pytest.mark.parametrize("kind", LOADERS)
def test_a_last_batch_of_one_is_refused_before_anything_is_trained(kind):
    model = ONE_VALUE["batch norm"]()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    with pytest.raises(ConfigError, match=r"got 9 = 2 \* 4 \+ 1 samples; set drop_last, or"):
        fit(model, sgd(model), LOADERS[kind](9))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    if kind != "stock":  # whose workers take time to start
        fit(model, sgd(model), LOADERS[kind](9, drop_last=True), epochs=1)
        fit(model, sgd(model), LOADERS[kind](10), epochs=1)
        fit(model, sgd(model), LOADERS[kind](9), epochs=1, callbacks=[OverfitOneBatch()])


@pytest.mark.parametrize("kind", ONE_VALUE)
def test_norms_of_one_value_are_refused_where_torch_fails(kind):
    model = ONE_VALUE[kind]()
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        model.train()(samples(1)[0])
    with pytest.raises(ConfigError, match="set drop_last"):
        fit(model, sgd(model), ours(9))
    with pytest.raises(ConfigError, match="set drop_last"):
        pf.lr_find(model, F.cross_entropy, sgd(model), ours(9))


@pytest.mark.parametrize("kind", SEVERAL_VALUES)
def test_norms_of_several_values_train_on_one_sample(kind):
    ours_, theirs = SEVERAL_VALUES[kind](), SEVERAL_VALUES[kind]()
    found = fit(ours_, sgd(ours_), ours(9), epochs=1).step_losses
    opt, expected = sgd(theirs), []
    for xb, yb in ours(9):
        loss = F.cross_entropy(theirs.train()(xb), yb)
        loss.backward()
        opt.step()
        opt.zero_grad()
        expected.append(loss.item())
    assert found == expected


def test_a_stream_is_not_read_before():
    model = ONE_VALUE["batch norm"]()
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        fit(model, sgd(model), DataLoader(Stream(), 4))
