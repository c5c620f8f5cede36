"""A torchvision network trained with lasfast's fused operators, in three lines, marked (1), (2) and (3).

    python examples/accelerate_torchvision.py --network mobilenet_v2 --image-size 64

The script times training steps of the plain and the accelerated network in turn, and compares the losses.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time

import torch
import torchvision

import lasfast  # (1)


def step(network: torch.nn.Module, optimizer: torch.optim.Optimizer, images, labels) -> float:
    """Train one batch in bf16 (autocast); return the loss."""
    optimizer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(images)
    loss = torch.nn.functional.cross_entropy(logits.float(), labels)
    loss.backward()
    optimizer.step()
    return loss.item()


def main() -> None:
    """Parse options, time both networks, print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--network", default="resnet18", help="a name of torchvision.models")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=5, help="of each, alternated")
    options = parser.parse_args()
    torch.manual_seed(0)
    plain = getattr(torchvision.models, options.network)(num_classes=10)
    plain.to(memory_format=torch.channels_last)
    model = copy.deepcopy(plain)
    network = lasfast.accelerate(model)  # (2) the same weights, fused operators
    images = torch.randn(options.batch, 3, options.image_size, options.image_size)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.randint(10, (options.batch,))
    seconds: dict[str, list[float]] = {"torch": [], "lasfast": []}
    losses: dict[str, list[float]] = {"torch": [], "lasfast": []}
    trained = {"torch": plain, "lasfast": network}
    optimizers = {
        name: torch.optim.SGD(one.parameters(), lr=0.01, momentum=0.9) for name, one in trained.items()
    }
    for _ in range(1 + options.steps):
        for name, one in trained.items():
            start = time.perf_counter()
            losses[name].append(step(one, optimizers[name], images, labels))
            seconds[name].append(time.perf_counter() - start)
    plain.load_state_dict(network.state_dict())  # (3) checkpoints move both ways
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    for name, median in medians.items():
        print(f"{name:8} {1000 * median:7.1f} ms a step, losses {' '.join(f'{x:.3f}' for x in losses[name])}")
    print(f"{medians['torch'] / medians['lasfast']:.2f} times faster")


if __name__ == "__main__":
    main()
