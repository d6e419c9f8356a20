"""Parameters or statistics over two processes: in float64, the training of one process."""

import errno
import warnings
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn, optim
from torch.distributed.fsdp import fully_shard
from torch.utils._pytree import tree_map
from torch.utils.data import TensorDataset

import plainfit as pf
from plainfit.common.errors import PlainfitError
from plainfit.models.weights import Uncompiled, whole
from plainfit.runs import train as runs
from plainfit.runs.settings import RunConfig
from plainfit.training import checkpoints
from plainfit.training.callbacks import (
    Averaging,
    BestWeights,
    Checkpointing,
    EarlyStopping,
    GradientAccumulation,
    GradientClipping,
    GradientStatistics,
    Unfreezing,
)
from plainfit.training.lr_finder import lr_find
from plainfit.training.processes import join
from plainfit.training.spread import spread
from ranks import on_processes
from trainings import StopAt

SECONDS = 120.0  # within which a test must end, where one process waits for the other in vain
CLASS_WEIGHTS = torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0], dtype=torch.float64)


def served(n=100, bs=16):
    g = torch.Generator().manual_seed(0)
    x = torch.rand(n, 12, generator=g, dtype=torch.float64)
    sets = TensorDataset(x, torch.randint(5, (n,), generator=g))
    return pf.get_data(sets, TensorDataset(*sets[:30]), bs, seed=5)


def mlp(*more):
    return nn.Sequential(nn.Linear(12, 16), nn.LayerNorm(16), nn.ReLU(), *more, nn.Linear(16, 5))


def noisy():
    return mlp(nn.BatchNorm1d(16), nn.Dropout(0.2))


def frozen():
    model = mlp()
    model[0].weight.requires_grad_(False)
    return model


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 5)])
        self.layers[1].weight = self.layers[0].weight

    def forward(self, xb):
        for layer in self.layers:
            xb = layer(xb).tanh()
        return xb


class Blocks(nn.Module):
    """A transformer, as torch's documentation spreads one: each block, then the rest."""

    def __init__(self):
        super().__init__()
        self.enter = nn.Linear(3, 8)
        self.blocks = nn.ModuleList(
            [nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True) for _ in range(2)]
        )
        self.head = nn.Linear(8, 5)

    def forward(self, xb):
        xb = self.enter(xb.view(-1, 4, 3))
        for block in self.blocks:
            xb = block(xb)
        return self.head(xb.mean(1))


def by_hand(model):
    for block in model.blocks:
        fully_shard(block)
    fully_shard(model)


def without_root(model):
    fully_shard(model[0])


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, out, yb):
        return F.cross_entropy(out * self.scale, yb)


def with_values(out, yb):
    return F.cross_entropy(out, yb), {"top": out.max(1).values.mean()}


def summed(out, yb):
    return F.cross_entropy(out, yb, reduction="sum")


def sgd(parameters, lr=0.1):
    return optim.SGD(parameters, lr=lr, momentum=0.9)


def adamw(parameters):
    return optim.AdamW(parameters, lr=1e-2)


def trained(make=mlp, part=spread, opt=sgd, n=100, loss=F.cross_entropy, epochs=2, **options):
    """Train, on parts where there are several processes; return all that must be equal."""
    torch.manual_seed(1)
    model = make().double()
    if part is not None and join().world > 1:
        part(model)
    optimizer = opt(model.parameters())
    dls = served(n)
    options = {"metrics": ["accuracy"], "echo": None} | options
    history = pf.fit(epochs, model, loss, optimizer, *dls, **options)
    times = ("seconds", "samples_per_second")
    return {
        "model": {name: value.detach() for name, value in Uncompiled(model).state_dict().items()},
        "optimizer": tree_map(whole, optimizer.state_dict()["state"]),
        "losses": history.step_losses,
        "epochs": [{k: v for k, v in row.items() if k not in times} for row in history.epochs],
    }


def assert_near(found, wanted, within=1e-12):
    torch.testing.assert_close(found, wanted, rtol=within, atol=within)


CASES = {
    "one-cycle, clipping": lambda: {
        "schedule": "one-cycle", "callbacks": [GradientClipping(0.5)],
    },
    "adamw, accumulation": lambda: {
        "opt": adamw, "callbacks": [GradientAccumulation(3)],
    },
    "ragged": lambda: {"n": 69},
    "weights, ignored": lambda: {
        "loss": nn.CrossEntropyLoss(CLASS_WEIGHTS, ignore_index=1), "train_metrics": ["accuracy"],
    },
    "values": lambda: {"loss": with_values},
    "sum": lambda: {"loss": summed, "opt": lambda p: sgd(p, 0.002)},
    "frozen": lambda: {"make": frozen},
    "unfrozen": lambda: {"callbacks": [Unfreezing([["0"], ["1"], ["3"]], 1)]},
    "tied": lambda: {"make": Tied},
    "restored": lambda: {
        "opt": lambda p: sgd(p, 3.0),
        "callbacks": [EarlyStopping(1, restore_best=True), GradientStatistics()],
    },
    "fp16": lambda: {"precision": "fp16"},
    "compiled": lambda: {"compile": "step"},
    "by hand": lambda: {"make": Blocks, "part": by_hand},
    "by name": lambda: {"make": Blocks, "part": lambda m: spread(m, ["blocks.0", "blocks.1"])},
    "by rule": lambda: {"make": Blocks},
}  # fmt: skip
SMALL = {"one-cycle, clipping", "adamw, accumulation", "weights, ignored", "tied", "by hand"}


@pytest.mark.parametrize(
    ("names", "steps"),
    [
        (SMALL, 7),
        pytest.param(["one-cycle, clipping", "adamw, accumulation"], 105, marks=pytest.mark.soak),
        pytest.param(CASES.keys() - SMALL, 28, marks=pytest.mark.soak),
    ],
    ids=["small", "long", "others"],
)
def test_parts_train_as_the_whole(names, steps):
    def work():
        return [trained(epochs=steps // 7, **CASES[name]()) for name in sorted(names)]

    wanted = work()
    for found in on_processes(2, work, SECONDS):
        assert_near(found, wanted)
    assert "restored" in names or all(len(each["losses"]) >= steps * 5 // 7 for each in wanted)


def test_norms_and_dropout_are_those_of_pieces():
    """Torch's own sum of gradients, and the same pieces: `reduce="fast"`."""
    [[spread_out, fast], _] = on_processes(
        2,
        lambda: [trained(noisy, epochs=1), trained(noisy, None, epochs=1, reduce="fast")],
        SECONDS,
    )
    assert_near(spread_out, fast)


def synced():
    """Norms with the statistics of the whole batch; each option of theirs is in one of them."""
    model = nn.Sequential(
        nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Unflatten(1, (4, 4)),
        nn.BatchNorm1d(4, momentum=None, affine=False), nn.ReLU(), nn.Unflatten(2, (2, 2)),
        nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten(), nn.Linear(16, 5),
    )  # fmt: skip
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


@pytest.mark.parametrize("part", [None, spread], ids=["fast", "parts"])
def test_synced_norms_are_those_of_the_batch(part, tmp_path):
    """Of pieces with other numbers of samples too, and of a training that was stopped."""
    options = {"make": synced, "part": part, "reduce": "fast", "n": 69}
    wanted = trained(**options)
    first = stopped(tmp_path / "checkpoints", 3, 2, **options)
    assert_near(first["losses"], wanted["losses"][:4])
    assert_near(stopped(tmp_path / "checkpoints", 0, 2, **options), wanted)


REFUSED = {
    "is without Averaging": lambda: {"callbacks": [Averaging(0.9)]},
    "is without LBFGS": lambda: {"opt": optim.LBFGS},
    "at least 4 for 2 processes, also in the last batch, got 3; set drop_last": lambda: {"n": 67},
    "every parameter that is trained spread by fully_shard": lambda: {"part": without_root},
    "and one of shape () is not": lambda: {
        "loss": (loss := Scaled()), "opt": lambda p: sgd([*p, *loss.parameters()]),
    },
    "must be auto, or layers of Blocks, got 'block.0'; did you mean 'blocks.0'?": lambda: {
        "make": Blocks, "part": lambda model: spread(model, ["block.0"]),
    },
}  # fmt: skip


def refusal(case):
    with pytest.raises(PlainfitError) as error:
        trained(**case())
    return str(error.value)


def test_what_needs_all_parameters_is_refused():
    both = on_processes(2, lambda: [refusal(case) for case in REFUSED.values()], SECONDS)
    for texts in both:
        for wanted, text in zip(REFUSED, texts, strict=True):
            assert wanted in text
            assert "\n" not in text
    with pytest.raises(PlainfitError, match="fsdp is for several processes, and this is the only"):
        spread(mlp())


def stopped(folder, step, world, callbacks=(), **options):
    """Train up to a step with checkpoints on the way, or from there on."""
    keeper = Checkpointing(folder, every_seconds=0.0)

    def work():
        return trained(
            checkpoint=keeper, resume=True, callbacks=[*callbacks, StopAt(step)], **options
        )

    return on_processes(world, work, SECONDS)[0] if world > 1 else work()


def test_goes_on_with_other_numbers_of_processes(tmp_path, recwarn):
    def callbacks(folder):
        return [GradientAccumulation(2), BestWeights(folder / "best.safetensors")]

    wanted = trained(callbacks=callbacks(tmp_path), n=106)
    stops = {3: 2, 5: 3, 7: 1, 0: 2}  # after which step, with how many processes
    folder = tmp_path / "parts"
    for step, world in stops.items():
        found = stopped(folder / "checkpoints", step, world, callbacks(folder), n=106)
        kept = {path.name[:12] for path in (folder / "checkpoints").glob("*.safetensors")}
        parts = [path.name[:12] for path in (folder / "checkpoints").glob("*.part")]
        assert parts.count(max(kept)) == (world if world > 1 else 0)
        assert kept >= {*parts}  # those of others are gone
    assert_near(found, wanted)
    weights = [load_file(folder / "best.safetensors") for folder in (tmp_path, tmp_path / "parts")]
    assert_near(*weights)


def test_each_process_writes_its_parts(tmp_path):
    """So no machine needs memory for the whole state."""
    stopped(tmp_path, 4, 2, opt=adamw)
    newest = checkpoints.listed(tmp_path)[-1]
    assert not {"model/0.weight", "optimizer/state/0/exp_avg"} & load_file(newest).keys()
    rows = [
        load_file(path)["model/0.weight"] for path in tmp_path.glob(f"{newest.name[:12]}*.part")
    ]
    assert [tuple(part.shape) for part in rows] == [(8, 12), (8, 12)]
    torch.manual_seed(1)
    assert not torch.equal(torch.cat(rows), mlp().double()[0].weight)  # it was trained


DAMAGES = {
    "must have the SHA-256 in its name": lambda part: part.write_bytes(part.read_bytes()[:-1]),
    "No such file": lambda part: part.unlink(),
}


@pytest.mark.parametrize("message", DAMAGES)
def test_a_damaged_part_makes_the_one_before_the_newest(message, tmp_path, recwarn):
    stopped(tmp_path, 4, 2)
    DAMAGES[message](max(tmp_path.glob("*.part")))
    assert_near(stopped(tmp_path, 0, 1), trained())
    text = str(recwarn[0].message)
    assert message in text
    assert text.endswith("trying the one before")


class Alone:
    """One process that hears of another one's file."""

    rank, world = 0, 1

    def __init__(self, name):
        self.name = name

    def gather(self, value):
        return [value, (self.name, "")]


def test_a_part_is_a_file_beside_the_checkpoint(tmp_path):
    (tmp_path / "elsewhere.part").write_bytes(b"")
    (tmp_path / "run").mkdir()
    checkpoints.save(tmp_path / "run", 0, {}, Alone("../elsewhere.part"))
    texts = []
    assert checkpoints.newest(tmp_path / "run", texts.append) is None
    assert "a part must be a file beside it, and one is '../elsewhere.part'" in texts[0]


def test_the_folder_must_be_shared(tmp_path):
    match = "every process must write its part, and the first one does not see their files: share"
    with pytest.raises(PlainfitError, match=match):
        checkpoints.save(tmp_path, 0, {}, Alone("on-another-machine.part"))


def test_all_know_that_one_process_could_not_write(tmp_path, monkeypatch):
    """The training goes on, and the last good checkpoint stays."""
    write = checkpoints.write_whole

    def full_on_one(path, *parts):
        if path.suffix == ".part" and join().rank == 1 and int(path.name[:12]) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, *parts)

    monkeypatch.setattr(checkpoints, "write_whole", full_on_one)

    def work():
        keeper = Checkpointing(tmp_path, every_seconds=0.0)
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            losses = trained(checkpoint=keeper)["losses"]
        return losses, [str(each.message) for each in found]

    [(losses, texts), (_, of_others)] = on_processes(2, work, SECONDS)
    assert_near(losses, trained()["losses"])
    assert texts
    assert all("every process must write its part, and [Errno 28] No space" in t for t in texts)
    assert not of_others
    assert {path.name[:12] for path in tmp_path.glob("*.safetensors")} == {f"{2:012d}"}


@pytest.mark.soak
def test_rate_search_is_that_of_one_process():
    def found():
        torch.manual_seed(1)
        model = mlp().double()
        if join().world > 1:
            spread(model)
        return lr_find(model, F.cross_entropy, sgd(model.parameters()), served()[0]).losses

    assert_near(on_processes(2, found, SECONDS)[1], found())


def test_runs_of_parts(tmp_path, recwarn):
    """A run's files are whole; it goes on in one process, and back in two."""
    g = torch.Generator().manual_seed(0)
    rows = torch.rand(120, 3, generator=g).tolist()
    table = tmp_path / "table.csv"
    table.write_text("a,b,c,y\n" + "".join(f"{a},{b},{c},{a + b > 1}\n" for a, b, c in rows))
    config = RunConfig(
        data=str(table), model="mlp", epochs=1, batch_size=20, lr=0.05, seed=3, checkpoint_every=3
    )

    def run(name, world=1, **changes):
        changed = replace(config, out=tmp_path / name, **changes)
        go = lambda: runs.train(changed, echo=None).folder and None  # noqa: E731
        return on_processes(world, go, SECONDS) if world > 1 else go()

    def resumed(name, epochs, world=1):
        go = lambda: runs.resume(tmp_path / name, epochs=epochs, echo=None) and None  # noqa: E731
        return on_processes(world, go, SECONDS) if world > 1 else go()

    run("whole")
    run("parts", 2, fsdp="auto")
    for epochs, world in {2: 1, 3: 2}.items():
        resumed("whole", epochs)
        resumed("parts", epochs, world)
    for name in ("model.safetensors", "best.safetensors"):
        found, wanted = (load_file(tmp_path / folder / name) for folder in ("parts", "whole"))
        assert_near(found, wanted, 1e-5)
