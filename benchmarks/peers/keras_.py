"""Keras 3 on JAX: `compile` and `fit` on arrays, with its two switches for speed."""

import os

os.environ["KERAS_BACKEND"] = "jax"

import keras
from contender import Watch, arguments, read

args = arguments(steps_per_execution=("1", "8", "32", "64", "782"))
clock = Watch()


class Clock(keras.callbacks.Callback):
    """Tells the watch of the first step and of each epoch's end."""

    def on_train_batch_end(self, batch, logs=None):
        clock.stepped()

    def on_test_begin(self, logs=None):
        clock.trained()

    def on_epoch_end(self, epoch, logs=None):
        clock.validated(logs["val_loss"], logs["val_accuracy"])


def data(part):
    x, y = read(args.data, part)
    x = x.astype("float32") / 256
    return (x.reshape(-1, 784) if args.model == "logistic" else x[..., None]), y


def conv(filters):
    # The tutorial pads by 1 on each side, and Keras' "same" with stride 2 on one side only.
    return [
        keras.layers.ZeroPadding2D(1),
        keras.layers.Conv2D(filters, 3, strides=2, activation="relu"),
    ]


(x, y), (x_valid, y_valid) = data("train"), data("valid")
keras.utils.set_random_seed(args.seed)
if args.model == "logistic":
    layers = [keras.layers.Dense(10)]
else:
    layers = [*conv(16), *conv(16), *conv(10), keras.layers.GlobalAveragePooling2D()]
model = keras.Sequential([keras.Input(x.shape[1:]), *layers])
model.compile(
    optimizer=keras.optimizers.SGD(args.lr, momentum=args.momentum),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
    jit_compile=True,
    steps_per_execution=int(args.steps_per_execution),
)
clock.begin()
model.fit(
    x,
    y,
    batch_size=args.batch_size,
    epochs=args.epochs,
    validation_data=(x_valid, y_valid),
    validation_batch_size=args.batch_size * 2,
    callbacks=[Clock()],
    verbose=0,
)
clock.report(-(-len(x) // args.batch_size), "keras", "jax")
