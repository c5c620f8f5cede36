import pickle
import subprocess
import sys

import pytest

from lasfast.ir import layers
from lasfast.ir.layers import path_shapes
from lasfast.ir.prefix_tree import PrefixTree
from lasfast.supernets import Layer, LayerBuilder


def block(name: str = "b", kernel_size: int = 3) -> Layer:
    builder = LayerBuilder(name, 4)
    y = builder.conv_bn_act("1", builder.input, 8, kernel_size, 2)
    shortcut = builder.pool(builder.input, "max", 1, 2)
    builder.activation(builder.add(y, shortcut))
    return builder.build()


def test_records_are_values() -> None:
    assert block() == block()
    assert hash(block()) == hash(block())
    assert block() != block(kernel_size=5)
    assert block() != block("other")
    with pytest.raises(AttributeError):
        block().name = "x"  # type: ignore[misc]


def test_a_pickled_record_is_found_in_another_process() -> None:
    # Hashes of strings differ between processes, so that a hash in the pickle would be wrong.
    code = (
        "import pickle, sys; layer = pickle.loads(bytes.fromhex(sys.argv[1])); "
        "print(type(layer)(layer.name, layer.ops) in {layer: 1})"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, pickle.dumps(block()).hex()], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "True"


def test_shapes_follow_the_program() -> None:
    shapes = block().shapes((4, 9, 7))
    assert shapes == ((4, 9, 7), (8, 5, 4), (8, 5, 4), (8, 5, 4), (4, 5, 4), (8, 5, 4), (8, 5, 4))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 8, 8), r"layer 'b': b\.conv1: expects 4 channels, got a value of shape \(3, 8, 8\)"),
        ((4,), r"expects a value of shape \(channels, height, width\), got \(4,\)"),
    ],
)
def test_a_value_that_does_not_fit_is_named(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        block().shapes(shape)


def test_an_image_that_is_too_small_is_named() -> None:
    pool = Layer("p", (layers.Pool("max", 2, 2),))
    with pytest.raises(ValueError, match="2x2 window with padding 0 does not fit in an input of shape"):
        pool.shapes((4, 1, 1))


@pytest.mark.parametrize(
    "ops", [(), (layers.Add(),), (layers.Activation(inputs=(1,)),), (layers.Activation(inputs=(0, 0)),)]
)
def test_a_program_must_read_earlier_values(ops: tuple[layers.Op, ...]) -> None:
    with pytest.raises(ValueError, match="layer 'x'"):
        Layer("x", ops)


def test_add_says_what_does_not_fit() -> None:
    builder = LayerBuilder("a", 4)
    y = builder.conv("c", builder.input, 4, 3, 2)
    builder.add(y, builder.input)
    with pytest.raises(
        ValueError, match=r"cannot add a value of shape \(4, 8, 8\) to one of shape \(4, 4, 4\)"
    ):
        builder.build().shapes((4, 8, 8))


def test_a_kernel_of_one_tap_has_no_dilation() -> None:
    """PyTorch (2.14) crashes where it has, in bf16 with padding."""
    dilated = layers.Conv2d("c", 4, 4, 1, 2, 1, dilation=2)
    assert dilated == layers.Conv2d("c", 4, 4, 1, 2, 1)
    assert layers.Conv2d("c", 4, 4, 3, dilation=2).dilation == 2


def test_only_images_lack_channels() -> None:
    """Of features, what is missing would be others in each backend."""
    layer = Layer("a", (layers.Linear("fc", 8, 5), layers.Add(inputs=(0, 1), missing=3)))
    with pytest.raises(
        ValueError, match=r"layer 'a': add of fewer channels: expects a value of shape \(channels"
    ):
        layer.shapes((8,))


@pytest.mark.parametrize("kind", ["max", "avg"])
def test_a_pool_whose_window_may_be_all_padding_is_refused(kind: layers.PoolKind) -> None:
    assert Layer("p", (layers.Pool(kind, 3, 1, 1),)).shapes((4, 8, 8))[-1] == (4, 8, 8)
    with pytest.raises(ValueError, match="padding must be at most half of kernel_size 3, got 2"):
        Layer("p", (layers.Pool(kind, 3, 1, 2),)).shapes((4, 8, 8))


def test_a_batch_norm_normalises_one_value_of_a_layer() -> None:
    builder = LayerBuilder("twice", 4)
    builder.batch_norm("bn", builder.activation(builder.batch_norm("bn", builder.input)))
    with pytest.raises(ValueError, match=r"layer 'twice': batch norms must be .* got twice\.bn, twice\.bn"):
        builder.build()


def test_the_images_of_a_path_that_do_not_fit_are_named() -> None:
    classifier = LayerBuilder("classifier", 4)
    classifier.linear("fc", classifier.flatten(classifier.input, 64), 7)
    path = (Layer("p", (layers.Pool("max", 2, 2),)), classifier.build())
    assert [shapes[-1] for _, shapes in path_shapes(path, (4, 8, 8))] == [(4, 4, 4), (7,)]
    message = (
        r"images of shape \(4, 8, 10\) do not fit this network: layer 'classifier': classifier.fc: "
        r"expects 64 features, got a value of shape \(80,\)"
    )
    for read in (lambda: list(path_shapes(path, (4, 8, 10))), lambda: PrefixTree([path]).shapes((4, 8, 10))):
        with pytest.raises(ValueError, match=message):
            read()


def test_kernels_may_differ_along_both_axes() -> None:
    conv = layers.Conv2d("c", 4, 8, (1, 7), padding=(0, 3), dilation=2)
    assert conv.output_shape((4, 5, 9)) == (8, 5, 3)
    assert conv != layers.Conv2d("c", 4, 8, (7, 1), padding=(3, 0), dilation=2)
    square = layers.Conv2d("c", 4, 8, (3, 3), padding=(1, 1))
    assert square == layers.Conv2d("c", 4, 8, 3, padding=1)
    with pytest.raises(ValueError, match=r"a 1x13 window with padding \(0, 1\) does not fit"):
        layers.Conv2d("c", 4, 8, (1, 7), padding=(0, 1), dilation=2).output_shape((4, 5, 9))
    builder = LayerBuilder("b", 4)
    builder.conv("c", builder.input, 8, (1, 7))
    assert builder.build().shapes((4, 5, 9))[-1] == (8, 5, 9)


def test_margins() -> None:
    assert layers.Pad((1, 2, 0, -3)).output_shape((4, 5, 9)) == (4, 2, 12)
    with pytest.raises(ValueError, match="leave nothing"):
        layers.Pad((0, 0, -3, -2)).output_shape((4, 5, 9))


def test_code_reads_one_value_or_two() -> None:
    source = "def code(x0, x1):\n    return x0 * x1"
    code = layers.Code(source, reads=2, shape=None)
    assert code.output_shape((4, 5, 9), (4, 1, 1)) == (4, 5, 9)
    assert layers.Code(source, reads=2, shape=(7,)).output_shape((4, 5, 9), (4, 1, 1)) == (7,)
    layers.Layer("l", (layers.Activation(), layers.Code(source, reads=2, inputs=(0, 1))))
    with pytest.raises(ValueError, match=r"op 1, Code, reads values .* expected 2"):
        layers.Layer("l", (code,))
