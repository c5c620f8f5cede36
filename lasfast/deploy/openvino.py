"""The format openvino, for Intel's processors, GPUs and NPUs: FILE.xml, and its weights in FILE.bin."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from lasfast.deploy.card import ModelCard

CARD = "lasfast"
"""The name of the model card among the model's runtime information."""


def write(program: ExportedProgram, card: ModelCard, path: Path) -> None:
    """Write a program as OpenVINO's representation, in full precision, for any number of images."""
    import openvino

    model = openvino.convert_model(program)
    model.reshape([-1, *card.image_shape])
    model.input().set_names({"images"})
    model.output().set_names({"logits"})
    model.set_rt_info(card.to_text(), [CARD])
    openvino.save_model(model, path, compress_to_fp16=False)


def load(path: Path) -> tuple[Callable[[Tensor], Tensor], str]:
    """Return the function of images that OpenVINO makes of a file on the CPU, and the text of its card."""
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    card = model.get_rt_info([CARD]).astype(str) if model.has_rt_info([CARD]) else ""
    threads = torch.get_num_threads()
    options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(model, "CPU", options)

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(compiled(images.numpy())[0].copy())

    return run, card
