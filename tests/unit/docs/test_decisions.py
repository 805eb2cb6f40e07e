"""docs/decisions: the index has every record, with its title and what took its place."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parents[3] / "docs" / "decisions"
ROW = re.compile(
    r"\| \[(?P<number>\d{4})\]\((?P<file>[^)]+)\) \| (?P<title>.+?) \| (?P<status>[^|]+?) "
    r"\| (?P<date>\d{4}-\d\d-\d\d) \|(?P<supersedes>[^|]*)\|"
)


class Record(NamedTuple):
    """What is known of one decision."""

    file: str
    title: str
    superseded_by: list[str]
    supersedes: list[str]


def records() -> dict[str, Record]:
    """Return what the files say, by number."""
    found = {}
    for path in sorted(FOLDER.glob("[0-9]*.md")):
        text = path.read_text()
        # Some headings begin with the number.
        title = re.sub(r"^# (\d+\.? )?", "", text.partition("\n")[0])
        found[path.name[:4]] = Record(
            path.name,
            title,
            re.findall(r"Superseded by \[(\d{4})\]", text),
            re.findall(r"Supersedes \[(\d{4})\]", text),
        )
    return found


def index() -> dict[str, Record]:
    """Return what the index says, by number."""
    lines = (FOLDER / "README.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| [")]
    found = {}
    for line in rows:
        row = ROW.fullmatch(line)
        assert row, f"not a row of the index: {line}"
        superseded = re.findall(r"superseded by \[(\d{4})\]", row["status"])
        assert superseded or row["status"] in ("accepted", "proposed"), line
        found[row["number"]] = Record(
            row["file"], row["title"], superseded, re.findall(r"\[(\d{4})\]", row["supersedes"])
        )
    assert len(found) == len(rows), "a number is in the index twice"
    assert list(found) == sorted(found), "the index is not in the order of numbers"
    return found


def test_no_number_is_used_twice() -> None:
    assert len(records()) == len(list(FOLDER.glob("[0-9]*.md")))


def test_every_decision_is_in_the_index() -> None:
    there, listed = records(), index()
    missing = [
        f"| [{number}]({record.file}) | {record.title} | accepted | DATE | |"
        for number, record in there.items()
        if number not in listed
    ]
    assert not missing, "add to docs/decisions/README.md:\n" + "\n".join(missing)
    assert not set(listed) - set(there), "in the index, and not in the folder"


def test_the_index_says_what_the_records_say() -> None:
    there = records()
    for number, listed in index().items():
        if number in there:
            assert listed == there[number], f"docs/decisions/README.md, row {number}"


def test_what_takes_the_place_of_another_is_named_there_too() -> None:
    there = records()
    for number, record in there.items():
        for older in record.supersedes:
            assert number in there[older].superseded_by, f"{older} does not name {number}"
        for newer in record.superseded_by:
            assert number in there[newer].supersedes, f"{newer} does not name {number}"
