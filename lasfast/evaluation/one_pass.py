"""A network in evaluation mode as one pass of the compiled module, for those who call it again and again.

`accelerate` offers this as a way to run a network. What was read of it and its packed weights are kept. They
hold while its parameters and buffers are the same tensors with the same versions, which in-place operations
count, and are made again where they are not. Fused optimizers and `.data` change values without counting:
these are seen by samples of each tensor, which any change of all its values changes.
"""

from __future__ import annotations

import copy
import threading
from operator import is_

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from lasfast.engine import NativeBackend, NotLowerableError
from lasfast.evaluation.norm_recorder import norms_of
from lasfast.evaluation.readable import CannotError, ReadNetwork
from lasfast.ir.layers import Layer, Shape
from lasfast.ir.prefix_tree import PrefixTree
from lasfast.ops.derivatives import is_watched
from lasfast.runtime import seeds

SAMPLES = 8
"""Changes that PyTorch does not count are looked for in so many values of each tensor."""
MOST_SIZES = 4
"""A network is read for images of so many sizes; with others, it is called as it is."""


class OnePass:
    """Runs a network in evaluation mode, for images [N, C, H, W] in float32 on the CPU.

    Args:
        network: any network. Its modules must stay the same ones; its own mode, apart from theirs, does not
            count.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.modules = list(network.modules())[1:]
        self._ready: dict[tuple[Shape, str], _Ready | None] = {}
        self._lock = threading.Lock()  # values of a pass lie in one place

    def run(self, images: Tensor) -> Tensor | None:
        """Return what the network gives for images; None where it has to be called itself.

        That is where gradients are wanted, somebody watches operators, a module is in training mode, autocast
        rounds otherwise than to bfloat16, or the network has no such pass.
        """
        precision = _precision()
        if precision is None or not _is_plain(images) or any(module.training for module in self.modules):
            return None
        key = tuple(images.shape[1:]), precision
        with self._lock:
            if key not in self._ready:
                if len(self._ready) == MOST_SIZES:
                    return None
                self._ready[key] = _Ready.of(self.network, images, precision)
            ready = self._ready[key]
            return None if ready is None else ready.run(images)

    def forget(self) -> None:
        """Pack the weights anew at the next call, also where nothing says that they have changed."""
        with self._lock:
            for ready in self._ready.values():
                if ready is not None:
                    ready.tensors = []


class _Ready:
    """A network that was read for images of one size, and what runs it in one precision."""

    def __init__(
        self, network: nn.Module, layer: Layer, dtype: torch.dtype, images: Tensor, precision: str
    ) -> None:
        self.dtype = dtype
        self.tables = [
            table for module in network.modules() for table in (module._parameters, module._buffers) if table
        ]
        self.shapes = [tensor.shape for tensor in self._present()]
        self.tensors: list[Tensor] = []
        self.states: list[tuple[int, int]] = []
        self.views: list[Tensor] = []
        self.samples = torch.empty(0, dtype=torch.int32)
        self.executor = NativeBackend(network, precision).predictor(PrefixTree([(layer,)]), images)
        self.norms = dict(network.named_modules())

    @classmethod
    def of(cls, network: nn.Module, images: Tensor, precision: str) -> _Ready | None:
        """Return the network with what runs it; None where it has no such pass."""
        twin = copy.deepcopy(network).eval()  # whose norms change their mode while it is read
        norms = norms_of(twin)
        if any(norm.running_mean is None for norm in norms.values()):
            return None
        try:
            with seeds.torch_seed(0, images.device):  # what it draws while it is tried counts for nobody
                with torch.autocast("cpu", enabled=False):
                    layer = ReadNetwork.of(twin, norms, images).layer
                dtype = twin(images[:1].clone()).dtype
            return cls(network, layer, dtype, images, precision)
        except (CannotError, NotLowerableError, ValueError):
            return None

    def run(self, images: Tensor) -> Tensor | None:
        """Return the output for images of its size; None with other parameters than it was read with."""
        tensors = self._present()
        try:
            states = [(tensor._version, tensor.data_ptr()) for tensor in tensors]
        except RuntimeError:  # made in inference mode, where nothing is counted
            return None
        same = len(tensors) == len(self.tensors) and all(map(is_, tensors, self.tensors))
        if not same or states != self.states:
            if [tensor.shape for tensor in tensors] != self.shapes or not all(map(_is_readable, tensors)):
                return None
            self.tensors, self.states = tensors, states
            self.views = [_sampled(tensor) for tensor in tensors if tensor.dtype == torch.float32]
            same = False
        samples = torch.cat(self.views).view(torch.int32)
        if not same or not torch.equal(samples, self.samples):
            self.samples = samples
            self._load()
        return self.executor.predict(images.detach().contiguous())[0].to(self.dtype)

    def _present(self) -> list[Tensor]:
        """Return the parameters and buffers of now."""
        return [tensor for table in self.tables for tensor in table.values() if tensor is not None]

    def _load(self) -> None:
        """Pack the weights, and take the running statistics, as they are now."""
        self.executor.load_parameters()
        statistics = {
            norm.module: (self.norms[norm.module].running_mean, self.norms[norm.module].running_var)
            for norm in self.executor.schedule.batch_norms
        }
        self.executor.load_statistics([statistics])


def _is_readable(tensor: Tensor) -> bool:
    """Return whether the compiled module can read a parameter or a buffer."""
    return tensor.device.type == "cpu" and (tensor.dtype == torch.float32 or not tensor.is_floating_point())


def _sampled(tensor: Tensor) -> Tensor:
    """Return a view [`SAMPLES` or fewer] of a tensor's memory."""
    count = min(SAMPLES, tensor.numel())
    step = tensor.numel() // max(1, count)
    return tensor.detach().as_strided((count,), (step,), tensor.storage_offset())


def _precision() -> str | None:
    """Return the precision in which autocast lets a network run now; None where the pass has none such."""
    if not torch.is_autocast_enabled("cpu"):
        return "fp32"
    return "bf16" if torch.get_autocast_dtype("cpu") == torch.bfloat16 else None


def _is_plain(images: Tensor) -> bool:
    """Return whether the compiled module can take images, and nobody wants more than what comes out."""
    return (
        not torch.is_grad_enabled()
        and type(images) in (Tensor, Parameter)
        and images.device.type == "cpu"
        and images.dtype == torch.float32
        and images.dim() == 4
        and len(images) > 0
        and not is_watched()
    )
