"""Plain JAX: the data on the device, an epoch's training one compiled function."""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
from contender import Watch, arguments, read
from jax import lax, random

args = arguments(loop=("scan", "step"))
clock = Watch()
CHANNELS = (1, 16, 16, 10)


def data(part):
    x, y = read(args.data, part)
    x = jnp.asarray(x).astype(jnp.float32) / 256
    return (x.reshape(-1, 784) if args.model == "logistic" else x[..., None]), jnp.asarray(
        y, "int32"
    )


def uniform(key, shape, fan_in):
    """Draw from the interval that torch's layers begin in."""
    return random.uniform(key, shape, minval=-(fan_in**-0.5), maxval=fan_in**-0.5)


def initial(key):
    keys = iter(random.split(key, 6))
    if args.model == "logistic":
        return [(uniform(next(keys), (784, 10), 784), uniform(next(keys), (10,), 784))]
    return [
        (uniform(next(keys), (3, 3, i, o), 9 * i), uniform(next(keys), (o,), 9 * i))
        for i, o in pairwise(CHANNELS)
    ]


def predict(params, xb):
    if args.model == "logistic":
        ((w, b),) = params
        return xb @ w + b
    for w, b in params:
        xb = lax.conv_general_dilated(
            xb, w, (2, 2), [(1, 1), (1, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        xb = jax.nn.relu(xb + b)
    return xb.mean((1, 2))


def cross_entropy(out, yb):
    return -jnp.take_along_axis(jax.nn.log_softmax(out), yb[:, None], 1).mean()


def loss_of(params, xb, yb):
    return cross_entropy(predict(params, xb), yb)


def step(state, rows, x, y):
    params, momenta = state
    grads = jax.grad(loss_of)(params, x[rows], y[rows])
    momenta = jax.tree.map(lambda m, g: args.momentum * m + g, momenta, grads)
    return jax.tree.map(lambda p, m: p - args.lr * m, params, momenta), momenta


def whole_batches(n, size):
    return n // size * size


@partial(jax.jit, donate_argnums=0)
def train_by_scan(state, key, x, y):
    order = random.permutation(key, len(x))
    whole = whole_batches(len(x), args.batch_size)
    batches = order[:whole].reshape(-1, args.batch_size)
    state, _ = lax.scan(lambda s, rows: (step(s, rows, x, y), None), state, batches)
    return step(state, order[whole:], x, y) if whole < len(x) else state


one_step = jax.jit(step, donate_argnums=0)


def train_by_step(state, key, x, y):
    order = random.permutation(key, len(x))
    for start in range(0, len(x), args.batch_size):
        state = one_step(state, order[start : start + args.batch_size], x, y)
        if clock.first_step is None:
            jax.block_until_ready(state)
            clock.stepped()
    return state


@jax.jit
def validate(params, x, y):
    size = args.batch_size * 2
    whole = whole_batches(len(x), size)

    def figures(xb, yb):
        out = predict(params, xb)
        return cross_entropy(out, yb) * len(xb), (out.argmax(1) == yb).sum()

    batches = [part[:whole].reshape(-1, size, *part.shape[1:]) for part in (x, y)]
    _, (losses, hits) = lax.scan(lambda _, batch: (None, figures(*batch)), None, tuple(batches))
    loss, hit = figures(x[whole:], y[whole:]) if whole < len(x) else (0.0, 0)
    return (losses.sum() + loss) / len(x), (hits.sum() + hit) / len(x)


x, y = data("train")
x_valid, y_valid = data("valid")
key = random.key(args.seed)
params = initial(key)
state = (params, jax.tree.map(jnp.zeros_like, params))
train = train_by_scan if args.loop == "scan" else train_by_step
clock.begin()
for epoch in range(args.epochs):
    state = jax.block_until_ready(train(state, random.fold_in(key, epoch), x, y))
    clock.stepped()  # with --loop scan, the first step cannot be told from the first epoch
    clock.trained()
    loss, accuracy = validate(state[0], x_valid, y_valid)
    clock.validated(loss, accuracy)
clock.report(-(-len(x) // args.batch_size), "jax")
