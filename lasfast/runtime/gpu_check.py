"""Checks once whether lasfast's CUDA kernels compute on a GPU of this machine what they should.

A new GPU, driver, torch or build is checked before kernels run there that nobody asked for by name. The check
is a command in a process of its own, where a crash or a hang harms nothing; it ends as `conclusion` says. Its
result is kept beside the files of `lasfast.runtime.autotune`. ``LASFAST_CHOICE`` other than ``measure`` asks
by name, and so leaves the check out.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.utils.data import get_worker_info

from lasfast._version import __version__
from lasfast.core import cache, entry_points
from lasfast.runtime import autotune, compiled

logger = logging.getLogger("lasfast")

SECONDS = 120.0  # that the check may take; it takes about ten
FAILED = "FAILED: "  # how the last line begins of a check that found something wrong
FAILED_STATUS = 1  # and its exit status
NOT_STARTED = 127  # as a shell has it
OF_RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")  # torchrun's, which are not the check's
ENDED_BY_OTHERS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True)
class CheckResult:
    """The result of checking a GPU.

    Attributes:
        passed: whether the kernels compute what they should.
        why: why it failed; "" if it passed.
        log: the file of its whole output; "" if it passed, or ran in this process.
    """

    passed: bool
    why: str = ""
    log: str = ""

    def __str__(self) -> str:
        if self.passed:
            return "checked, agrees with PyTorch"
        return f"check failed: {self.why}" + (f" (see {self.log})" if self.log else "")


_results: dict[int, CheckResult] = {}
"""The results that this process knows, by the index of the GPU."""


def conclusion(failures: Sequence[str]) -> tuple[str, int]:
    """Return the last line and the exit status with which a check ends that found these failures."""
    if failures:
        return f"{FAILED}{'; '.join(failures)}", FAILED_STATUS
    return "all agree with PyTorch", 0


def passed(device: int) -> bool:
    """Return whether kernels may run unasked on a GPU that they were built for; a warning says once why not.

    Where nobody has checked yet, this does, but not while a CUDA graph is recorded nor in a data loader's
    worker: there, what is not known to be right does not run.
    """
    if not autotune.is_measuring():
        return True
    result = _results.get(device)
    if result is None:
        cannot = autotune.is_capturing(torch.device("cuda", device)) or get_worker_info() is not None
        result = known(device) if cannot else _check_once(device)
        if result is None:
            return False
        _results[device] = result
        if not result.passed:
            logger.warning(
                "lasfast runs on PyTorch's operators on GPU %d, %s: its kernels' %s; `lasfast check --device "
                "cuda:%d` checks again",
                device,
                torch.cuda.get_device_name(device),
                result,
                device,
            )
    return result.passed


def known(device: int) -> CheckResult | None:
    """Return what an earlier check of this GPU found, None where there was none."""
    file = _file(device)
    try:
        return CheckResult(**json.loads(file.read_text(encoding="utf-8"))["result"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        logger.warning("%s cannot be read (%s): checking the kernels anew", file, error)
        return None


def keep(device: int, result: CheckResult) -> None:
    """Keep what a check of this GPU found, for later processes."""
    cache.save_json(_file(device), {"gpu": _identity(device), "result": asdict(result)})


def log_file(device: int) -> Path:
    """Return the file in which a check of this GPU leaves its output."""
    return _file(device).with_suffix(".log")


def _check_once(device: int) -> CheckResult:
    """Return what the check finds that this process makes, or another that does so now."""
    with _lock(_file(device).with_suffix(".lock")):
        return known(device) or _check(device)


def _check(device: int) -> CheckResult:
    """Return what the check finds in a process of its own, and keep it if it holds tomorrow."""
    logger.info(
        "checking lasfast's kernels on %s, once; it takes some seconds", torch.cuda.get_device_name(device)
    )
    log = log_file(device)
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.touch()
    except OSError:
        log = Path(tempfile.mkstemp(prefix="lasfast-check-", suffix=".log")[1])
    command = [sys.executable or "python3", *entry_points.names(entry_points.CHECK_COMMAND)]
    status = _run([*command, f"cuda:{device}"], log)
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
    remember = True
    if status == 0:
        result = CheckResult(True)
    elif status is None:
        result = CheckResult(False, f"not done after {SECONDS:.0f} s, at: {last}", str(log))
    elif status == FAILED_STATUS and last.startswith(FAILED):
        result = CheckResult(False, last.removeprefix(FAILED), str(log))
    elif status < 0 and -status not in ENDED_BY_OTHERS:
        result = CheckResult(
            False, f"ended by signal {-status} ({signal.strsignal(-status)}), at: {last}", str(log)
        )
    else:
        # Memory that is short today, or somebody who ends processes, says nothing about tomorrow.
        result, remember = CheckResult(False, f"it could not be made: {last}", str(log)), False
    if remember:
        keep(device, result)
    return result


def _run(command: list[str], log: Path) -> int | None:
    """Run a command with its output in a file; return its exit status, None where it takes too long."""
    own = Path(__file__).parents[2]
    path = os.pathsep.join([str(own), *(os.path.abspath(one) for one in sys.path)])
    environment = {name: value for name, value in os.environ.items() if name not in OF_RANKS}
    place = str(cache.directory().absolute())
    environment |= {"LASFAST_CHOICE": "native", "LASFAST_CACHE": place, "PYTHONPATH": path}
    with open(log, "wb") as output:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, cwd=own
            )
        except OSError as error:
            output.write(str(error).encode())
            return NOT_STARTED
        try:
            return process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            return None
        finally:
            process.kill()
            with suppress(subprocess.TimeoutExpired):  # one that waits for a broken driver cannot be ended
                process.wait(5)


@contextmanager
def _lock(file: Path) -> Iterator[None]:
    """Let one process at a time into the block; any, where files cannot be locked."""
    with ExitStack() as stack:
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            fcntl.flock(stack.enter_context(open(file, "ab")), fcntl.LOCK_EX)
        yield


def _file(device: int) -> Path:
    text = json.dumps(_identity(device))
    return cache.directory() / f"check-{hashlib.blake2b(text.encode(), digest_size=6).hexdigest()}.json"


def _identity(device: int) -> Mapping[str, str]:
    """Return what a result holds for: anything else has a result of its own."""
    more = {"tensor maps": "wanted"} if compiled.tensor_maps_wanted() else {}
    return more | {
        "name": torch.cuda.get_device_name(device),
        "capability": "{}.{}".format(*torch.cuda.get_device_capability(device)),
        "driver": _driver(),
        "torch": torch.__version__,
        "lasfast": __version__,
        "module": compiled.digest(),
    }


def _driver() -> str:
    """Return the driver's version, and the CUDA that it knows."""
    try:
        version = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").split("\n")[0]
    except OSError:
        version = ""
    return f"{version} CUDA {compiled.load().cuda_driver_version()}"
