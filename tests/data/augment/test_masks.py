"""Images and masks are moved alike, and nothing else happens to a mask."""

import pytest
import torch

import plainfit as pf
from plainfit.common.errors import ConfigError
from plainfit.common.seeding import stream
from plainfit.data.augment import Pipeline, affine, masked_steps
from plainfit.data.augment.names import MOVES, NAMES, NO_MASKS, with_mask


@pytest.mark.parametrize("name", [name for name in NAMES if name not in NO_MASKS])
def test_masks_follow_their_images(name):
    """An image that is white where its mask is 1 is so afterwards, but for mixed pixels."""
    masks = torch.zeros(8, 16, 20, dtype=torch.int64)
    masks[:, 3:9, 5:14], masks[:, 10:, 2:8] = 1, 1
    xb = masks.unsqueeze(1).float()
    (alone,) = pf.data.augment.named_steps(name)
    (step,) = masked_steps(name)
    moved, yb = Pipeline([step])(xb, masks, stream(0, "augment"))
    assert torch.equal(moved, alone(xb, stream(0, "augment")))
    if name not in MOVES:
        assert torch.equal(yb, masks)
        return
    assert not torch.equal(yb, masks)
    assert set(yb.unique().tolist()) <= {-100, 0, 1}
    assert torch.equal(moved[:, 0] > 0.99, (yb == 1) & (moved[:, 0] > 0.99))
    unclear = (moved[:, 0] > 0.01) & (moved[:, 0] < 0.99)
    assert ((moved[:, 0] > 0.5) == (yb == 1))[~unclear].all()


@pytest.mark.parametrize("name", sorted(NO_MASKS))
def test_what_masks_cannot_follow_is_refused(name):
    with pytest.raises(ConfigError, match=f"got {name}; choose from horizontal-flip, "):
        masked_steps(f"rotate=5,{name}")


def test_loaders_move_masks_by_names():
    x, y = torch.rand(6, 1, 8, 8), torch.arange(6 * 64).view(6, 8, 8) % 3
    dl, _ = pf.get_data((x, y), None, bs=6, augment="rotate=20", shuffle=False)
    ((xb, yb),) = dl
    step = masked_steps("rotate=20")[0].keywords["step"]
    wanted = with_mask(x, y, stream(0, "augment", 0, 0), step)
    assert (step.func, torch.equal(xb, wanted[0]), torch.equal(yb, wanted[1])) == (affine, 1, 1)
