"""What a study that runs in Python leaves for people and for the command line."""

import re

import pytest

import lasfast
from lasfast import report
from lasfast.deploy.formats import load_program
from lasfast.searchers import NIR, Random

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A study of the digits that has run, and its images."""
    data = lasfast.data.load("digits", limit=100, validation=60, calibration=50)
    supernet = lasfast.supernets.PlainNet((2, 2, 2), image_size=8, num_classes=10, in_channels=1)
    evaluator = lasfast.Evaluator(supernet, data.calibration, data.validation)
    trainer = lasfast.train.SupernetTrainer(supernet, data.train, warm_up_epochs=1, epochs_per_step=1)
    directory = tmp_path_factory.mktemp("runs") / "python"
    study = lasfast.Study(NIR(supernet.space, depth=4), evaluator, trainer=trainer, directory=directory)
    return study, data, study.run()


def test_picture_candidates_and_network_are_written(ran) -> None:
    study, data, result = ran
    written = report.leave(study, data)
    assert written["picture"].read_bytes().startswith(b"\x89PNG")
    assert len(written["candidates"].read_text().splitlines()) == 1 + len(result.candidates)
    program, card = load_program(written["network"])
    assert card.architecture == result.best.text
    assert card.weights == "with inherited weights"
    right = (program.module()(data.raw_validation[0]).argmax(1) == data.raw_validation[1]).sum()
    assert card.accuracy["top1"] == pytest.approx(int(right) / 60, abs=0.02)  # rounding may decide an image


def test_the_command_line_measures_with_its_weights(ran, lasfast_command) -> None:
    study, _, result = ran
    images = ["--limit", 100, "--validation", 60, "--calibration", 50, "--threads", 1]
    last = result.winners[4]
    status, out, err = lasfast_command("evaluate", last.text, "--run", study.directory, *images)
    assert status == 0, err
    assert re.search(rf"{last.text} +{100 * last.top1:.1f} ±", out)
    status, _, err = lasfast_command("evaluate", last.text, "--run", study.directory, *images, "--seed", 3)
    assert status == 2
    assert "--data must have the images of" in err


def test_what_cannot_be_left_is_named(ran, tmp_path) -> None:
    study, data, _ = ran
    searcher = Random(study.searcher.space, samples=2)
    other = lasfast.Study(searcher, study.evaluator)
    with pytest.raises(ValueError, match="study must have a directory to leave files in"):
        report.leave(other, data)
