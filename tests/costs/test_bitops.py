import pytest

from lasfast import costs, supernets

NET = supernets.ResidualNet((1, 2, 1))


def test_full_precision_is_1024_for_each_multiply_add():
    assert costs.bitops(NET, (1, 2, 1), (32, 32)) == 1024 * costs.flops(NET, (1, 2, 1), (32, 32))


def test_layers_may_have_their_own_bits():
    """A block of the second group at stride 1: two 3x3 convolutions of 32 channels on 16x16 values."""
    block = 2 * 32 * 32 * 9 * 16 * 16
    everything = costs.flops(NET, (1, 2, 1), (32, 32))
    found = costs.bitops(NET, (1, 2, 1), (32, 32), bits={"groups.1.1": (2, 4)}, default=(8, 8))
    assert found == 64 * (everything - block) + 8 * block


@pytest.mark.parametrize("bits", [(0, 8), (8, -1), (8, 2.0)])
def test_impossible_bits_are_refused(bits):
    with pytest.raises(ValueError, match="_bits must be a positive int"):
        costs.bitops(NET, (1, 2, 1), (32, 32), default=bits)
