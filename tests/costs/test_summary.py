"""The costs that a study writes beside each measurement."""

import torch

from lasfast import costs, supernets


def test_it_names_what_is_known_of_an_architecture():
    with torch.device("meta"):
        supernet = supernets.ResidualNet((2, 2, 2), 7)
    assert costs.summary(supernet, (1, 2, 1), (8, 12)) == {
        "flops": costs.flops(supernet, (1, 2, 1), (8, 12)),
        "params": costs.params(supernet, (1, 2, 1)),
        "params_without_batch_norm": costs.params(supernet, (1, 2, 1), batch_norm=False),
    }


def test_quantized_layers_have_bit_operations():
    with torch.device("meta"):
        supernet = supernets.QuantResNet(7, depth=18, stem="cifar", width=0.25)
    architecture = next(iter(supernet.space.enumerate()))
    found = costs.summary(supernet, architecture, (16, 16))
    assert list(found) == ["flops", "params", "params_without_batch_norm", "bitops"]
    assert found["bitops"] == costs.bitops(supernet, architecture, (16, 16))
