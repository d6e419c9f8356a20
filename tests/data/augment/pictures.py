"""Images, draws and references for the tests of augmentation."""

import numpy as np
import torch
from scipy.ndimage import map_coordinates

from plainfit.common.seeding import stream


def images(n=6, channels=2, height=12, width=10):
    return torch.rand(n, channels, height, width, generator=stream(0, "images"))


def bytes_of(n=6, channels=3, height=12, width=10):
    """Images of all values, smooth enough to be told apart."""
    return (images(n, channels, height, width) * 256).byte()


def here():
    """The generator that every test draws from, new."""
    return stream(1, "here")


def uniforms(count, n, low=-1.0, high=1.0):
    """The numbers that a function draws first, sample by sample."""
    return torch.empty(count, n).uniform_(low, high, generator=here()).double().t().tolist()


def by_scipy(image, source):
    """Resample each channel at source(x, y), in pixels from the middle; outside is 0."""
    _, height, width = image.shape
    middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
    y, x = np.mgrid[:height, :width].astype(float)
    at_x, at_y = source(x - middle_x, y - middle_y)
    planes = [
        map_coordinates(plane.double().numpy(), [at_y + middle_y, at_x + middle_x], order=1,
                        mode="grid-constant", cval=0.0)
        for plane in image
    ]  # fmt: skip
    return torch.from_numpy(np.stack(planes))
