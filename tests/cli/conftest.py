from pathlib import Path

import pytest
import torch

from lasfast import cli


@pytest.fixture(autouse=True)
def same_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def lasfast(monkeypatch, capsys):
    """Run the program; return (exit status, standard output, standard error)."""

    def run(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["lasfast", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capsys.readouterr()
        return end.value.code or 0, captured.out, captured.err

    return run


@pytest.fixture
def without_exports(monkeypatch):
    """A function that leaves exported networks empty from then on.

    Exporting takes seconds, so tests that do not look into the files do without it.
    """

    def stop() -> None:
        monkeypatch.setattr("lasfast.deploy.save", lambda network, card, path, images: Path(path).touch())

    return stop
