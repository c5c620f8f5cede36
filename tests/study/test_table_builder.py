import os
import signal

import pytest
import torch

from lasfast import costs
from lasfast.data.images import TensorImages
from lasfast.evaluation.scoring import evaluate_network
from lasfast.measurements.journal import Journal, JournalError
from lasfast.study.architecture_table import load_table
from lasfast.study.table_builder import TableBuilder
from lasfast.study.table_parts import shard_directory
from lasfast.supernets import ResidualNet
from lasfast.train import CheckpointError, StandaloneTrainer, train_standalone

pytestmark = pytest.mark.usefixtures("one_thread")
FILES = ("journal.jsonl", "table.csv")


def build(directory, depths=4, weights=0, **overrides):
    with torch.random.fork_rng():
        torch.manual_seed(weights)
        supernet = ResidualNet((3, 3, 3), num_classes=3)
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(72) % 3
    images = torch.randint(0, 200, (72, 3, 8, 8), generator=generator).to(torch.uint8)
    images[torch.arange(72), labels] += 50
    train = TensorImages(images[:48], labels[:48], [0.4] * 3, [0.3] * 3, pad=1)
    validation = ((images[48:] / 255 - 0.4) / 0.3, labels[48:])
    options = {"batch_size": 16, "learning_rate": 0.1, "standalone_epochs": 3} | overrides
    architectures = supernet.space.enumerate(depth=depths)
    return TableBuilder(supernet, train, validation, architectures, directory, **options)


def contents(directory):
    return {name: (directory / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    directory = tmp_path_factory.mktemp("table") / "run"
    rows = build(directory).run()
    torch.set_num_threads(threads)
    return directory, rows


def test_every_assignment_of_the_depth(reference):
    directory, rows = reference
    assert [row.architecture for row in rows] == [(1, 1, 2), (1, 2, 1), (2, 1, 1)]
    supernet = ResidualNet((3, 3, 3), num_classes=3)
    for row in rows:
        assert row.depth == 4
        assert row.flops == costs.flops(supernet, row.architecture, (8, 8))
        assert row.params == costs.params(supernet, row.architecture)
        assert row.epochs == 3
    assert len({row.seed for row in rows}) == 3
    assert load_table(directory) == load_table(directory / "table.csv") == rows
    assert sorted(file.name for file in directory.iterdir()) == sorted(FILES)
    header = (directory / "table.csv").read_text().splitlines()[0]
    assert header == "architecture,depth,top1,top5,loss,flops,params,epochs,seed"


def test_a_row_can_be_made_again_from_its_seed(reference, tmp_path):
    row = reference[1][1]
    builder = build(tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(row.seed)
        network = builder.supernet.extract(row.architecture, fresh=True)
    list(train_standalone(network, builder.train, builder.settings, seed=row.seed))
    measured = evaluate_network(network, builder.validation)
    assert (measured.top1, measured.top5, measured.loss) == (row.top1, row.top5, row.loss)


def test_kept_weights_give_the_measured_network(reference, tmp_path):
    directory = tmp_path / "run"
    build(directory).run()
    with pytest.raises(FileNotFoundError, match=r"weights/1-2-1\.safetensors"):
        build(directory).network((1, 2, 1))
    trained = []
    builder = build(directory, keep_weights=True)  # asked for later: trained again, to the same rows
    assert builder.run(resume=True, on_progress=lambda a, p: trained.append(a)) == reference[1]
    assert len(trained) == 27
    assert contents(directory) == contents(reference[0])
    for row in reference[1]:
        measured = evaluate_network(builder.network(row.architecture), builder.validation)
        assert (measured.top1, measured.loss) == (row.top1, row.loss)
    builder.run(resume=True, on_progress=lambda a, p: trained.append(a))
    assert len(trained) == 27


def test_nothing_to_train_is_refused(tmp_path):
    one = build(tmp_path)
    with pytest.raises(ValueError, match="architectures must have at least one"):
        TableBuilder(one.supernet, one.train, one.validation, [], tmp_path)


def test_rows_do_not_depend_on_the_supernets_weights(reference, tmp_path):
    build(tmp_path / "run", weights=3).run()
    assert contents(tmp_path / "run") == contents(reference[0])


def test_stopped_in_mid_network_it_goes_on_to_the_same_table(reference, tmp_path):
    directory = tmp_path / "run"
    trained = []

    def press(architecture, progress):
        trained.append(architecture)
        if len(trained) in (5, 13):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(
        KeyboardInterrupt, match=r"stopped in 1-1-2, after batch 5 of 9; .*run holds everything"
    ):
        build(directory).run(on_progress=press)
    assert not (directory / "table.csv").exists()
    with pytest.raises(KeyboardInterrupt, match="stopped in 1-2-1, after batch 4 of 9"):
        build(directory).run(resume=True, on_progress=press)
    assert [row.architecture for row in load_table(directory)] == [(1, 1, 2)]
    rows = []
    build(directory).run(resume=True, on_progress=press, on_row=rows.append)
    assert len(trained) == 27  # every batch of every network once
    assert rows == reference[1]
    assert contents(directory) == contents(reference[0])
    assert not (directory / "checkpoint.safetensors").exists()


def test_a_kill_between_training_and_journal(reference, tmp_path, monkeypatch):
    """The checkpoint is of the last batch, or of a network that is already in the journal."""
    directory = tmp_path / "run"
    builder = build(directory, checkpoint_seconds=0)
    append = Journal.append
    for after in (False, True):

        def die(journal, step, measurements, after=after):
            if after:
                append(journal, step, measurements)
            raise ZeroDivisionError

        monkeypatch.setattr(Journal, "append", die)
        with pytest.raises(ZeroDivisionError):
            builder.run(resume=True)
    monkeypatch.undo()
    builder.run(resume=True)
    assert contents(directory) == contents(reference[0])


def test_a_table_is_extended_to_more_depths(reference, tmp_path):
    directory = tmp_path / "run"
    build(directory).run()
    trained = []
    rows = build(directory, depths=range(3, 5)).run(resume=True, on_progress=lambda a, p: trained.append(a))
    assert set(trained) == {(1, 1, 1)}
    assert [row.architecture for row in rows] == [(1, 1, 1), (1, 1, 2), (1, 2, 1), (2, 1, 1)]
    assert rows[1:] == reference[1]
    assert load_table(directory) == rows


def build_part(directory, number, parts=2):
    """The builder of a job's part of the table in a directory."""
    job = build(shard_directory(directory, number, parts))
    job.architectures = job.architectures[number - 1 :: parts]
    return job


def test_parts_that_jobs_trained_are_joined_to_the_same_table(reference, tmp_path):
    directory, expected = tmp_path / "run", reference[1]
    assert build_part(directory, 1).run() == [expected[0], expected[2]]
    assert build_part(directory, 2).run() == [expected[1]]
    assert load_table(shard_directory(directory, 2, 2)) == [expected[1]]
    trained = []
    assert build(directory).run(on_progress=lambda a, p: trained.append(a)) == expected
    assert not trained
    assert contents(directory) == contents(reference[0])


def test_what_parts_lack_is_trained_and_parts_of_other_tables_are_refused(reference, tmp_path):
    directory = tmp_path / "run"
    build_part(directory, 2).run()
    with pytest.raises(JournalError, match=r"learning_rate is 0\.1 there and 0\.2 here"):
        build(directory, learning_rate=0.2).run()
    trained = []
    assert build(directory).run(on_progress=lambda a, p: trained.append(a)) == reference[1]
    assert set(trained) == {(1, 1, 2), (2, 1, 1)}
    assert contents(directory) == contents(reference[0])


def test_what_does_not_fit_is_named(reference, tmp_path):
    directory = reference[0]
    with pytest.raises(
        FileExistsError, match=r"holds an architecture table already; resume it \(resume=True"
    ):
        build(directory).run()
    with pytest.raises(JournalError, match=r"dataset\.settings\.learning_rate is 0\.1 there and 0\.2 here"):
        build(directory, learning_rate=0.2).run(resume=True)
    with pytest.raises(ValueError, match="depth"):
        build(tmp_path, depths=40)
    with pytest.raises(ValueError, match="checkpoint_seconds must be 0 or more, got -1"):
        build(tmp_path, checkpoint_seconds=-1)


def test_networks_learn_from_a_teacher_which_the_journal_names(tmp_path):
    def teacher(seed=0):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return ResidualNet((1, 1, 1), num_classes=3).extract((1, 1, 1))

    options = {"depths": 3, "standalone_epochs": 1, "standalone_ema": 0.5}
    builder = build(tmp_path, distill=teacher(), keep_weights=True, **options)
    (row,) = builder.run()
    with torch.random.fork_rng():
        torch.manual_seed(row.seed)
        network = builder.supernet.extract((1, 1, 1), fresh=True)
    trainer = StandaloneTrainer(network, builder.train, builder.settings, row.seed, distill=teacher())
    list(trainer.train())
    kept = builder.network((1, 1, 1)).state_dict()
    assert all(torch.equal(one, kept[name]) for name, one in trainer.trained.state_dict().items())
    assert evaluate_network(trainer.trained, builder.validation).loss == row.loss
    build(tmp_path, distill=teacher(), **options).run(resume=True)
    with pytest.raises(
        JournalError, match=r"dataset\.distill\.teacher is '[0-9a-f]{32}' there and '[0-9a-f]"
    ):
        build(tmp_path, distill=teacher(1), **options).run(resume=True)
    with pytest.raises(JournalError, match=r"dataset\.distill is {.*} there and 'nothing' here"):
        build(tmp_path, **options).run(resume=True)
    with pytest.raises(ValueError, match=r"distill must be a network, or 'full' where .* got 'full'"):
        build(tmp_path, distill="full")


def test_a_damaged_or_foreign_checkpoint_is_named(tmp_path):
    directory = tmp_path / "run"

    def stop(architecture, progress):
        if progress.done == 4:
            raise ZeroDivisionError

    for name, options in (("run", {}), ("other", {"seed": 1})):
        with pytest.raises(ZeroDivisionError):
            build(tmp_path / name, checkpoint_seconds=0, **options).run(on_progress=stop)
    path = directory / "checkpoint.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(CheckpointError, match=r"checkpoint\.safetensors is damaged"):
        build(directory).run(resume=True)
    path.write_bytes((tmp_path / "other" / "checkpoint.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=r"is of another architecture table: delete it"):
        build(directory).run(resume=True)
