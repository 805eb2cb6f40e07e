"""Files of tasks: what is read as a task, and what is named as bad."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.queue import NewTask
from organism_flows.blocks.queue.files import reader as module
from organism_flows.blocks.queue.files.reader import FileCheck, RejectedRow, TaskFileReader, matching


def read(text: str | bytes, name: str = "f.jsonl", **options: Any) -> list[NewTask | RejectedRow]:
    return list(TaskFileReader(io.BytesIO(text.encode() if isinstance(text, str) else text), name, **options))


def test_every_line_is_a_task_or_a_reason() -> None:
    found = read(
        '{"type": "a"}\r\n\n'
        '{"type": "b", "params": {"n": 12345678901234567890123}, "priority": 3}\n'
        "{\n"
        '{"params": {}}\n'
        '{"type": "a", "parms": 1}\n'
        "[]\n"
        '{"type": "last"}'
    )
    tasks = [task for task in found if isinstance(task, NewTask)]
    assert [task.type for task in tasks] == ["a", "b", "last"]
    assert tasks[1].params["n"] == 12345678901234567890123, "exact, and no float"
    bad = [str(line) for line in found if isinstance(line, RejectedRow)]
    assert [line.partition(" ")[0] for line in bad] == [f"f.jsonl:{n}:" for n in (4, 5, 6, 7)]
    assert "not JSON" in bad[0]
    assert "type is missing" in bad[1]
    assert "parms" in bad[2]


def test_nothing_that_a_line_says_ends_the_reading() -> None:
    deep = f'{{"type": "a", "params": {{"n": 12345678901234567890, "deep": {"[" * 100_000}{"]" * 100_000}}}}}'
    digits = f'{{"type": "a", "params": {{"n": {"9" * 5000}}}}}'
    found = read(f'{deep}\n{digits}\n{{"type": "a", "params": {{"\\u0000": 1}}}}\n{{"type": "last"}}\n')
    assert [isinstance(line, NewTask) for line in found] == [False, False, False, True]


CSV = """\ufefftype,params,params.city,priority,dedup_key
a,"{""n"": 1}",Köln,3,k
b,,"two
lines",,
"""


def test_a_csv_file_has_params_as_json_and_as_columns_of_text() -> None:
    first, second = read(CSV, "f.csv")
    assert isinstance(first, NewTask)
    assert isinstance(second, NewTask)
    assert (first.type, first.params, first.priority) == ("a", {"n": 1, "city": "Köln"}, 3)
    assert (second.params, second.priority, second.dedup_key) == ({"city": "two\nlines"}, 0, None)


def test_bad_rows_are_named_by_line() -> None:
    rows = b'type,params\na,{}\na\na,[]\na,{\n\xff,{}\n" ",\na,"{""deep"": \n1}"\n,\n'
    found = [str(line) for line in read(rows, "f.csv") if isinstance(line, RejectedRow)]
    assert [line.split(":")[1] for line in found] == ["3", "4", "5", "6", "7"]
    assert "1 values for 2 columns" in found[0]
    assert "params: not JSON" in found[2]
    assert "not UTF-8: byte 0xff at position 1" in found[3]


@pytest.mark.parametrize("header", ["type,colour", "params", "type,type", "type,params."])
def test_a_header_that_cannot_be_meant_is_refused(header: str) -> None:
    with pytest.raises(ConfigurationError, match=r"the header of f\.csv"):
        read(f"{header}\na,b\n", "f.csv")


@pytest.mark.parametrize("name", ["f.jsonl", "f.csv"])
def test_a_line_without_end_is_bad_and_the_next_is_read(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(module, "LINE_LIMIT_BYTES", 40)
    good = "a" if name == "f.csv" else '{"type": "a"}'
    lines = [*(["type"] if name == "f.csv" else []), good, "x" * 100, "x" * 40, good]
    found = read("\n".join(lines), name)
    assert [isinstance(line, NewTask) for line in found] == [True, False, False, True]
    assert "longer than 40 bytes" in str(found[1])


lines = st.lists(st.sampled_from(['{"type": "a"}', "", "{", '{"type": "b"}', "é"]), max_size=8)


@given(lines, st.integers(0, 8), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_a_digest_is_of_lines_however_they_end(text: list[str], mark: int, end: str, ended: bool) -> None:
    begin = TaskFileReader(io.BytesIO("".join(f"{line}\n" for line in text[:mark]).encode()), "f")
    list(begin)
    content = end.join(text) + (end if ended and text else "")
    whole = TaskFileReader(io.BytesIO(content.encode()), "f", mark=mark)
    list(whole)
    # A last line that is empty and does not end is none.
    if 0 < mark <= whole.lines:
        assert whole.marked == begin.digest()
        assert begin.lines == mark


def test_of_many_bad_lines_the_first_are_named_and_the_rest_counted() -> None:
    checked = FileCheck()
    for found in read('{"type": "a"}\n' + "{\n" * 30):
        checked.count(found)
    with pytest.raises(ConfigurationError, match=r"30 of 31 lines are bad.*f\.jsonl:2: .*\(and 25 more\)"):
        checked.refuse_bad("f.jsonl")
    assert len(checked.first_bad) == module.BAD_LINES_KEPT


def test_a_pattern_fits_files_in_order(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("a/2.jsonl", "a/1.jsonl", "a/b/3.jsonl", "a/4.csv", "[x].jsonl"):
        (tmp_path / name).touch()
    found = matching(f"{tmp_path}/**/*.jsonl")
    assert [path.name for path in found] == ["[x].jsonl", "1.jsonl", "2.jsonl", "3.jsonl"]
    assert matching(f"{tmp_path}/[x].jsonl") == [tmp_path / "[x].jsonl"]
    for pattern in (f"{tmp_path}/none*", f"{tmp_path}/a"):
        with pytest.raises(ConfigurationError, match="no file fits"):
            matching(pattern)
