"""What the CUDA compiler makes of the kernels: no spilled registers, and the instructions that are meant."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

CUDA = Path(__file__).parents[1] / "csrc" / "cuda"
KERNELS = ["schedule_conv", "schedule_planes", "schedule_merge", "schedule_pack", "schedule_resident"]
KERNELS += ["bn_act", "bn_act_rows", "sgd", "conv2d_nhwc_windows", "conv2d_nhwc_grad_weight"]
KERNELS += ["conv2d_nhwc_pack", "merge_nhwc", "depthwise_nhwc_windows", "depthwise_nhwc_grad_weight"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc"),
]


def disassembler() -> str | None:
    """cuobjdump, of the CUDA toolkit or as Triton brings it."""
    found = shutil.which("cuobjdump")
    spec = find_spec("triton")
    if found is None and spec is not None and spec.origin is not None:
        brought = Path(spec.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        found = str(brought) if brought.exists() else None
    return found


@pytest.fixture(scope="module", params=["80", "90a"])
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Kernel file -> (its machine code, what ptxas says of it)."""
    results = {}
    for name in KERNELS:
        target = tmp_path_factory.mktemp(f"sm_{request.param}") / f"{name}.cubin"
        flags = [f"-arch=sm_{request.param}", "-std=c++17", "-cubin", "-Xptxas", "-v"]
        include = ["-I", str(CUDA.parent / "include")]
        command = ["nvcc", *flags, *include, str(CUDA / f"{name}.cu"), "-o", str(target)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        results[name] = target, done.stdout + done.stderr
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
    tool = disassembler()
    if tool is None:
        pytest.skip("needs cuobjdump")
    done = subprocess.run([tool, "-sass", str(cubin)], capture_output=True, text=True, check=True)
    _, *parts = done.stdout.split("Function : ")
    return {part.partition("\n")[0].strip(): part for part in parts}


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


@pytest.mark.parametrize(("name", "count"), [("schedule_conv", 3), ("conv2d_nhwc_windows", 2)])
def test_warpgroups_multiply_on_hopper_alone(compiled: dict, name: str, count: int) -> None:
    """And, while they do, nothing waits for them or touches their sums: ptxas would warn of it."""
    cubin, report = compiled[name]
    kernels = {kernel: code for kernel, code in functions(cubin).items() if "warpgroup_" in kernel}
    assert len(kernels) == count
    for kernel, code in kernels.items():
        if cubin.parent.name.startswith("sm_90a"):
            assert re.search(r"HGMMA\S*BF16", code), kernel
            assert re.search(r"LDGSTS\S*\.128", code), kernel
            assert "FENCE.VIEW.ASYNC" in code
            assert "HMMA" not in code
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
