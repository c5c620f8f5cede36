"""`lasfast check`: compare lasfast's kernels with PyTorch on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import typer
from rich.text import Text

from lasfast import selfcheck
from lasfast.cli.display import make_console
from lasfast.cli.options import command
from lasfast.report.tables import make_table
from lasfast.runtime import compiled, gpu_check


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """Options of `lasfast check`."""

    device: Annotated[
        str, typer.Option(help="cpu, cuda, cuda:1, or auto: the processor and every GPU with kernels.")
    ] = "auto"


def register(app: typer.Typer) -> None:
    """Add the command to the app."""

    @command(app, "check", CheckOptions)
    def check(options: CheckOptions) -> None:
        """Check lasfast's kernels against PyTorch on this machine; exit status 1 if any is wrong.

        Small supernets are calibrated and predicted, and operators trained, by every instruction set of the
        processor, or in every way and as CUDA graphs on a GPU, which takes some seconds. Errors are relative:
        fp32 may differ by 1e-4, and bf16 by twice the error of PyTorch's bf16 and a rounding more, in norm;
        each element has a bound, too. The same work has to give the same bits twice. The result of a GPU is
        remembered: on one that failed, lasfast runs PyTorch's operators unless its own are asked for by name.

        **Examples**

        lasfast check

        lasfast check --device cuda:1
        """
        compiled.load()  # raises an error that says why, if it is not there
        failed = [text for device in _devices(options.device) for text in _check(device)]
        line, status = gpu_check.conclusion(failed)
        typer.echo(line)  # a plain one, which says all
        if status:
            raise typer.Exit(status)


def _devices(text: str) -> list[torch.device]:
    """Return the devices to check; ValueError where there is no such device, or no kernels for it."""
    gpus = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    if text == "auto":
        usable = [index for index in gpus if compiled.cuda_runs_on(index)]
        return [torch.device("cpu"), *(torch.device("cuda", index) for index in usable)]
    if text == "cpu":
        return [torch.device("cpu")]
    kind, _, number = text.partition(":")
    if kind != "cuda" or not (number.isdecimal() or text == "cuda"):
        raise ValueError(f"--device must be auto, cpu, cuda, or a GPU as cuda:1, got {text!r}")
    index = int(number or 0)
    if index not in gpus:
        raise ValueError(f"--device {text}: torch finds {len(gpus)} usable NVIDIA GPU(s) here")
    why = compiled.why_no_cuda(index)
    if why is not None:
        raise ValueError(f"--device {text}: {why}")
    return [torch.device("cuda", index)]


def _check(device: torch.device) -> list[str]:
    """Check a device, print the results, and return the failures. The result of a GPU is kept."""
    cuda = device.type == "cuda"
    title = f"cpu, which uses {compiled.isa()}"
    if cuda:
        torch.cuda.set_device(device)  # where CUDA graphs are recorded
        title = f"{device}, {torch.cuda.get_device_name(device)}"
    console = make_console()
    results: list[selfcheck.Result] = []
    with console.status("") as status:

        def begin(case: str) -> None:
            status.update(f"checking {case}")
            if not console.is_terminal:
                typer.echo(f"checking {case}")  # so that a log says where it ended

        try:
            results += selfcheck.run(device, begin)
        except torch.OutOfMemoryError as error:
            raise OSError(f"{device} has too little memory for the check now: {error}") from error
    table = make_table(title, "what", "by", "error", "allowed", "")
    for one in results:
        mark = Text("FAILED", style="red") if one.problem else Text("ok", style="green")
        table.add_row(one.name, ", ".join(one.ways), f"{one.error:.1e}", f"{one.allowed:.1e}", mark)
    console.print(table)
    failures = [f"{one.name} ({one.problem})" for one in results if one.problem]
    if cuda:
        gpu_check.keep(device.index, gpu_check.CheckResult(not failures, "; ".join(failures)))
    return failures
