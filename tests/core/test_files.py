import json
import math
import subprocess
import sys

import pytest

from lasfast.core.files import atomic_write, atomic_write_json, atomic_write_text


def test_replaces_the_content_and_leaves_nothing_aside(tmp_path):
    path = tmp_path / "result.json"
    path.write_text("old, and longer than what comes")
    with atomic_write(path) as file:
        file.write(b"new")
        assert path.read_text().startswith("old")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_text_is_utf8(tmp_path):
    atomic_write_text(tmp_path / "a", "τ = 0.8\n")
    assert (tmp_path / "a").read_bytes() == "τ = 0.8\n".encode()


def test_json_is_strict(tmp_path):
    path = tmp_path / "a.json"
    atomic_write_json(path, {"winners": [[1, 2]]})
    assert json.loads(path.read_text()) == {"winners": [[1, 2]]}
    with pytest.raises(ValueError, match="JSON compliant"):
        atomic_write_json(path, math.nan)
    assert json.loads(path.read_text()) == {"winners": [[1, 2]]}


def test_an_exception_leaves_the_old_content(tmp_path):
    path = tmp_path / "result.json"
    path.write_text("old")

    def interrupted():
        with atomic_write(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_kill_leaves_the_old_content_and_does_not_disturb_the_next_write(tmp_path):
    path = tmp_path / "result.json"
    path.write_text("old")
    killed = (
        "import os, signal, sys; from lasfast.core.files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as file:\n"
        "    file.write(b'half of something longer'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", killed, path]).returncode == -9
    assert path.read_text() == "old"
    atomic_write_text(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_directory_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "none" / "result.json"):
        pass


def test_a_full_disk_is_said_with_the_name_of_the_file(tmp_path):
    with pytest.raises(OSError, match=r"No space left on device: '.*result\.json'"):
        write_to_full_disk(tmp_path / "result.json")
    assert list(tmp_path.iterdir()) == []


def write_to_full_disk(path):
    with atomic_write(path), open("/dev/full", "wb") as full:
        full.write(b"more than fits")
