"""CSV as real tools write it, and as it is after a cut or a wrong quote: read whole, or refused by line."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.queue import NewTask
from organism_flows.blocks.queue.files import reader as module
from organism_flows.blocks.queue.files.reader import RejectedRow, TaskFileReader


def read(content: str | bytes, name: str = "f.csv") -> list[NewTask | RejectedRow]:
    return list(TaskFileReader(io.BytesIO(content.encode() if isinstance(content, str) else content), name))


def cities(content: str | bytes) -> list[Any]:
    """The cities of a file in which no row is bad."""
    found = read(content)
    assert not [str(line) for line in found if isinstance(line, RejectedRow)]
    return [task.params["city"] for task in found if isinstance(task, NewTask)]


def bad(content: str | bytes) -> list[str]:
    return [str(line) for line in read(content) if isinstance(line, RejectedRow)]


class Strict:
    """An independent reader: RFC 4180 character by character; None where the text does not keep to it."""

    @staticmethod
    def rows(text: str) -> list[list[str]] | None:
        rows: list[list[str]] = []
        row: list[str] = []
        place = 0
        while place < len(text):
            cell, place = Strict._cell(text, place)
            if cell is None:
                return None
            row.append(cell)
            if text.startswith(",", place):
                place += 1
                if place < len(text):
                    continue
                row.append("")
            # Cut off within the end of its last line, a file has all its rows.
            end = "\r\n" if text.startswith("\r\n", place) or text[place:] == "\r" else "\n"
            if place < len(text) and not end.startswith(text[place : place + len(end)]):
                return None
            place += len(end)
            rows.append(row)
            row = []
        return rows

    @staticmethod
    def _cell(text: str, place: int) -> tuple[str | None, int]:
        if not text.startswith('"', place):
            begin = place
            while place < len(text) and text[place] not in ',\r\n"':
                place += 1
            return text[begin:place], place
        cell = ""
        place += 1
        while place < len(text):
            if text.startswith('""', place):
                cell, place = cell + '"', place + 2
            elif text[place] == '"':
                return cell, place + 1
            else:
                cell, place = cell + text[place], place + 1
        return None, place


cells = st.text(st.sampled_from('ab ,;"\n\r\té{}1'), max_size=6)
tables = st.lists(cells, min_size=1, max_size=6)


def written(table: list[str], **dialect: Any) -> str:
    sheet = io.StringIO()
    writer = csv.writer(sheet, **dialect)
    writer.writerow(["type", "params.city"])
    writer.writerows([f"t{number}", cell] for number, cell in enumerate(table))
    return sheet.getvalue()


@given(
    tables,
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    st.booleans(),
    st.booleans(),
)
def test_what_a_writer_wrote_is_read_as_it_was(
    table: list[str], delimiter: str, end: str, quoting: int, mark: bool, empty_rows: bool
) -> None:
    if end == "\n" and quoting == csv.QUOTE_MINIMAL:
        # Python 3.11 then leaves a CR unquoted, and nobody could know it from the end of a line.
        table = [cell.replace("\r", "") for cell in table]
    content = written(table, delimiter=delimiter, lineterminator=end, quoting=quoting)
    content = ("\ufeff" if mark else "") + content + (f"{delimiter}{end}" * 3 if empty_rows else "")
    assert cities(content) == table


def rows_or_error(content: str) -> list[list[str]] | None:
    try:
        found = read(content)
    except ConfigurationError:
        return None
    if any(isinstance(line, RejectedRow) for line in found):
        assert all(str(line).startswith("f.csv:") for line in found if isinstance(line, RejectedRow))
        return None
    return [[task.type, task.params["city"]] for task in found if isinstance(task, NewTask)]


def agrees(content: str) -> None:
    found = rows_or_error(content)
    if found is not None:
        strict = Strict.rows(content)
        assert strict is not None, "what is not CSV was read"
        assert found == [row for row in strict[1:] if row != [""]]


@given(
    tables, st.sampled_from(["\n", "\r\n"]), st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]), st.data()
)
def test_cut_off_anywhere_it_is_what_a_strict_reader_finds_or_an_error(
    table: list[str], end: str, quoting: int, data: st.DataObject
) -> None:
    content = written(table, lineterminator=end, quoting=quoting)
    agrees(content[: data.draw(st.integers(0, len(content)))])


@given(
    tables, st.sampled_from(["\n", "\r\n"]), st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]), st.data()
)
def test_a_quote_too_many_or_too_few_is_always_an_error(
    table: list[str], end: str, quoting: int, data: st.DataObject
) -> None:
    content = written(table, lineterminator=end, quoting=quoting)
    place = data.draw(st.integers(0, len(content)))
    assert rows_or_error(content[:place] + '"' + content[place:]) is None
    if quotes := [place for place, character in enumerate(content) if character == '"']:
        place = data.draw(st.sampled_from(quotes))
        assert rows_or_error(content[:place] + content[place + 1 :]) is None


@given(st.text(st.sampled_from('a,"\n\r;é\0'), max_size=20))
@example("\r\r")
def test_no_text_is_read_that_a_strict_reader_refuses(text: str) -> None:
    content = f"type,params.city\nt,x\n{text}"
    found = rows_or_error(content)
    assert found is None or Strict.rows(content) is not None


def test_an_open_quote_is_named_by_its_line_and_swallows_nothing_silently() -> None:
    rows = "".join(f"t,city {number}\n" for number in range(100))
    [found] = bad(f'type,params.city\nt,first\nt,"open\n{rows}')
    assert found.startswith("f.csv:3: a quote is opened and not closed before the end of the file")
    assert "lines 3 to 103" in found
    # The second one closes it as far as the RFC goes, and what stands there is no row.
    [found] = bad('type,params.city\nt,"Rome\nt,x\nt,"Oslo"\nt,5"\nt,last\n')
    assert found.startswith("f.csv:2: quotes are wrong")
    assert len(read('type,params.city\nt,"Rome\nt,x\nt,"Oslo"\nt,5"\nt,last\n')) == 2, "the last is read"


def test_a_quote_within_an_unquoted_cell_or_after_a_blank_is_an_error() -> None:
    for row in ('5"disk', '"a" ', ' "a,b"', '"a"b', '"{\\"n\\": 1}"'):
        assert bad(f"type,params.city\nt,{row}\nt,x\n"), row
    assert cities('type,params.city\nt,"5""disk"\n') == ['5"disk']


def test_long_cells_are_read_and_longer_rows_are_bad_whatever_they_hold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert cities('type,params.city\nt,"' + "x," * 200_000 + '"\n') == ["x," * 200_000]
    monkeypatch.setattr(module, "LINE_LIMIT_BYTES", 40)
    inner = "\n".join(["t,no task"] * 10)
    found = read(f'type,params.city\nt,"{inner}"\nt,{"x" * 50}"\nt,in quotes\n"\nt,last\n')
    assert [str(line).partition(";")[0] for line in found[:2]] == [
        "f.csv:2: longer than 40 bytes",
        "f.csv:12: longer than 40 bytes",
    ]
    assert [task.params["city"] for task in found[2:] if isinstance(task, NewTask)] == ["last"]


def test_excel_writes_a_separator_line_empty_rows_and_empty_columns() -> None:
    assert cities("sep=;\r\ntype;params.city;;\r\nt;Rome;;\r\n;;;\r\nt;Oslo;;\r\n;;;\r\n") == ["Rome", "Oslo"]
    assert bad("type,params.city,\nt,Rome,x\n") == ["f.csv:2: has 3 values for 2 columns"]
    assert bad("type,,params.city\nt,x,Rome\n") == ["f.csv:2: has a value in column 2, which has no name"]


def test_the_index_of_pandas_is_passed_over() -> None:
    assert cities(",type,params.city\n0,t,Rome\n1,t,Oslo\n") == ["Rome", "Oslo"]


def test_ragged_rows_and_a_second_header_are_bad() -> None:
    found = bad("type,params.city\nt\nt,a,b\ntype,params.city\nt,ok\n")
    assert found == [
        "f.csv:2: has 1 values for 2 columns",
        "f.csv:3: has 3 values for 2 columns",
        "f.csv:4: is the header once more",
    ]


def test_numbers_and_booleans_are_as_pandas_and_postgres_write_them() -> None:
    header = "type,priority,max_attempts,run_immediately,timeout_s,run_after"
    [task] = read(f"{header}\nt,3.0,2.0,f,1.5,2026-01-01 00:00:00.5+00\n")
    assert isinstance(task, NewTask)
    assert (task.priority, task.max_attempts, task.run_immediately, task.timeout_s) == (3, 2, False, 1.5)
    assert str(task.run_after) == "2026-01-01 00:00:00.500000+00:00"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("type,params.city\nt,x\n".encode("utf-16"), "is text in UTF-16"),
        ("type,params.city\nt,x\n".encode("utf-16-le"), "begins with NUL bytes"),
        ("type,params.city\nt,x\n".encode("utf-32"), "is text in UTF-16 or UTF-32"),
        (b"PK\x03\x04\x14\x00\x06\x00", "an Excel workbook"),
        (b"type,params.city\rt,x\r", "a carriage return outside quotes"),
        (b'type,"params.city\nt,x\n', "a quote is opened"),
        (b"type,params.\xe9\nt,x\n", "not UTF-8"),
        (b"type,params.a,params.a\nt,x,y\n", "has 'params.a' twice"),
        (b"\xef\xbb\xbftype,Params\nt,x\n", "unknown column 'Params'"),
    ],
)
def test_a_file_that_is_something_else_is_refused_by_name(content: bytes, what: str) -> None:
    with pytest.raises(ConfigurationError, match=what) as refused:
        read(content)
    assert "f.csv" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_empty_file_and_a_header_alone_hold_no_task() -> None:
    for content in ("", "\n\n", "\ufeff", "type,params.city\n", "type,params.city", "sep=;\ntype;params\n"):
        assert read(content) == []


def test_bytes_that_are_no_text_are_bad_by_line() -> None:
    found = bad(b"type,params.city\nt,caf\xe9\nt,\0\nt,x\n")
    assert [line.split(":")[1] for line in found] == ["2", "3"]
    assert "byte 0xe9 at position 6" in found[0]
    assert "NUL" in found[1]


@given(st.lists(st.dictionaries(st.sampled_from(["a", "é", 'q"']), cells, max_size=3), max_size=4), st.data())
def test_json_lines_cut_off_anywhere_are_the_whole_lines_or_an_error(
    params: list[dict[str, str]], data: st.DataObject
) -> None:
    content = "".join(json.dumps({"type": "t", "params": p}) + "\n" for p in params).encode()
    cut = content[: data.draw(st.integers(0, len(content)))]
    found = read(cut, "f.jsonl")
    # By the lines themselves: a text may hold what ends a line.
    pairs = list(zip(cut.splitlines(), content.splitlines(), strict=False))
    assert sum(isinstance(line, NewTask) for line in found) == sum(line == full for line, full in pairs)
    assert sum(isinstance(line, RejectedRow) for line in found) == sum(line != full for line, full in pairs)
