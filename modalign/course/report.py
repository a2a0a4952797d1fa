"""Pages for people: tables of marks, a page a student, and a table of the class."""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modalign.course.checks import Course
from modalign.course.grading import folded
from modalign.records import write_whole

STATES = {
    "right": "right",
    "wrong": "not right",
    "error": "raised an error",
    "lost": "ended or took too long",
    "look": "not marked: a person looks at it",
}
STYLE = """
:root { color-scheme: light dark; --line: #8888; --soft: #8882; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem; }
tr { border-bottom: 1px solid var(--line); }
td.n, th.n { text-align: right; white-space: nowrap; }
.wide { overflow-x: auto; }
.look { background: var(--soft); font-weight: bold; }
code, li { overflow-wrap: anywhere; }
"""


def write(course: Course, records: Sequence[Mapping[str, Any]], output: Path) -> None:
    """Write marks.csv, marks.json, words.csv, class.html and feedback/STUDENT.html."""
    hand = _by_hand(course, output)
    rows = [_row(course, record, hand) for record in records]
    (output / "feedback").mkdir(parents=True, exist_ok=True)
    kept = {"assignment": course.assignment.name, "out_of": course.marks, "students": rows}
    files = {
        "marks.csv": table(rows),
        "marks.json": json.dumps(kept, indent=1),
        "class.html": class_page(course, records),
        **{f"feedback/{each['student']}.html": page(course, each, hand) for each in records},
    }
    texts = [
        {"student": record["student"], "task": task, "answer": text,
         "marks": hand.get((record["student"], task), "")}
        for record in records for task, text in record.get("words", {}).items()
    ]  # fmt: skip
    if texts:
        files["words.csv"] = table(texts)
    for name, text in files.items():
        write_whole(output / name, text.encode())


def _by_hand(course: Course, output: Path) -> dict[tuple[str, str], float]:
    """The marks that a person wrote into words.csv.

    Raises:
        ValueError: for marks that are not numbers, or more than the task has.
    """
    path = output / "words.csv"
    if not path.is_file():
        return {}
    found = {}
    for row in csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"))):
        text, task = (row.get("marks") or "").strip(), row.get("task", "")
        if not text:
            continue
        most = course.sheet.by_hand.get(task, 0.0)
        try:
            marks = float(text)
        except ValueError:
            marks = -1.0
        if not 0 <= marks <= most:
            raise ValueError(
                f"{path}: {row.get('student')}, {task}: expected marks from 0 to {most:g}, "
                f"got {text!r}"
            )
        found[_uncovered(row["student"]), task] = marks
    return found


def _row(
    course: Course, record: Mapping[str, Any], hand: Mapping[tuple[str, str], float]
) -> dict[str, Any]:
    marks = {
        task: hand.get((record["student"], task)) if task in course.sheet.by_hand else each
        for task, each in record.get("marks", {}).items()
    }
    open_tasks = [task for task, each in marks.items() if each is None]
    whole = record["state"] == "marked" and not open_tasks
    said = {"damaged": "not marked", "look": "look at it"}.get(record["state"], "marked")
    if record["state"] == "marked" and open_tasks:
        said = f"to mark by hand: {', '.join(open_tasks)}"
    return {
        "student": record["student"],
        "state": said,
        "total": sum(each for each in marks.values() if each is not None)
        if whole or marks
        else None,
        **{task: marks.get(task) for task in course.tasks},
        "note": record.get("problem", ""),
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV, in which no cell is a formula of a spreadsheet.

    >>> print(table([{"student": "=1+1", "total": 2.0, "words": None}]), end="")
    student,total,words
    '=1+1,2,
    """
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(each) for name, each in row.items()} for row in rows)
    return file.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float | int):
        return f"{value:g}"
    return f"'{value}" if str(value)[:1] in tuple("=+-@\t\r'") else str(value)


def _uncovered(text: str) -> str:
    return text[1:] if text[:1] == "'" else text


def _document(title: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n<body>\n"
        f"<h1>{html.escape(title)}</h1>\n{body}\n</body></html>\n"
    )


def page(
    course: Course, record: Mapping[str, Any], hand: Mapping[tuple[str, str], float] | None = None
) -> str:
    """A student's page: marks, and the property and outcome of each check."""
    title = f"{course.sheet.title}: {record['student']}"
    if record["state"] == "damaged":
        return _document(title, f"<p>Not marked. {html.escape(record['problem'])}</p>")
    row = _row(course, record, hand or {})
    parts = [f"<p><strong>{_cell(row['total'])} of {sum(course.marks.values()):g} marks</strong>"
             f" ({html.escape(row['state'])})</p>"]  # fmt: skip
    for task, most in course.marks.items():
        got = "to be marked by a person" if row[task] is None else f"{row[task]:g} of {most:g}"
        parts.append(f"<h2>{html.escape(task)}: {got}</h2>")
        lines = [
            f"<tr><td>{html.escape(each['says'])}</td><td>{STATES[each['state']]}"
            f"{': ' if each['detail'] else ''}{html.escape(each['detail'])}</td>"
            f"<td class=n>{each['earned']:g} of {each['marks']:g}</td></tr>"
            for each in record["outcomes"]
            if each["task"] == task
        ]
        if lines:
            head = "<tr><th>What is checked</th><th>Found</th><th class=n>Marks</th></tr>"
            parts.append(f"<table>{head}{''.join(lines)}</table>")
    if record["left_out"]:
        items = "".join(f"<li>{html.escape(each)}</li>" for each in record["left_out"])
        parts.append(f"<h2>Not run</h2><p>The rest of the notebook counted.</p><ul>{items}</ul>")
    return _document(title, "\n".join(parts))


def class_page(course: Course, records: Sequence[Mapping[str, Any]]) -> str:
    """For each check how many passed; one that only the strong fail is to be looked at."""
    marked = [record for record in records if record["state"] != "damaged"]
    lines = []
    checks = [each for task in course.tasks for each in course.sheet.of(task)]
    for number, check in enumerate(checks):
        outcomes = [record["outcomes"][number] for record in marked]
        right = sum(each["state"] == "right" for each in outcomes)
        said = "look at the check" if is_odd(number, marked) else ""
        lines.append(
            f"<tr{' class=look' if said else ''}><td>{html.escape(check.task)}</td>"
            f"<td>{html.escape(check.says)}</td><td class=n>{right} of {len(outcomes)}</td>"
            f"<td>{said}</td></tr>"
        )
    head = "<tr><th>Task</th><th>What is checked</th><th class=n>Passed</th><th></th></tr>"
    parts = [f"<p>{len(marked)} of {len(records)} marked.</p>",
             f"<div class=wide><table>{head}{''.join(lines)}</table></div>"]  # fmt: skip
    problems = [
        f"<li>{html.escape(record['student'])}: {html.escape(record['problem'])}</li>"
        for record in records
        if record["state"] == "damaged"
    ]
    if problems:
        parts.append(f"<h2>Not marked</h2><ul>{''.join(problems)}</ul>")
    return _document(f"{course.sheet.title}: the class", "\n".join(parts))


def is_odd(number: int, marked: Sequence[Mapping[str, Any]]) -> bool:
    """Whether most of those who pass all other checks (three at least) fail this one."""
    strong = [
        record["outcomes"]
        for record in marked
        if all(each["state"] == "right" for i, each in enumerate(record["outcomes"]) if i != number)
    ]
    failed = sum(each[number]["state"] != "right" for each in strong)
    return len(strong) >= 3 and failed > len(strong) / 2


def read(folder: Path) -> tuple[str, list[dict[str, Any]]]:
    """The assignment's name and all records of a folder that ``grade`` wrote.

    Raises:
        ValueError: if there are none.
    """
    try:
        name = str(json.loads((folder / "marks.json").read_text(encoding="utf-8"))["assignment"])
        paths = sorted((folder / "submissions").glob("*.json"))
        return name, [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    except (OSError, ValueError, KeyError):
        raise ValueError(
            f"{folder}: no marks here: name the folder that `modalign course grade` wrote"
        ) from None


def gradebook(folder: Path, roster: Path) -> Path:
    """An LMS's own table with one column more: the total of each student who is in both.

    A row is a student's if one of its cells is the name of their submission.

    Raises:
        ValueError: if the table matches nobody, or a student has two rows.
    """
    held = json.loads((folder / "marks.json").read_text(encoding="utf-8"))
    totals = {folded(each["student"]): each for each in held["students"]}
    text = roster.read_text(encoding="utf-8-sig")
    if not text.strip():
        raise ValueError(f"{roster}: is empty: export the class list of your LMS as CSV")
    rows = list(csv.reader(io.StringIO(text)))
    column, seen = [f"{held['assignment']} ({sum(held['out_of'].values()):g})"], dict[str, int]()
    for number, row in enumerate(rows[1:], start=2):
        names = {folded(each) for each in row} & totals.keys()
        for name in names:
            if seen.setdefault(name, number) != number:
                raise ValueError(
                    f"{roster}: {name} is in rows {seen[name]} and {number}: remove one"
                )
        column.append(_cell(totals[names.pop()]["total"]) if len(names) == 1 else "")
    if not seen:
        one = held["students"][0]["student"]
        raise ValueError(
            f"{roster}: no cell is the name of a submission, such as {one!r}: "
            "export a table with the names or numbers that your LMS gives to files"
        )
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerows([*row, each] for row, each in zip(rows, column, strict=True))
    path = folder / "gradebook.csv"
    write_whole(path, file.getvalue().encode())
    return path
