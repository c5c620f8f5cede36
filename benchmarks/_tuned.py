"""The baseline: stand-alone networks, calibrated and run one after another as fast as PyTorch can."""

from __future__ import annotations

import time
from functools import partial

import torch
from torch import nn

import lasfast
from benchmarks import _harness
from lasfast.runtime.precision import fp32_products_as

PREDICTION_BATCHES = (32, 64, 125, 250)
MODES = {
    "cpu": {"compiled": "default"},
    "cuda": {"compiled": "default", "compiled with autotuning": "max-autotune-no-cudagraphs"},
}
"""The modes of `torch.compile` that are tried, without CUDA graphs: `Ready` records those itself."""


def one_by_one(networks, calibration, images, batch, precision, convention="cumulative"):
    """Calibrate and predict each network, plain or `Ready`, in turn; return the logits of each."""
    logits, device = [], images.device.type
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
        for network in networks:
            again = network.recalibrate if isinstance(network, Ready) else partial(recalibrate, network)
            again(calibration, precision, convention)
            logits.append(torch.cat([network(part) for part in images.split(batch)]).float())
    _harness.synchronize(device)
    return logits


class Ready:
    """A network that is eager, or compiled if there is a `mode`, and on a GPU recorded as CUDA graphs.

    Compiled code and graphs are for batches of one size; other batches run the plain network.
    """

    def __init__(self, network, mode, calibration, images, precision, convention, pool):
        self.network = network.eval()
        self.norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in self.norms:
            # With "cumulative", each batch leaves its own statistics, and `recalibrate` takes their mean:
            # with a momentum of None, batch norm would read its count of batches from the device each time.
            norm.momentum = 1.0 if convention == "cumulative" else 0.1
        run = network if mode is None else torch.compile(network, dynamic=False, mode=mode)
        device = images.device.type
        autocast = torch.autocast(
            device,
            torch.bfloat16,
            enabled=precision == "bf16",
            cache_enabled=device == "cpu",  # a graph must not depend on a cache that is freed after it
        )
        with torch.inference_mode(), autocast:
            self.predict = _for_size(images, run, network, pool)
            for norm in self.norms:
                norm.train()
            self.calibrate = _for_size(calibration, run, network, pool)
            network.eval()

    def __call__(self, part):
        return self.predict(part)

    def recalibrate(self, batches, precision, convention):
        """Do what the function `recalibrate` does, but take the mean over the batches here."""
        if convention == "batch_mean":
            recalibrate(self.network, batches, precision, convention)
            return
        buffers = [buffer for norm in self.norms for buffer in (norm.running_mean, norm.running_var)]
        totals = [torch.zeros_like(buffer) for buffer in buffers]
        for norm in self.norms:
            norm.reset_running_stats()
            norm.train()
        for part in batches:
            self.calibrate(part)
            torch._foreach_add_(totals, buffers)
        if convention == "cumulative":
            torch._foreach_div_(totals, len(batches))
            torch._foreach_copy_(buffers, totals)
        self.network.eval()


def _for_size(example, run, network, pool):
    """Return a function that runs `run` on batches of the example's size, and `network` on others."""
    kept = example.clone(memory_format=torch.preserve_format)
    run(kept)
    if example.device.type == "cuda":
        replay, output = _harness.recorded(lambda: run(kept), pool)
    else:
        replay = output = None

    def one(part):
        if len(part) != len(kept):
            return network(part)
        if replay is None:
            return run(part)
        kept.copy_(part)
        replay()
        return output.clone()

    return one


def tune(networks, calibration, images, batch, precision, convention, modes):
    """Make all networks ready in the way that is fastest for the first one.

    Returns the way, the networks, the seconds of each way's trials, and the seconds of making ready: one
    network for each way, and all networks under "all".
    """
    modes = {"eager": None, **modes}
    pool = torch.cuda.graph_pool_handle() if images.device.type == "cuda" else None
    trials, preparing = {}, {}

    def ready(network, mode):
        return Ready(network, mode, calibration[0], images[:batch], precision, convention, pool)

    def timed(name, work):
        start = time.perf_counter()
        result = work()
        _harness.synchronize(images.device.type)
        preparing[name] = time.perf_counter() - start
        return result

    for way, mode in modes.items():
        one = timed(way, partial(ready, networks[0], mode))
        run = partial(one_by_one, [one], calibration, images[: 4 * batch], batch, precision, convention)
        trials[way] = _harness.paired({way: run}, 3)[way]
    best = min(trials, key=lambda way: min(trials[way]))
    every = timed("all", lambda: [ready(network, modes[best]) for network in networks])
    return best, every, trials, preparing


LEAST_LIMIT = 1e-3
"""In channels_last, batch norm loses digits (errors up to 2e-4 were seen), which is no fault here."""


def check(ready, network, calibration, images, precision, convention):
    """Stop unless a network that is ready predicts what the plain one does, within the precision."""

    def logits(one, way):
        return one_by_one([one], calibration, images, len(images), way, convention)[0]

    with fp32_products_as("exact"):
        truth = logits(network, "fp32")
    error, theirs = (
        float((logits(one, precision) - truth).norm() / truth.norm()) for one in (ready, network)
    )
    limit = max(LEAST_LIMIT, _harness.logits_limit(precision, images.device, theirs))
    if not error <= limit:
        raise SystemExit(f"tuned PyTorch's logits differ from eager's by {error:.2g}, more than {limit:.2g}")


def recalibrate(network, batches, precision, convention):
    """Set the network's batch norms to the batches' statistics, and the network to evaluation mode."""
    network.eval()
    if convention == "batch_mean":  # PyTorch's batch norm has no such mode
        lasfast.calibrate(network, batches, statistics=convention, backend="torch", precision=precision)
        return
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.reset_running_stats()
            norm.momentum = None if convention == "cumulative" else 0.1
            norm.train()
    for part in batches:
        network(part)
    network.eval()


def best_batch(network, images, precision):
    """Return the batch size for which prediction is fastest."""
    runs = {
        batch: partial(one_by_one, [network], [images[:100]], images, batch, precision)
        for batch in PREDICTION_BATCHES
    }
    seconds = _harness.paired(runs, 3)
    return min(seconds, key=lambda batch: min(seconds[batch]))
