"""Csv files as spreadsheets and people leave them."""

from __future__ import annotations

import pytest

from lasfast.core.csv_rows import read_rows

WANTED = ("arch", "mean, acc")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("start", ["", "\ufeff", "\n\n", "\ufeff\n"])
@pytest.mark.parametrize("tail", [(), ("", "")])
def test_forms_of_one_table(tmp_path, separator, ending, start, tail) -> None:
    lines = [("arch", '"mean, acc"', " note;x\t"), ("2-0-1", " 0.5", "\u00e9"), (), ("1-1-1", "0.25 ", "")]
    text = ending.join(separator.join((*line, *tail)) for line in lines) + ending * 2
    text = text.replace(" note;x\t", '" note;x\t"')
    path = tmp_path / "t.csv"
    path.write_bytes((start.replace("\n", ending) + text).encode())
    names, rows = read_rows(path, WANTED)
    assert names == ["arch", "mean, acc", "note;x"]
    assert [fields for _, fields in rows] == [["2-0-1", "0.5", "\u00e9"], ["1-1-1", "0.25", ""]]
    first = 2 + start.count("\n")
    assert [number for number, _ in rows] == [first, first + 2]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "the file is empty"),
        (b"\n,,\n", "the file is empty"),
        (b"a,b\n1,2,3\n", "line 2 has 3 fields, but the first 2"),
        (b"a,b,a\n1,2,3\n", "more than one column a"),
        (b'a,b\n1,"2\n', "line 2: unexpected end of data"),
        (b"a,b\n1,\xe9\n", "can't decode byte 0xe9"),
        ("a,b\n1,2\n".encode("utf-16"), "can't decode byte 0xff"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, content: bytes, problem: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=problem):
        read_rows(path, ("a", "b"))


def test_without_the_wanted_names_commas_separate(tmp_path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a;b,c\n1;2,3\n", encoding="utf-8")
    assert read_rows(path, ("a", "b")) == (["a;b", "c"], [(2, ["1;2", "3"])])
