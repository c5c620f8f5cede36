import pytest

from lasfast import costs, supernets
from lasfast.constraints import Constraint
from lasfast.costs import registry
from lasfast.searchers import Evolution, LayerNAS

NET = supernets.ResidualNet((4, 4, 4))


def test_gives_every_cost_as_a_function_of_an_architecture():
    known = costs.functions(NET, (32, 32))
    assert set(known) == {"flops", "params", "bitops", "memory"}
    for name in ("flops", "memory"):
        assert known[name]((2, 1, 3)) == getattr(costs, name)(NET, (2, 1, 3), (32, 32))
    with pytest.raises(ValueError, match="path must have a convolution with quantized weights"):
        known["bitops"]((2, 1, 3))
    assert known["params"]((2, 1, 3)) == costs.params(NET, (2, 1, 3))
    with pytest.raises(ValueError, match="input_size"):
        costs.functions(NET, 32)


def test_a_cost_of_ones_own_is_known_by_its_name(monkeypatch):
    monkeypatch.setattr(registry, "COSTS", dict(registry.COSTS))
    costs.register("layers", lambda path, shape: len(path))
    assert costs.functions(NET, (32, 32))["layers"]((2, 1, 3)) == len(NET.path((2, 1, 3)))
    with pytest.raises(ValueError, match="must not be that of another cost, got 'layers'"):
        costs.register("layers", lambda path, shape: 0)
    with pytest.raises(ValueError, match="name must be an identifier"):
        costs.register("a b", lambda path, shape: 0)


def test_searchers_keep_within_the_costs_of_a_supernet():
    known = costs.functions(NET, (32, 32))
    constraint = Constraint("flops<=50M,params<=300k,memory<=1MB", known)
    evolution = Evolution(NET.space, constraint=constraint, population=10, generations=2)
    layernas = LayerNAS(NET.space, cost=known["flops"], target=(30e6, 50e6), constraint=constraint)
    for searcher in (evolution, layernas):
        while candidates := searcher.ask():
            for candidate in candidates:
                searcher.tell(candidate, sum(candidate))
        best = searcher.best[0]
        assert known["flops"](best) <= 50e6
        assert known["params"](best) <= 300e3
    assert layernas.best[1] == max(
        sum(a) for a in NET.space.enumerate() if constraint(a) and known["flops"](a) >= 30e6
    )
