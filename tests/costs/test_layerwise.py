from lasfast.costs.layerwise import layerwise
from lasfast.supernets import Layer, LayerBuilder


def conv(name: str, stride: int = 1) -> Layer:
    block = LayerBuilder(name, 4)
    block.conv("1", block.input, 4, 3, stride)
    return block.build()


def test_each_layer_is_reckoned_once_for_each_shape():
    asked = []

    def cost(layer, shapes):
        asked.append((layer.name, shapes[0]))
        return shapes[-1][1]

    costs = layerwise(cost)
    path = (conv("a", 2), conv("b"), conv("c", 2))
    assert list(costs(path, (4, 16, 16))) == [8, 8, 4]
    again = (conv("a", 2), conv("b"))  # equal records, but other objects
    assert list(costs(again, [4, 16, 16])) == [8, 8]
    assert asked == [("a", (4, 16, 16)), ("b", (4, 8, 8)), ("c", (4, 8, 8))]
    assert list(costs(path, (4, 32, 32))) == [16, 16, 8]
    assert len(asked) == 6
