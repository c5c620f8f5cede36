"""`lasfast.calibrate` of several networks in one pass, and `lasfast.update_bn` in the place of torch's."""

import copy

import pytest
import torch
import torchvision
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.optim.swa_utils import update_bn as torchs_update_bn
from torch.utils.data import DataLoader, TensorDataset

import lasfast
from lasfast.runtime import compiled

NATIVE = compiled.available() and hasattr(compiled.load(), "schedule_calibrate")
needs_native = pytest.mark.skipif(not NATIVE, reason="the compiled module is missing")
pytestmark = pytest.mark.usefixtures("one_thread")


class Sized(nn.Module):
    """A network that decides by the size of its images, so that it is read for one size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn(self.conv(x)).sin()
        return y.mean((2, 3)) if x.shape[-1] > 20 else y.amax((2, 3))


class Control(Sized):
    """A network with control flow that depends on values, which PyTorch runs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x if float(x.sum()) > -1e9 else -x)


def networks() -> list[nn.Module]:
    torch.manual_seed(0)
    return [
        torchvision.models.shufflenet_v2_x0_5(num_classes=4),
        Control(),
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 1)).append(
            nn.BatchNorm2d(8)
        ),
        torchvision.models.resnet18(num_classes=7),
        Sized(),
    ]


def buffers(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: one.clone() for name, one in network.named_buffers()}


def batches(*sizes: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(6, 3, size, size, generator=generator) + 0.5 for size in sizes]


class Counted:
    """A loader of lists [images, labels] that counts how often it is read."""

    def __init__(self, images: list[torch.Tensor]) -> None:
        self.images, self.reads = images, 0

    def __iter__(self):
        self.reads += 1
        return iter([[one, torch.zeros(len(one))] for one in self.images])


@pytest.mark.parametrize(
    ("backend", "statistics"),
    [("torch", "batch_mean"), pytest.param("auto", "cumulative", marks=needs_native)],
)
def test_each_gets_the_statistics_that_it_gets_alone(backend: str, statistics: str) -> None:
    together, alone, loader = networks(), networks(), Counted(batches(24, 24, 24))
    used = lasfast.calibrate(together, loader, statistics=statistics, backend=backend)
    assert loader.reads == 1
    assert used == [
        lasfast.calibrate(one, loader.images, statistics=statistics, backend=backend) for one in alone
    ]
    assert used == (["torch"] * 5 if backend == "torch" else ["native", "torch", *["native"] * 3])
    for one, other, fresh in zip(together, alone, networks(), strict=True):
        torch.testing.assert_close(buffers(one), buffers(other), rtol=0, atol=0)
        assert not torch.equal(next(iter(buffers(one).values())), next(iter(buffers(fresh).values())))
        assert all(module.training for module in one.modules())


@needs_native
def test_other_sizes_send_those_to_pytorch_that_were_read_for_one() -> None:
    together, loader = networks(), Counted(batches(24, 24, 32))
    used = lasfast.calibrate(together, loader)
    assert used == ["native", "torch", "native", "native", "torch"]
    assert loader.reads == 2
    for one, other in zip(together, networks(), strict=True):
        lasfast.calibrate(other, loader.images)
        torch.testing.assert_close(buffers(one), buffers(other), rtol=0, atol=0)
    with pytest.raises(ValueError, match="images must have one size for backend='native'"):
        lasfast.calibrate([networks()[0], networks()[4]], loader.images, backend="native")


def test_networks_that_do_not_fit_together_are_named() -> None:
    one, other = Sized(), Sized()
    other.bn = one.bn
    before = buffers(one)
    for given, error, text in [
        ([], ValueError, "must be a module, or at least one, got none"),
        ([one, other], ValueError, "norms of their own, got 'bn' of number 1 in number 0, too"),
        ([one, one], ValueError, "norms of their own, got 'bn' of number 1 in number 0, too"),
        ([one, nn.Conv2d(3, 4, 3)], ValueError, "Conv2d without any BatchNorm"),
        ([one, 3], TypeError, "must be a torch.nn.Module or a list of them, got int"),
        ([one, Sized().to("meta")], ValueError, "must be modules on one device, got cpu, meta"),
    ]:
        with pytest.raises(error, match=text):
            lasfast.calibrate(given, batches(24))
    assert buffers(one).keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in buffers(one).items())


def test_an_error_of_one_leaves_all_as_they_were() -> None:
    one, other = Sized(), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3))
    before = buffers(one)
    with pytest.raises(ValueError, match="one value per channel"):
        lasfast.calibrate([one, other], [torch.zeros(1, 3, 24, 24)])
    assert all(torch.equal(value, before[name]) for name, value in buffers(one).items())


@pytest.mark.parametrize("device", [None, "cpu"])
def test_update_bn_takes_the_place_of_torchs(device: str | None) -> None:
    """Of an averaged model, and with a loader that gives lists of images and labels."""
    torch.manual_seed(0)
    ours = AveragedModel(torchvision.models.resnet18(num_classes=7))
    theirs = copy.deepcopy(ours)
    images = torch.cat(batches(24, 24, 24))
    loader = DataLoader(TensorDataset(images, torch.zeros(len(images))), batch_size=6)
    assert lasfast.update_bn(loader, ours, device) is None
    torchs_update_bn(loader, theirs, device)
    assert ours.training == theirs.training
    for (name, one), other in zip(buffers(ours).items(), buffers(theirs).values(), strict=True):
        if "running_mean" not in name:  # which is judged by the spread of the values, elsewhere
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3, msg=name)


@needs_native
def test_averaged_models_run_natively() -> None:
    model = AveragedModel(torchvision.models.resnet18(num_classes=7))
    assert lasfast.calibrate(model, batches(24)) == "native"


def test_update_bn_of_models_without_norms_and_on_other_devices() -> None:
    plain, model = nn.Conv2d(3, 4, 3), Sized()
    lasfast.update_bn(batches(24), plain)
    lasfast.update_bn(batches(24), [plain, model])
    assert model.bn.num_batches_tracked == 1
    with pytest.raises(ValueError, match="device must be that of the model, cpu, got cuda:0"):
        lasfast.update_bn(batches(24), model, 0 if torch.cuda.is_available() else torch.device("cuda:0"))
