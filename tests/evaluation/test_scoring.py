"""Counting right answers, of one network and of several together."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from lasfast.data import FolderLoader
from lasfast.engine.scores import Scores
from lasfast.evaluation.scoring import Answers, evaluate_network
from lasfast.runtime.distributed import World


def measured(logits, labels, batch):
    scores = Scores()
    for part in range(0, len(labels), batch):
        scores.add(logits[:, part : part + batch], labels[part : part + batch])
    every = Answers.of_networks(*scores.result())
    return [answers.measurement((number,)) for number, answers in enumerate(every)]


@pytest.mark.parametrize("classes", [2, 5, 17])
def test_shares_and_means_are_pytorchs(classes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 41, classes, generator=generator)
    labels = torch.randint(0, classes, (41,), generator=generator)
    for number, (one, result) in enumerate(zip(logits, measured(logits, labels, 9), strict=True)):
        right = one.argmax(1) == labels
        five = (one.topk(min(5, classes)).indices == labels[:, None]).any(1)
        assert result.architecture == (number,)
        assert result.images == 41
        assert result.top1 == int(right.sum()) / 41
        assert result.top5 == int(five.sum()) / 41
        assert result.loss == pytest.approx(float(F.cross_entropy(one.double(), labels)), rel=1e-12)
        assert result.correct == np.packbits(right.numpy()).tobytes()


class Threads(World):
    """Threads in place of processes, which meet where they exchange."""

    def __init__(self, rank, size, barrier, values):
        self.rank, self.size, self.barrier, self.values = rank, size, barrier, values

    def gather(self, value):
        self.values[self.rank] = value
        self.barrier.wait()
        return list(self.values)


def folder_loader(folder, images, labels):
    paths = [str(folder / f"{number}.png") for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray((image * 255).byte().permute(1, 2, 0).numpy()).save(path)
    return FolderLoader(paths, labels, (6, 6), [0.5] * 3, [0.2] * 3, batch_size=9, workers=0)


@pytest.mark.parametrize("kind", ["tensors", "list", "folder"])
@pytest.mark.parametrize("size", [2, 3, 7])
def test_processes_share_a_networks_images_out(tmp_path, monkeypatch, kind: str, size: int) -> None:
    """Of 41 images in batches of 9, five each have one, and two of seven processes have none."""
    images, labels = torch.rand(41, 3, 6, 6), torch.randint(0, 4, (41,))
    validation = {
        "tensors": (images, labels),
        "list": list(zip(images.split(9), labels.split(9), strict=True)),
        "folder": folder_loader(tmp_path, images, labels),
    }[kind]
    networks = [nn.Sequential(nn.Flatten(), nn.Linear(108, 4)) for _ in range(size)]
    for network in networks:
        network.load_state_dict(networks[0].state_dict())
    alone = evaluate_network(networks[0], validation, (1,), batch=9)
    seen: list[int] = [0] * size
    for number, network in enumerate(networks):
        network.register_forward_hook(
            lambda module, inputs, output, number=number: seen.__setitem__(number, seen[number] + len(output))
        )
    barrier, values = Barrier(size), [None] * size

    def measure(rank):
        world = Threads(rank, size, barrier, values)
        return evaluate_network(networks[rank], validation, (1,), batch=9, world=world)

    with ThreadPoolExecutor(size) as pool:
        found = list(pool.map(measure, range(size)))
    assert found == [alone] * size
    assert alone.images == sum(seen) == 41
    assert max(seen) <= 9 * -(-5 // size)
