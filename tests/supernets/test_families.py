import copy
import io
import warnings

import pytest
import torch
from torch import nn

from lasfast import supernets
from lasfast.ir import layers
from lasfast.ir.layers import path_shapes
from lasfast.spaces import LayerAssignmentSpace
from lasfast.supernets import LayerBuilder, Supernet

SMALL = {
    "plain": lambda: supernets.PlainNet((2, 2, 3), 7, image_size=16),
    "plain-dropout": lambda: supernets.PlainNet((2, 2, 3), 7, image_size=16, dropout=0.5),
    "residual": lambda: supernets.ResidualNet((2, 2, 3), 7),
    "residual-projection": lambda: supernets.ResidualNet((2, 2, 3), 7, shortcut="projection", in_channels=1),
    "residual-imagenet": lambda: supernets.ResidualNet((2, 2, 3), 7, stem="imagenet"),
    "mobilenet-v1": lambda: supernets.MobileNetV1((2, 2, 3, 2), 7, stem="cifar"),
    "resnet50": lambda: supernets.ResNet50((2, 2, 3, 2), 7, dropout=0.2),
}


@pytest.fixture(params=SMALL)
def supernet(request: pytest.FixtureRequest) -> Supernet:
    torch.manual_seed(0)
    return SMALL[request.param]()


def images(supernet: Supernet, count: int = 3) -> torch.Tensor:
    return torch.randn(count, supernet.in_channels, 16, 16)


def test_shapes_of_records_are_the_shapes_that_run(supernet: Supernet) -> None:
    architecture = supernet.space.deepest
    seen: list[tuple[int, ...]] = []
    network = supernet.extract(architecture).eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda _m, _i, out: seen.append(tuple(out.shape[1:])))
    network(images(supernet))
    written = [
        shape
        for layer, shapes in path_shapes(supernet.path(architecture), (supernet.in_channels, 16, 16))
        for op, shape in zip(layer.ops, shapes[1:], strict=True)
        if isinstance(op, layers.Conv2d | layers.Linear)
    ]
    assert seen == written


@pytest.mark.parametrize("training", [False, True])
def test_an_extracted_network_computes_what_the_supernet_computes(supernet: Supernet, training: bool) -> None:
    architecture = tuple(1 + index % 2 for index in range(supernet.space.groups))
    supernet.train(training)
    network = supernet.extract(architecture)
    x = images(supernet)
    torch.manual_seed(1)
    expected = supernet(x, architecture)
    torch.manual_seed(1)
    torch.testing.assert_close(network(x), expected, rtol=0, atol=0)
    own = dict(supernet.named_buffers())
    for name, buffer in network.named_buffers():  # training updated the same running statistics
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(buffer, own[name], rtol=0, atol=0)


def test_an_extracted_network_has_weights_of_its_own(supernet: Supernet) -> None:
    architecture = supernet.space.deepest
    network = supernet.extract(architecture)
    before = copy.deepcopy(supernet.state_dict())
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.add_(1)
    for name, tensor in supernet.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert set(network.state_dict()) == set(supernet.state_dict())


def test_an_extracted_network_is_plain_torch(supernet: Supernet) -> None:
    network = supernet.extract(supernet.space.seed_architecture).eval()
    for module in network.modules():
        assert type(module).__module__.startswith("torch.")
    x = images(supernet)
    expected = network(x)
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    with warnings.catch_warnings():  # torch.jit and pickle of GraphModule warn in some versions of torch
        warnings.simplefilter("ignore")
        loaded = torch.load(file, weights_only=False)
        exported = torch.export.export(network, (x,)).module()
    assert torch.equal(loaded(x), expected)
    torch.testing.assert_close(exported(x), expected)


def test_fresh_weights_are_new_and_of_unit_scale(supernet: Supernet) -> None:
    architecture = supernet.space.deepest
    network = supernet.extract(architecture, fresh=True)
    shared = dict(supernet.named_parameters())
    for name, weight in network.named_parameters():
        assert weight.dim() == 1 or not torch.equal(weight, shared[name])
        if weight.dim() == 4:  # a convolution's variance is 2 / (out_channels * kernel^2) (He et al. 2015)
            assert weight.var().item() * weight[:, 0].numel() == pytest.approx(2, rel=0.4)


def test_only_the_path_gets_gradients(supernet: Supernet) -> None:
    architecture = supernet.space.seed_architecture
    supernet.train()
    supernet(images(supernet), architecture).square().sum().backward()
    named = {op.module for layer in supernet.path(architecture) for op in layer.ops if hasattr(op, "module")}
    for name, parameter in supernet.named_parameters():
        assert (parameter.grad is not None) == (name.rpartition(".")[0] in named), name


def test_assignments_share_the_layers_they_have_in_common(supernet: Supernet) -> None:
    n = supernet.space.groups
    one, other = supernet.path((1,) * n), supernet.path((1,) * (n - 1) + (2,))
    new = next(index for index, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    assert other[new].name == f"groups.{n - 1}.1"
    assert one == other[:new] + other[new + 1 :]


def test_handcrafted_assignments() -> None:
    with torch.device("meta"):  # no weights are needed
        assert supernets.MobileNetV1((6,) * 4).handcrafted(12) == (2, 2, 6, 2)
        assert supernets.ResNet50((6,) * 4).handcrafted(16) == (3, 4, 6, 3)
        assert supernets.ResNet50((5,) * 4).handcrafted(16) == (4, 4, 4, 4)  # 6 layers are not in this space
        assert supernets.ResidualNet((6, 6, 6)).handcrafted(12) == (4, 4, 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: supernets.ResidualNet((2, 2)), "max_layers"),
        (lambda: supernets.ResidualNet((2, 2, 0)), "max_layers"),
        (lambda: supernets.ResidualNet(num_classes=0), "num_classes must be a positive int, got 0"),
        (lambda: supernets.ResidualNet(stem="tiny"), "stem must be one of 'cifar', 'imagenet', got 'tiny'"),
        (lambda: supernets.ResidualNet(shortcut="none"), "shortcut must be one of"),
        (lambda: supernets.PlainNet(image_size=7), "image_size must be at least 8"),
    ],
)
def test_bad_arguments_are_named(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_plain_net_says_when_the_images_do_not_fit() -> None:
    supernet = supernets.PlainNet((1, 1, 1), image_size=32)
    shape = (3, 16, 16)
    with pytest.raises(ValueError, match=r"expects 4096 features, got a value of shape \(1024,\)"):
        list(path_shapes(supernet.path((1, 1, 1)), shape))


def test_describe_tells_structures_apart() -> None:
    one, other = supernets.ResidualNet((2, 2, 2)), supernets.ResidualNet((2, 2, 2), shortcut="projection")
    assert one.describe() == supernets.ResidualNet((2, 2, 2)).describe()
    assert one.describe() != other.describe()


class Widths(Supernet):
    """A convolution and a depthwise convolution with channels to choose."""

    def __init__(self) -> None:
        super().__init__(LayerAssignmentSpace(1, 3), num_classes=2, in_channels=3)
        self.create_modules(*map(self.path, self.space.enumerate()))

    def path(self, architecture):
        channels = 4 * self.space.validate(architecture)[0]
        block = LayerBuilder("block", 3)
        y = block.conv_bn_act("1", block.input, channels, 3)
        y = block.conv_bn("2", y, channels, 3, groups=channels)
        block.linear("fc", block.global_avg_pool(y), 2)
        return (block.build(),)


def test_modules_have_room_for_every_width() -> None:
    torch.manual_seed(0)
    supernet = Widths().eval()
    assert supernet.get_parameter("block.conv1.weight").shape == (12, 3, 3, 3)
    assert supernet.get_parameter("block.conv2.weight").shape == (12, 1, 3, 3)
    x = torch.randn(2, 3, 8, 8)
    for architecture in supernet.space.enumerate():
        network = supernet.extract(architecture)
        assert network.get_parameter("block.conv2.weight").shape[0] == 4 * architecture[0]
        torch.testing.assert_close(network(x), supernet(x, architecture), rtol=0, atol=0)


class Named(Widths):
    """A supernet with an attribute that has the name of a layer."""

    def block(self) -> None:
        """Be hidden by a layer of this name."""


def test_a_layer_must_not_hide_an_attribute() -> None:
    with pytest.raises(ValueError, match="no layer may be named 'block': Named has that attribute"):
        Named()
