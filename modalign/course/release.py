"""The copy for students: a zip with the notebook to work in, and the files that it needs."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

from modalign.course import source
from modalign.course.checks import Course
from modalign.records import write_whole

READ_ME = """{title}

Open {name}.ipynb in JupyterLab or VS Code. It needs Python and PyTorch, nothing else:

    pip install jupyterlab torch numpy

Write your answers in place of the lines that raise NotImplementedError, and keep the names of the
functions. The cells below an answer check a part of it; other checks follow when it is marked. Only
the statements that your functions rest on are run then, so plots and experiments may stay.

{marks:g} marks, about {minutes} minutes:
{tasks}
"""


def release(course: Course, root: Path, folder: Path) -> Path:
    """Write the student's zip, in which no line of a solution is."""
    name, sheet = course.assignment.name, course.sheet
    notebook = source.plain(source.student(course.assignment), root)
    tasks = [
        f"  {task}: {sheet.marks(task):g} marks, {sheet.minutes[task]} minutes"
        for task in course.tasks
    ]
    text = READ_ME.format(
        title=sheet.title,
        name=name,
        marks=sum(course.marks.values()),
        minutes=sum(sheet.minutes.values()),
        tasks="\n".join(tasks),
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.zip"
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for inner, held in (
            (f"{name}.ipynb", json.dumps(notebook, indent=1)),
            ("README.txt", text),
        ):
            # a date of no meaning, so that the same source gives the same zip
            info = zipfile.ZipInfo(f"{name}/{inner}", (2000, 1, 1, 0, 0, 0))
            info.external_attr = 0o644 << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            file.writestr(info, held)
    write_whole(path, packed.getvalue())
    return path
