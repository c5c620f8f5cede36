"""A supernet of your own: you say which layers an architecture runs, and lasfast does the rest.

    python examples/own_supernet.py

Here, each layer of a group ends in a module that lasfast does not know, a learned channel gate.
"""

import torch
from torch import nn

import lasfast
from lasfast.supernets import Layer, LayerAssignmentSupernet, LayerBuilder, Path


class Gate(nn.Module):
    """A gate that scales each channel by a learned function of all channels' means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Linear(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale(x.mean((2, 3))).sigmoid()[:, :, None, None]


class GatedNet(LayerAssignmentSupernet):
    """Two groups of 3x3 convolutions, 16 and 32 channels, each followed by a gate."""

    channels = (16, 32)

    def __init__(self, max_layers=(4, 4), num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__(2, max_layers, num_classes=num_classes, in_channels=in_channels)

    def stem_layers(self) -> Path:
        return ()

    def layer(self, group: int, index: int) -> Layer:
        channels = self.channels[group]
        before = (self.in_channels, *self.channels)[group] if index == 0 else channels
        name = f"groups.{group}.{index}"
        self.add_opaque(f"{name}.gate", Gate(channels))
        block = LayerBuilder(name, before)
        y = block.conv_bn_act("", block.input, channels, 3, stride=2 if group and index == 0 else 1)
        weights = channels * channels
        block.opaque("gate", y, channels, params=weights + channels, flops_per_image=weights)
        return block.build()

    def head_layers(self) -> Path:
        block = LayerBuilder("classifier", self.channels[-1])
        block.linear("fc", block.global_avg_pool(block.input), self.num_classes)
        return (block.build(),)


def main() -> None:
    torch.manual_seed(0)
    data = lasfast.data.load("digits")
    supernet = GatedNet(num_classes=data.num_classes, in_channels=data.channels)
    evaluator = lasfast.Evaluator(supernet, data.calibration, data.validation)
    trainer = lasfast.train.SupernetTrainer(supernet, data.train, warm_up_epochs=3, epochs_per_step=2)
    study = lasfast.Study(lasfast.searchers.NIR(supernet.space, depth=5), evaluator, trainer=trainer)
    for depth, winner in study.run().winners.items():
        print(depth, winner)


if __name__ == "__main__":
    main()
