"""What the CUDA compiler makes of the convolutions' kernels, without a GPU: a bound of how fast they can be.

    python -m benchmarks.inspect_kernels [--output benchmarks/results/kernels.json]

Each kernel is compiled for 8.0 and for 9.0a. Its registers and its shared memory say how many blocks run on a
multiprocessor at once. Of its main loop, which multiplies a step of k, the script counts instructions, and
among these the products: of tensor cores (HMMA, HGMMA), or FFMA where fp32 is exact. A scheduler issues one
instruction a cycle, and the products of a step keep its unit busy for so many cycles; their ratio bounds the
share of the unit's rate that the kernel can reach, however well waits are hidden. The bound is of the GPU's
data sheet for products in the kernel's precision; on Hopper, HMMA reaches about two thirds of it at most.

What is counted is the longest way through the loop that applies no norm to what was copied. An iteration
may be several steps of k: in narrow tiles, it is as many as there are stages. Gradients of weights find the
windows of 256 positions at once; each iteration has its share of that. Where Hopper copies by itself ("tensor
maps"), it is the loop of those who multiply.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from benchmarks import _harness

CUDA = Path(__file__).parents[1] / "csrc" / "cuda"
FILES = ("schedule_conv", "schedule_conv_mapped", "conv2d_nhwc_windows", "conv2d_nhwc_grad_weight")
ARCHS = ("80", "90a")
THREADS, COPYING_THREADS = 256, 32  # of a block: that multiply, and more where tensor maps copy
REGISTERS, THREADS_AT_ONCE = 65536, 2048  # of a multiprocessor
SHARED = {"80": 164 << 10, "90a": 228 << 10}  # of a multiprocessor; each block takes a KiB more
TABLE = 256 * 12 + 48  # bytes, of taps, as in csrc/cuda/conv_loader.cuh
WINDOWS, BATCH = 2 * 256 * 8 + 8, 256  # bytes, and positions, as in csrc/cuda/conv2d_nhwc_grad_weight.cu

RATES = {"80": {"bf16": 256, "tf32": 128, "exact": 16}, "90a": {"bf16": 512, "tf32": 256, "exact": 32}}
"""Multiply-adds that one of a multiprocessor's four schedulers has done each cycle, by the data sheets."""
PRODUCTS = {  # by the instruction: multiply-adds of one warp
    "HMMA.16816.F32.BF16": 16 * 8 * 16,
    "HMMA.1688.F32.TF32": 16 * 8 * 8,
    "HGMMA.64x64x16.F32.BF16": 16 * 64 * 16,
    "HGMMA.64x128x16.F32.BF16": 16 * 128 * 16,
}
EXACT_PRODUCTS = {"FFMA": 32}
BY_WARPGROUPS = {"warpgroup_": "warpgroups", "mapped_": "tensor maps"}  # by how their symbols begin


@dataclass(frozen=True)
class Kernel:
    """A kernel as it was compiled for one architecture.

    Attributes:
        name: the kernel, its product, its tile, and "gathered" where it copies element by element.
        arch: what it was compiled for.
        registers, spilled: of a thread; the latter in bytes.
        blocks: how many of its blocks registers and shared memory let run on a multiprocessor at once.
        instructions, products: of the main loop, one warp's.
        bound: the share of the data sheet's rate of products that its instructions leave.
    """

    name: str
    arch: str
    registers: int
    spilled: int
    blocks: int
    instructions: int
    products: int
    bound: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", help="the record")
    options = parser.parse_args()
    kernels = [asdict(kernel) for arch in ARCHS for name in FILES for kernel in compiled(name, arch)]
    print(table(kernels))
    if options.output:
        _harness.write({"record": "kernels", "nvcc": version(), "kernels": kernels}, options.output)


def table(kernels: list[dict]) -> str:
    """Return a Markdown table of kernels, one line for all architectures."""
    columns = ("registers", "blocks", "instructions", "products", "bound")
    lines = [
        "| kernel | " + " | ".join(f"{name}, {arch}" for arch in ARCHS for name in columns) + " |",
        "|---" * (1 + len(ARCHS) * len(columns)) + "|",
    ]
    for name in dict.fromkeys(kernel["name"] for kernel in kernels):
        cells = [name]
        for arch in ARCHS:
            found = [kernel for kernel in kernels if (kernel["name"], kernel["arch"]) == (name, arch)]
            for column in columns:
                text = "".join(str(kernel[column]) for kernel in found)
                if column == "bound":
                    text = "".join(f"{100 * kernel['bound']:.0f} %" for kernel in found)
                elif column == "registers":
                    text += "".join(
                        f" ({kernel['spilled']} B spilled)" for kernel in found if kernel["spilled"]
                    )
                cells.append(text)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def compiled(name: str, arch: str) -> list[Kernel]:
    """Compile one of FILES, and return its kernels."""
    with tempfile.TemporaryDirectory() as directory:
        cubin = Path(directory) / f"{name}.cubin"
        report = compile_kernels(name, arch, cubin)
        return inspect(arch, functions(cubin), report)


def inspect(arch: str, codes: dict[str, str], report: str) -> list[Kernel]:
    """Return the kernels of instructions and a compiler's report; those of warpgroups for 90a alone."""
    spent = registers_of(report)
    kernels = []
    for symbol, code in codes.items():
        if (what := Described.of(symbol)) is None or (
            what.product in BY_WARPGROUPS.values() and arch != "90a"
        ):
            continue
        registers, spilled = spent[symbol]
        known = EXACT_PRODUCTS if what.product == "exact" else PRODUCTS
        # In evaluation, copied elements are stored to shared memory again where a norm is applied.
        avoided = ("STS",) if what.name.startswith("evaluation") else ()
        instructions, products, work = main_loop(code, known, avoided)
        if what.batched:
            always, _, _ = main_loop(code, known, ("STS.64",))  # which stores a window
            positions = work * THREADS // 32 // what.sums
            instructions = round(always + (instructions - always) * positions / BATCH)
        rate = RATES[arch]["bf16" if what.product in BY_WARPGROUPS.values() else what.product]
        kernels.append(
            Kernel(
                what.name,
                arch,
                registers,
                spilled,
                blocks_at_once(registers, what.shared_bytes, SHARED[arch], what.threads),
                instructions,
                products,
                round(min(1.0, work / rate / max(1, instructions)), 3),
            )
        )
    return sorted(kernels, key=lambda kernel: kernel.name)


@dataclass(frozen=True)
class Described:
    """What a symbol says of its kernel: `sums` are a tile's; `batched`: it finds windows now and then."""

    name: str
    product: str
    shared_bytes: int
    sums: int
    batched: bool = False
    threads: int = THREADS

    @classmethod
    def of(cls, symbol: str) -> Described | None:
        """Return None for what is no convolution's kernel."""
        found = re.search(r"(warpgroup_|mapped_)?(conv|windows|grad_weight)I(f|13__nv_bfloat16|L)", symbol)
        if found is None:
            return None
        product = BY_WARPGROUPS.get(found[1]) or ("tf32" if found[3] == "f" else "bf16")
        product = "exact" if "ExactProduct" in symbol else product
        *rows, columns = (int(number) for number in re.findall(r"Li(\d+)E", symbol))
        rows = rows or [128]
        gathered = ", gathered" if "Lb0E" in symbol else ""
        kind = {"conv": "evaluation", "windows": "training", "grad_weight": "gradient of weights"}[found[2]]
        stages = stage_bytes(rows[0] + columns, 128 if found[1] else 64)
        mapped, batched = product == "tensor maps", found[2] == "grad_weight"
        table = 0 if mapped else WINDOWS if batched else TABLE
        shared = max(stages, rows[0] * (columns + 4) * 4) + table
        threads = THREADS + COPYING_THREADS * mapped
        name = f"{kind}, {product}, {rows[0]}x{columns}{gathered}"
        return cls(name, product, shared, rows[0] * columns, batched, threads)


def stage_bytes(rows: int, step_bytes: int) -> int:
    """Return the bytes of all stages of a main loop, as in csrc/cuda/conv_mainloop.cuh."""
    stage = rows * step_bytes
    return stage * (3 if stage == 32 << 10 else 4)


def blocks_at_once(registers: int, shared_bytes: int, shared_at_once: int, threads: int = THREADS) -> int:
    """Return how many blocks run on a multiprocessor; a thread's registers are handed out in eights."""
    by_registers = REGISTERS // (-(-registers // 8) * 8 * threads)
    return min(by_registers, THREADS_AT_ONCE // threads, shared_at_once // (shared_bytes + 1024))


def compile_kernels(name: str, arch: str, cubin: Path) -> str:
    """Compile a file of csrc/cuda to machine code; return what the compiler says of it."""
    flags = [f"-arch=sm_{arch}", "-std=c++17", "-cubin", "-Xptxas", "-v", "-I", str(CUDA.parent / "include")]
    command = ["nvcc", *flags, str(CUDA / f"{name}.cu"), "-o", str(cubin)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr}")
    return done.stdout + done.stderr


def registers_of(report: str) -> dict[str, tuple[int, int]]:
    """Return the registers of each kernel of a compiler's report, and the bytes that it spills."""
    found = re.findall(
        r"Compiling entry function '(\w+)'.*?(\d+) bytes spill stores.*?Used (\d+) registers",
        report,
        re.DOTALL,
    )
    return {symbol: (int(registers), int(spilled)) for symbol, spilled, registers in found}


def disassembler() -> str | None:
    """Return cuobjdump, of the CUDA toolkit or as Triton brings it; None where there is none."""
    found = shutil.which("cuobjdump")
    spec = find_spec("triton")
    if found is None and spec is not None and spec.origin is not None:
        brought = Path(spec.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        found = str(brought) if brought.exists() else None
    return found


def functions(cubin: Path) -> dict[str, str]:
    """Return the instructions of each kernel by its mangled name."""
    tool = disassembler()
    if tool is None:
        raise RuntimeError("there is no cuobjdump: it comes with the CUDA toolkit and with Triton")
    done = subprocess.run([tool, "-sass", str(cubin)], capture_output=True, text=True, check=True)
    _, *parts = done.stdout.split("Function : ")
    return {part.partition("\n")[0].strip(): part for part in parts}


@dataclass(frozen=True)
class Instruction:
    """An instruction of a kernel; `target` is where it may branch to, None where it is no branch."""

    address: int
    name: str
    conditional: bool
    target: int | None

    @classmethod
    def all_of(cls, code: str) -> list[Instruction]:
        """Return the instructions of a disassembled kernel."""
        found = re.findall(r"/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+ )?([^\s;]+)([^;]*);", code)
        instructions = []
        for address, predicate, name, rest in found:
            to = re.search(r"0x([0-9a-f]+)\s*$", rest) if name.startswith("BRA") else None
            target = None if to is None else int(to[1], 16)
            instructions.append(cls(int(address, 16), name, bool(predicate), target))
        return instructions


def main_loop(code: str, products: dict[str, int], avoided: tuple[str, ...]) -> tuple[int, int, int]:
    """Return of a kernel's main loop, for one warp: instructions, products, and multiply-adds of these.

    It is the loop with the most products, and the shortest of such; all are 0 where there is none. Counted is
    the longest way through its body without instructions whose names begin with one of `avoided`.
    """
    instructions = Instruction.all_of(code)
    at = {one.address: index for index, one in enumerate(instructions)}
    loops = [
        instructions[at[one.target] : end + 1]
        for end, one in enumerate(instructions)
        if one.target is not None and one.target < one.address
    ]
    if not loops:
        return 0, 0, 0
    loop = max(loops, key=lambda loop: (sum(one.name in products for one in loop), -len(loop)))
    way = _longest_way(loop, avoided)
    multiplied = [products[one.name] for one in way if one.name in products]
    return len(way), len(multiplied), sum(multiplied)


def _longest_way(loop: list[Instruction], avoided: tuple[str, ...]) -> list[Instruction]:
    """Return the instructions of the longest way from a loop's first to its last, without going back."""
    at = {one.address: index for index, one in enumerate(loop)}
    longest = [0, *[-1] * len(loop)]  # instructions before each; -1 where there is no way to it
    previous = [0] * len(longest)
    for index, one in enumerate(loop):
        if longest[index] < 0 or one.name.startswith(avoided):
            continue
        following = [at[one.target]] if one.target in at and at[one.target] > index else []
        if one.conditional or not one.name.startswith(("BRA", "EXIT")) or index == len(loop) - 1:
            following.append(index + 1)
        for to in following:
            if longest[to] <= longest[index]:
                longest[to], previous[to] = longest[index] + 1, index
    way, index = [], len(loop)
    while index:
        index = previous[index]
        way.append(loop[index])
    return way[::-1]


def version() -> str:
    """Return the compiler's version."""
    text = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"release [\d.]+, V([\d.]+)", text)
    return "" if found is None else found[1]


if __name__ == "__main__":
    main()
