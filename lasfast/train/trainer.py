"""The loop of every training: batches, updates, readings, and a state that training goes on from."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lasfast.core.checks import check_choice
from lasfast.data.protocols import TrainingImages
from lasfast.data.training import as_training_images, augmented, first_image, on_device, shards
from lasfast.ops.packing import Packings
from lasfast.runtime.precision import deterministic_cudnn
from lasfast.runtime.seeds import derive, torch_seed
from lasfast.train.curriculum import DROPOUT, MIXING, Curriculum, Schedule
from lasfast.train.forward import Forward
from lasfast.train.mixing import Mixing
from lasfast.train.objective import Distill, Objective, class_weights
from lasfast.train.passes import Passes
from lasfast.train.progress import EpochRecord, Progress
from lasfast.train.settings import TrainSettings
from lasfast.train.update import STEP, Update, Updates, biases_and_norms, rule_of

READ_EVERY = 0.5  # seconds between readings of loss and accuracy, each of which waits for the device
UPDATES = ("sequential", "joint")


class Trainer:
    """Trains the module of a `Forward`, batch by batch, from any position.

    Its parts say what is particular to a training: the curriculum, which paths a batch trains; the schedule,
    for how long and at which learning rate; the forward pass, how the logits of paths are computed; and
    `Updates`, the rule by which gradients change weights. Of several paths that a batch trains, each makes an
    update (`update="sequential"`), or all make one together, with the sum of their gradients (`"joint"`).

    The position is (step, batch): `batch` batches of `step` are done. Losses and right answers gather on the
    device; they are read at most every half second and at the end of an epoch, so that a GPU never waits for
    Python.

    An `Objective` says what is minimised, which is reported as the loss. With `distill`, paths learn from a
    teacher's logits for the same images, those of this process.

    An update changes what its paths use of the weights. Elsewhere, in the unused part of a sliced weight too,
    nothing decays and momentum stays.

    Several processes (`Forward.world`) each run their images of a batch, and gradients are summed over all:
    an update is that of the whole batch. torch's DistributedDataParallel does not fit here. It hooks a
    module's forward, but layers run one by one; it expects the same weights in every batch, or searches each
    graph for missing ones; and it could hide little of a sum behind a backward pass that waits for all
    processes at every batch norm.

    On a GPU, forward and backward passes are CUDA graphs from a path's third batch of a step on, where the
    step's paths recur and this process works alone. An update is a launch of its own.
    """

    def __init__(
        self,
        forward: Forward,
        data: Any,
        settings: TrainSettings,
        curriculum: Curriculum,
        schedule: Schedule,
        *,
        seed: int | None = None,
        update: str = "sequential",
        distill: Distill = None,
    ) -> None:
        check_choice("update", update, UPDATES)
        self.forward, self.module, self.device = forward, forward.module, forward.device
        self.curriculum, self.schedule = curriculum, schedule
        self.settings, self.update = settings, update
        self.seed = settings.seed if seed is None else seed
        self.position = (0, 0)
        images = augmented(as_training_images(data), settings.augmentation)
        self.data: TrainingImages = on_device(images, self.device)
        self.world = forward.world
        if settings.batch_size < self.world.size:
            raise ValueError(
                f"batch_size must be at least {self.world.size}, an image for each process, got "
                f"{settings.batch_size}"
            )
        graphs = curriculum.recurs and self.device.type == "cuda" and self.world.size == 1
        self.passes = Passes(self.module, self.device, forward.memory_format, enabled=graphs)
        self.updates = Updates(
            rule_of(settings),
            () if settings.bias_decay else biases_and_norms(self.module),
        )
        self.packings = Packings()
        self.mixing: Mixing | None = None
        weights = None
        if settings.mixes or settings.class_weights is not None:
            classes = forward.classes(first_image(self.data, settings.batch_size))
            self.mixing = Mixing(settings, classes) if settings.mixes else None
            weights = class_weights(settings, getattr(self.data, "labels", None), classes)
        self.objective = Objective(settings, self.device, distill, curriculum.full, weights)
        self._record: EpochRecord | None = None
        self._within_batch = False

    @property
    def batches(self) -> int:
        """Batches in an epoch."""
        return self.data.num_batches(self.settings.batch_size)

    @property
    def operators(self) -> str:
        """Whose operators train: "native" (lasfast's) or "torch"."""
        return self.forward.operators

    def epochs(self, step: int) -> int:
        """Return the epochs of a step."""
        return self.schedule.epochs(step)

    def run(self, step: int, candidates: Sequence[Sequence[int]], start: int) -> Iterator[Progress]:
        """Train a step from batch `start`; a Progress after every batch.

        The bits of the weights depend on their state before, `step`, `candidates`, settings and seed, not on
        where the work was cut into calls. Raises NonFiniteLossError when training diverges.
        """
        paths = self.curriculum.check(step, candidates)
        total = self.epochs(step) * self.batches
        if not 0 <= start <= total:
            raise ValueError(f"start must be a batch of step {step}, from 0 to {total}, got {start}")
        return self._generate(step, start, paths)

    def _generate(self, step: int, start: int, candidates: Sequence[Any]) -> Iterator[Progress]:
        batches, epochs = self.batches, self.epochs(step)
        counted = self.curriculum.counted if step else slice(None)
        began = time.perf_counter()
        read_at = -math.inf
        images_seen = 0
        self.begin_step()
        self.position = (step, start)
        loss = accuracy = math.nan
        for epoch in range(start // batches, epochs):
            if self.stopped:
                break
            self.begin_epoch(epoch)
            first = start % batches if epoch == start // batches else 0
            record = self._record = None
            seed = derive(self.seed, step, epoch)
            source = shards(self.data, self.settings.batch_size, seed, first, self.world)
            for batch, (images, labels, size) in enumerate(source, first):
                done = epoch * batches + batch
                paths = self.curriculum.paths(step, done, candidates)
                rate = self.schedule.learning_rate(step, done, batches)
                if record is None:
                    record = self._record = EpochRecord(
                        step, epoch, first, batches, len(paths), self.device, self.world
                    )
                record.begin(paths, rate, size)
                self._train_batch(images, labels, size, paths, rate, record)
                self.position = (step, done + 1)
                if batch + 1 == batches:
                    self.end_epoch(epoch)
                images_seen += size
                now = time.perf_counter()
                if self.world.any(batch + 1 == batches or now - read_at >= READ_EVERY)[0]:
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

    def begin_step(self) -> None:
        """Prepare for a step: the last one may have left other sub-networks, modules or memory."""
        self.module.train()
        self.passes.clear()
        self.forward.begin()

    @property
    def stopped(self) -> bool:
        """True where training has ended before its last epoch."""
        return False

    def begin_epoch(self, epoch: int) -> None:
        """Do what a kind of training does before the first batch of an epoch, or where it goes on in one."""

    def end_epoch(self, epoch: int) -> None:
        """Do what a kind of training does after the last batch of an epoch."""

    def loss(
        self, logits: Sequence[Tensor], labels: Tensor, paths: Sequence[Any], targets: Tensor | None
    ) -> Tensor:
        """Return the loss [paths] of each path's logits, by the objective."""
        return self.objective(logits, labels, paths, targets)

    def before_update(self) -> None:
        """Do what a kind of training does before the weights are updated for the batch at `position`.

        What it draws from torch's generators is a function of the seed and the batch.
        """

    def after_updates(self) -> None:
        """Do what a kind of training does after the last update of a batch."""

    def _train_batch(
        self,
        images: Tensor,
        labels: Tensor,
        size: int,
        paths: Sequence[Any],
        rate: float,
        record: EpochRecord,
    ) -> None:
        """Train on this process's images of a batch, which has `size` of them in all processes."""
        own_masks = (self.world.rank,) if self.world.size > 1 else ()
        seed = derive(self.seed, *self.position, DROPOUT, *own_masks)
        if self.mixing is not None:
            images, labels = self.mixing(images, labels, derive(self.seed, *self.position, MIXING))
        images, labels = self.passes.place(images, labels)
        self._within_batch = True
        if not self.module.training:
            self.module.train()
        self.forward.choose_operators(images, labels, paths[:1], seed)
        with torch_seed(seed, self.device), deterministic_cudnn():
            self.before_update()
            targets = self.objective.teach(images)
            number = 0
            for together in [paths] if self.update == "joint" else [(path,) for path in paths]:
                update = self.updates.of(tuple(together), partial(self.forward.used, together))
                if targets is not None:
                    targets = self.passes.hold(images, targets)
                work = partial(self._differentiate, update, images, labels, size, together, targets)
                values, gradients, full = self.passes.run(tuple(together), images, work)
                targets = targets if full is None else full
                self.world.sum_([one for one in gradients if one is not None])
                update.run(gradients, rate, 1 / self.settings.loss_scale)
                record.write(number, values)
                number += len(together)
        self.after_updates()
        record.next += 1
        self._within_batch = False

    def _differentiate(
        self,
        update: Update,
        images: Tensor,
        labels: Tensor,
        size: int,
        paths: Sequence[Any],
        targets: Tensor | None,
    ) -> tuple[Tensor, list[Tensor | None], Tensor | None]:
        """Run paths forward and backward: losses and right answers, [2, paths], and the gradients.

        The last are the logits of the path among these that teaches the later ones, if there is one.
        """
        update.take_gradients()  # of somebody else
        with self.packings.ahead((tuple(paths), images.shape)):
            logits = self.forward(images, paths)
        full = self.objective.full_logits(logits, paths)
        loss = self.loss(logits, labels, paths, targets if full is None else full)
        share = loss * (len(labels) / size)  # of the whole batch's mean
        (share.sum() * self.settings.loss_scale).backward()
        most = (
            labels if labels.dim() == 1 else labels.argmax(1)
        )  # of mixed images, the label of the larger part
        right = torch.stack([(one.argmax(1) == most).sum() for one in logits])
        return torch.stack((share.detach(), right.to(share.dtype))), update.take_gradients(), full

    def check_finite(self) -> None:
        """Raise NonFiniteLossError where a loss since the last reading was infinite or not a number.

        All processes have to call it, like `state`.
        """
        if self._record is not None:
            self._record.read(slice(None))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return everything that training goes on from: tensors (copies, on the CPU) and JSON values.

        Weights and buffers are named `weights.*`; the optimizer's state is named `momentum.*`, or as torch
        names it (`exp_avg.*`, ...), of the parameters that were updated yet. Raises NonFiniteLossError rather
        than hand out weights that diverged, and RuntimeError where an exception stopped training within a
        batch.
        """
        if self._within_batch:
            raise RuntimeError("training stopped within a batch; load a state before asking for one")
        self.check_finite()
        tensors = {f"weights.{name}": tensor for name, tensor in self.module.state_dict().items()}
        for kind, states in self.updates.states.items():
            for name, parameter in self.module.named_parameters():
                if parameter in states:
                    tensors[f"{kind}.{name}"] = states[parameter]
        copies = {
            name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, tensor in tensors.items()
        }
        values: dict[str, Any] = {"position": list(self.position)}
        if self.settings.optimizer != "sgd":
            values["optimizer"] = self.settings.optimizer
        if self.objective.description is not None:
            values["distill"] = self.objective.description
        return copies, values

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Go on from what `state` gave.

        Raises ValueError, having changed nothing, where it belongs to another network, or was trained with
        another teacher or optimizer.
        """
        optimizer = values.get("optimizer", "sgd")
        if optimizer != self.settings.optimizer:
            raise ValueError(
                f"optimizer must be as the saved weights were trained, {optimizer!r}, got "
                f"{self.settings.optimizer!r}"
            )
        taught, teacher = values.get("distill"), self.objective.description
        if taught != teacher:
            raise ValueError(f"distill must be as the saved weights were trained, {taught}, got {teacher}")
        own = self.module.state_dict()
        weights = with_prefix(tensors, "weights.")
        parameters = dict(self.module.named_parameters())
        states = {kind: with_prefix(tensors, f"{kind}.") for kind in self.updates.states}
        _check_same_names(weights, own)
        _check_shapes("weights", weights, own)
        for kind, saved in states.items():
            if kind != STEP:
                _check_shapes(kind, saved, parameters)
        step, batch = values["position"]
        self.module.load_state_dict(weights)
        self.passes.clear()
        self.updates.restart(
            {kind: {parameters[name]: one for name, one in saved.items()} for kind, saved in states.items()}
        )
        self._record = None
        self._within_batch = False
        self.position = (int(step), int(batch))


def with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, by the rest of their names."""
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _check_same_names(saved: dict[str, Tensor], own: dict[str, Tensor]) -> None:
    missing, unknown = own.keys() - saved.keys(), saved.keys() - own.keys()
    if missing or unknown:
        problem = f"lack {min(missing)}" if missing else f"have {min(unknown)}, which this network has not"
        raise ValueError(f"the saved weights are of another network: they {problem}")


def _check_shapes(kind: str, saved: dict[str, Tensor], own: Mapping[str, Tensor]) -> None:
    for name, tensor in saved.items():
        if name not in own or own[name].shape != tensor.shape:
            expected = tuple(own[name].shape) if name in own else "no such tensor"
            raise ValueError(f"{kind} of {name} are {tuple(tensor.shape)}; this network has {expected}")
