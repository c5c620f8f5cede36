"""The example supernet, and opaque modules in general."""

import importlib.util
from pathlib import Path

import pytest
import torch

import lasfast
from lasfast.supernets import LayerBuilder

FILE = Path(__file__).parents[2] / "examples" / "own_supernet.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("own_supernet", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_runs(example, capsys: pytest.CaptureFixture[str]) -> None:
    example.main()
    lines = capsys.readouterr().out.strip().splitlines()
    assert [int(line.split()[0]) for line in lines] == [3, 4, 5]


def test_the_supernet_fits_thirty_lines() -> None:
    text = FILE.read_text().partition("class GatedNet")[2].partition("\n\n\ndef main")[0]
    assert len(text.splitlines()) <= 35


def test_opaque_modules_are_run_counted_and_extracted(example) -> None:
    torch.manual_seed(0)
    supernet = example.GatedNet((2, 2)).eval()
    network = supernet.extract((2, 1))
    x = torch.randn(2, 3, 12, 12)
    assert torch.equal(network(x), supernet(x, (2, 1)))
    assert lasfast.costs.params(supernet, (2, 1)) == sum(p.numel() for p in network.parameters())
    fresh = supernet.extract((2, 1), fresh=True)
    gates = "groups.0.0.gate.scale.weight"
    assert not torch.equal(fresh.get_parameter(gates), network.get_parameter(gates))


def test_wrong_counts_and_missing_modules_are_named(example) -> None:
    class Wrong(example.GatedNet):
        def layer(self, group: int, index: int):
            block = LayerBuilder(f"groups.{group}.{index}", 3)
            block.opaque("gate", block.input, 3, params=1)
            return block.build()

    with pytest.raises(ValueError, match=r"module 'groups\.0\.0\.gate' of an opaque op does not exist"):
        Wrong((1, 1))

    class Miscounted(example.GatedNet):
        def layer(self, group: int, index: int):
            layer = super().layer(group, index)
            self.add_opaque(f"{layer.name}.gate", torch.nn.Linear(3, 3))
            return layer

    with pytest.raises(ValueError, match=r"must be its 12 weights, got 272"):
        Miscounted((1, 1))
