"""`accelerate`: the layers of any network fused, or all of it in one pass of the compiled module."""

from __future__ import annotations

from torch import Tensor, nn

from lasfast.evaluation.one_pass import OnePass
from lasfast.execution import accelerate as fuse


def accelerate(model: nn.Module, images: Tensor | None = None) -> nn.Module:
    """Return a module that computes what `model` does, with lasfast's fused operators, forward and backward.

    Each `nn.BatchNorm2d` takes in the convolution whose output it alone reads, a sum with another value of
    the same shape, and the activation behind: ``act(batch_norm(conv(x)) + other)`` in few passes over memory.
    Depthwise convolutions without a norm behind them run in lasfast's kernels, too (`lasfast.ops.depthwise`).
    Everything else stays PyTorch's. The result is a module of a subclass of the model's class, with the
    model's own weights, buffers, submodules and hooks, not copies: a state dict moves both ways, and training
    the one trains the other. Training mode and evaluation mode, frozen norms, autocast, copies, pickles and
    `torch.compile` work as before. Convolution weights are put into channels_last, unless the model's code
    asks for the usual order of elements (`x.view(n, -1)`). Its attribute `fused_graph` is the
    `torch.fx.Graph` that it runs in its present mode.

    Not every network is quicker fused. With `images`, a training step and an evaluation of this batch are
    timed on a copy of the model: by its own forward, by that of images in channels_last, and fused; an
    evaluation on a CPU also as one pass of the compiled module over the whole network. In each mode, the
    result runs its own forward as the model does, unless another way takes 5 % less time. Weights stay as
    they lie in memory, `repr` says what runs, and `fused_graph` is None where that is not fused.
    One pass is for calls under `torch.no_grad` or `torch.inference_mode`, on float32 images, in float32 or
    in autocast to bfloat16; others run the model's own forward. It keeps packed weights, as much memory
    again, and packs them anew once a parameter or a buffer has changed. PyTorch counts changes, but not those
    of fused optimizers and through `.data`: these are seen where they change all values of a tensor, and
    where they change some, after the next call of `train` or `eval`.
    Autocast counts: call `accelerate` within the context in which the network is to run. The choice is
    remembered on this machine; ``LASFAST_CHOICE`` may make it: ``native`` to run fused, ``torch`` for the
    model's own forward (see `lasfast.runtime.autotune`).

    What is not understood is called as it is. Modules are not looked into that have hooks, parametrizations
    or a `forward` of their own, that `torch.fx` cannot trace (control flow that depends on tensors), whose
    code differs between training and evaluation, or that draw random numbers or change their attributes.
    (The `forward` of `model` itself may depend on its own mode.)
    Ops that others would see in another order are not fused: where a value is changed in place in between.
    With other arguments than the required tensors, or where modules have got hooks, other attributes or other
    submodules since, the model's own `forward` runs. PyTorch's operators run within the transforms of
    `torch.func`, and second derivatives raise NotImplementedError. On a GPU where lasfast's
    kernels failed their check (see `lasfast.runtime.gpu_check`), PyTorch's compute the same.

    Args:
        model: any network whose own `forward`, apart from its modules, `torch.fx` can trace.
        images: a batch like those that it will run on, [N, C, H, W], on the model's device. The model must
            be one that `copy.deepcopy` takes. None runs it fused in both modes.

    Raises:
        TypeError: `model` is not a module, or `images` no tensor.
        ValueError: one of the above holds for the `forward` of `model` itself; the message says what.
    """
    return fuse(model, images, OnePass)
