import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from lasfast.data.training import LoaderImages, PairImages, as_training_images, on_device


class Noisy(Dataset):
    """Items that draw from torch's global generator, as torchvision's transforms do."""

    def __len__(self):
        return 20

    def __getitem__(self, index):
        return torch.full((1, 2, 2), float(index)) + torch.rand(1, 2, 2), index


def read(source, seed, start=0):
    return [(x.clone(), y.clone()) for x, y in source.batches(4, seed, start)]


def assert_equal(one, other):
    assert len(one) == len(other)
    for (x, y), (u, v) in zip(one, other, strict=True):
        assert torch.equal(x, u)
        assert torch.equal(y, v)


def pair(count=21):
    return PairImages(torch.rand(count, 1, 2, 2), torch.arange(count))


def loader(**options):
    return LoaderImages(DataLoader(Noisy(), batch_size=4, shuffle=True, **options))


@pytest.mark.parametrize(
    "source",
    [pair(), loader(), loader(generator=torch.Generator()), loader(num_workers=1)],
    ids=["pair", "loader", "own generator", "worker"],
)
def test_batches_are_a_function_of_seed_and_number(source):
    first = read(source, seed=1)
    assert len(first) == source.num_batches(4) == 5
    before = torch.get_rng_state()
    assert_equal(read(source, seed=1), first)
    assert_equal(read(source, seed=1, start=3), first[3:])
    assert read(source, seed=1, start=5) == []
    assert not torch.equal(read(source, seed=2)[0][1], first[0][1])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_pair_visits_each_image_once_and_drops_the_rest():
    labels = torch.cat([y for _, y in read(pair(), seed=0)])
    assert len(labels.unique()) == len(labels) == 20
    small = list(pair(3).batches(4, seed=0))
    assert len(small) == pair(3).num_batches(4) == 1
    assert sorted(small[0][1].tolist()) == [0, 1, 2]


def test_what_cannot_be_trained_on_is_named():
    with pytest.raises(ValueError, match=r"images must be floating point .* got torch\.uint8 \(2, 3, 4, 4\)"):
        as_training_images((torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)))
    with pytest.raises(ValueError, match=r"labels must be int64 \[2\], got torch\.int64 \(3,\)"):
        as_training_images((torch.zeros(2, 3, 4, 4), torch.zeros(3, dtype=torch.int64)))
    with pytest.raises(TypeError, match=r"data must be training images .* got a int"):
        as_training_images(3)
    empty = TensorDataset(torch.zeros(0, 3, 4, 4), torch.zeros(0))
    with pytest.raises(ValueError, match="data must have a batch"):
        as_training_images(DataLoader(empty, batch_size=2))

    class Endless(IterableDataset):
        def __iter__(self):
            yield torch.zeros(3, 4, 4), 0

    with pytest.raises(TypeError, match="data must have a length"):
        as_training_images(DataLoader(Endless()))


def test_images_in_memory_go_to_the_gpu_that_trains_on_them_if_it_has_room():
    gpu = torch.device("cuda", 0)

    class Movable(PairImages):
        full = False

        def to(self, device):
            if self.full:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return device

    data = Movable(torch.rand(4, 1, 2, 2), torch.arange(4))
    assert on_device(data, torch.device("cpu")) is data
    assert on_device(data, gpu) == gpu
    data.full = True
    assert on_device(data, gpu) is data
    loaded = loader()
    assert on_device(loaded, gpu) is loaded


@pytest.mark.cuda
def test_a_gpu_has_the_same_batches():
    data = pair()
    moved = on_device(data, torch.device("cuda", 0))
    for (x, y), (u, v) in zip(read(data, 3), read(moved, 3), strict=True):
        assert u.is_cuda
        assert v.is_cuda
        assert torch.equal(x, u.cpu())
        assert torch.equal(y, v.cpu())
