"""Files with networks: they take images as bytes, say what they are, and compute what PyTorch does."""

import dataclasses
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import lasfast
from lasfast import deploy
from lasfast.deploy.formats import FORMATS
from lasfast.ir.layers import Shape
from lasfast.ops.quantize import dorefa, pact_reference

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
CLASSES = ("cat", "hérisson", "dog & co")
SHAPE: Shape = (3, 12, 10)


def make_network() -> nn.Module:
    torch.manual_seed(0)
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(8, len(CLASSES))
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), *head)


def make_card(**changed) -> deploy.ModelCard:
    card = deploy.ModelCard(
        architecture="2-4-3",
        supernet="ResidualNet",
        weights="trained from scratch for 60 epochs",
        classes=CLASSES,
        channels=3,
        image_size=SHAPE[1:],
        crop_pct=0.875,
        mean=MEAN,
        std=STD,
        accuracy={"top1": 0.9, "standard_error": 0.03, "images": 100},
        costs={"flops": 1200.0, "params": 300.0},
        run="nir-pets",
        data={"name": "imagefolder:pets", "digest": "12ab"},
    )
    return dataclasses.replace(card, **changed)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randint(0, 256, (6, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def expected(images: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(one).view(1, 3, 1, 1) for one in (MEAN, STD))
    with torch.no_grad():
        return make_network().eval()((images / 255 - mean) / std)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, images: torch.Tensor) -> Path:
    path = tmp_path_factory.mktemp("deploy") / "2-4-3.pt2"
    network = make_network().train()
    exported = deploy.save(network, make_card(), path, images)
    assert network.training
    assert network.state_dict().keys() == make_network().state_dict().keys()
    assert (exported.path, exported.bytes, exported.images) == (path, path.stat().st_size, 6)
    assert exported.difference < 1e-5
    return path


def test_the_file_needs_torch_alone(
    written: Path, images: torch.Tensor, expected: torch.Tensor, tmp_path: Path
) -> None:
    torch.save((images, expected), tmp_path / "pair.pt")
    code = (
        "import json, sys, torch; sys.modules['lasfast'] = None; x, expected = torch.load(sys.argv[2]); "
        "extra = {'lasfast.json': ''}; program = torch.export.load(sys.argv[1], extra_files=extra); "
        "torch.testing.assert_close(program.module()(x), expected); "
        "print(json.loads(extra['lasfast.json'])['classes'][0])"
    )
    files = [str(written), str(tmp_path / "pair.pt")]
    done = subprocess.run([sys.executable, "-c", code, *files], check=True, capture_output=True, text=True)
    assert done.stdout == "cat\n"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of other packages
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_computes_the_same_and_has_the_card(
    name: str, written: Path, images: torch.Tensor, expected: torch.Tensor, tmp_path: Path
) -> None:
    for package in FORMATS[name].packages:
        pytest.importorskip(package)
    path = tmp_path / f"network{FORMATS[name].suffix}"
    exported = deploy.convert(written, path, images)
    assert exported.path == path
    assert exported.bytes == sum(file.stat().st_size for file in tmp_path.iterdir())
    model = deploy.load(path)
    assert model.card == make_card()
    for count in (1, 4):
        torch.testing.assert_close(model(images[:count]), expected[:count], rtol=1e-4, atol=1e-5)
    assert 0 < deploy.measure_latency(model, images[:1], seconds=0.01) < 10
    with pytest.raises(TypeError, match=r"images must be uint8, 0 to 255, got torch\.float32"):
        model(images / 255)
    with pytest.raises(ValueError, match=r"images must be \[N, 3, 12, 10\], got \[6, 3, 12, 9\]"):
        model(images[..., :9])
    if name != "openvino":  # which converts what it is given
        with pytest.raises(Exception, match=r"(?i)byte|uint8|0x12"):
            model.run(images / 255)


class Quantized(nn.Module):
    """A convolution and a linear layer of weights of few bits, and values of three bits between."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits, self.conv, self.fc = bits, nn.Conv2d(3, 8, 3), nn.Linear(8, len(CLASSES))
        self.alpha = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = pact_reference(nn.functional.conv2d(x, dorefa(self.conv.weight, self.bits)), self.alpha, 3)
        return self.fc(x.mean((2, 3)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of other packages
@pytest.mark.parametrize("bits", [1, 4])
def test_networks_of_few_bits_are_written_as_onnx(bits: int, images: torch.Tensor, tmp_path: Path) -> None:
    for package in FORMATS["onnx"].packages:
        pytest.importorskip(package)
    torch.manual_seed(0)
    deploy.save(Quantized(bits), make_card(), tmp_path / "network.pt2", images)
    assert deploy.convert(tmp_path / "network.pt2", tmp_path / "network.onnx", images).difference < 1e-4


def test_the_page_uses_files_as_they_are(
    written: Path, images: torch.Tensor, expected: torch.Tensor, tmp_path: Path, monkeypatch, capsys
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "deploy.md").read_text(encoding="utf-8")
    blocks = dict(re.findall(r"^## (.*?)\n\n```python\n(.*?)```", page, re.DOTALL | re.MULTILINE))
    shutil.copy(written, tmp_path)
    monkeypatch.chdir(tmp_path)
    exec(blocks["pt2"], {"torch": torch, "json": json, "images": images})
    assert capsys.readouterr().out == f"{CLASSES[expected[0].argmax()]}\n"
    exec(blocks["In Python, with lasfast"], {})
    assert "tensor([" in capsys.readouterr().out
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    deploy.convert(written, "2-4-3.onnx", images)
    exec(blocks["onnx"], {"onnxruntime": onnxruntime, "json": json, "images": images.numpy()})
    assert capsys.readouterr().out == f"{CLASSES[expected[0].argmax()]}\n"


def test_a_card_says_how_images_go_in() -> None:
    text = make_card().to_text()
    values = json.loads(text)
    assert values["input"] == "images uint8 [N, 3, 12, 10], 0 to 255, RGB"
    assert values["output"] == "logits float32 [N, 3]"
    assert values["lasfast"] == lasfast.__version__
    assert deploy.ModelCard.of_text(text) == make_card()


def test_a_dataset_fills_the_card_in() -> None:
    data = lasfast.data.load("digits")
    measurement = lasfast.Measurement((1, 1, 1), 0.75, 1.0, 0.5, 300)
    card = deploy.ModelCard.of(
        data, measurement, architecture="1-1-1", supernet="PlainNet", weights="w", costs={"flops": 1}, run="r"
    )
    assert card.classes == tuple("0123456789")
    assert card.image_shape == (1, 8, 8)
    assert card.crop_pct == 1
    assert card.accuracy == {"top1": 0.75, "standard_error": 0.025, "images": 300}
    assert deploy.ModelCard.of_text(card.to_text()) == card


def test_a_file_that_computes_something_else_is_not_written(
    monkeypatch: pytest.MonkeyPatch, written: Path, images: torch.Tensor, tmp_path: Path
) -> None:
    wrong = dataclasses.replace(
        FORMATS["torchscript"], load=lambda path: (lambda x: x.float().mean((2, 3)), "")
    )
    monkeypatch.setitem(FORMATS, "torchscript", wrong)
    with pytest.raises(ValueError, match=r"was not written: its logits differ from PyTorch's by .* 6 images"):
        deploy.convert(written, tmp_path / "network.torchscript", images)
    assert not list(tmp_path.iterdir())


def test_what_a_format_cannot_say_is_told(
    monkeypatch: pytest.MonkeyPatch, written: Path, images: torch.Tensor, tmp_path: Path
) -> None:
    def write(*_) -> None:
        try:
            raise KeyError("no function for aten.round\nhere")
        except KeyError as error:
            raise RuntimeError("a page of advice") from error

    monkeypatch.setitem(FORMATS, "torchscript", dataclasses.replace(FORMATS["torchscript"], write=write))
    with pytest.raises(
        ValueError, match=r"was not written: the network cannot be translated \(.*aten\.round"
    ):
        deploy.convert(written, tmp_path / "network.torchscript", images)
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, images: torch.Tensor) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxscript" else found(name) or True
    )
    command = "pip install onnx onnxscript onnxruntime"
    with pytest.raises(ImportError, match=rf"needs onnxscript, not installed here: {command}"):
        deploy.convert("nowhere.pt2", "network.onnx", images)


def test_other_files_are_refused(tmp_path: Path, images: torch.Tensor) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt2: there is no such file"):
        deploy.load("nowhere.pt2")
    (tmp_path / "network.h5").touch()
    with pytest.raises(
        ValueError, match=r"network\.h5 must end in \.pt2, \.onnx, \.torchscript, \.xml, \.pte"
    ):
        deploy.load(tmp_path / "network.h5")
    (tmp_path / "network.pt2").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"network\.pt2 cannot be read as \.pt2: "):
        deploy.load(tmp_path / "network.pt2")
    program = torch.export.export(nn.Flatten(), (images,))
    torch.export.save(program, tmp_path / "network.pt2")
    with pytest.raises(ValueError, match=r"network\.pt2 has no model card"):
        deploy.load(tmp_path / "network.pt2")
    with pytest.raises(ValueError, match=r"the model card cannot be read: .*format must be 1, got 2"):
        deploy.ModelCard.of_text('{"format": 2}')
    with pytest.raises(ValueError, match=r"path must end in \.pt2, got a\.onnx"):
        deploy.save(make_network(), make_card(), "a.onnx", images)
