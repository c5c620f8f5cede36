"""Times training in two processes of one thread, beside one process of one and of two threads.

    python -m benchmarks.record_processes record benchmarks/results/processes.json

ResidualNet 2-2-2 trains from scratch on random images of 32 pixels, in batches of 128, by gloo. The three
ways take turns. Beside the images a second, the record has those for each second of processor time, all
processes together, on which other programs have less influence.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import typer

from benchmarks import _harness
from lasfast.runtime import distributed
from lasfast.supernets import ResidualNet
from lasfast.train import StandaloneTrainer, TrainSettings

app = typer.Typer(help=__doc__, no_args_is_help=True)
WAYS = {"one process": (1, 1), "one process, two threads": (1, 2), "two processes": (2, 1)}
"""The number of processes, and of threads in each."""
BATCH, WARM_UP = 128, 2


@app.command()
def work(threads: int, batches: int) -> None:
    """Train, and print seconds and processor seconds of the batches after the first; for `record`."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    images, labels = torch.randn(BATCH, 3, 32, 32), torch.arange(BATCH) % 10
    settings = TrainSettings(batch_size=BATCH, standalone_epochs=batches, milestones=(), operators="native")
    with distributed.start() as world:
        supernet = ResidualNet((2, 2, 2), num_classes=10)
        trainer = StandaloneTrainer.of(supernet, (2, 2, 2), (images, labels), settings)
        training = trainer.train()
        for _ in range(WARM_UP):
            next(training)
        world.any(False)  # all begin together
        began, used = time.perf_counter(), time.process_time()
        for _ in training:
            pass
        world.any(False)
        spent = [time.perf_counter() - began, time.process_time() - used]
        every = world.gather(spent)
        if world.main:
            print(json.dumps([max(one[0] for one in every), sum(one[1] for one in every)]))


def measured(processes: int, threads: int, batches: int) -> tuple[float, float]:
    """Return the seconds, and the processor seconds of all processes, that the batches take."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "benchmarks.record_processes", "work", str(threads), str(batches)]
    ranks = [
        subprocess.Popen(
            command,
            env={
                **os.environ,
                "RANK": str(rank),
                "WORLD_SIZE": str(processes),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "GLOO_SOCKET_IFNAME": "lo",
                "OMP_NUM_THREADS": str(threads),
            },
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    outputs = [rank.communicate()[0] for rank in ranks]
    if any(rank.returncode for rank in ranks):
        raise SystemExit("a process failed; what it wrote says why")
    seconds, used = json.loads(outputs[0])
    return seconds, used


@app.command()
def record(path: Path, rounds: int = 5, batches: int = 30) -> None:
    """Measure, and write the record."""
    machine = _harness.machine()
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
    images = BATCH * (batches - WARM_UP)
    for number in range(rounds):
        for name in list(WAYS)[:: -1 if number % 2 else 1]:
            seconds, used = measured(*WAYS[name], batches)
            rates[name].append((images / seconds, images / used))
    ways: dict[str, Any] = {}
    for name, one in rates.items():
        wall, processor = (statistics.median(numbers) for numbers in zip(*one, strict=True))
        ways[name] = {
            "images_per_second": round(wall),
            "images_per_processor_second": round(processor),
            "rounds": [[round(number) for number in pair] for pair in one],
        }
        print(name, ways[name], flush=True)
    content = {"record": "processes", "batch": BATCH, "batches": batches - WARM_UP, "ways": ways}
    _harness.write({**content, "machine": machine}, path)


if __name__ == "__main__":
    app()
