from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True)
def same_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def lasfast(lasfast_command):
    """Run the program; return (exit status, standard output, standard error)."""
    return lasfast_command


@pytest.fixture
def without_exports(monkeypatch):
    """A function that leaves exported networks empty from then on.

    Exporting takes seconds, so tests that do not look into the files do without it.
    """

    def stop() -> None:
        monkeypatch.setattr("lasfast.deploy.save", lambda network, card, path, images: Path(path).touch())

    return stop
