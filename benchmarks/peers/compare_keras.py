"""Keras 3 on JAX, for `compare.py`: `BackupAndRestore` and `TerminateOnNaN`."""

import hashlib
import json
import os
import signal
from importlib.metadata import version

os.environ["KERAS_BACKEND"] = "jax"

import keras
import numpy as np
from compare_work import BATCH_SIZE, EPOCHS, EVERY, IGNORED, arguments, arrays, frames_of_library

args = arguments()
x, y, x_valid, y_valid = arrays(args.nan)
keras.utils.set_random_seed(0)
seen = {"frames": 0, "steps": 0}


class Net(keras.Sequential):
    """Counts the frames above it when the training step is traced."""

    def call(self, xb, training=None, mask=None):
        if training:
            seen["frames"] = frames_of_library()
        return super().call(xb, training=training, mask=mask)


class Steps(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        seen["steps"] += 1
        if seen["steps"] == args.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


layers = [keras.layers.Dense(32, activation="relu"), keras.layers.Dropout(0.2)]
model = Net([keras.Input((20,)), *layers, keras.layers.Dense(5)])
model.compile(
    optimizer=keras.optimizers.SGD(0.1, momentum=0.9),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=IGNORED),
)
backup = keras.callbacks.BackupAndRestore(args.folder, save_freq=EVERY)
history = model.fit(
    x,
    y,
    batch_size=BATCH_SIZE,
    epochs=EPOCHS,
    validation_data=(x_valid, y_valid),
    callbacks=[backup, keras.callbacks.TerminateOnNaN(), Steps()],
    verbose=0,
)
out = np.asarray(model(x_valid), dtype=np.float64)
log_p = out - np.log(np.exp(out).sum(1, keepdims=True))
counted = np.flatnonzero(y_valid != IGNORED)
weights = model.get_weights()
line = {
    **seen,
    "weights": hashlib.sha256(b"".join(w.tobytes() for w in weights)).hexdigest(),
    "finite": all(bool(np.isfinite(w).all()) for w in weights),
    "reported": history.history.get("val_loss", [None])[-1],
    "valid_loss": -log_p[counted, y_valid[counted]].mean(),
    "versions": {name: version(name) for name in ("keras", "jax")},
}
print(json.dumps(line))
