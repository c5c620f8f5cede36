"""A table of networks trained from scratch (`lasfast dataset`), its parts trained as tasks of Ray.

    python examples/ray_table.py --parts 16 --gpus 1 -- --depths 4-6 --data cifar100 -o /shared/table

What follows `--` are options of `lasfast dataset`; all machines have to reach its directory and the images.
The tasks train the parts, and this script joins them. A task whose machine is lost starts again on another
one, and goes on from its part's checkpoint.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

import ray


def dataset(*options: str) -> None:
    """Run `lasfast dataset` in a process of its own, which is killed with the task."""
    subprocess.run([sys.executable, "-m", "lasfast", "dataset", *options, "--resume"], check=True)


def main() -> None:
    """Train the parts, as many at a time as the cluster has room for, and join them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--parts", type=int, required=True)
    parser.add_argument("--gpus", type=float, default=0, help="of each task")
    parser.add_argument("--cpus", type=float, default=1, help="of each task")
    parser.add_argument("options", nargs="+", help="of lasfast dataset, behind --")
    chosen = parser.parse_args()
    ray.init()
    task = ray.remote(num_gpus=chosen.gpus, num_cpus=chosen.cpus, max_retries=-1)(dataset)
    parts = range(1, chosen.parts + 1)
    ray.get([task.remote(*chosen.options, "--shard", f"{part}/{chosen.parts}", "--quiet") for part in parts])
    dataset(*chosen.options)


if __name__ == "__main__":
    main()
