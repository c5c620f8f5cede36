"""The cells of an architecture as a table and as a picture, and those of a search that is training."""

import pytest
import torch
from matplotlib.figure import Figure

from lasfast.measurements.journal import Journal
from lasfast.report.cells import cells_table, draw_cells, pruned_so_far, space_of
from lasfast.report.run import Run
from lasfast.searchers.itnas import ITNAS
from lasfast.spaces import CellSpace
from lasfast.train import checkpoint
from lasfast.train.itnas import PREFIX, CellWeights

SPACE = CellSpace(2, ("max_pool_3x3", "sep_conv_3x3"))
TEXT = "max3.0+sep3.1-sep3.1+max3.2--max3.0+max3.1-sep3.0+sep3.2"


@pytest.fixture
def training(tmp_path):
    """A search of cells that trains: nothing is measured, and nothing saved yet."""
    header = {
        "searcher": {"name": "itnas", "pruning": "iterative", "space": SPACE.describe()},
        "supernet": {"supernet": "CellNet"},
        "trainer": {"itnas": {"transition": True, "none": False}},
    }
    Journal.create(tmp_path / "journal.jsonl", header).close()
    return tmp_path


def test_the_table_has_the_edges_of_each_node(text_of) -> None:
    text = text_of(cells_table("cells", SPACE, SPACE.parse(TEXT)))
    rows = [" ".join(line.split()) for line in text.splitlines() if "(" in line]
    assert rows == [
        "2 max_pool_3x3(0) + sep_conv_3x3(1) max_pool_3x3(0) + max_pool_3x3(1)",
        "3 sep_conv_3x3(1) + max_pool_3x3(2) sep_conv_3x3(0) + sep_conv_3x3(2)",
    ]


def test_the_picture_names_the_operations_of_kept_edges() -> None:
    figure = Figure()
    draw_cells(figure, SPACE, SPACE.parse(TEXT))
    for axes, kept in zip(figure.axes, (["max3", "max3", "sep3", "sep3"],) * 2, strict=True):
        texts = [text.get_text() for text in axes.texts]
        assert len(texts) == 2 + 3  # edges that may enter nodes 2 and 3
        assert sorted(filter(None, texts)) == kept


def test_the_space_is_that_of_the_run(training) -> None:
    space = space_of(Run.load(training))
    assert space is not None
    assert space.describe() == SPACE.describe()


def test_a_search_of_choices_has_no_cells(of_choices) -> None:
    assert space_of(Run.load(of_choices)) is None


def test_nothing_saved_is_nothing_learned(training) -> None:
    assert pruned_so_far(Run.load(training)) is None


def test_what_training_has_learned_is_pruned(training) -> None:
    torch.manual_seed(0)
    cells = {kind: CellWeights(SPACE, transition=True, none=False) for kind in ("normal", "reduction")}
    with torch.no_grad():
        for weights in cells.values():
            for parameter in weights.parameters():
                parameter.normal_()
    tensors = {
        f"{PREFIX}{kind}.{name}": tensor
        for kind, weights in cells.items()
        for name, tensor in weights.state_dict().items()
    }
    checkpoint.save(training / "checkpoint.safetensors", tensors, {"position": (0, 17)})
    learned = {kind: weights.learned() for kind, weights in cells.items()}
    [expected] = ITNAS(SPACE, learned=lambda: learned).ask()
    assert pruned_so_far(Run.load(training)) == (17, expected)
