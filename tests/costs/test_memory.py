from lasfast import costs, supernets
from lasfast.supernets import LayerBuilder


def peak(build, channels=4, size=8):
    block = LayerBuilder("block", channels)
    build(block)
    return costs.path_memory((block.build(),), (channels, size, size), bytes_per_value=1)


def test_a_convolution_holds_what_it_reads_and_what_it_writes():
    assert peak(lambda b: b.conv("1", b.input, 6, 3)) == (4 + 6) * 64
    assert peak(lambda b: b.conv("1", b.input, 6, 3, stride=2)) == 4 * 64 + 6 * 16


def test_normalisation_and_activation_write_in_place():
    assert peak(lambda b: b.conv_bn_act("1", b.input, 6, 3)) == (4 + 6) * 64


def test_a_shortcut_is_held_until_it_is_added():
    def residual(b):
        y = b.conv_bn_act("1", b.input, 12, 1)
        b.activation(b.add(b.conv_bn("2", y, 4, 3), b.input))

    # The second convolution holds the input, the wide value and the narrow one; the sum is written in place.
    assert peak(residual) == (4 + 12 + 4) * 64


def test_a_gate_is_applied_in_place():
    def gated(b):
        y = b.conv("1", b.input, 8, 3)
        b.multiply(y, b.conv("2", b.global_avg_pool(y, keep_axes=True), 8, 1))

    assert peak(gated) == (4 + 8) * 64


def test_halves_are_joined_again():
    def split(b):
        left, right = b.channel_split(b.input, 2)
        b.channel_shuffle(b.concat(left, b.conv("1", right, 2, 3)), 2)

    # The input is held beside its two halves; later, two halves are held beside their concatenation.
    assert peak(split) == (4 + 2 + 2) * 64


def test_an_activation_of_a_value_that_is_needed_later_is_a_value_more():
    def branch(b):
        y = b.conv("1", b.input, 4, 3)
        b.add(b.activation(y), y)

    assert peak(branch) == (4 + 4) * 64


def test_the_peak_is_that_of_the_greatest_layer():
    net = supernets.MobileNetV1((1, 1, 1, 1), stem="imagenet")
    # The first separable layer has the largest values, 32 channels in and 64 out on 112x112.
    assert costs.memory(net, (1, 1, 1, 1)) == 4 * (32 + 64) * 112 * 112
    assert costs.memory(net, (1, 1, 1, 1), bytes_per_value=2) == 2 * (32 + 64) * 112 * 112
