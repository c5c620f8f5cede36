"""Supernets of models: their networks compute what one would cut out of the model by hand."""

import copy
import pickle
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import lasfast
from lasfast.engine import NativeBackend, TorchBackend
from lasfast.engine.native_backend import why_missing
from lasfast.ir.layers import Dropout
from lasfast.ir.prefix_tree import PrefixTree
from lasfast.spaces import LayerAssignmentSpace
from lasfast.supernets import ModelSupernet, from_model
from lasfast.supernets.importance import IMPORTANCES
from lasfast.train import adapt
from tests.supernets.elastic_networks import (
    Basic,
    Branches,
    Dense,
    Inverted,
    Network,
    Twice,
    cut_by_hand,
    shaken,
)

SHAPE = (3, 12, 12)


def images(count: int = 3) -> torch.Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(1))


def close(ours: torch.Tensor, truth: torch.Tensor) -> bool:
    return bool((ours - truth).norm() <= 1e-4 * truth.norm())


def path_by_model_names(supernet: ModelSupernet, architecture: tuple[int, ...]) -> list[Any]:
    """The ops with weights of an architecture, and the model's names of their modules."""
    ops: list[Any] = [op for layer in supernet.path(architecture) for op in layer.ops]
    return [(op.module.removeprefix("network."), op) for op in ops if hasattr(op, "module")]


SEEDS = range(10)


def test_the_seeds_have_all_topologies() -> None:
    modules = [module for seed in SEEDS for module in Network(seed).modules()]
    assert {Basic, Branches, Dense, Inverted, Twice} < set(map(type, modules))
    convolutions = [one for one in modules if isinstance(one, nn.Conv2d)]
    assert any(1 < one.groups < one.in_channels for one in convolutions)
    assert {33, 37} < {one.out_channels for one in convolutions}


@pytest.mark.parametrize("seed", SEEDS)
def test_networks_compute_what_is_cut_out_by_hand(seed: int, one_thread: None) -> None:
    model, x = shaken(seed), images()
    supernet = from_model(model, SHAPE)
    weights = supernet.network.state_dict()
    rng = random.Random(seed)
    with torch.no_grad():
        assert close(supernet(x, supernet.full), model(x))
        for architecture in [supernet.full, *(supernet.space.sample(rng) for _ in range(2))]:
            network = supernet.extract(architecture)
            mine = cut_by_hand(seed, path_by_model_names(supernet, architecture), weights)
            truth = mine(x)
            assert close(supernet(x, architecture), truth)
            assert close(network(x), truth)
            torch.testing.assert_close(dict(network.state_dict()), dict(mine.state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize("seed", range(4))
def test_backends_agree(seed: int, one_thread: None) -> None:
    if why_missing(torch.device("cpu")):
        pytest.skip("the compiled module is missing")
    supernet, rng = from_model(shaken(seed), SHAPE), random.Random(seed)
    tree = PrefixTree([supernet.path(supernet.space.sample(rng)) for _ in range(4)])
    batches = [images(8), images(6) + 0.5]
    truth, ours = (
        backend.predict(tree, backend.calibrate(tree, batches, "cumulative"), images())
        for backend in (TorchBackend(supernet), NativeBackend(supernet))
    )
    for leaf, logits in truth.items():
        assert close(ours[leaf], logits)


class Plain(nn.Sequential):
    """A network without residual layers, with an odd number of channels."""

    def __init__(self, *more: nn.Module) -> None:
        super().__init__(
            nn.Conv2d(3, 37, 3), nn.BatchNorm2d(37), nn.ReLU(), *more, nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.append(nn.Linear(37, 5))


class Residual(nn.Module):
    """Two stages of residual blocks; its modules are named as attributes of a supernet are."""

    def __init__(self) -> None:
        super().__init__()
        self.space = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1))
        self.path, self.full = nn.ModuleList(), nn.ModuleList()
        for blocks, inputs in ((self.path, 16), (self.full, 24)):
            for _ in range(3):
                conv = nn.Conv2d(inputs, inputs, 3, padding=1, bias=False)
                blocks.append(nn.Sequential(conv, nn.BatchNorm2d(inputs, momentum=0.02), nn.ReLU()))
        self.network = nn.Conv2d(16, 24, 1, stride=2)
        self.constraint = nn.Linear(24, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.space(x))
        for block in self.path:
            x = block(x) + x
        x = self.network(x)
        for block in self.full:
            x = block(x) + x
        return self.constraint(x.mean((2, 3)))


def test_what_varies() -> None:
    torch.manual_seed(0)
    supernet = from_model(Residual(), SHAPE)
    assert str(supernet) == (
        "ModelSupernet on images 3x12x12: 54 architectures\n"
        "widths:\n"
        "  space.0, path.0.0, path.1.0 and 1 more: 8 16 channels\n"
        "  network, full.0.0, full.1.0 and 1 more: 8 16 24 channels\n"
        "depths, in blocks:\n"
        "  d1 d2 d3; may be left out: path.1, path.2\n"
        "  d1 d2 d3; may be left out: full.1, full.2\n"
        "of fixed width:\n"
        "  the input of space.0 (3): they are the images'\n"
        "  constraint (5): they are the network's outputs"
    )
    assert supernet.space.format(supernet.full) == "16-d3-24-d3"
    assert supernet.space.largest() == supernet.full
    assert dict(supernet.fixed)["constraint (5)"] == "they are the network's outputs"


def test_names_and_settings_are_the_models() -> None:
    model = Residual()
    supernet = from_model(model, SHAPE)
    network = supernet.extract(supernet.full)
    assert network.state_dict().keys() == model.state_dict().keys()
    model.load_state_dict(network.state_dict())
    assert network.get_submodule("full.1.1").momentum == 0.02
    modules = dict(network.named_modules())
    named = [
        op.module
        for layer in supernet.extracted_path(supernet.full)
        for op in layer.ops
        if hasattr(op, "module")
    ]
    assert named
    assert modules.keys() >= set(named)
    assert network.training
    assert not from_model(model.eval(), SHAPE).extract(supernet.full).training


def test_the_model_and_the_generator_stay_as_they_are() -> None:
    model = shaken(0)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    supernet = from_model(model, SHAPE)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.zero_()
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_depth_alone_is_a_space_of_layer_assignments(one_thread: None) -> None:
    model, x = Residual().eval(), images()
    supernet = from_model(model, SHAPE, vary="depth")
    assert isinstance(supernet.space, LayerAssignmentSpace)
    assert supernet.space.max_layers == supernet.full == (3, 3)
    lasfast.searchers.NIR(supernet.space, depth=4)
    shallow = copy.deepcopy(model)
    del shallow.path[1:], shallow.full[2:]
    assert close(supernet(x, (1, 2)), shallow(x))


def test_widths_alone() -> None:
    supernet = from_model(Residual(), SHAPE, vary="widths", widths=[0.5])
    assert supernet.space.names == (("8", "16"), ("16", "24"))


def test_versions_that_are_scaled_alike() -> None:
    """Blocks come first, then widths; each width is the option nearest to one share, or one of the two."""
    torch.manual_seed(0)
    supernet = from_model(Residual(), SHAPE, widths=(0.33, 0.66))
    texts = list(map(supernet.space.format, supernet.scaled()))
    assert texts == [
        "8-d1-8-d1",
        "8-d2-8-d1",
        "8-d2-8-d2",
        "8-d3-8-d2",
        "8-d3-8-d3",
        "8-d3-16-d3",  # from a share of 1/2 on
        "16-d3-16-d3",  # from 3/4 on
        "16-d3-24-d3",  # from 5/6 on
    ]
    for vary, count in {"widths": 4, "depth": 5}.items():
        supernet = from_model(Residual(), SHAPE, vary=vary)
        scaled = list(supernet.scaled())
        assert len(scaled) == count
        assert scaled[-1] == supernet.full
        assert all(one in supernet.space for one in scaled)


def test_frozen_modules_keep_their_shapes_and_places() -> None:
    supernet = from_model(Residual(), SHAPE, freeze=["path.1", "network"])
    assert supernet.space.names == (("d2", "d3"), ("d1", "d2", "d3"))  # path.2 alone may go
    assert len(supernet.path((0, 2))) == len(supernet.path(supernet.full)) - 1
    whys = dict(supernet.fixed)
    assert (
        whys["space.0 (16)"] == "'path.1.0' is to be kept; 'path.1.1' is to be kept; 'network' is to be kept"
    )


@pytest.mark.parametrize("importance", ["magnitude", "readers", "l1", "batch_norm"])
def test_narrow_networks_have_the_most_important_channels(importance: str, one_thread: None) -> None:
    torch.manual_seed(0)
    model = Plain().eval()
    weights = {"readers": model[-1].weight.T, "l1": model[0].weight, "batch_norm": model[1].weight}
    weights["magnitude"] = weights["readers"]
    with torch.no_grad():
        weights[importance][5:13] *= 100
    narrow = from_model(model, SHAPE, widths=(0.2,), importance=importance).extract((0,))
    filters = {tuple(one.tolist()) for one in narrow.get_parameter("0.weight").flatten(1)}
    assert filters == {tuple(one.tolist()) for one in model[0].weight[5:13].flatten(1)}


def test_taylor_importance_is_of_weights_and_their_gradients(one_thread: None) -> None:
    torch.manual_seed(0)
    model = Plain()
    weight, total = model[0].weight, torch.zeros(37)
    batches = [[images(6) + shift, torch.arange(6) % 5] for shift in (0, 1)]
    for x, labels in batches:
        loss = nn.functional.cross_entropy(model.eval()(x), labels)
        total += (torch.autograd.grad(loss, weight)[0] * weight).abs().sum((1, 2, 3)).detach()
    model.train().requires_grad_(False)
    supernet = from_model(model, SHAPE, widths=(0.2,), importance="taylor", batches=iter(batches))
    narrow = supernet.extract((0,)).get_parameter("0.weight")
    kept = weight[total.argsort(descending=True)[:8]]
    torch.testing.assert_close(narrow, kept, rtol=0, atol=0, check_stride=False)
    assert model.training
    assert all(one.grad is None and not one.requires_grad for one in model.parameters())


def test_taylor_importance_needs_batches(one_thread: None) -> None:
    pair = [images(4), torch.arange(4)]
    for given, error, text in [
        (
            {"importance": "taylor"},
            ValueError,
            r"batches must be pairs \(images, labels\) for importance='tay",
        ),
        ({"batches": [pair]}, ValueError, "batches must be left out for importance='magnitude', which asks"),
        ({"importance": "taylor", "batches": []}, ValueError, "must have at least one pair"),
        ({"importance": "taylor", "batches": pair}, TypeError, r"pairs \(images, labels\), got Tensor"),
    ]:
        with pytest.raises(error, match=text):
            from_model(Plain(), SHAPE, **given)


def test_unimportant_channels_change_nothing(one_thread: None) -> None:
    """Channels that nothing reads are the first to go, and the network computes what the model does."""
    torch.manual_seed(0)
    model, x = Plain().eval(), images()
    with torch.no_grad():
        model[0].weight[::2] = 0
        model[-1].weight[:, ::2] = 0
        supernet = from_model(model, SHAPE, widths=(0.66,))
        assert supernet.space.names == (("24", "37"),)
        assert close(supernet(x, (0,)), model(x))


@pytest.mark.parametrize("importance", IMPORTANCES)
def test_norms_without_a_scale(importance: str, one_thread: None) -> None:
    torch.manual_seed(0)
    model, x = Plain().double().eval(), images().double()
    model[1] = nn.BatchNorm2d(37, affine=False).double().eval()
    nn.init.normal_(model[1].running_mean)
    supernet = from_model(model, SHAPE, importance=importance)
    assert close(supernet(x, supernet.full), model(x))
    assert close(supernet.extract((1,))(x), supernet(x, (1,)))


class Scale(nn.Module):
    """A module that cannot be followed: it decides by values."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((37, 1, 1), 0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale if x.isfinite().all() else x


def test_opaque_modules_keep_their_channels(one_thread: None) -> None:
    model, x = Plain(Scale(), nn.Conv2d(37, 37, 1), nn.ReLU()).eval(), images()
    supernet = from_model(model, SHAPE)
    assert dict(supernet.fixed)["0 (37)"] == "'3' is a module that lasfast cannot read"
    assert supernet.space.names == (("8", "16", "24", "37"),)
    assert close(supernet(x, supernet.full), model(x))
    network = supernet.extract(supernet.full)
    assert network.state_dict().keys() == model.state_dict().keys()


def test_no_name_of_the_models_is_taken_for_another_module(one_thread: None) -> None:
    """Layers end in activations, whose modules are named in the extracted network, too."""

    class Names(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 16, 3)
            self.a_relu2 = nn.Conv2d(16, 16, 3)
            self.globalavgpool = nn.ModuleDict({"globalavgpool1": nn.Linear(16, 5)})

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.a_relu2(torch.relu(self.a(x))))
            return self.globalavgpool["globalavgpool1"](x.mean((2, 3)))

    model, x = Names().eval(), images()
    supernet = from_model(model, SHAPE)
    network = supernet.extract(supernet.full)
    assert network.state_dict().keys() == model.state_dict().keys()
    assert close(network(x), model(x))


class Wave(nn.Sequential):
    """A network with code between two convolutions, an activation behind it, and a factor of some name."""

    def __init__(self, factor: str = "factor") -> None:
        super().__init__(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Linear(16, 5))
        self.name = factor
        self.register_parameter(factor, nn.Parameter(torch.rand(16, 1, 1)))
        self.register_buffer("mask", torch.rand(16, 1, 1), persistent=False)
        self.shift = torch.rand(16, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(torch.sin(self[0](x)).cos())
        x = torch.sin(x) * self._parameters[self.name] * self.mask + self.shift
        return self[2](self[1](x).mean((2, 3)))


def test_layers_of_code_alone_have_names_that_networks_may_have(one_thread: None) -> None:
    model, x = Wave().eval(), images()
    supernet = from_model(model, SHAPE)
    network = supernet.extract(supernet.full)
    assert close(network(x), model(x))
    assert network.state_dict().keys() == model.state_dict().keys()


class Heads(Residual):
    """A network whose two heads drop other values of the same features."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList([nn.Linear(5, 4), nn.Linear(5, 4)])
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = super().forward(nn.functional.dropout(x, 0.1, self.training))
        return self.heads[0](self.dropout(x)) + self.heads[1](self.dropout(x))


def test_models_in_training_are_read_as_in_evaluation(one_thread: None) -> None:
    model, x = Heads(), images()
    supernet = from_model(model, SHAPE)
    assert model.training
    assert supernet.training
    drops = [op for layer in supernet.path(supernet.full) for op in layer.ops if isinstance(op, Dropout)]
    assert len(drops) == 2
    assert close(supernet.eval()(x, supernet.full), model.eval()(x))


class Mixes(nn.Module):
    """A network that adds to flattened channels features which are none."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide, self.narrow = nn.Conv2d(3, 16, 9), nn.Conv2d(16, 32, 1), nn.Conv2d(32, 8, 1)
        self.features, self.head = nn.Linear(256, 128), nn.Linear(128, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        y = self.narrow(torch.relu(self.wide(x)))
        return self.head(self.features(x.flatten(1)) + y.flatten(1))


def test_groups_of_different_numbers_stay_as_they_are(one_thread: None) -> None:
    torch.manual_seed(0)
    model, x = Mixes().eval(), images()
    supernet = from_model(model, SHAPE)
    assert "a module reads or writes different numbers of them" in dict(supernet.fixed)["narrow (8)"]
    assert supernet.space.names == (("8", "16"), ("8", "16", "24", "32"))
    assert close(supernet(x, supernet.full), model(x))
    assert close(supernet.extract((0, 0))(x), supernet(x, (0, 0)))


class Tied(Residual):
    """A network of which two modules share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.path[2][0].weight = self.path[0][0].weight


class Sized(Residual):
    """A network that decides by the size of its images."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x * 2 if x.shape[-1] < 14 else x)


def test_what_was_read_for_one_size_is_not_run_for_others(one_thread: None) -> None:
    model, x = Sized().eval(), images()
    supernet, larger = from_model(model, SHAPE), torch.zeros(4, 3, 16, 16)
    assert close(supernet(x, supernet.full), model(x))
    assert pickle.loads(pickle.dumps(supernet.path(supernet.full)[0])).input_shape == SHAPE
    labels = torch.arange(4)
    evaluator = lasfast.Evaluator(supernet, larger, (larger, labels), backend="torch")
    calls: list[Callable[[], Any]] = [
        lambda: supernet(larger, supernet.full),
        lambda: evaluator([supernet.full]),
        lambda: adapt(supernet, (larger, labels), epochs=1, batch_size=2),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"read for inputs of shape \(3, 12, 12\) and may do otherwise"):
            call()


def test_frozen_parameters_stay_frozen() -> None:
    model = WithCode()
    model.stem.requires_grad_(False)
    model.scale.requires_grad_(False)
    supernet = from_model(model, SHAPE)
    for network in (supernet.network, supernet.extract((0,)), supernet.extract(supernet.full)):
        trained = {name for name, one in network.named_parameters() if one.requires_grad}
        assert trained == {name for name, one in model.named_parameters() if one.requires_grad}


def broken(change: Callable[[nn.Module], Any]) -> nn.Module:
    model = Residual()
    change(model)
    return model


class Control(Residual):
    """A network with control flow that depends on values, and batch norms in it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x if x.sum() > 0 else -x)


@pytest.mark.parametrize(
    ("model", "arguments", "error", "text"),
    [
        (3, {}, TypeError, "model must be a torch.nn.Module, got int"),
        (Residual().space, {}, ValueError, r"model must give logits \[N, classes\], got \[N, 16, 12, 12\]"),
        (
            Control(),
            {},
            ValueError,
            r"but the network's own forward, of Control, .* at .*test_model.py:\d+: .* Put this code into a",
        ),
        (
            broken(lambda model: model.path[0][1].register_forward_hook(lambda *values: None)),
            {},
            ValueError,
            "module 'path.0.1', a BatchNorm2d, has hooks or a forward of its own: remove them",
        ),
        (Plain(), {"vary": "depth"}, ValueError, "a block that may vary, got none.\nof fixed width:"),
        (Plain(), {"freeze": "0"}, ValueError, "'0' is to be kept"),
        (Residual(), {"freeze": "conv9"}, ValueError, "freeze must name modules of the model, .* 'conv9'"),
        (Residual(), {"vary": "all"}, ValueError, "vary must be one of 'widths', 'depth', 'both'"),
        (Residual(), {"widths": (0.5, 2)}, ValueError, "widths must be at most 1"),
        (Residual(), {"widths": (0,)}, ValueError, "widths must be above 0, got 0"),
        (Residual(), {"widths": 0.5}, TypeError, "widths must be a sequence of shares"),
        (
            Residual(),
            {"importance": "l3"},
            ValueError,
            "importance must be one of 'magnitude', 'readers', 'l1'",
        ),
        (Residual(), {"image_shape": (3, 12)}, ValueError, "image_shape must be"),
        (
            Residual(),
            {"image_shape": (1, 12, 12)},
            ValueError,
            r"image_shape must be that of images which the model takes, got \(1, 12, 12\): Given groups=1",
        ),
        (
            broken(lambda model: model.path[0].__setitem__(1, nn.BatchNorm2d(16, track_running_stats=False))),
            {},
            ValueError,
            "running statistics in its batch norms, 'path.0.1' has none",
        ),
        (nn.ModuleDict, {}, TypeError, "model must be"),
        (
            Tied(),
            {},
            ValueError,
            "no weight that its modules share, got 'path.0.0.weight'",
        ),
        (Wave("code"), {}, ValueError, "named as an attribute of GraphModule, got 'code'"),
        (Wave("meta"), {}, ValueError, "named as an attribute of GraphModule, got 'meta'"),
    ],
)
def test_wrong_arguments(model: Any, arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        from_model(model, arguments.pop("image_shape", SHAPE), **arguments)


class WithCode(nn.Module):
    """Code that no layer says, with parameters of its own (layer scale) and of a module that others read."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU())
        self.wide = nn.Conv2d(16, 32, 1)
        self.narrow = nn.Conv2d(32, 16, 1)
        self.shared = nn.Conv2d(16, 16, 1)
        self.scale = nn.Parameter(torch.rand(16, 1, 1))
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.scale * self.narrow(self.wide(x).relu())
        x = self.shared(x) * self.shared.weight.abs().mean((1, 2, 3))[:, None, None].tanh()
        return self.head(x.mean((2, 3)))


def test_code_keeps_the_channels_that_it_computes_with(one_thread: None) -> None:
    model, x = WithCode().eval(), images()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(parameter.numel()))
    supernet = from_model(model, SHAPE)
    assert supernet.space.count() == 4  # of the channels within the block
    narrowest = (0,)
    network = supernet.extract(narrowest)
    assert network.scale.shape == (16, 1, 1)
    assert network.wide.weight.shape == (8, 16, 1, 1)
    mine = copy.deepcopy(model)
    for name, tensor in network.named_parameters():
        mine.get_submodule(name.rpartition(".")[0]).register_parameter(
            name.rpartition(".")[2], nn.Parameter(tensor.detach().clone())
        )
    with torch.no_grad():
        assert close(supernet(x, supernet.full), model(x))
        assert close(supernet(x, narrowest), network(x))
        assert close(network(x), mine(x))


def test_constraints_are_relative_to_the_model() -> None:
    supernet = from_model(Residual(), SHAPE)
    cost = lasfast.costs.functions(supernet, SHAPE[1:])
    flops, params = (cost[name](supernet.full) for name in ("flops", "params"))
    constraint = supernet.constraint("flops<=50%,0.1x<=params<=0.9x,memory<=1MB")
    assert [(one.cost, one.low, one.high) for one in constraint.bounds] == [
        ("flops", -float("inf"), 0.5 * flops),
        ("params", 0.1 * params, 0.9 * params),
        ("memory", -float("inf"), 1e6),
    ]
    assert not constraint(supernet.full)
    searcher = lasfast.searchers.Evolution(supernet.space, constraint=constraint, population=5, generations=1)
    assert all(cost["flops"](one) <= flops / 2 for one in searcher.ask())


def test_a_search_and_its_network(one_thread: None) -> None:
    """Searched, extracted and calibrated as any supernet."""
    model = Residual().eval()
    supernet = from_model(model, SHAPE)
    evaluator = lasfast.Evaluator(supernet, images(8), (images(10), torch.arange(10) % 5))
    space, constraint = supernet.space, supernet.constraint("params<=70%")
    searcher = lasfast.searchers.Evolution(space, constraint=constraint, population=4, generations=1)
    result = lasfast.Study(searcher, evaluator).run()
    network = evaluator.extract(result.best.architecture)
    assert sum(one.numel() for one in network.parameters()) < 0.7 * sum(p.numel() for p in model.parameters())
    right = int((network(images(10)).argmax(1) == torch.arange(10) % 5).sum())
    assert abs(right / 10 - result.best.top1) <= 0.1  # rounding may decide one image


def test_what_a_study_is_told_identifies_the_network() -> None:
    model = Residual()
    one = from_model(model, SHAPE).describe()
    assert one == from_model(model, SHAPE).describe()
    model.network.stride = (1, 1)
    assert one != from_model(model, SHAPE).describe()
