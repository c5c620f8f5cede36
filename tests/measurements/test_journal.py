import json
import os
import random
import re
import signal
import subprocess
import sys

import pytest

from lasfast.measurements import journal as journal_module
from lasfast.measurements.journal import Journal, JournalError
from lasfast.measurements.measurement import Measurement

HEADER = {"searcher": {"name": "nir", "depth": 5, "beam": 1}, "data": "digits", "bounds": [3, 3]}


def measurement(*architecture):
    return Measurement(architecture, sum(architecture) / 16, 0.9, 1 / sum(architecture), 16)


ENTRIES = [
    (1, measurement(2, 1)),
    (1, measurement(1, 2)),
    (2, measurement(3, 1)),
    (2, measurement(2, 2)),
    (3, measurement(3, 2)),
]


@pytest.fixture
def path(tmp_path):
    """A journal with three steps, closed."""
    path = tmp_path / "journal.jsonl"
    with Journal.create(path, HEADER) as journal:
        for step in (1, 2, 3):
            journal.append(step, [entry for at, entry in ENTRIES if at == step])
    return path


def test_gives_back_what_was_written(path):
    with Journal.open(path) as journal:
        assert journal.header == HEADER
        assert journal.entries == ENTRIES
    assert Journal.read(path) == (HEADER, ENTRIES)


def test_lines_are_json_and_nothing_is_left_aside(path):
    header, *entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert header["format"] == 1
    assert header["searcher"] == HEADER["searcher"]
    assert [entry["step"] for entry in entries] == [1, 1, 2, 2, 3]
    assert [entry["architecture"] for entry in entries] == [[2, 1], [1, 2], [3, 1], [2, 2], [3, 2]]
    assert list(path.parent.iterdir()) == [path]


def test_the_same_study_writes_the_same_bytes_however_often_it_is_reopened(path, tmp_path):
    again = tmp_path / "again.jsonl"
    Journal.create(again, HEADER).close()
    for step, entry in ENTRIES:
        with Journal.open(again) as journal:
            journal.append(step, [entry])
    assert again.read_bytes() == path.read_bytes()


def test_entries_are_on_disk_when_append_returns(tmp_path):
    journal = Journal.create(tmp_path / "j", HEADER)
    journal.append(1, [ENTRIES[0][1]])
    assert Journal.read(tmp_path / "j")[1] == ENTRIES[:1]
    journal.append(1, [])
    assert journal.entries == ENTRIES[:1]
    journal.close()


def test_wherever_the_tail_is_torn_the_study_continues_to_the_same_bytes(path):
    whole = path.read_bytes()
    ends = [place + 1 for place, byte in enumerate(whole) if byte == ord("\n")]
    sizes = {*range(ends[0], len(whole), 17), *ends[:-1], *(end - 1 for end in ends[1:])}
    for size in sorted(sizes):
        path.write_bytes(whole[:size])
        with Journal.open(path) as journal:
            kept = len(journal.entries)
            assert journal.entries == ENTRIES[:kept]
            assert kept == whole[:size].count(b"\n") - 1
            assert path.stat().st_size == whole[:size].rindex(b"\n") + 1
            for step, entry in ENTRIES[kept:]:
                journal.append(step, [entry])
        assert path.read_bytes() == whole


def test_reading_leaves_a_torn_tail_alone(path):
    torn = path.read_bytes()[:-5]
    path.write_bytes(torn)
    assert Journal.read(path) == (HEADER, ENTRIES[:4])
    assert path.read_bytes() == torn


def test_a_torn_tail_within_the_committed_entries_is_damage(path):
    torn = path.read_bytes()[:-5]
    path.write_bytes(torn)
    with pytest.raises(
        JournalError, match=r"journal.jsonl is damaged at line 6: 5 .*only 4 .*cut off.*restore"
    ):
        Journal.open(path, committed=5)
    assert path.read_bytes() == torn
    Journal.open(path, committed=4).close()


def test_missing_committed_lines_are_damage(path):
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:4]))
    with pytest.raises(
        JournalError, match=r"damaged at line 5: 5 measurements .*only 3 \(the rest is missing"
    ):
        Journal.open(path, committed=5)


def test_every_flipped_byte_is_found(path):
    whole = path.read_bytes()
    rng = random.Random(0)
    for place in range(len(whole) - 1):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        line = whole[:place].count(b"\n") + 1
        # A line feed that was flipped away joins two lines.
        with pytest.raises(JournalError, match=rf"journal.jsonl is damaged at line {line}: .*restore"):
            Journal.open(path)
        assert path.read_bytes() == damaged


@pytest.mark.parametrize("change", ["drop", "repeat", "swap"])
def test_lost_repeated_and_swapped_lines_are_found(path, change):
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2:4] = {"drop": lines[3:4], "repeat": [lines[2], lines[2], lines[3]], "swap": lines[3:1:-1]}[change]
    path.write_bytes(b"".join(lines))
    with pytest.raises(JournalError, match=r"damaged at line [34]: its checksum"):
        Journal.open(path)


@pytest.mark.parametrize("content", [b"", b"{", b'{"format":1', b"\n", b"\x00" * 100, b"not json\n"])
def test_what_is_no_journal_is_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(JournalError, match=r"journal.jsonl is damaged at line 1"):
        Journal.open(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.jsonl"):
        Journal.open(tmp_path / "none.jsonl")


def test_a_valid_line_that_is_no_measurement_is_damage(path, tmp_path, monkeypatch):
    monkeypatch.setattr(Measurement, "to_json", lambda self: {"architecture": [1, 1]})
    with Journal.create(tmp_path / "j", HEADER) as journal:
        journal.append(1, [ENTRIES[0][1]])
    with pytest.raises(JournalError, match=r"damaged at line 2: a measurement must have"):
        Journal.open(tmp_path / "j")


def test_another_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(journal_module, "FORMAT", 2)
    path = tmp_path / "j"
    path.write_bytes(journal_module._encode({"format": 2, "lasfast": "9.9", **HEADER}, 0)[0])
    monkeypatch.undo()
    with pytest.raises(JournalError, match=r"format 2, but .* reads format 1; continue it with lasfast 9\.9"):
        Journal.open(path)


def test_another_studys_header_is_refused_by_name(path):
    Journal.open(path, header=json.loads(json.dumps(HEADER))).close()
    Journal.open(path, header={**HEADER, "bounds": (3, 3)}).close()
    other = {**HEADER, "searcher": {**HEADER["searcher"], "beam": 2}, "seed": 1}
    before = path.read_bytes()
    with pytest.raises(JournalError) as caught:
        Journal.open(path, header=other)
    text = str(caught.value)
    assert "journal.jsonl belongs to a study with other settings" in text
    assert "searcher.beam is 1 there and 2 here" in text
    assert "seed is 'nothing' there and 1 here" in text
    assert "depth" not in text
    assert path.read_bytes() == before


def test_an_existing_journal_is_not_overwritten(path):
    before = path.read_bytes()
    with pytest.raises(JournalError, match=r"journal.jsonl exists already"):
        Journal.create(path, HEADER)
    assert path.read_bytes() == before


def test_one_process_at_a_time(path):
    opening = "import sys; from lasfast.measurements.journal import Journal; Journal.open(sys.argv[1])"
    with Journal.open(path):
        with pytest.raises(JournalError, match="in use by another process"):
            Journal.open(path)
        other = subprocess.run([sys.executable, "-c", opening, path], capture_output=True, text=True)
        assert other.returncode == 1
        assert "journal.jsonl is in use by another process" in other.stderr
        assert Journal.read(path) == (HEADER, ENTRIES)
    assert subprocess.run([sys.executable, "-c", opening, path]).returncode == 0


def test_a_new_journal_is_locked_from_the_start(tmp_path):
    with Journal.create(tmp_path / "j", HEADER), pytest.raises(JournalError, match="in use by another"):
        Journal.open(tmp_path / "j")


def test_an_error_lets_go_of_the_file(path):
    with pytest.raises(JournalError):
        Journal.open(path, committed=99)
    Journal.open(path).close()


def test_a_forked_child_does_not_keep_the_lock(path):
    """Data-loading workers outlive a killed study by seconds; its resumption must not wait for them."""
    forking = (
        "import os, signal, sys; from lasfast.measurements.journal import Journal\n"
        "journal = Journal.open(sys.argv[1])\n"
        "reader, writer = os.pipe()\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    os.write(writer, b'.'); signal.pause()\n"
        "os.read(reader, 1)\n"
        "journal.close()\n"
        "try:\n"
        "    Journal.open(sys.argv[1])\n"
        "finally:\n"
        "    os.kill(child, signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", forking, path], check=True, timeout=60)


def test_killed_while_creating_it_can_be_created_again(tmp_path):
    path = tmp_path / "j"
    killed = (
        "import os, signal, sys; from lasfast.measurements import journal\n"
        "journal.sync_directory = journal._write_all = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "journal.Journal.create(sys.argv[1], {})"
    )
    assert subprocess.run([sys.executable, "-c", killed, path]).returncode == -signal.SIGKILL
    assert not path.exists()
    (aside,) = tmp_path.iterdir()
    aside.write_bytes(b"half a header, longer than what comes" * 100)
    Journal.create(path, HEADER).close()
    assert list(tmp_path.iterdir()) == [path]
    assert Journal.read(path) == (HEADER, [])


def test_a_full_disk_leaves_the_journal_as_it_was(path, monkeypatch):
    before = path.read_bytes()
    real_write = os.write

    def half_then_full(descriptor, data):
        if len(data) < 100:
            raise OSError(28, "No space left on device")
        return real_write(descriptor, data[:100])

    with Journal.open(path) as journal:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", half_then_full)
            with pytest.raises(OSError, match="No space left"):
                journal.append(3, [measurement(3, 3)])
        assert path.read_bytes() == before
        assert journal.entries == ENTRIES
        journal.append(3, [measurement(3, 3)])
    assert Journal.read(path)[1] == [*ENTRIES, (3, measurement(3, 3))]


@pytest.mark.parametrize(
    ("step", "error", "text"),
    [
        (2, ValueError, "step must be at least 3, got 2"),
        (-1, ValueError, "step must be at least 3"),
        (3.0, TypeError, "step must be an int"),
    ],
)
def test_steps_do_not_go_back(path, step, error, text):
    before = path.read_bytes()
    with Journal.open(path) as journal, pytest.raises(error, match=text):
        journal.append(step, [measurement(3, 3)])
    assert path.read_bytes() == before


def test_a_closed_journal_takes_nothing(path):
    journal = Journal.open(path)
    journal.close()
    journal.close()
    with pytest.raises(ValueError, match=re.escape(f"{path} is closed")):
        journal.append(3, [measurement(3, 3)])


@pytest.mark.parametrize("header", [{"format": 2}, {"crc": 0}, {"a": float("nan")}])
def test_headers_that_cannot_be_written_are_refused(tmp_path, header):
    with pytest.raises(ValueError, match=r"must not have|JSON compliant"):
        Journal.create(tmp_path / "j", header)
    assert not list(tmp_path.iterdir())
