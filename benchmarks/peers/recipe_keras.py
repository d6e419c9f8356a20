"""The network and settings of Keras's example `mnist_convnet`, on JAX: one line of JSON an epoch.

Two 3x3 convolutions of 32 and 64 channels, each with a max-pool, dropout of 0.5, one dense layer;
Adam; batches of 128. The example trains on nine tenths of the 60,000 and validates on the rest;
here all are trained on, which helps it.
"""

import json
import os
import sys
import time

os.environ["KERAS_BACKEND"] = "jax"

import keras
from contender import read_all
from keras import layers

folder, epochs = sys.argv[1], int(sys.argv[2])
keras.utils.set_random_seed(1)
(x, y), (x_test, y_test) = (
    (images[..., None].astype("float32") / 255, labels)
    for images, labels in (read_all(folder, part) for part in ("train", "test"))
)
model = keras.Sequential(
    [
        keras.Input((28, 28, 1)),
        layers.Conv2D(32, 3, activation="relu"), layers.MaxPooling2D(2),
        layers.Conv2D(64, 3, activation="relu"), layers.MaxPooling2D(2),
        layers.Flatten(), layers.Dropout(0.5), layers.Dense(10, activation="softmax"),
    ]
)  # fmt: skip
model.compile(loss="sparse_categorical_crossentropy", optimizer="adam", metrics=["accuracy"])
seconds = 0.0
for epoch in range(epochs):
    start = time.perf_counter()
    model.fit(x, y, batch_size=128, initial_epoch=epoch, epochs=epoch + 1, verbose=0)
    seconds += time.perf_counter() - start
    accuracy = model.evaluate(x_test, y_test, batch_size=1000, verbose=0)[1]
    print(json.dumps({"epoch": epoch, "seconds": seconds, "accuracy": accuracy}), flush=True)
