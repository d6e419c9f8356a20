"""The same model behind BentoML, which gathers requests to batches: `bentoml serve`."""

import os
import sys

sys.path += os.environ["PEER_PATH"].split(os.pathsep)  # torch and plainfit, after BentoML's own

import bentoml
import numpy as np
import torch
from PIL.Image import Image, Resampling


@bentoml.service(workers=1, traffic={"timeout": 60, "max_concurrency": 1024})
class Served:
    """A run's model."""

    def __init__(self) -> None:
        import plainfit as pf

        run = pf.load_run(os.environ["PEER_RUN"])
        self.model, self.classes = run.model, run.classes
        _, self.height, self.width = run.record["data"]["input_shape"]

    @bentoml.api(batchable=True, max_batch_size=256, max_latency_ms=1000)
    def predict(self, images: list[Image]) -> list[dict]:
        """Return the class and the probabilities of each image."""
        size = (self.width, self.height)
        pixels = [
            np.asarray(image.convert("L").resize(size, Resampling.BILINEAR)) for image in images
        ]
        xb = torch.from_numpy(np.stack(pixels)[:, None].astype(np.float32) / 256)
        with torch.no_grad():
            rows = self.model(xb).softmax(1).tolist()
        named = [dict(zip(self.classes, row, strict=True)) for row in rows]
        return [{"class": max(row, key=row.get), "probabilities": row} for row in named]
