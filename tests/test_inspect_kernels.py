"""The main loop that `benchmarks/inspect_kernels.py` finds in disassembled code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks import inspect_kernels
from benchmarks.inspect_kernels import PRODUCTS, Described, blocks_at_once, main_loop, registers_of

LINES = """
MOV R1, c[0x0][0x28]
HMMA.16816.F32.BF16 R4, R8, R12, R4
@P0 BRA 0x00
LDGSTS.E.128 [R1], desc[UR10][R2.64], P1
@P0 BRA 0x70
IADD3 R1, R1, 0x1, RZ
MOV R5, R6
HMMA.16816.F32.BF16 R4, R8, R12, R4
@!P1 BRA 0xc0
LDS.128 R20, [R4]
FFMA R20, R20, R21, R22
STS.128 [R4], R20
HMMA.16816.F32.BF16 R16, R8, R14, R16
@!P2 BRA 0x30
EXIT
"""


def code() -> str:
    """As cuobjdump writes it."""
    lines = [line for line in LINES.splitlines() if line]
    return "".join(f"        /*{16 * at:04x}*/   {line} ;   /* 0x00 */\n" for at, line in enumerate(lines))


@pytest.mark.parametrize(("avoided", "instructions"), [((), 11), (("STS",), 8), (("STS", "IADD3"), 6)])
def test_the_loop_with_the_most_products_is_counted_along_its_longest_way(
    avoided: tuple[str, ...], instructions: int
) -> None:
    assert main_loop(code(), PRODUCTS, avoided) == (instructions, 2, 2 * 16 * 8 * 16)


def test_code_without_loops_has_none() -> None:
    assert main_loop("/*0000*/  EXIT ;", PRODUCTS, ()) == (0, 0, 0)


def test_a_kernel_is_described_by_its_symbol() -> None:
    start = "_ZN7lasfast12_GLOBAL__N_1"
    described = Described.of(f"{start}14warpgroup_convI13__nv_bfloat16Li256ELi128EEEvNS_8PassArgsE")
    assert described == Described(
        "evaluation, warpgroups, 256x128", "warpgroups", 4 * 384 * 128 + 3120, 1 << 15
    )
    described = Described.of(f"{start}7windowsIfLi32ELb0ENS_12ExactProductEEEvNS_11WindowsArgsE")
    assert described == Described("training, exact, 128x32, gathered", "exact", 4 * 160 * 64 + 3120, 1 << 12)
    described = Described.of(f"{start}17warpgroup_windowsI13__nv_bfloat16Li128EEEvNS_11WindowsArgsE")
    assert described == Described(
        "training, warpgroups, 128x128", "warpgroups", 3 * 256 * 128 + 3120, 1 << 14
    )
    described = Described.of(f"{start}21warpgroup_grad_weightI13__nv_bfloat16Li64EEEvNS_14GradWeightArgsE")
    name = "gradient of weights, warpgroups, 128x64"
    assert described == Described(name, "warpgroups", 4 * 192 * 128 + 4104, 1 << 13, batched=True)
    described = Described.of(f"{start}11mapped_convILi128ELi64EEEvNS_8PassArgsE")
    assert described == Described(
        "evaluation, tensor maps, 128x64", "tensor maps", 4 * 192 * 128, 1 << 13, threads=288
    )
    assert Described.of(f"{start}5mergeENS_8PassArgsE") is None


def test_blocks_are_bounded_by_registers_and_shared_memory() -> None:
    assert blocks_at_once(128, 68 << 10, 228 << 10) == 2
    assert blocks_at_once(129, 68 << 10, 228 << 10) == 1
    assert blocks_at_once(62, 40 << 10, 164 << 10) == 4
    assert blocks_at_once(62, 68 << 10, 164 << 10) == 2
    assert [blocks_at_once(registers, 68 << 10, 228 << 10, 288) for registers in (112, 113)] == [2, 1]


def test_registers_are_read_from_the_compilers_report() -> None:
    report = """ptxas info    : Compiling entry function 'one' for 'sm_80'
ptxas info    : Function properties for one
    0 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 126 registers, used 1 barriers, 384 bytes cmem[0]
ptxas info    : Compiling entry function 'two' for 'sm_80'
ptxas info    : Function properties for two
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers"""
    assert registers_of(report) == {"one": (126, 4), "two": (32, 0)}


def test_a_table_has_a_line_for_each_kernel() -> None:
    one = inspect_kernels.Kernel("a", "80", 100, 0, 2, 50, 16, 0.5)
    two = inspect_kernels.Kernel("b", "90a", 128, 8, 2, 60, 2, 1.0)
    *_, first, second = inspect_kernels.table([vars(one), vars(two)]).splitlines()
    assert first == "| a | 100 | 2 | 50 | 16 | 50 % |  |  |  |  |  |"
    assert second == "| b |  |  |  |  |  | 128 (8 B spilled) | 2 | 60 | 2 | 100 % |"


def test_the_record_leaves_tensor_cores_room() -> None:
    """Of whole vectors of channels.

    By warpgroups, all of Hopper's rate. By warps, in bf16 all of 8.0's in wide tiles and 89 % in narrow
    ones; in TF32, which is rounded in the loop, nearly all and 60 %. Where the chip copies by tensor maps,
    those who multiply have at least a quarter fewer instructions.
    """
    record = Path(inspect_kernels.__file__).parent / "results" / "kernels.json"
    kernels = json.loads(record.read_text())["kernels"]
    by_warpgroups = [one for one in kernels if "warpgroups" in one["name"]]
    assert len(by_warpgroups) == 7
    assert all(one["bound"] >= 0.99 and one["blocks"] >= 1 for one in by_warpgroups)
    by_maps = {one["name"]: one for one in kernels if "tensor maps" in one["name"]}
    assert len(by_maps) == 3
    for name, one in by_maps.items():
        of_threads = next(k for k in by_warpgroups if k["name"] == name.replace("tensor maps", "warpgroups"))
        assert one["instructions"] <= 0.75 * of_threads["instructions"]
    for product, wide, narrow in (("bf16", 1, 0.89), ("tf32", 0.95, 0.6)):
        by_warps = [
            (int(found[1]), one["bound"])
            for one in kernels
            if one["arch"] == "80" and (found := re.search(rf", {product}, \d+x(\d+)$", one["name"]))
        ]
        assert len(by_warps) == 14
        assert all(bound >= (wide if columns >= 64 else narrow) for columns, bound in by_warps)
    assert not any(one["spilled"] for one in kernels)
