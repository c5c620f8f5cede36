from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2.functional import resized_crop

from lasfast.data import TensorImages, TrainingImages, augment
from lasfast.data.statistics import channel_statistics, digest_of

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def make_images(count=12, channels=3, size=(6, 5), dtype=torch.uint8, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randint(0, 256, (count, channels, *size), dtype=torch.uint8, generator=generator)
    images = raw if dtype == torch.uint8 else raw.to(dtype) / 255
    # The label is the image's number, so that a batch says which images it holds.
    return TensorImages(images, torch.arange(count), MEAN[:channels], STD[:channels], **options)


def reference_crop(raw, top, left, flip, pad):
    """One image, one step after another: zero-pad the raw image, crop, flip, normalize."""
    channels, height, width = raw.shape
    padded = np.zeros((channels, height + 2 * pad, width + 2 * pad), dtype=raw.dtype)
    padded[:, pad : pad + height, pad : pad + width] = raw
    crop = padded[:, top : top + height, left : left + width]
    crop = crop[:, :, ::-1] if flip else crop
    value = crop / 255 if raw.dtype == np.uint8 else crop
    return (value - np.reshape(MEAN[:channels], (-1, 1, 1))) / np.reshape(STD[:channels], (-1, 1, 1))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize(("pad", "flip"), [(2, True), (2, False), (0, True), (0, False)])
def test_every_image_is_a_padded_crop_of_the_right_one(dtype, pad, flip):
    data = make_images(dtype=dtype, pad=pad, flip=flip)
    seen = set()
    for seed in range(30):
        for images, labels in data.batches(5, seed):
            assert images.dtype == torch.float32
            assert labels.dtype == torch.int64
            for image, label in zip(images.numpy(), labels.tolist(), strict=True):
                raw = data.images[label].numpy()
                found = [
                    (top, left, mirrored)
                    for top in range(2 * pad + 1)
                    for left in range(2 * pad + 1)
                    for mirrored in {False, flip}
                    if np.allclose(reference_crop(raw, top, left, mirrored, pad), image, atol=1e-5)
                ]
                assert len(found) == 1
                seen.add(found[0])
    if pad == 0:
        assert seen == {(0, 0, mirrored) for mirrored in {False, flip}}
    else:
        assert {top for top, _, _ in seen} == {left for _, left, _ in seen} == set(range(2 * pad + 1))
        assert {mirrored for _, _, mirrored in seen} == {False, flip}


def test_crops_and_flips_are_uniform_and_independent():
    generator = torch.Generator().manual_seed(0)
    top, left = augment.draw_offsets(90_000, 1, generator)
    flips = augment.draw_flips(90_000, generator)
    cells = torch.bincount(top * 6 + left * 2 + flips.long(), minlength=18)
    assert (cells - 5000).abs().max() < 5 * 5000**0.5  # five standard deviations


@settings(deadline=None, max_examples=40)
@given(
    count=st.integers(1, 20),
    batch_size=st.integers(1, 24),
    seed=st.integers(-(2**70), 2**70),
    resized=st.booleans(),
    data=st.data(),
)
def test_batch_k_is_the_same_from_any_start(count, batch_size, seed, resized, data):
    images = make_images(count, size=(4, 4), pad=0 if resized else 1, resized_crop=resized)
    whole = list(images.batches(batch_size, seed))
    assert len(whole) == images.num_batches(batch_size) == max(1, count // batch_size)
    assert all(len(labels) == min(batch_size, count) for _, labels in whole)
    labels = torch.cat([labels for _, labels in whole])
    assert len(labels.unique()) == len(labels)  # nothing twice in an epoch
    start = data.draw(st.integers(0, len(whole)))
    tail = list(images.batches(batch_size, seed, start))
    assert len(tail) == len(whole) - start
    for (a, b), (c, d) in zip(whole[start:], tail, strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)


@pytest.mark.parametrize("options", [{"pad": 2}, {"pad": 0, "resized_crop": True}])
def test_batches_ignore_global_state(options):
    data = make_images(40, size=(8, 8), **options)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        first = list(data.batches(8, 3))
    finally:
        torch.set_num_threads(threads)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        second = list(data.batches(8, 3))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(first, second, strict=True))
    assert not torch.equal(first[0][0], next(data.batches(8, 4))[0])


def test_every_batch_draws_crops_of_its_own():
    one = torch.arange(3 * 64, dtype=torch.uint8).reshape(1, 3, 8, 8)
    data = TensorImages(one.repeat(64, 1, 1, 1), torch.zeros(64, dtype=torch.int64), MEAN, STD)
    first, second = (images for images, _ in data.batches(32, 0))
    same = [torch.equal(a, b) for a, b in zip(first, second, strict=True)]
    assert sum(same) < 5  # of 81 crops and 2 flips, few coincide


def test_interleaved_epochs_do_not_disturb_each_other():
    data = make_images(20)
    one, two = list(data.batches(5, 1)), list(data.batches(5, 2))
    pairs = list(zip(data.batches(5, 1), data.batches(5, 2), strict=True))
    for k, (a, b) in enumerate(pairs):
        assert torch.equal(a[0], one[k][0])
        assert torch.equal(b[0], two[k][0])


def test_satisfies_the_protocol_and_describes_itself():
    data = make_images(20, pad=3, flip=False)
    assert isinstance(data, TrainingImages)
    assert len(data) == 20
    assert data.images.shape == (20, 3, 6, 5)
    assert data.labels.tolist() == list(range(20))
    assert data.device == torch.device("cpu")
    assert data.describe() == {
        "images": 20,
        "pad": 3,
        "flip": False,
        "resized_crop": False,
        "mean": list(MEAN),
        "std": list(STD),
    }


def test_no_padding_makes_no_copy():
    images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    data = TensorImages(images, torch.zeros(4, dtype=torch.int32), MEAN, STD, pad=0)
    assert data.images.data_ptr() == images.data_ptr()


@settings(deadline=None, max_examples=30)
@given(height=st.integers(1, 12), width=st.integers(1, 12), seed=st.integers(0, 2**32))
def test_resized_crops_equal_cropping_and_resizing_one_by_one(height, width, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (6, 2, height, width), dtype=torch.uint8, generator=generator)
    boxes = augment.draw_boxes(6, height, width, generator)
    flips = torch.tensor([True, False] * 3)
    result = augment.resize_boxes(images, boxes, flips)
    for image, box, flip, got in zip(images, boxes.tolist(), flips, result, strict=True):
        # Nothing shrinks, so there is nothing to smooth (and torch's smoothing errs on lines of one pixel).
        expected = resized_crop(image.float(), *box, size=[height, width], antialias=False)
        expected = expected.flip(-1) if flip else expected
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-2)


def test_boxes_have_torchvisions_distribution():
    generator = torch.Generator().manual_seed(0)
    boxes = augment.draw_boxes(4000, 64, 48, generator).double()
    image = torch.empty(3, 64, 48)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = torch.tensor(
            [RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)]
        ).double()
    # Means and spreads within five standard errors of the difference.
    for column in range(4):
        ours, other = boxes[:, column], theirs[:, column]
        error = float(ours.std() * (2 / 4000) ** 0.5)
        assert abs(float(ours.mean() - other.mean())) < 5 * error
        assert abs(float(ours.std() - other.std())) < 5 * error
    assert (boxes[:, 0] + boxes[:, 2]).max() == 64
    assert (boxes[:, 1] + boxes[:, 3]).max() == 48
    assert boxes.min() == 0


@pytest.mark.parametrize("shape", [(10, 200), (200, 10), (10, 10)])
def test_largest_central_box_is_torchvisions(shape):
    whole = torch.empty(3, *shape)
    impossible = [1e6, 1e6]  # no attempt fits
    assert augment.central_box(*shape) == RandomResizedCrop.get_params(whole, impossible, [3 / 4, 4 / 3])


def test_statistics_are_exact_and_do_not_divide_by_zero():
    images = make_images(50).images.clone()
    images[:, 2] = 7
    mean, std = channel_statistics(images)
    values = images.double().transpose(0, 1).flatten(1) / 255
    np.testing.assert_allclose(mean, values.mean(1), rtol=1e-12)
    np.testing.assert_allclose(std[:2], values[:2].std(1, correction=0), rtol=1e-12)
    assert std[2] == 1.0


def test_digest_sees_values_shapes_and_order():
    a = np.arange(6, dtype=np.uint8)
    b = a.copy()
    b[3] += 1
    digests = {digest_of(a), digest_of(b), digest_of(a.reshape(2, 3)), digest_of(a, b), digest_of(b, a)}
    assert len(digests) == 5
    assert digest_of(a) == digest_of(a.copy())


GOOD = {
    "images": torch.zeros(4, 3, 8, 8, dtype=torch.uint8),
    "labels": torch.zeros(4, dtype=torch.int64),
    "mean": MEAN,
    "std": STD,
}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"images": np.zeros((4, 3, 8, 8))}, TypeError, "images and labels must be tensors, got ndarray"),
        ({"images": GOOD["images"].int()}, TypeError, "uint8 or floating point, got torch.int32"),
        ({"images": GOOD["images"][0]}, ValueError, r"\[N, C, H, W\].*got shape \(3, 8, 8\)"),
        ({"images": GOOD["images"][:0]}, ValueError, "no empty dimension"),
        ({"labels": torch.zeros(4)}, TypeError, "labels must be integers, got torch.float32"),
        ({"labels": torch.zeros(5, dtype=torch.int64)}, ValueError, r"N = 4 as in images, got shape \(5,\)"),
        ({"labels": torch.tensor([0, 1, -1, 0])}, ValueError, "labels must be at least 0, got -1"),
        ({"mean": (0.5,)}, ValueError, r"3 values, one per channel, got \(0.5,\)"),
        ({"std": (0.5, 0.0, 0.5)}, ValueError, "std must be positive"),
        ({"pad": -1}, ValueError, "pad must be at least 0 pixels, got -1"),
        ({"pad": 1.5}, TypeError, "pad must be an int, got 1.5"),
        ({"pad": 4, "resized_crop": True}, ValueError, "pad must be 0 with resized_crop=True"),
    ],
)
def test_bad_arguments_are_named(changes, error, message):
    with pytest.raises(error, match=message):
        TensorImages(**{**GOOD, **changes})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, 0), ValueError, "batch_size must be at least 1, got 0"),
        ((2.0, 0), TypeError, "batch_size must be an int, got 2.0"),
        ((2, "a"), TypeError, "seed must be an int, got 'a'"),
        ((2, 0, 7), ValueError, "start must be a batch number from 0 to 6, got 7"),
        ((2, 0, -1), ValueError, "start must be a batch number"),
    ],
)
def test_bad_positions_are_named_before_the_first_batch(arguments, error, message):
    with pytest.raises(error, match=message):
        make_images(12).batches(*arguments)  # not even iterated


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("options", [{"pad": 2}, {"pad": 0, "resized_crop": True}])
def test_a_gpu_crops_and_flips_alike(options):
    data = make_images(40, size=(8, 8), **options)
    for (a, b), (c, d) in zip(data.batches(8, 3), data.to("cuda").batches(8, 3), strict=True):
        assert c.is_cuda
        assert d.is_cuda
        torch.testing.assert_close(a, c.cpu(), rtol=1e-4, atol=1e-4)
        assert torch.equal(b, d.cpu())
