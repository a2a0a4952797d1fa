"""nbgrader's database, pages and exports around our marks: its autograder then runs no submission.

One preprocessor replaces the step that runs hidden tests and solutions in one kernel.
"""

from __future__ import annotations

import atexit
import functools
import json
from pathlib import Path
from typing import Any

from modalign.course import containment, grading, marking, report, source
from modalign.course.checks import Course, load
from modalign.records import write_whole

CONFIG = """\
from modalign.course.nbgrader import configure
configure(get_config(), course="FOLDER OF course.toml")
"""


def release(course: Course, root: Path, folder: Path) -> Path:
    """Write ``source/NAME/NAME.ipynb``, from which nbgrader makes its own release."""
    name = course.assignment.name
    made = source.plain(source.student(course.assignment), root)
    graded = set()
    for cell in made["cells"]:
        tags = source.tags_of(cell)
        task = next((tag.removeprefix("task-") for tag in tags if tag.startswith("task-")), "")
        about = {"schema_version": 3, "grade_id": cell["id"], "task": False, "locked": True,
                 "solution": False, "grade": False}  # fmt: skip
        if "solution" in tags:
            cell["source"] = course.assignment.solution(task)  # nbgrader takes the regions out
            about |= {"solution": True, "locked": False, "grade_id": f"answer-{task}"}
        elif {"check", "words"} & set(tags) and task not in graded:
            graded.add(task)
            by_hand = "words" in tags
            about |= {"grade": True, "solution": by_hand, "locked": not by_hand,
                      "points": course.sheet.marks(task), "grade_id": f"marks-{task}"}  # fmt: skip
        cell["metadata"]["nbgrader"] = about
    path = folder / "source" / name / f"{name}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(made, indent=1).encode())
    return path


@functools.cache
def _place() -> containment.Place:
    found = containment.Place(containment.chosen())
    atexit.register(found.__exit__)
    return found


def marked(notebook: Any, name: str, root: Path, folder: Path) -> Any:
    """A notebook whose graded cells hold our marks, and the feedback for students, as outputs.

    Raises:
        RuntimeError: if a check itself fails: nbgrader then keeps no mark of this submission.
    """
    course, secret = load(name, root), grading.secret_of(folder)
    _require_sound(name, root, secret)
    result = marking.mark(course, json.dumps(notebook).encode(), _place(), secret, name=name)
    if result.needs_a_person:
        raise RuntimeError(f"{name}: a check fails by itself: run modalign course check {name}")
    for cell in notebook["cells"]:
        about = cell["metadata"].get("nbgrader", {})
        task = str(about.get("grade_id", "")).removeprefix("marks-")
        if not about.get("grade") or task not in course.tasks or cell["cell_type"] != "code":
            continue
        lines = [
            f"{each.earned:g} of {each.marks:g}: {each.says}: {report.STATES[each.state]}"
            f"{': ' if each.detail else ''}{each.detail}\n"
            for each in result.outcomes
            if each.task == task
        ]
        score = {"text/plain": f"{result.of(task):g}"}
        cell["execution_count"] = 1
        cell["outputs"] = [
            {"output_type": "stream", "name": "stdout", "text": "".join(lines)},
            {"output_type": "execute_result", "execution_count": 1, "metadata": {}, "data": score},
        ]
    return notebook


@functools.cache
def _require_sound(name: str, root: Path, secret: str) -> None:
    grading.require_sound(load(name, root), _place(), secret)


def configure(config: Any, *, course: str, root: str | None = None) -> None:
    """Let ``nbgrader autograde`` mark by us: for its ``nbgrader_config.py``.

    Args:
        config: nbgrader's own, of ``get_config()``.
        course: the folder of ``course.toml``.
        root: the book; else the one above here or beside the package.
    """
    import nbformat
    from nbconvert.preprocessors import ClearMetadataPreprocessor
    from nbgrader import preprocessors

    from modalign.rerun import inventory

    class Mark(preprocessors.NbGraderPreprocessor):
        def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
            name = resources["nbgrader"]["notebook"]
            book = inventory.book_root(root)
            return nbformat.from_dict(marked(nb, name, book, Path(course))), resources

    config.Autograde.autograde_preprocessors = [
        Mark,
        preprocessors.IgnorePattern,
        ClearMetadataPreprocessor,
        preprocessors.LimitOutput,
        preprocessors.SaveAutoGrades,
        preprocessors.AssignLatePenalties,
        preprocessors.CheckCellMetadata,
    ]
