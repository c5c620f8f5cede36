"""Checkpoints: safetensors files with a description and a digest, each written in one step.

Any safetensors reader opens them. The metadata has one entry, "lasfast": JSON with what was saved beside the
tensors ("content"), and a blake2b digest over that and every tensor's name, type, shape and bytes, so that a
damaged file is found before anything of it is used.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as deserialize
from safetensors.torch import save as serialize

from lasfast.core.files import atomic_write

FORMAT = 1


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; says which file, what is wrong and what to do."""


def save(path: str | os.PathLike[str], tensors: dict[str, torch.Tensor], metadata: dict[str, Any]) -> None:
    """Write `tensors` (any device) and `metadata` (JSON values) to `path`, replacing it in one step.

    A kill at any moment leaves the old file or the new one. Equal content gives equal bytes.
    """
    held = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    content = {"format": FORMAT, **metadata}
    text = json.dumps({"blake2b": _digest_all(held, content), "content": content}, sort_keys=True)
    # A single entry, since safetensors writes several in no fixed order.
    with atomic_write(path) as file:
        file.write(serialize(held, metadata={"lasfast": text}))


def load(path: str | os.PathLike[str]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the tensors (on the CPU) and metadata of a checkpoint.

    Raises FileNotFoundError where there is none, CheckpointError where it is damaged or not one of ours.
    """
    try:
        data = Path(path).read_bytes()  # safetensors itself opens no path that is not UTF-8
        tensors = dict(sorted(deserialize(data).items()))
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        raise _damaged(path, f"it does not read as safetensors ({error})") from error
    if "lasfast" not in header:
        raise _damaged(path, "its metadata has no entry 'lasfast' (if it is a checkpoint of lasfast at all)")
    try:
        entry = json.loads(header["lasfast"])
        content, noted = entry["content"], entry["blake2b"]
    except (ValueError, TypeError, KeyError) as error:
        raise _damaged(path, "its metadata is not what lasfast writes") from error
    if _digest_all(tensors, content) != noted:
        raise _damaged(path, "its content does not have the digest noted in it")
    if content.pop("format") != FORMAT:
        raise CheckpointError(
            f"{path} is of another checkpoint format than {FORMAT}: use the version that wrote it"
        )
    return tensors, content


def digest(tensors: dict[str, torch.Tensor], text: str = "") -> str:
    """Return a blake2b digest, in hexadecimal, of tensors (on any device, by order of names) and a text."""
    state = hashlib.blake2b(text.encode(), digest_size=32)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        state.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        state.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()


def _digest_all(tensors: dict[str, torch.Tensor], content: dict[str, Any]) -> str:
    return digest(tensors, json.dumps(content, sort_keys=True))


def _damaged(path: str | os.PathLike[str], problem: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is damaged: {problem}. Put back a copy of it; or delete it, and resuming trains again "
        "from the start to the same weights, keeping the measurements"
    )
