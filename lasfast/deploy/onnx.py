"""The format onnx, which ONNX Runtime, TensorRT and many others read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from lasfast.deploy.card import ModelCard

CARD = "lasfast"
"""The name of the model card among the metadata."""


def write(program: ExportedProgram, card: ModelCard, path: Path) -> None:
    """Write a program as ONNX, with an input `images`, an output `logits` and any number of images."""
    translated = torch.onnx.export(
        program,
        dynamo=True,
        verbose=False,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: "batch"},),
    )
    assert translated is not None
    translated.model.metadata_props[CARD] = card.to_text()
    translated.save(path)


def load(path: Path) -> tuple[Callable[[Tensor], Tensor], str]:
    """Return the function of images that ONNX Runtime makes of a file, and the text of its card."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        (logits,) = session.run(None, {"images": images.numpy()})
        return torch.from_numpy(logits)

    return run, session.get_modelmeta().custom_metadata_map.get(CARD, "")
