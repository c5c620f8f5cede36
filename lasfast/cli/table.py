"""`lasfast table`: make a table to search in of a published one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from lasfast.cli.display import make_console
from lasfast.cli.options import command, panel
from lasfast.study.published import read_published


@dataclass(frozen=True, kw_only=True)
class PublishedOptions:
    """Options of `lasfast table`."""

    source: Annotated[Path, typer.Argument(help="The published file, or folder of NATS-Bench.")]
    output: Annotated[Path, typer.Argument(help="The .npz file to write.")]
    epochs: Annotated[
        int | None,
        panel("Table", "How long the networks were trained (default: the longest training there is)."),
    ] = None


def register(app: typer.Typer) -> None:
    """Add the command to the app."""

    @command(app, "table", PublishedOptions)
    def convert_table(options: PublishedOptions) -> None:
        """Make a table to search in of NAS-Bench-101, NAS-Bench-201 or NATS-Bench, as they are downloaded.

        **Examples**

        lasfast table NATS-tss-v1_0-3ffb9-simple nats.npz

        lasfast table NAS-Bench-201-v1_1-096897.pth nb201.npz --epochs 200

        lasfast table nasbench_only108.tfrecord nb101.npz

        lasfast search auto --table nats.npz --accuracy-column "valid[cifar100]"
        --test-column "test[cifar100]" --cost-columns "latency=latency[cifar100]" --key-column key
        """
        if options.output.suffix != ".npz":
            raise ValueError(f"OUTPUT must be an .npz file, got {options.output}")
        columns = read_published(options.source, options.epochs)
        np.savez_compressed(options.output, **columns)  # type: ignore[arg-type]  # names are of arrays
        shapes = ", ".join(f"{name} {list(column.shape)}" for name, column in columns.items())
        make_console().print(f"{options.output}: {len(columns['arch'])} networks; {shapes}", soft_wrap=True)
