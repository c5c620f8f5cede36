import pytest

from lasfast import costs, supernets
from lasfast.supernets import LayerBuilder

NET = supernets.ResidualNet((1, 2, 1))


def quantized():
    """Return a path of convolutions with weights and values, only weights, and only values quantized."""
    block = LayerBuilder("block", 4)
    x = block.quantize("q", block.input, 4)
    y = block.conv("1", x, 6, 3, weight_bits=2)
    z = block.conv("2", y, 6, 3, weight_bits=3)
    block.conv("3", block.quantize("q2", z, 5), 6, 1)
    return (block.build(),)


def test_full_precision_is_1024_for_each_multiply_add():
    found = costs.bitops(NET, (1, 2, 1), (32, 32), unquantized=(32, 32))
    assert found == 1024 * costs.flops(NET, (1, 2, 1), (32, 32))


def test_multiply_adds_count_by_the_bits_of_both_factors():
    first, second, third = (64 * count for count in (4 * 6 * 9, 6 * 6 * 9, 6 * 6))
    assert costs.path_bitops(quantized(), (4, 8, 8)) == first * 2 * 4
    everything = first * 2 * 4 + second * 3 * 16 + third * 8 * 5
    assert costs.path_bitops(quantized(), (4, 8, 8), unquantized=(8, 16)) == everything


def test_multiply_adds_are_what_they_were():
    plain = LayerBuilder("block", 4)
    y = plain.conv("2", plain.conv("1", plain.input, 6, 3), 6, 3)
    plain.conv("3", y, 6, 1)
    plain = (plain.build(),)
    assert costs.path_flops(quantized(), (4, 8, 8)) == costs.path_flops(plain, (4, 8, 8))
    assert costs.path_params(quantized()) == costs.path_params(plain) + 2  # two clipping values
    assert costs.path_memory(quantized(), (4, 8, 8)) == costs.path_memory(plain, (4, 8, 8))


def test_what_counts_as_quantized():
    block = LayerBuilder("block", 4)
    block.conv("1", block.conv("2", block.quantize("q", block.input, 4), 6, 3), 6, 3, weight_bits=2)
    assert costs.is_quantized(quantized())
    assert not costs.is_quantized((block.build(),))  # in no product are both factors quantized
    assert not costs.is_quantized(NET.path((1, 2, 1)))


def test_a_path_without_quantized_layers_is_refused():
    with pytest.raises(ValueError, match=r"give the bits of what is not quantized, unquantized=\(32, 32\)"):
        costs.bitops(NET, (1, 2, 1), (32, 32))


@pytest.mark.parametrize("bits", [(0, 8), (8, -1), (8, 2.0)])
def test_impossible_bits_are_refused(bits):
    with pytest.raises(ValueError, match="_bits must be a positive int"):
        costs.bitops(NET, (1, 2, 1), (32, 32), unquantized=bits)
