"""The same model behind a plain FastAPI endpoint, as one writes it: a forward pass a request."""

import io
import sys

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, UploadFile
from PIL import Image

import plainfit as pf

run = pf.load_run(sys.argv[1])
model, classes, (_, height, width) = run.model, run.classes, run.record["data"]["input_shape"]
app = FastAPI()


@app.post("/predict")
def predict(images: list[UploadFile]):
    """Return the class and the probabilities of each image."""
    opened = [Image.open(io.BytesIO(image.file.read())).convert("L") for image in images]
    pixels = [np.asarray(image.resize((width, height), Image.BILINEAR)) for image in opened]
    xb = torch.from_numpy(np.stack(pixels)[:, None].astype(np.float32) / 256)
    with torch.no_grad():
        rows = model(xb).softmax(1).tolist()
    named = [dict(zip(classes, row, strict=True)) for row in rows]
    return [{"class": max(row, key=row.get), "probabilities": row} for row in named]


uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", access_log=False)
