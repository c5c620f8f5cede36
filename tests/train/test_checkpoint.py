import json

import pytest
import torch
from safetensors import safe_open

from lasfast.train import CheckpointError, checkpoint

TENSORS = {
    "float": torch.arange(6.0).reshape(2, 3).t(),  # not contiguous
    "count": torch.tensor(7),
    "bf16": torch.ones(2, 3, 4, 4, dtype=torch.bfloat16).to(memory_format=torch.channels_last),
    "empty": torch.zeros(0, 3),
}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "weights.safetensors"
    checkpoint.save(path, TENSORS, {"position": [1, 2], "text": "é"})
    return path


def test_round_trip(path):
    tensors, metadata = checkpoint.load(path)
    assert metadata == {"position": [1, 2], "text": "é"}
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_equal_content_gives_equal_bytes(path, tmp_path):
    other = tmp_path / "other.safetensors"
    checkpoint.save(other, dict(reversed(TENSORS.items())), {"text": "é", "position": [1, 2]})
    assert other.read_bytes() == path.read_bytes()


def test_any_safetensors_reader_opens_it(path):
    with safe_open(path, framework="np") as file:
        assert file.get_tensor("float").tolist() == [[0, 3], [1, 4], [2, 5]]
        assert json.loads(file.metadata()["lasfast"])["content"]["position"] == [1, 2]


def test_every_flipped_byte_is_found(path):
    content = path.read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"weights\.safetensors is damaged.*delete it"):
            checkpoint.load(path)


def test_every_truncation_is_found(path):
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"weights\.safetensors is damaged"):
            checkpoint.load(path)


def test_not_a_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError):
        checkpoint.load(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="does not read as safetensors"):
        checkpoint.load(tmp_path)


def test_another_format_is_refused(path, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    with pytest.raises(CheckpointError, match="another checkpoint format than 2"):
        checkpoint.load(path)


def test_a_failed_save_keeps_the_old_one(path, monkeypatch):
    before = path.read_bytes()

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint, "serialize", fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(path, TENSORS, {})
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_digest_tells_names_shapes_types_and_values_apart():
    base = {"a": torch.zeros(2, 2)}
    others = [
        {"b": torch.zeros(2, 2)},
        {"a": torch.zeros(4)},
        {"a": torch.zeros(2, 2, dtype=torch.int32)},
        {"a": -torch.zeros(2, 2)},
    ]
    digests = {checkpoint.digest(tensors) for tensors in [base, *others]} | {checkpoint.digest(base, "text")}
    assert len(digests) == 6
