"""The compiled module: which code it chooses, what it says of itself, what happens without it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lasfast.ir.activations import ACTIVATIONS
from lasfast.ir.precision import PRECISIONS
from lasfast.runtime import compiled

ROOT = Path(__file__).parents[2]
needs_module = pytest.mark.skipif(not compiled.available(), reason="lasfast's compiled module is not built")


@needs_module
def test_the_best_instruction_set_is_chosen_and_any_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LASFAST_ISA", raising=False)
    supported = compiled.load().isas_supported()
    assert supported[0] == "generic"
    # avx512_bf16 and neon_bf16 are taken where they were measured to pay, the others without asking.
    best = supported[-2:] if supported[-1].endswith("_bf16") else [supported[-1]]
    assert compiled.isa() in best
    assert compiled.isa() == compiled.isa()
    for name in supported:
        monkeypatch.setenv("LASFAST_ISA", name)
        assert compiled.isa() == name
        assert compiled.load().isa_names()[compiled.isa_number()] == name


@needs_module
def test_supported_instruction_sets_are_those_the_kernel_reports() -> None:
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        pytest.skip("no /proc/cpuinfo here")
    module = compiled.load()
    for name, flag in (
        ("avx2", "avx2"),
        ("avx512", "avx512f"),
        ("avx512_bf16", "avx512_bf16"),
        ("amx", "amx_bf16"),
        ("neon", "asimd"),
        ("neon_bf16", "bf16"),
    ):
        expected = flag in flags and name in module.isas_compiled()
        assert (name in module.isas_supported()) == expected


@needs_module
def test_an_unknown_instruction_set_is_an_error_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    from lasfast.ops import sliced_conv2d

    monkeypatch.setenv("LASFAST_ISA", "avx1024")
    known = "generic, avx2, avx512, avx512_bf16, amx, neon, neon_bf16"
    with pytest.raises(ValueError, match=f"LASFAST_ISA must be one of {known}, got 'avx1024'"):
        sliced_conv2d(torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 3, 3), 1, 1)


@needs_module
@pytest.mark.parametrize(
    ("built", "who"), [(["generic", "avx2"], "this machine"), (["generic"], "this build")]
)
def test_an_instruction_set_that_is_not_here_is_an_error(
    monkeypatch: pytest.MonkeyPatch, built: list[str], who: str
) -> None:
    class Lesser:
        def __getattr__(self, name: str) -> object:
            return getattr(module, name)

        def isas_supported(self) -> list[str]:
            return ["generic"]

        def isas_compiled(self) -> list[str]:
            return built

    module = compiled.load()
    monkeypatch.setattr(compiled, "_C", Lesser())
    monkeypatch.setenv("LASFAST_ISA", "avx2")
    with pytest.raises(
        ValueError, match=f"LASFAST_ISA must be one of generic, got 'avx2', which {who}.* lacks"
    ):
        compiled.isa()


@needs_module
def test_native_code_and_python_number_activations_and_dtypes_alike() -> None:
    module = compiled.load()
    assert module.activations == {name: spec.code for name, spec in ACTIVATIONS.items()}
    assert module.dtypes == {spec.dtype: spec.code for spec in PRECISIONS.values()}


@needs_module
def test_native_code_refuses_what_does_not_fit_instead_of_crashing() -> None:
    module = compiled.load()

    def params(**changes: object) -> object:
        sizes = {"sizes": (1, 1), "input": (2, 4, 4), "output": (2, 2, 2), "kernel": (3, 3), "stride": 1}
        strides = {f"{name}_stride": (1, 1, 1, 1) for name in ("input", "weight", "output")}
        return module.SlicedConv2dParams(**{**sizes, "padding": 0, **strides, **changes})

    for changes, text in (
        ({"stride": 0}, "stride must be at least 1"),
        ({"output": (2, 3, 2)}, "out_height does not follow"),
        ({"sizes": (1, 3)}, "c_in must be divisible by groups"),
        ({"input": (2, -4, 4)}, "sizes must not be negative"),
    ):
        assert module.sliced_conv2d_workspace_cpu(params(**changes), module.Pass.forward, 1) == 0
        with pytest.raises(ValueError, match=text):
            module.sliced_conv2d_forward_cpu(params(**changes), 0, 0, 0, 1, 0, 0)
    with pytest.raises(ValueError, match="threads must be at least 1"):
        module.sliced_conv2d_forward_cpu(params(), 0, 0, 0, 0, 0, 0)
    with pytest.raises(RuntimeError, match="lacks the instruction set"):
        module.sliced_conv2d_forward_cpu(params(), 0, 0, 0, 1, 99, 0)


def test_build_info_is_complete_and_serializable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LASFAST_ISA", raising=False)
    info = json.loads(json.dumps(compiled.build_info()))
    assert set(info) == {"available", "error", "compiler", "openmp", "isa", "cuda"}
    assert set(info["isa"]) == {"compiled", "supported", "selected"}
    assert set(info["cuda"]) == {"compiled", "archs", "runtime", "driver", "devices"}
    if info["available"]:
        assert set(info["isa"]["supported"]) <= set(info["isa"]["compiled"])
        assert info["isa"]["selected"] in info["isa"]["supported"]
    if info["cuda"]["compiled"]:
        assert info["cuda"]["archs"]
        assert re.fullmatch(r"\d+\.\d", info["cuda"]["runtime"])


@pytest.mark.parametrize(
    ("arch", "capability", "runs"),
    [
        ("80", (8, 0), True),
        ("80", (8, 6), True),
        ("86", (8, 0), False),
        ("89", (9, 0), False),
        ("90a", (9, 0), True),
        ("90a", (10, 0), False),
        ("90-virtual", (9, 0), True),
        ("90-virtual", (12, 1), True),
        ("90-virtual", (8, 9), False),
        ("90a-virtual", (10, 0), False),
        ("120", (12, 1), True),
        ("100f", (10, 3), True),
    ],
)
def test_which_gpus_run_which_code(arch: str, capability: tuple[int, int], runs: bool) -> None:
    assert compiled.arch_runs_on(arch, capability) is runs


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_without_the_module_everything_imports_and_only_its_use_fails() -> None:
    code = """
import sys
sys.modules["lasfast._C"] = None
import lasfast.nn, torch
from lasfast.runtime import compiled
info = compiled.build_info()
assert info["available"] is False and info["error"], info
try:
    compiled.load()
except ImportError as error:
    print(error)
print(lasfast.nn.SlicedConv2d(3, 4, 3)(torch.zeros(1, 3, 5, 5)).shape)
"""
    out = run_python(code)
    assert "lasfast's compiled module lasfast._C does not load" in out
    assert "pip install ." in out
    assert "torch.Size([1, 4, 3, 3])" in out


@needs_module
def test_torch_and_the_module_share_one_openmp_library() -> None:
    if not Path("/proc/self/maps").exists():
        pytest.skip("no /proc here")
    code = """
import lasfast.runtime.compiled
print(*{line.split()[-1] for line in open("/proc/self/maps") if "libgomp" in line}, sep="\\n")
"""
    assert len(run_python(code).split()) <= 1


def test_native_sources_know_neither_python_nor_torch() -> None:
    sources = [p for p in (ROOT / "csrc").rglob("*.*") if "bindings" not in p.parts]
    assert len(sources) > 10
    for path in sources:
        assert not re.search(r"#include\s*[<\"](Python|pybind11|torch|ATen|c10)", path.read_text()), path


def test_files_for_one_instruction_set_share_no_code_with_the_rest() -> None:
    """What they include or define could be linked in their variant, and then run on every machine."""
    cpu = ROOT / "csrc/cpu"
    public = [ROOT / "csrc/include/lasfast" / name for name in ("activation.h", "isa.h")]
    shared = [cpu / name for name in ("planes.h", "vec.h", "winograd_points.h")]
    headers = [*public, *shared, *cpu.glob("*_kernels.h")]
    own = {f'"{"lasfast" if header in public else ".."}/{header.name}"' for header in headers}
    for path in (cpu / "isa").iterdir():
        text = path.read_text()
        allowed = {"<cstdint>", "<immintrin.h>", "<arm_neon.h>", *own}
        allowed |= {f'"{other.name}"' for other in path.parent.glob("*.h")}
        assert set(re.findall(r"#include\s*(\S+)", text)) <= allowed, path
        assert "std::" not in text, path
    for header in headers:
        allowed = {"<cstdint>", '"vec.h"', '"lasfast/activation.h"'}
        assert set(re.findall(r"#include\s*(\S+)", header.read_text())) <= allowed, header


def test_cuda_kernels_reach_the_chip_through_one_header() -> None:
    primitives = r"__syncthreads|__shfl|threadIdx|blockIdx|__shared__|__global__|<<<|cuda_runtime|asm\s*\("
    door = {"device.cuh", "device.cu", "device_host.h", "device_host.cpp"}
    for path in (ROOT / "csrc/cuda").iterdir():
        if path.name not in door:
            assert not re.search(primitives, path.read_text()), path
