"""What the CUDA compiler makes of the kernels: no spilled registers, and the instructions that are meant."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from benchmarks import inspect_kernels

RECORD = Path(__file__).parents[1] / "benchmarks" / "results" / "kernels.json"
KERNELS = ["schedule_conv", "schedule_conv_mapped", "schedule_planes", "schedule_pack", "schedule_resident"]
KERNELS += ["bn_act", "bn_act_rows", "sgd", "conv2d_nhwc_windows", "conv2d_nhwc_grad_weight"]
KERNELS += ["conv2d_nhwc_pack", "merge_nhwc", "depthwise_nhwc_windows", "depthwise_nhwc_grad_weight"]
KERNELS += ["schedule_tally"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc"),
]


@pytest.fixture(scope="module", params=inspect_kernels.ARCHS)
def arch(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def compiled(arch: str, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Kernel file -> (its machine code, what ptxas says of it)."""
    results = {}
    for name in KERNELS:
        target = tmp_path_factory.mktemp(f"sm_{arch}") / f"{name}.cubin"
        results[name] = target, inspect_kernels.compile_kernels(name, arch, target)
    return results


@pytest.mark.parametrize("name", KERNELS)
def test_nothing_is_spilled_or_warned_of(compiled: dict, name: str) -> None:
    _, report = compiled[name]
    spills = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", report)
    assert spills
    assert set(spills) == {("0", "0", "0")}
    assert "warning" not in report


def functions(cubin: Path) -> dict[str, str]:
    """Mangled name -> its instructions."""
    if inspect_kernels.disassembler() is None:
        pytest.skip("needs cuobjdump")
    return inspect_kernels.functions(cubin)


@pytest.mark.parametrize("name", inspect_kernels.FILES)
def test_main_loops_are_no_slower_than_recorded(compiled: dict, arch: str, name: str) -> None:
    """By the blocks that run at once, and the share of the products' rate that instructions leave."""
    record = json.loads(RECORD.read_text())
    if record["nvcc"] != inspect_kernels.version():
        pytest.skip(f"the record is of nvcc {record['nvcc']}")
    cubin, report = compiled[name]
    known = {one["name"]: one for one in record["kernels"] if one["arch"] == arch}
    found = inspect_kernels.inspect(arch, functions(cubin), report)
    assert found or (name == "schedule_conv_mapped" and arch != "90a")
    for kernel in found:
        assert kernel.blocks >= known[kernel.name]["blocks"], kernel
        assert kernel.bound >= known[kernel.name]["bound"] - 0.02, kernel


@pytest.mark.parametrize(
    ("name", "counts"),
    [("schedule_conv", (14, 7)), ("conv2d_nhwc_windows", (16, 8)), ("conv2d_nhwc_grad_weight", (12, 6))],
)
def test_convolutions_run_on_tensor_cores_and_copy_16_bytes_asynchronously(
    compiled: dict, name: str, counts: tuple[int, int]
) -> None:
    kernels = functions(compiled[name][0])
    tensor = {kernel: code for kernel, code in kernels.items() if "TensorProduct" in kernel}
    exact = {kernel: code for kernel, code in kernels.items() if "ExactProduct" in kernel}
    assert (len(tensor), len(exact)) == counts
    for kernel, code in (tensor | exact).items():
        gathers = name == "conv2d_nhwc_grad_weight" and "Lb0E" in kernel  # both of its operands
        assert gathers or re.search(r"LDGSTS\S*\.128", code), kernel
    for kernel, code in tensor.items():
        assert "HMMA" in code
        # Transposed matrices of 4-byte elements are not loaded together.
        assert "LDSM" in code or (name == "conv2d_nhwc_grad_weight" and "bfloat16" not in kernel)
    for code in exact.values():
        assert "HMMA" not in code
        assert code.count("FFMA") >= 128


@pytest.mark.parametrize(
    ("name", "count"), [("schedule_conv", 3), ("conv2d_nhwc_windows", 2), ("conv2d_nhwc_grad_weight", 2)]
)
def test_warpgroups_multiply_on_hopper_alone(compiled: dict, arch: str, name: str, count: int) -> None:
    """And, while they do, nothing waits for them or touches their sums: ptxas would warn of it."""
    cubin, report = compiled[name]
    kernels = {kernel: code for kernel, code in functions(cubin).items() if "warpgroup_" in kernel}
    assert len(kernels) == count
    for kernel, code in kernels.items():
        if arch == "90a":
            assert re.search(r"HGMMA\S*BF16", code), kernel
            assert re.search(r"LDGSTS\S*\.128", code), kernel
            assert "FENCE.VIEW.ASYNC" in code
            assert "HMMA" not in code
        else:
            assert "MMA" not in code
    assert "C7510" not in report


def test_hopper_copies_by_tensor_maps_what_warpgroups_multiply(compiled: dict, arch: str) -> None:
    """By one thread's instructions; and nothing is copied by the threads that multiply."""
    cubin, report = compiled["schedule_conv_mapped"]
    kernels = functions(cubin)
    assert len(kernels) == 3
    for kernel, code in kernels.items():
        if arch == "90a":
            for instruction in ("UTMALDG.4D.IM2COL", "UTMALDG.2D", "HGMMA.64x", "SYNCS.PHASECHK"):
                assert instruction in code, kernel
            assert len(re.findall("UTMALDG", code)) == 2
            assert "LDGSTS" not in code
        else:
            assert "MMA" not in code
    assert "C7510" not in report


def test_resident_convolutions_run_on_tensor_cores_and_copy_weights_asynchronously(compiled: dict) -> None:
    """Operations are functions that the kernels call, in their text or beside it."""
    code = compiled["schedule_resident"][0]
    kernels = functions(code)
    assert len([name for name in kernels if "ResidentArgs" in name]) == 3  # bf16, TF32, exact
    text = "".join(kernels.values())
    for instruction in (r"HMMA\S*BF16", r"HMMA\S*TF32", r"FFMA", r"LDSM", r"LDGSTS\S*\.128", r"STS\S*\.128"):
        assert re.search(instruction, text), instruction


def test_depthwise_convolutions_load_and_store_16_bytes(compiled: dict) -> None:
    kernels = functions(compiled["depthwise_nhwc_windows"][0])
    wide = {name: code for name, code in kernels.items() if "Li16E" in name}
    assert (len(kernels), len(wide)) == (29, 14)
    for name, code in wide.items():
        assert re.search(r"LDG\S*\.128", code), name
        assert re.search(r"STG\S*\.128", code), name
    kernels = functions(compiled["depthwise_nhwc_grad_weight"][0])
    wide = {name: code for name, code in kernels.items() if "Li16E" in name}
    assert (len(kernels), len(wide)) == (20, 8)
    for name, code in wide.items():
        assert re.search(r"LDG\S*\.128", code), name


def test_other_operations_load_and_store_16_bytes(compiled: dict) -> None:
    for name, code in functions(compiled["schedule_planes"][0]).items():
        if "Input" not in name:  # it reads fp32 planes
            assert re.search(r"LDG\S*\.128", code), name
        assert re.search(r"STG\S*\.128", code), name


def test_batch_norm_loads_and_stores_16_bytes(compiled: dict) -> None:
    kernels = functions(compiled["bn_act_rows"][0])
    wide = {name: code for name, code in kernels.items() if re.search("Li[48]E", name)}
    assert len(wide) == 8
    for name, code in wide.items():
        assert re.search(r"LDG\S*\.128", code), name
        assert "statistics" in name or re.search(r"STG\S*\.128", code), name
