"""What supernet and stand-alone training share: updates, learning rates by position, readings, state."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from lasfast.core.checks import check_choice
from lasfast.data.training import TrainingImages, as_training_images, on_device, shards
from lasfast.ops.sgd import SgdRule
from lasfast.runtime import compiled, distributed, kernels
from lasfast.runtime.autotune import fastest
from lasfast.runtime.distributed import World
from lasfast.runtime.precision import autocast
from lasfast.runtime.seeds import derive, torch_seed
from lasfast.train.passes import Passes
from lasfast.train.progress import Progress
from lasfast.train.record import EpochRecord
from lasfast.train.settings import TrainSettings
from lasfast.train.update import Update, Used

READ_EVERY = 0.5  # seconds between readings of loss and accuracy, each of which waits for the device
DROPOUT = 1  # what a seed is for: the last counter of `derive`
CHOICE = 2
UPDATES = ("sequential", "joint")
REMEMBERED = 64  # updates whose tables are kept: of a step there are few, of random paths no end


class Trainer:
    """SGD on one module, batch by batch, from any position.

    Subclasses say what an update runs (`_logits`), and at which learning rate (`_learning_rate`). Losses and
    right answers gather on the device; they are read at most every half second and at the end of an epoch, so
    a GPU never waits for Python. The position is (step, batch): `batch` batches of `step` are done.

    Of several paths that a batch trains, each makes an update of the weights (`update="sequential"`), or all
    make one together, with the sum of their gradients (`"joint"`).

    Of several ranks (`_world`), each runs its images of a batch; gradients are summed over all, so an update
    is that of the whole batch. Not by torch's DistributedDataParallel: that hooks a module's forward, where
    layers run here one by one, and expects the same weights in every batch, or searches each graph for those
    it lacks; and little hides a sum in a backward pass that waits for all ranks at every batch norm.

    An update changes what its paths use of the weights: outside of it, slices of a weight included, nothing
    decays and momentum stays.

    On a GPU, forward and backward passes are CUDA graphs from a path's third batch of a step on, where the
    step's paths recur and this process works alone. An update is a launch of its own.
    """

    _repeats = True
    """Whether batches train the same few paths again and again."""

    def __init__(
        self,
        module: nn.Module,
        data: Any,
        settings: TrainSettings,
        seed: int,
        *,
        update: str = "sequential",
    ) -> None:
        check_choice("update", update, UPDATES)
        self.module = module
        self.update = update
        self.settings = settings
        self.seed = seed
        self.position = (0, 0)
        self._parameters = parameters = [one for one in module.parameters() if one.requires_grad]
        if not parameters:
            raise ValueError(f"the {type(module).__name__} has no parameters to train")
        self.device = parameters[0].device
        self.data: TrainingImages = on_device(as_training_images(data), self.device)
        self.operators = _operators(settings, self.device)  # "native" or "torch"
        self._settled = settings.operators != "auto"
        memory_format = torch.channels_last if settings.channels_last else torch.contiguous_format
        if settings.channels_last:
            module.to(memory_format=memory_format)
        graphs = self._repeats and self.device.type == "cuda" and distributed.world().size == 1
        self.passes = Passes(module, self.device, memory_format, enabled=graphs)
        self._rule = SgdRule(settings.momentum, settings.nesterov, settings.weight_decay, settings.clip_norm)
        self._momenta: dict[nn.Parameter, torch.Tensor] = {}
        self._updates: dict[Any, Update] = {}
        self._record: EpochRecord | None = None
        self._within_batch = False
        self._world = World()

    @property
    def batches(self) -> int:
        """Batches in an epoch."""
        return self.data.num_batches(self.settings.batch_size)

    def _logits(self, images: torch.Tensor, paths: Sequence[Any]) -> list[torch.Tensor]:
        """The logits of each path; what several have in common may run once."""
        raise NotImplementedError

    def _used(self, paths: Sequence[Any]) -> Used:
        """The weights that an update of these paths changes, and which parts of each."""
        raise NotImplementedError

    def _learning_rate(self, step: int, batch: int) -> float:
        raise NotImplementedError

    def _paths(self, step: int, batch: int, candidates: Sequence[Any]) -> Sequence[Any]:
        """What to train on a batch, in order; as many for every batch of a step."""
        raise NotImplementedError

    def _run(
        self, step: int, epochs: int, start: int, candidates: Sequence[Any], counted: slice
    ) -> Iterator[Progress]:
        """Train `epochs` epochs from batch `start`; `counted` are the paths whose loss is reported."""
        total = epochs * self.batches
        if not 0 <= start <= total:
            raise ValueError(f"start is {start}; expected a batch of step {step}, 0 to {total}")
        return self._generate(step, epochs, start, candidates, counted)

    def _generate(
        self, step: int, epochs: int, start: int, candidates: Sequence[Any], counted: slice
    ) -> Iterator[Progress]:
        batches = self.batches
        began = time.perf_counter()
        read_at = -math.inf
        images_seen = 0
        self._begin()
        self.position = (step, start)
        loss = accuracy = math.nan
        for epoch in range(start // batches, epochs):
            first = start % batches if epoch == start // batches else 0
            record = self._record = None
            seed = derive(self.seed, step, epoch)
            source = shards(self.data, self.settings.batch_size, seed, first, self._world)
            for batch, (images, labels, size) in enumerate(source, first):
                done = epoch * batches + batch
                paths = self._paths(step, done, candidates)
                rate = self._learning_rate(step, done)
                if record is None:
                    record = self._record = EpochRecord(
                        step, epoch, first, batches, paths, rate, self.device, self._world
                    )
                record.begin(paths, rate, size)
                self._train_batch(images, labels, size, paths, rate, record, self._dropout_seed(step, done))
                self.position = (step, done + 1)
                images_seen += size
                now = time.perf_counter()
                if self._world.any(batch + 1 == batches or now - read_at >= READ_EVERY)[0]:
                    loss, accuracy = record.read(counted)
                    read_at = now = time.perf_counter()
                yield Progress(
                    step,
                    epoch,
                    epochs,
                    batch,
                    batches,
                    rate,
                    loss,
                    accuracy,
                    images_seen / (now - began),
                    now - began,
                )
            if record is None or record.next != batches:
                raise ValueError(
                    f"data ended after batch {0 if record is None else record.next} in epoch {epoch + 1} of "
                    f"step {step}, but its num_batches({self.settings.batch_size}) is {batches}"
                )
        self.passes.clear()  # whose memory an evaluation can use

    def _begin(self) -> None:
        """Prepare for a step: what the last one left may be of other sub-networks, modules or memory."""
        self.module.train()
        self.passes.clear()

    def _before_update(self) -> None:
        """What a kind of training does before the weights are updated for the batch at `position`.

        What it draws from torch's generators is a function of the seed and the batch.
        """

    def _dropout_seed(self, step: int, batch: int) -> int:
        ranks = (self._world.rank,) if self._world.size > 1 else ()
        return derive(self.seed, step, batch, DROPOUT, *ranks)

    def _train_batch(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        size: int,
        paths: Sequence[Any],
        rate: float,
        record: EpochRecord,
        seed: int,
    ) -> None:
        images, labels = self.passes.place(images, labels)
        self._within_batch = True
        if not self.module.training:
            self.module.train()
        if not self._settled and self.operators == "native":
            self._settle(images, labels, paths[:1], seed)
        deterministic = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
        with torch_seed(seed, self.device), deterministic:
            self._before_update()
            number = 0
            for together in [paths] if self.update == "joint" else [(path,) for path in paths]:
                update = self._update_of(together)
                work = partial(self._differentiate, update, images, labels, size, together)
                values, gradients = self.passes.run(tuple(together), images, work)
                self._world.sum_([one for one in gradients if one is not None])
                update.run(gradients, rate, 1 / self.settings.loss_scale)
                record.write(number, values)
                number += len(together)
        record.next += 1
        self._within_batch = False

    def _update_of(self, paths: Sequence[Any]) -> Update:
        key = tuple(paths)
        update = self._updates.pop(key, None) or Update(self._used(paths), self._momenta, self._rule)
        self._updates[key] = update  # the last one
        if len(self._updates) > REMEMBERED:
            del self._updates[next(iter(self._updates))]
        return update

    def _differentiate(
        self, update: Update, images: torch.Tensor, labels: torch.Tensor, size: int, paths: Sequence[Any]
    ) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        """Run paths forward and backward: losses and right answers, [2, paths], and the gradients."""
        update.take_gradients()  # of somebody else
        every = self._logits_of(images, paths)
        losses = self._losses(every, labels) * (len(labels) / size)  # this rank's share of the batch's mean
        (losses.sum() * self.settings.loss_scale).backward()
        right = torch.stack([(logits.argmax(1) == labels).sum() for logits in every])
        return torch.stack((losses.detach(), right.to(losses.dtype))), update.take_gradients()

    def _settle(self, images: torch.Tensor, labels: torch.Tensor, paths: Sequence[Any], seed: int) -> None:
        """Take the operators that train `paths` faster; small networks may be quicker with PyTorch's."""
        self._settled = True
        before = [one.detach().clone() for one in self.module.buffers()]

        def trained_by(operators: str) -> Callable[[], None]:
            def run() -> None:
                self.operators = operators
                self._losses(self._logits_of(images, paths), labels).sum().backward()

            return run

        weights = sum(one.numel() for one in self._parameters)
        key = (
            f"train {type(self.module).__name__} of {weights} weights on {tuple(images.shape)} in "
            f"{self.settings.precision}, {torch.get_num_threads()} threads"
        )
        if self._world.size > 1:
            key += f", {self._world.size} ranks"
        with torch_seed(seed, self.device):
            ways = {name: trained_by(name) for name in ("native", "torch")}
            self.operators = fastest(key, self.device, ways, self._world.share)
        with torch.no_grad():
            for buffer, value in zip(self.module.buffers(), before, strict=True):
                buffer.copy_(value)

    def _logits_of(self, images: torch.Tensor, paths: Sequence[Any]) -> list[torch.Tensor]:
        """The logits of each path in the precision of the settings."""
        # One context an update, since autocast keeps its bf16 copies of the weights until it is left.
        with autocast(self.device, self.settings.precision):
            return self._logits(images, paths)

    @staticmethod
    def _losses(every: Sequence[torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        return torch.stack([F.cross_entropy(logits.float(), labels) for logits in every])

    def check_finite(self) -> None:
        """Raise NonFiniteLossError where a loss since the last reading was infinite or not a number.

        Of all ranks, like `state`.
        """
        if self._record is not None:
            self._record.read(slice(None))

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Everything that training goes on from: tensors (copies, on the CPU) and JSON values.

        Weights and buffers are named `weights.*`, momentum `momentum.*` (of those parameters that were
        updated yet). Raises NonFiniteLossError rather than hand out weights that diverged, and RuntimeError
        where an exception stopped training within a batch.
        """
        if self._within_batch:
            raise RuntimeError("training stopped within a batch; load a state before asking for one")
        self.check_finite()
        tensors = {f"weights.{name}": tensor for name, tensor in self.module.state_dict().items()}
        for name, parameter in self.module.named_parameters():
            if parameter in self._momenta:
                tensors[f"momentum.{name}"] = self._momenta[parameter]
        copies = {
            name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, tensor in tensors.items()
        }
        return copies, {"position": list(self.position)}

    def load_state(self, tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> None:
        """Go on from what `state` gave.

        Raises ValueError, having changed nothing, where it belongs to another network.
        """
        own = self.module.state_dict()
        weights = _with_prefix(tensors, "weights.")
        parameters = dict(self.module.named_parameters())
        momentum = _with_prefix(tensors, "momentum.")
        _check_same_names(weights, own)
        for kind, saved, target in (("weights", weights, own), ("momentum", momentum, parameters)):
            for name, tensor in saved.items():
                if name not in target or target[name].shape != tensor.shape:
                    expected = tuple(target[name].shape) if name in target else "no such tensor"
                    raise ValueError(
                        f"{kind} of {name} are {tuple(tensor.shape)}; this network has {expected}"
                    )
        step, batch = values["position"]
        self.module.load_state_dict(weights)
        self.passes.clear()
        self._updates.clear()
        self._momenta.clear()
        for name, tensor in momentum.items():
            self._momenta[parameters[name]] = torch.empty_like(parameters[name].detach()).copy_(tensor)
        self._record = None
        self._within_batch = False
        self.position = (int(step), int(batch))


def _operators(settings: TrainSettings, device: torch.device) -> str:
    """Return "native" or "torch"; ImportError where "native" is wanted but was not compiled."""
    if settings.operators == "native":
        compiled.load()
    if settings.operators != "auto":
        return settings.operators
    return "native" if settings.channels_last and kernels.usable(device) else "torch"


def _with_prefix(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _check_same_names(saved: dict[str, torch.Tensor], own: dict[str, torch.Tensor]) -> None:
    missing, unknown = own.keys() - saved.keys(), saved.keys() - own.keys()
    if missing or unknown:
        problem = f"lack {min(missing)}" if missing else f"have {min(unknown)}, which this network has not"
        raise ValueError(f"the saved weights are of another network: they {problem}")
