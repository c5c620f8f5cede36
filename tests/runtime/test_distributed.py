"""Several ranks against one process. Run as a script, this file forks the ranks, by gloo on the CPU."""

import copy
import json
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import lasfast
from lasfast.data.images import TensorImages
from lasfast.engine import NotLowerableError
from lasfast.evaluation.evaluator import Evaluator
from lasfast.evaluation.scoring import evaluate_network
from lasfast.evaluation.standalone import StandaloneEvaluator
from lasfast.nn import ConvBNAct
from lasfast.runtime import autotune, compiled, distributed
from lasfast.runtime.seeds import derive
from lasfast.searchers import NIR, Random
from lasfast.spaces import CellSpace, LayerAssignmentSpace
from lasfast.study import table_builder
from lasfast.study.study import Callback, Study
from lasfast.study.table_builder import TableBuilder
from lasfast.supernets import CellNet, LayerBuilder, ResidualNet, Supernet
from lasfast.train import ITNASTrainer, OneShotTrainer, StandaloneTrainer, SupernetTrainer, TrainSettings
from lasfast.train.standalone import seed_of
from lasfast.train.synchronized import batch_norm

pytestmark = pytest.mark.usefixtures("one_thread")
SETTINGS = TrainSettings(
    batch_size=15,
    warm_up_epochs=1,
    epochs_per_step=1,
    supernet_epochs=1,
    standalone_epochs=2,
    milestones=(1,),
    learning_rate=0.003,
)
CANDIDATES = [(2, 1, 1), (1, 2, 1), (1, 1, 2)]
FILES = ("journal.jsonl", "checkpoint.safetensors", "result.json")


def raw_images(count=80):
    """Easy images, uint8, and labels: the class sets the mean of a channel."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    images = torch.randint(0, 200, (count, 3, 8, 8), generator=generator).to(torch.uint8)
    images[torch.arange(count), labels] += 50
    return images, labels


def pair(count=80):
    images, labels = raw_images(count)
    return (images / 255 - 0.4) / 0.3, labels


def training_images():
    return TensorImages(*raw_images(48), [0.4] * 3, [0.3] * 3, pad=1)


class DoubleImages:
    """In double precision: sums in another order differ by so little that no ReLU takes the other side."""

    def __init__(self, images):
        self.images = images
        self.num_batches = images.num_batches

    def batches(self, *arguments):
        return ((images.double(), labels) for images, labels in self.images.batches(*arguments))

    def shards(self, *arguments):
        return ((images.double(), *rest) for images, *rest in self.images.shards(*arguments))


def supernet(layers=2, seed=0, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ResidualNet((layers,) * 3, num_classes=3, **options)


def nir_trainer(**options):
    return SupernetTrainer(supernet().double(), DoubleImages(training_images()), SETTINGS, **options)


def loader_trainer():
    """Batches of 20, 20 and 8 images."""
    images, labels = pair(48)
    data = TensorDataset(images.double(), labels)
    loader = DataLoader(data, batch_size=20, shuffle=True, generator=torch.Generator())
    return SupernetTrainer(supernet().double(), loader, SETTINGS)


class OpaqueNet(Supernet):
    """A batch norm that only torch knows of, and a classifier."""

    def __init__(self):
        super().__init__(LayerAssignmentSpace(1, 1), num_classes=3, in_channels=3)
        self.add_opaque("layer.norm", nn.BatchNorm2d(3))
        self.create_modules(self.path((1,)))

    def path(self, architecture):
        builder = LayerBuilder("layer", 3)
        x = builder.opaque("norm", builder.input, 3, params=6)
        builder.linear("fc", builder.global_avg_pool(x), 3)
        return (builder.build(),)


class OwnNet(nn.Module):
    """What cannot be traced, with batch norms of each kind; the last of them is frozen."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norms = nn.ModuleList(
            [
                nn.BatchNorm2d(8, momentum=0.3),
                nn.BatchNorm2d(8, affine=False, momentum=None),
                nn.BatchNorm2d(8, track_running_stats=False),
                nn.BatchNorm2d(8).eval(),
            ]
        )
        self.flat = nn.BatchNorm1d(8)
        self.fc = nn.Linear(8, 3)

    def train(self, mode=True):
        super().train(mode)
        self.norms[3].eval()
        return self

    def forward(self, x):
        x = self.conv(x)
        for norm in self.norms:
            x = norm(x).relu() + x if x.mean() < 100 else x
        return self.fc(self.flat(x.mean((2, 3))))


def own_network(rank_seed=False):
    """The same on all ranks, or other weights on each: those of the first count."""
    with torch.random.fork_rng():
        torch.manual_seed(distributed.world().rank if rank_seed else 0)
        return OwnNet().double()


def alone_trainer(data=None, **options):
    data = DoubleImages(training_images()) if data is None else data
    return StandaloneTrainer.of(
        supernet().to(torch.float64 if isinstance(data, DoubleImages) else torch.float32),
        (2, 1, 2),
        data,
        SETTINGS.replace(**options),
        validate=lambda network: 0.5,
    )


def itnas_trainer(**options):
    """In single precision, in which its distributions are; of few batches, since Adam enlarges rounding."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        cells = CellNet(3, 3, cells=3, channels=4, space=CellSpace(2, ["skip_connect", "sep_conv_3x3"]))
    settings = SETTINGS.replace(batch_size=7, supernet_epochs=1)
    return ITNASTrainer(cells, training_images(), settings, **options)


TRAINERS = {
    "sequential": nir_trainer,
    "joint": lambda: nir_trainer(update="joint"),
    "clipped": lambda: nir_trainer(clip_norm=0.1, loss_scale=8.0),
    "channels-last": lambda: nir_trainer(channels_last=True, update="joint"),
    "loader": loader_trainer,
    "random-paths": lambda: OneShotTrainer(
        supernet().double(), DoubleImages(training_images()), SETTINGS, supernet_epochs=2
    ),
    "torch": lambda: nir_trainer(operators="torch", update="joint"),
    "in-place": lambda: nir_trainer(distill="full"),
    "taught": lambda: nir_trainer(update="joint", distill=supernet(seed=3).double().extract((1, 1, 1))),
    "fp32": lambda: brief_trainer(operators="native"),
    "alone": alone_trainer,
    "alone-native": lambda: alone_trainer(operators="native", clip_norm=0.1),
    "alone-torch": lambda: alone_trainer(operators="torch"),
    "alone-fp32": lambda: alone_trainer(training_images(), operators="native", standalone_epochs=1),
    # Of losses in fp32, as all are, whose rounding these optimizers and sums of losses make larger.
    "recipe-fp32": lambda: alone_trainer(
        operators="native",
        optimizer="adamw",
        eps=1e-3,
        clip_norm=0.5,
        bias_decay=False,
        class_weights=(0.5, 1.0, 1.5),
        label_smoothing=0.1,
        standalone_epochs=1,
        standalone_auxiliary=0.4,
        standalone_keep_best=True,
    ),
    "recipe-torch-fp32": lambda: alone_trainer(
        operators="torch", optimizer="rmsprop", eps=0.1, standalone_auxiliary=0.4
    ),
    "itnas-fp32": lambda: itnas_trainer(operators="native"),
    "itnas-torch-fp32": lambda: itnas_trainer(operators="torch", transition=False),
    "own": lambda: StandaloneTrainer(own_network(True), DoubleImages(training_images()), SETTINGS),
}


FAST = ("sequential", "clipped", "loader", "random-paths", "torch", "in-place", "fp32", "alone-native")
FAST += ("recipe-fp32", "itnas-fp32", "own")
"""Those that two ranks train in each run of the suite; three ranks train all, slowly."""


def brief_trainer(**options):
    """Of real precision, and few steps: what rounding does to one ReLU grows with each."""
    return OneShotTrainer(supernet(), training_images(), SETTINGS, **options)


def train(trainer):
    """All of a short training: (state, last Progress)."""
    progress = list(trainer.train(0))
    if isinstance(trainer, SupernetTrainer):
        progress += trainer.train(1, CANDIDATES)
    return trainer.state(), progress[-1]


def evaluator(backend="auto"):
    floats, labels = pair()
    return Evaluator(supernet(3), floats[:32], (floats[48:], labels[48:]), backend=backend)


def study(directory, *, depth=5, train=True, **options):
    chosen = evaluator()
    trainer = SupernetTrainer(chosen.supernet, training_images(), SETTINGS) if train else None
    return Study(NIR(chosen.space, depth=depth), chosen, trainer=trainer, directory=directory, **options)


def table(directory, **options):
    """Three networks; weights are kept where they are trained together."""
    return TableBuilder(
        supernet(), training_images(), pair(), CANDIDATES, directory, SETTINGS, operators="native", **options
    )


# What ranks do. Each returns something to be pickled, from every rank.


def trained(world, directory, names=FAST):
    results = {}
    bf16 = {"bf16": lambda: brief_trainer(precision="bf16", operators="native")}
    for name, make in ({name: TRAINERS[name] for name in names} | bf16).items():
        trainer = make()
        results[name] = train(trainer), trainer.operators
    return results


def all_trained(world, directory):
    return trained(world, directory, TRAINERS)


def normalised(world, directory):
    """Weights after a batch of which each rank normalises its own images, and the running means."""
    state = {}
    for operators in ("native", "torch"):
        trainer = alone_trainer(training_images(), operators=operators, batch_norm="local", batch_size=16)
        next(iter(trainer.train()))
        state[operators] = trainer.state()[0]
    return state


def settled(world, directory):
    """Which operators all take where each rank finds others faster, and where one has no others."""
    timed = autotune._time
    os.environ |= {"LASFAST_CHOICE": "measure", "LASFAST_CACHE": str(directory / f"cache{world.rank}")}
    numbers = count(step=-1 if world.rank else 1)

    def disagree(run, device):
        run()
        return 1000 + next(numbers)

    autotune._time = disagree
    chosen = []
    for _ in range(2):  # the second time, rank 0 remembers
        trainer = SupernetTrainer(supernet(), training_images(), SETTINGS)
        next(trainer.train(0))
        chosen.append(trainer.operators)
        autotune._time = timed
    compiled.available = lambda: world.rank == 0
    lacking = SupernetTrainer(supernet(), training_images(), SETTINGS)
    next(lacking.train(0))
    return [*chosen, lacking.operators]


def measured(world, directory):
    space = supernet(3).space
    asked = [*space.enumerate(), (2, 1, 1)]
    small = StandaloneEvaluator(
        supernet(), training_images(), pair(), SETTINGS, standalone_epochs=1, milestones=()
    )
    together = StandaloneEvaluator(
        supernet(),
        training_images(),
        pair(),
        SETTINGS,
        standalone_epochs=1,
        milestones=(),
        data_parallel=True,
    )
    falls_back = evaluator()
    calibrate = falls_back.backend.calibrate

    def lacks_a_kernel(plan, batches, convention):
        if falls_back.backend.name == "native" and world.rank == 1:
            layer = plan.nodes[0].layer
            raise NotLowerableError(layer, layer.ops[0], "no kernel for this on rank 1")
        time.sleep(0.05)
        return calibrate(plan, batches, convention)

    falls_back.backend.calibrate = lacks_a_kernel
    return {
        **{backend: evaluator(backend)(asked) for backend in ("auto", "torch")},
        "fallen back": falls_back(asked),
        "scratch": small(CANDIDATES),
        "together": together(CANDIDATES),
    }


def tabled(world, directory):
    """Tables of networks that ranks train each alone, and together; the callbacks of each rank."""
    told = []
    alone = table(directory / "alone").run(on_row=lambda row: told.append(row.architecture))
    together = table(directory / "together", data_parallel=True, keep_weights=True).run()
    return alone, together, told


def table_killed(world, directory):
    """Rank 1 is killed after two checkpoints of its first network."""
    save, saved = table_builder.checkpoint.save, []

    def save_and_die(*arguments):
        save(*arguments)
        saved.append(arguments)
        if world.rank == 1 and len(saved) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    table_builder.checkpoint.save = save_and_die
    table(directory / "run", checkpoint_seconds=0).run()


def searched(world, directory):
    calls = []
    watch = Callback()
    watch.on_step = lambda step, measurements: calls.append(step)
    result = study(directory / "run", callbacks=[watch]).run()
    return result, calls


def resumed(world, directory):
    return study(directory / "run", checkpoint_seconds=0.2).run(resume=True)


def exchanges(world, directory):
    """What a world gives, and a batch norm over all ranks."""
    tensors = [torch.full((2, 3), world.rank + 1.0), torch.arange(4).double() * world.rank]
    world.sum_(tensors)
    slow = []

    def work(task):
        slow.append(task)
        time.sleep(0.3 if task == 0 else 0.01)
        return task**2

    results = world.spread(range(20), work)
    floats = (
        torch.randn(5, 4, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 + 1000
    )
    x = floats[world.rows(5)].requires_grad_()
    weight, bias = torch.rand(2, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weight.requires_grad_(), bias.requires_grad_()
    running = torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    y = batch_norm(world, x, *running, weight, bias, True)
    (y**3).sum().backward()
    with torch.no_grad():
        world.sum_([weight.grad, bias.grad])
    with world.first_here():
        if world.rank == 0:
            time.sleep(0.2)
            (directory / "downloaded").touch()
        downloaded = (directory / "downloaded").exists()
    return {
        "downloaded": downloaded,
        "sums": tensors,
        "stack": world.stack(torch.tensor([world.rank])),
        "any": world.any(world.rank == 1, False),
        "shared": world.share(lambda: world.rank),
        "results": results,
        "tasks": len(slow),
        "batch norm": [y.detach(), x.grad, weight.grad, bias.grad, *running],
    }


def mistakes(world, directory):
    """What is raised, as text: on all ranks alike."""

    def raised(work):
        try:
            work()
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    def fails_on_main():
        raise FileExistsError("there is one already")

    def fails_at_three(task):
        if task == 3:
            raise ZeroDivisionError("three")

    class OnlyHereError(Exception):  # not to be had by its name in another process
        pass

    def fails_with_own(task):
        raise OnlyHereError("oh")

    def diverge():
        trainer = nir_trainer()
        data = trainer.data.shards

        def shards(*arguments):
            for images, labels, size in data(*arguments):
                yield images * (float("nan") if world.rank == 1 else 1), labels, size

        trainer.data.shards = shards
        # Batch norm spreads what is not a number to all ranks; the classifier's loss alone must, too.
        list(trainer.train(0))

    def unknown_batch_norm():
        network = nn.Sequential(ConvBNAct(3, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
        list(StandaloneTrainer(network, training_images(), SETTINGS).train())

    def unknown_layers():
        StandaloneTrainer(own_network(), training_images(), SETTINGS, operators="native")

    def opaque():
        list(SupernetTrainer(OpaqueNet(), training_images(), SETTINGS).train(0))

    return {
        "opaque": raised(opaque),
        "unknown batch norm": raised(unknown_batch_norm),
        "unknown layers": raised(unknown_layers),
        "main": raised(lambda: world.share(fails_on_main)),
        "task": raised(lambda: world.spread(range(5), fails_at_three)),
        "own": raised(lambda: world.spread(range(2), fails_with_own)),
        "batch": raised(lambda: nir_trainer(batch_size=1)),
        "rows": raised(lambda: world.rows(1)),
        "nan": raised(diverge),
        "differ": raised(
            lambda: Study(Random(supernet(3).space, samples=2 + world.rank, depth=5), evaluator()).run()
        ),
        "cuda": raised(lambda: world.device("cuda")),
        "exists": raised(lambda: study(directory / "exists", train=False).run())
        or raised(lambda: study(directory / "exists", train=False).run()),
    }


def on_gpus(world, directory):
    trainer = gpu_trainer(world.device("cuda"))
    floats, labels = pair()
    measure = Evaluator(
        trainer.supernet, floats[:32].double(), (floats[48:].double(), labels[48:]), backend="torch"
    )
    return train(trainer), measure(CANDIDATES)


def gpu_trainer(device):
    return SupernetTrainer(supernet().double().to(device), DoubleImages(training_images()), SETTINGS)


def one_fails(world, directory):
    if world.rank == 1:
        raise ValueError("this rank has a problem of its own")
    train(nir_trainer())


def one_is_killed(world, directory):
    if world.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    train(nir_trainer())


def interrupted(world, directory):
    """Ctrl-C reaches rank 1 alone."""

    def press(progress):
        if progress.done == 2:
            os.kill(int((directory / "rank1").read_text()), signal.SIGINT)

    (directory / f"rank{world.rank}").write_text(str(os.getpid()))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    watch = Callback()
    watch.on_progress = press
    study(directory / "run", callbacks=[watch]).run()


def fork_ranks(name, size, directory, kill_when=None):
    """Run a function of this file on ranks; (exit status, standard error) of each.

    Rank 0 is killed when the study's log is so many lines longer.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(size):
        child = os.fork()
        if not child:
            _be_rank(name, rank, size, port, directory)
        children.append(child)
    if kill_when is not None:
        log, before = directory / "run" / "log.jsonl", lines_of(directory / "run" / "log.jsonl")
        while lines_of(log) < before + kill_when:
            time.sleep(0.01)
        os.kill(children[0], signal.SIGKILL)
    ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return [(end, (directory / f"{name}-{rank}.err").read_text()) for rank, end in enumerate(ends)]


def lines_of(path):
    return path.read_text().count("\n") if path.exists() else 0


def _be_rank(name, rank, size, port, directory):
    for key, value in {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": size,
        "LOCAL_WORLD_SIZE": size,
    }.items():
        os.environ[key] = str(value)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with open(directory / f"{name}-{rank}.err", "wb", buffering=0) as errors:
        os.dup2(errors.fileno(), 2)
    status = 1
    try:
        with distributed.start() as world:
            result = globals()[name](world, directory)
            (directory / f"{name}-{rank}.pickle").write_bytes(pickle.dumps(result))
        status = 0
    except SystemExit as end:
        status = end.code
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}".encode())
        status = 2
    os._exit(status)


def main(directory, size="2", *names):
    """What is named, or all that needs no GPU, forked from one process, which has no thread before."""
    torch.set_num_threads(1)
    study(None)  # what torch imports late, no rank has to import
    if names:
        ends = {name: fork_ranks(name, int(size), directory / name) for name in names}
        (directory / "ends.json").write_text(json.dumps(ends))
        return
    ends = {
        name: fork_ranks(name, 2, directory / name)
        for name in (
            "trained",
            "normalised",
            "settled",
            "measured",
            "tabled",
            "searched",
            "exchanges",
            "mistakes",
        )
    }
    for name in ("one_fails", "one_is_killed", "interrupted", "table_killed"):
        began = time.monotonic()
        ends[name] = fork_ranks(name, 2, directory / name)
        ends[name].append(time.monotonic() - began)
    killed = [fork_ranks("resumed", 2, directory / "killed", 4)]
    ends["killed"] = [killed, fork_ranks("resumed", 2, directory / "killed")]
    for size in (1, 3):
        shutil.copytree(directory / "interrupted", directory / f"by {size}")
        ends[f"by {size}"] = fork_ranks("resumed", size, directory / f"by {size}")
    (directory / "ends.json").write_text(json.dumps(ends))


def run_script(directory, *names, size=2):
    """The directory of what so many ranks did, and how they ended."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(lasfast.__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    command = [sys.executable, __file__, str(directory), str(size), *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr
    return directory, json.loads((directory / "ends.json").read_text())


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return run_script(tmp_path_factory.mktemp("ranks"))


def results(ranks, name, size=2, function=None):
    """What each rank returned."""
    directory, ends = ranks
    assert [end for end, _ in ends[name]] == [0] * size, ends[name]
    function = function or name
    return [
        pickle.loads((directory / name / f"{function}-{rank}.pickle").read_bytes()) for rank in range(size)
    ]


def contents(directory):
    return {name: (Path(directory) / name).read_bytes() for name in FILES}


def assert_close_measurements(one, other):
    """The same candidates in the same order, measured with weights that differ by rounding."""
    assert [m.architecture for m in one] == [m.architecture for m in other]
    assert [m.images for m in one] == [m.images for m in other]
    assert [m.loss for m in one] == pytest.approx([m.loss for m in other], rel=1e-3)
    assert [m.top1 for m in one] == pytest.approx([m.top1 for m in other], abs=1 / 32)


def assert_trained_as_one_process(name, of_ranks):
    """Check what each rank returned of a training; return the state of one process."""
    trainer = TRAINERS[name]()
    (tensors, values), expected_progress = train(trainer)
    ((first, _), progress), operators = of_ranks[0]
    assert operators == trainer.operators
    assert first.keys() == tensors.keys()  # no momentum of what no path used
    for key, tensor in tensors.items():
        for ((other, _), _), _ in of_ranks[1:]:  # equal bits on all ranks, running statistics too
            assert torch.equal(first[key], other[key]), key
        tolerance = {"rtol": 1e-4, "atol": 1e-5} if "fp32" in name else {"rtol": 1e-6, "atol": 1e-8}
        torch.testing.assert_close(first[key], tensor, msg=key, **tolerance)
    for ((_, own_values), progress), _ in of_ranks:
        assert own_values == values
        assert progress.loss == pytest.approx(expected_progress.loss, rel=1e-4)
        assert progress.accuracy == expected_progress.accuracy
    return tensors


@pytest.mark.parametrize("name", FAST)
def test_training_is_that_of_one_process(ranks, name):
    tensors = assert_trained_as_one_process(name, [one[name] for one in results(ranks, "trained")])
    initial = TRAINERS[name]().module.state_dict()
    changed = [key for key, tensor in initial.items() if not torch.equal(tensors["weights." + key], tensor)]
    assert len(changed) > (10 if name == "own" else 50)  # something was trained


@pytest.mark.slow
def test_training_of_three_ranks_is_that_of_one_process(tmp_path):
    of_ranks = results(run_script(tmp_path, "all_trained", "tabled", size=3), "all_trained", 3)
    for name in TRAINERS:
        assert_trained_as_one_process(name, [one[name] for one in of_ranks])


def test_in_bf16_ranks_are_no_further_from_single_precision_than_one_process(ranks):
    ((one, _), _), ((other, _), _) = (result["bf16"] for result in results(ranks, "trained"))
    alone, exact = (train(brief_trainer(precision=p, operators="native"))[0][0] for p in ("bf16", "fp32"))
    for kind in ("weights.", "momentum."):
        keys = [key for key, tensor in exact.items() if key.startswith(kind) and tensor.is_floating_point()]
        by_ranks, by_other, by_one, truth = (
            torch.cat([tensors[key].flatten() for key in keys])
            for tensors in (one[0], other[0], alone, exact)
        )
        assert torch.equal(by_ranks, by_other)
        assert (by_ranks - truth).norm() <= 1.5 * (by_one - truth).norm()


def test_all_ranks_take_the_operators_that_the_first_finds_faster(ranks):
    one, other = results(ranks, "settled")
    assert one == other == ["native", "native", "torch"]


def test_evaluation_is_that_of_one_process_bit_for_bit(ranks):
    expected = {backend: evaluator(backend) for backend in ("auto", "torch")}
    space = expected["auto"].space
    asked = [*space.enumerate(), (2, 1, 1)]
    for result in results(ranks, "measured"):
        for backend, one in expected.items():
            assert result[backend] == one(asked)
        # What one rank has no kernel for, none runs natively.
        assert result["fallen back"] == result["torch"]
        assert [m.architecture for m in result["scratch"]] == CANDIDATES
    assert results(ranks, "measured")[0]["scratch"] == results(ranks, "measured")[1]["scratch"]


def test_from_scratch_each_rank_trains_alone_or_all_together(ranks):
    small = StandaloneEvaluator(
        supernet(), training_images(), pair(), SETTINGS, standalone_epochs=1, milestones=()
    )
    one, other = results(ranks, "measured")
    expected = small(CANDIDATES)
    assert one["scratch"] == expected
    assert one["together"] == other["together"]
    assert_close_measurements(one["together"], expected)


def test_a_table_of_networks_that_ranks_train_alone_has_the_bytes_of_one_process(ranks, tmp_path):
    (alone, _, told), (other, _, silent) = results(ranks, "tabled")
    assert alone == other == table(tmp_path / "run").run()
    assert (sorted(told), silent) == (sorted(CANDIDATES), [])
    for directory in (ranks[0] / "tabled" / "alone", tmp_path / "run"):
        assert sorted(file.name for file in directory.iterdir()) == ["journal.jsonl", "table.csv"]
    for name in ("journal.jsonl", "table.csv"):
        written = (ranks[0] / "tabled" / "alone" / name).read_bytes()
        assert written == (tmp_path / "run" / name).read_bytes()


def test_a_table_of_networks_that_ranks_train_together(ranks, tmp_path):
    (_, rows, _), (_, other, _) = results(ranks, "tabled")
    expected = table(tmp_path / "run", keep_weights=True)
    assert rows == other
    for row, alone in zip(rows, expected.run(), strict=True):
        assert row.architecture == alone.architecture
        assert row.loss == pytest.approx(alone.loss, rel=1e-3)
    together = table(ranks[0] / "tabled" / "together", keep_weights=True)
    for architecture in CANDIDATES:
        weights = together.network(architecture).state_dict()
        for key, tensor in expected.network(architecture).state_dict().items():
            torch.testing.assert_close(weights[key], tensor, msg=key, rtol=1e-3, atol=1e-4)
    for row in rows:  # measured by both, to the bits of one
        measured = evaluate_network(together.network(row.architecture), pair())
        assert (row.top1, row.loss) == (measured.top1, measured.loss)


def test_a_table_whose_rank_was_killed_goes_on_to_the_same_bytes(ranks, tmp_path):
    directory, ends = ranks
    (end, text), (killed, _), _ = ends["table_killed"]
    assert (end, killed) == (2, -signal.SIGKILL)
    assert text.startswith("LostRankError")
    run = directory / "table_killed" / "run"
    checkpoints = list((run / "parts").glob("*.safetensors"))
    assert len(checkpoints) == 1  # of the network that rank 1 trained
    trained = []
    table(run).run(resume=True, on_progress=lambda architecture, progress: trained.append(architecture))
    batches = SETTINGS.standalone_epochs * (48 // SETTINGS.batch_size)
    assert {"-".join(map(str, one)) for one in trained} == {checkpoints[0].stem}
    assert len(trained) == batches - 2  # it went on where the checkpoint is
    table(tmp_path / "run").run()
    for name in ("journal.jsonl", "table.csv"):
        assert (run / name).read_bytes() == (tmp_path / "run" / name).read_bytes()
    assert not (run / "parts").exists()


def test_a_study_finds_what_one_process_finds(ranks, tmp_path):
    (result, calls), (other, silent) = results(ranks, "searched")
    expected = study(tmp_path / "run").run()
    assert_close_measurements(result.measurements, expected.measurements)
    assert result == other
    assert result.description == expected.description
    assert (calls, silent) == ([1, 2], [])
    directory = ranks[0] / "searched" / "run"
    assert {file.name for file in directory.iterdir()} == {*FILES, "log.jsonl"}
    headers = [(path / "journal.jsonl").read_text().splitlines()[0] for path in (directory, tmp_path / "run")]
    assert headers[0] == headers[1]
    events = [json.loads(line)["event"] for line in (directory / "log.jsonl").read_text().splitlines()]
    assert events.count("start") == 1
    assert events.count("epoch") == 1 + 2


def test_killed_and_resumed_it_leaves_the_same_bytes(ranks):
    directory, ends = ranks
    killed, last = ends["killed"]
    assert [end for (end, _), _ in killed] == [-signal.SIGKILL]
    assert [end for end, _ in last] == [0, 0], last
    assert contents(directory / "killed" / "run") == contents(directory / "searched" / "run")
    assert (directory / "killed" / "run" / "log.jsonl").read_text().count('"event": "resume"') == 1


@pytest.mark.parametrize("size", [1, 3])
def test_it_resumes_with_another_number_of_ranks(ranks, size):
    by_two = results(ranks, "searched")[0][0]
    for result in results(ranks, f"by {size}", size, "resumed"):
        assert_close_measurements(result.measurements, by_two.measurements)
        assert result.description == by_two.description


def test_ctrl_c_on_one_rank_stops_all_after_the_batch(ranks):
    directory, ends = ranks
    *attempts, _ = ends["interrupted"]
    assert sorted(end for end, _ in attempts) == [1, 2]
    [said] = [text for _, text in attempts if text]
    assert re.search(r"KeyboardInterrupt: stopped in step 0, after batch [23] of 3; .* resume it", said)
    assert (directory / "interrupted" / "run" / "checkpoint.safetensors").exists()


def test_a_rank_that_fails_ends_all_and_alone_says_why(ranks):
    *attempts, seconds = ranks[1]["one_fails"]
    assert attempts == [[1, ""], [2, "ValueError: this rank has a problem of its own"]]
    assert seconds < 30


def test_a_rank_that_is_killed_ends_all(ranks):
    *attempts, seconds = ranks[1]["one_is_killed"]
    (end, text), (killed, _) = attempts
    assert (end, killed) == (2, -signal.SIGKILL)
    assert text.startswith("LostRankError: another rank ended before the work was done")
    assert seconds < 30


def test_exchanges(ranks):
    for result in results(ranks, "exchanges"):
        assert torch.equal(result["sums"][0], torch.full((2, 3), 3.0))
        assert torch.equal(result["sums"][1], torch.arange(4).double())
        assert result["stack"].tolist() == [[0], [1]]
        assert result["any"] == (True, False)
        assert result["shared"] == 0
        assert result["downloaded"]
        assert result["results"] == [task**2 for task in range(20)]
    # Whoever has the slow task takes fewer of the others.
    counts = sorted(result["tasks"] for result in results(ranks, "exchanges"))
    assert sum(counts) == 20
    assert counts[0] < counts[1]


def test_batch_norm_is_that_of_the_whole_batch(ranks):
    x = torch.randn(5, 4, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 + 1000
    weight, bias = torch.rand(2, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for leaf in (x, weight, bias):
        leaf.requires_grad_()
    running = torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    y = F.batch_norm(x, *running, weight, bias, True)
    (y**3).sum().backward()
    one, other = (result["batch norm"] for result in results(ranks, "exchanges"))
    assert (len(one[0]), len(other[0])) == (2, 3)
    for number, whole in enumerate((y.detach(), x.grad)):
        torch.testing.assert_close(torch.cat((one[number], other[number])), whole, rtol=1e-9, atol=1e-9)
    for number, whole in enumerate((weight.grad, bias.grad, *running), start=2):
        assert torch.equal(one[number], other[number])
        torch.testing.assert_close(one[number], whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("operators", ["native", "torch"])
def test_local_batch_norm_takes_the_statistics_of_each_rank(ranks, operators):
    states = [result[operators] for result in results(ranks, "normalised")]
    images, labels = next(iter(training_images().batches(16, derive(seed_of(SETTINGS, (2, 1, 2)), 0, 0))))
    network = alone_trainer(training_images()).network.train()
    before = copy.deepcopy(dict(network.named_buffers()))
    optimizer = torch.optim.SGD(
        network.parameters(), SETTINGS.learning_rate, 0.9, nesterov=True, weight_decay=SETTINGS.weight_decay
    )
    for state, rows in zip(states, (slice(0, 8), slice(8, 16)), strict=True):
        (F.cross_entropy(network(images[rows]), labels[rows]) / 2).backward()
        for name, buffer in network.named_buffers():
            torch.testing.assert_close(state[f"weights.{name}"], buffer, rtol=1e-4, atol=1e-5)
            buffer.copy_(before[name])
    optimizer.step()
    for name, parameter in network.named_parameters():
        assert torch.equal(states[0][f"weights.{name}"], states[1][f"weights.{name}"])
        torch.testing.assert_close(states[0][f"weights.{name}"], parameter.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batch_norm_in_the_formats_of_training(dtype):
    x = (torch.randn(7, 5, 6, 3) + 3).to(dtype).contiguous(memory_format=torch.channels_last)
    grads = []
    for function in (F.batch_norm, lambda *a, **k: batch_norm(distributed.World(), *a, **k)):
        own, weight, bias = x.clone().requires_grad_(), *torch.full((2, 5), 0.5).requires_grad_()
        y = function(own, torch.zeros(5), torch.ones(5), weight, bias, training=True)
        assert y.dtype == dtype
        assert y.is_contiguous(memory_format=torch.channels_last)
        (y.float() ** 3).sum().backward()
        grads.append((y.detach().float(), own.grad.float()))
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, **tolerance)


def test_mistakes_are_raised_on_all_ranks(ranks):
    one, other = results(ranks, "mistakes")
    assert one == other
    expected = {
        "opaque": "ValueError: opaque module 'layer.norm' has a BatchNorm of its own",
        "unknown batch norm": r"ValueError: BatchNorm '0\.1' does not run torch\.nn\.functional\.batch_norm",
        "unknown layers": "ValueError: operators must be 'auto' or 'torch' where several processes train",
        "main": "FileExistsError: there is one already",
        "task": "ZeroDivisionError: three",
        "own": "RuntimeError: OnlyHereError: oh",
        "batch": "ValueError: batch_size must be at least 2, an image for each process, got 1",
        "rows": r"ValueError: a batch has 1 image\(s\) for 2 ranks",
        "nan": "NonFiniteLossError: the loss is nan in step 0, epoch 1, batch 1",
        "differ": "ValueError: study must be the same on all ranks, but its searcher is .* on rank 1",
        "exists": "FileExistsError: .* holds a study already",
    }
    for name, text in expected.items():
        assert re.match(text, one[name]), one[name]
    if torch.cuda.device_count() < 2:
        assert "2 processes were started on this machine" in one["cuda"]


@pytest.mark.cuda
def test_two_gpus_train_as_one(tmp_path):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two NVIDIA GPUs, for NCCL")
    ((tensors, _), progress), measured = results(run_script(tmp_path, "on_gpus"), "on_gpus")[0]
    expected_trainer = gpu_trainer("cuda")
    (expected, _), expected_progress = train(expected_trainer)
    for key, tensor in expected.items():
        torch.testing.assert_close(tensors[key], tensor, rtol=1e-6, atol=1e-8, msg=key)
    assert progress.loss == pytest.approx(expected_progress.loss, rel=1e-5)
    assert [m.architecture for m in measured] == CANDIDATES


def test_shards_of_a_batch_are_its_rows():
    data = training_images()
    whole = list(data.batches(15, 3))
    for rows in (slice(0, 7), slice(7, 15)):
        for (images, labels, size), (all_images, all_labels) in zip(
            data.shards(15, 3, 0, lambda _, rows=rows: rows), whole, strict=True
        ):
            assert size == 15
            assert torch.equal(images, all_images[rows])
            assert torch.equal(labels, all_labels[rows])


def test_a_loader_that_shards_by_itself_is_refused():
    dataset = TensorDataset(*pair(48))
    loader = DataLoader(dataset, 8, sampler=DistributedSampler(dataset, num_replicas=2, rank=0))
    with pytest.raises(ValueError, match=r"whole batches.* got a DataLoader with a DistributedSampler"):
        SupernetTrainer(supernet(), loader, SETTINGS)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
