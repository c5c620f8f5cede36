"""`lasfast info`: what is installed, what was compiled, what this machine has."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from lasfast import costs
from lasfast.cli.model import check_for_model, check_without_model, read_supernet
from lasfast.cli.options import ModelOptions, command, names_of, panel, refuse
from lasfast.cli.prefix_tree import PrefixTreeOptions, describe_prefix_tree
from lasfast.constraints import Bound
from lasfast.runtime import gpu_check
from lasfast.runtime.machine import gather


@dataclass(frozen=True, kw_only=True)
class InfoOptions(ModelOptions, PrefixTreeOptions):
    """Options of `lasfast info`."""

    num_classes: Annotated[int, panel("Model", "Classes of the network.")] = 10

    json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False
    prefix_tree: Annotated[
        str | None,
        panel(
            "Supernet",
            "Say how these architectures, such as 3-4-5,2-5-5, would run: layers shared, kernels.",
            "--prefix-tree",
            "--plan",
        ),
    ] = None


def register(app: typer.Typer) -> None:
    """Add the command to the app."""

    @command(app, "info", InfoOptions)
    def info(options: InfoOptions) -> None:
        """Say what is installed, what was compiled and what this machine has.

        **Examples**

        lasfast info

        lasfast info --json | jq .native.isa.selected

        lasfast info --prefix-tree 3-4-5,3-5-4,4-4-4 --supernet residual

        lasfast info --model timm:resnet18 --image-size 224 --num-classes 1000
        """
        if options.model is not None:
            check_for_model(options)
            refuse(options, ["json", "prefix_tree"], "is not for a --model")
            typer.echo(_describe_model(options))
            return
        check_without_model(options)
        refuse(options, ["num_classes"], "is of a --model, and none is given")
        if options.prefix_tree is not None:
            refuse(options, ["json"], "is not for a --prefix-tree")
            _print_lines(describe_prefix_tree(options, options.prefix_tree))
            return
        refuse(options, names_of(PrefixTreeOptions), "is of a --prefix-tree or a --model, and none is given")
        facts = gather()
        for index, device in enumerate(facts["native"]["cuda"]["devices"]):
            device["check"] = _checked(index) if device["supported"] else None
        if options.json:
            typer.echo(json.dumps(facts, indent=1))
            return
        native, cuda = facts["native"], facts["native"]["cuda"]
        lines = [
            ("lasfast", facts["lasfast"]),
            ("python", facts["python"]),
            ("processor", f"{facts['processor']}, {facts['cores']} cores"),
            ("torch", facts["torch"]),
            ("torch threads", str(facts["threads"])),
            ("torchvision", facts["torchvision"]),
            ("compiled module", native["compiler"] if native["available"] else f"missing: {native['error']}"),
            ("CPU kernels", _listed(native["isa"]["compiled"])),
            ("  of these here", _listed(native["isa"]["supported"])),
            ("  used now", native["isa"]["selected"] or "none (PyTorch alone)"),
            ("CUDA kernels", _listed(cuda["archs"]) if cuda["compiled"] else "not compiled"),
            ("  CUDA runtime", cuda["runtime"] or "none"),
            ("  CUDA driver", cuda["driver"] or "none"),
            ("GPUs", _listed([_gpu(device) for device in cuda["devices"]])),
        ]
        _print_lines(lines)


def _describe_model(options: InfoOptions) -> str:
    """Return text that says what of a network may vary, and what it costs at most and at least."""
    size = (options.image_size, options.image_size)
    supernet = read_supernet(options, (3, *size), options.num_classes, options.vary, 0)
    lines = [str(supernet)]
    for name in ("flops", "params"):
        cost = costs.functions(supernet, size)[name]
        least = cost(tuple(choices[0] for choices in supernet.space.options))
        low, high = (Bound(name).quantity(one) for one in (least, cost(supernet.full)))
        lines.append(f"{name}: {low} to {high}, the network's own")
    return "\n".join(lines)


def _print_lines(lines: list[tuple[str, str]]) -> None:
    for name, value in lines:
        typer.echo(f"{name:<16} {value}")


def _listed(values: list[str]) -> str:
    return ", ".join(values) or "none"


def _gpu(device: dict[str, Any]) -> str:
    return f"{device['name']} ({device['capability']}, {device['check'] or 'no kernels for it'})"


def _checked(index: int) -> str:
    """Return what is known of the kernels on a GPU."""
    known = gpu_check.known(index)
    return "not checked yet" if known is None else str(known)
