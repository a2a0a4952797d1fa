"""A class: submissions found, marked side by side, kept as they are done, and taken up again."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from modalign.course import marking, source
from modalign.course.checks import Course, module
from modalign.course.containment import Limits, Place
from modalign.records import write_whole

PRACTICE = "practice: these inputs are public"
MOST_MEMBERS = 10_000


class Submission(NamedTuple):
    """Who handed in (as the file or folder is called), and how to read it."""

    student: str
    read: Callable[[], bytes]


# a course and its secret


def new(folder: Path) -> Path:
    """Make a course: a file of its own secret, for the owner alone.

    Raises:
        ValueError: if there is one.
    """
    path = folder / "course.toml"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ValueError(
            f"{path}: is there, and its secret may be in use: name another folder"
        ) from None
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(
            "# Hidden inputs are drawn from this secret: keep it from students, and keep it.\n"
            f'secret = "{secrets.token_hex(16)}"\n'
        )
    return path


def secret_of(folder: Path) -> str:
    """The secret of a course.

    Raises:
        ValueError: if there is no course, or its file is broken; it says what to do.
    """
    path = folder / "course.toml"
    if not path.is_file():
        raise ValueError(
            f"{path}: no course here: make one with `modalign course new FOLDER` and name it with "
            "--course FOLDER, or try the marker with --practice"
        )
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    found = [line.split("=", 1)[1].strip() for line in lines if line.startswith("secret")]
    text = found[0].strip('"') if len(found) == 1 else ""
    if len(text) != 32 or not set(text) <= set("0123456789abcdef"):
        raise ValueError(
            f'{path}: expected one line secret = "32 hexadecimal digits": bring the file back from '
            "a copy, or make a new course (marks of hidden inputs will differ)"
        )
    if os.name == "posix" and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ValueError(f"{path}: others can read it: chmod 600 {path}")
    return text


# submissions


def submissions(path: Path, name: str, limits: Limits) -> list[Submission]:
    """The submissions in a folder, a zip or one notebook, each read when it is marked.

    Raises:
        ValueError: if there is none, or two are of one student.
    """
    if path.is_dir():
        found = list(_of_folder(path, name, limits))
    elif path.suffix == ".zip" and path.is_file():
        found = list(_of_zip(path, limits))
    elif path.suffix == ".ipynb" and path.is_file():
        found = [Submission(path.stem, partial(_read, path, limits))]
    else:
        raise ValueError(f"{path}: expected a folder, a zip or a notebook")
    if not found:
        raise ValueError(f"{path}: no notebook in it: expected STUDENT.ipynb or STUDENT/*.ipynb")
    students = [folded(each.student) for each in found]
    for each in found:
        if students.count(folded(each.student)) > 1:
            raise ValueError(f"{path}: two submissions of {each.student}: remove one")
        if each.student.startswith(".") or set(each.student) & set('/\\:*?"<>|\0'):
            raise ValueError(f"{path}: {each.student!r} cannot name a file of marks: rename it")
    return sorted(found, key=lambda each: each.student)


def folded(name: str) -> str:
    """A name as it is compared with others: of any case, and without space around it."""
    return unicodedata.normalize("NFC", name.strip()).casefold()


def _of_folder(folder: Path, name: str, limits: Limits) -> Iterator[Submission]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".", "__")):
            continue
        if path.suffix == ".ipynb":
            yield Submission(path.stem, partial(_read, path, limits))
        elif path.suffix == ".zip":
            yield Submission(path.stem, partial(_only, path, limits))
        elif path.is_dir():
            if path.is_symlink():
                yield Submission(path.name, partial(_read, path, limits))
                continue
            inside = sorted(
                each for each in path.rglob("*.ipynb") if ".ipynb_checkpoints" not in each.parts
            )
            named = [each for each in inside if each.stem == name] or inside
            if inside:
                yield Submission(path.name, partial(_one, named, path.name, limits))


def _one(paths: list[Path], student: str, limits: Limits) -> bytes:
    if len(paths) != 1:
        raise ValueError(
            f"{student}: {len(paths)} notebooks, and one is to be marked: remove others"
        )
    return _read(paths[0], limits)


def _read(path: Path, limits: Limits) -> bytes:
    if path.is_symlink():
        raise ValueError(f"{path.name}: is a link: put the notebook itself in its place")
    handle = os.open(
        path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    )
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ValueError(f"{path.name}: is not a file: put the notebook itself in its place")
        return _bounded(file.read(limits.notebook + 1), path.name, limits)


def _bounded(held: bytes, name: str, limits: Limits) -> bytes:
    if len(held) > limits.notebook:
        most = limits.notebook // 2**20
        raise ValueError(f"{name}: over {most} MiB: clear its outputs and hand it in again")
    return held


def _notebooks(path: Path) -> list[zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(path) as file:
            found = file.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        raise ValueError(f"{path.name}: is not a zip that can be read: hand it in again") from None
    if len(found) > MOST_MEMBERS:
        raise ValueError(f"{path.name}: {len(found)} files: hand in notebooks alone")
    hidden = ("__MACOSX", ".ipynb_checkpoints")
    return [
        each for each in found
        if each.filename.endswith(".ipynb") and not set(each.filename.split("/")) & set(hidden)
        and not each.filename.split("/")[-1].startswith(".")
    ]  # fmt: skip


def _member(path: Path, info: zipfile.ZipInfo, limits: Limits) -> bytes:
    parts = info.filename.replace("\\", "/").split("/")
    if ".." in parts or parts[0] in ("", ".") or ":" in parts[0]:
        raise ValueError(f"{path.name}: the name {info.filename!r} leads out of it: zip it again")
    if stat.S_ISLNK(info.external_attr >> 16):
        raise ValueError(f"{path.name}: {info.filename} is a link: put the notebook in its place")
    try:
        with zipfile.ZipFile(path) as file, file.open(info) as member:
            # no more is unpacked than a notebook may hold, whatever the zip says
            return _bounded(member.read(limits.notebook + 1), info.filename, limits)
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, EOFError):
        raise ValueError(f"{path.name}: {info.filename} cannot be unpacked: zip it again") from None


def _only(path: Path, limits: Limits) -> bytes:
    if path.is_symlink():
        raise ValueError(f"{path.name}: is a link: put the file itself in its place")
    found = _notebooks(path)
    if len(found) != 1:
        raise ValueError(f"{path.name}: {len(found)} notebooks in it, and one is to be marked")
    return _member(path, found[0], limits)


def _of_zip(path: Path, limits: Limits) -> Iterator[Submission]:
    found = [(info.filename.replace("\\", "/").split("/"), info) for info in _notebooks(path)]
    tops = {parts[0] for parts, _ in found if len(parts) > 1 and parts[0] != ".."}
    shared = len(found) > 1 and len(tops) == 1 and all(parts[0] in tops for parts, _ in found)
    for parts, info in found:
        inner = [part for part in parts[shared:] if part not in ("", "..")]
        student = inner[0] if len(inner) > 1 else inner[-1].removesuffix(".ipynb")
        yield Submission(student, partial(_member, path, info, limits))


# marking them


def require_sound(course: Course, place: Place, secret: str) -> None:
    """Send the instructor's copy and the untouched one through what will mark the class.

    Raises:
        RuntimeError: for anything but full marks and none: nobody is marked then.
    """
    full = sum(course.marks[task] for task in course.coded)
    for copy, wanted, who in (
        (source.instructor(course.assignment), full, "the book's own answers"),
        (source.student(course.assignment), 0.0, "the notebook as it is handed out"),
    ):
        found = marking.mark(course, json.dumps(copy).encode(), place, secret)
        if found.earned != wanted or found.needs_a_person:
            failed = [
                f"{each.task}, {each.says}: {each.detail or each.state}"
                for each in found.outcomes
                if (each.state == "right") != bool(wanted)
            ]
            raise RuntimeError(
                f"{course.assignment.name}: {who} got {found.earned:g} marks in place of "
                f"{wanted:g}, so nobody is marked: mend {'; '.join(failed)[:500]}"
            )


def key(course: Course, root: Path, secret: str, kind: str) -> str:
    """A hash of all that marks depend on beside the submission; equal keys give equal marks."""
    parts = [f"{kind} {secret}".encode(), json.dumps(course.assignment.cells).encode()]
    parts.append((root / "course" / f"{course.assignment.name}.py").read_bytes())
    parts += [
        path.read_bytes() for path in sorted(Path(module.__code__.co_filename).parent.rglob("*.py"))
    ]
    return hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def grade(
    course: Course,
    found: list[Submission],
    output: Path,
    place: Place,
    secret: str,
    *,
    root: Path,
    jobs: int = 1,
    say: Callable[[dict[str, Any]], None] = lambda record: None,
) -> list[dict[str, Any]]:
    """Mark submissions, and keep each as it is done; those that are kept are not marked again.

    Returns:
        A record a submission: student, state (marked, look or damaged), marks by task, outcomes.
    """
    folder = output / "submissions"
    folder.mkdir(parents=True, exist_ok=True)
    of_course = key(course, root, secret, place.kind)

    def one(each: Submission) -> dict[str, Any]:
        path = folder / f"{each.student}.json"
        record: dict[str, Any] = {"student": each.student}
        try:
            held = each.read()
        except (ValueError, OSError) as error:
            record |= {"state": "damaged", "problem": str(error)}
        else:
            whose = hashlib.sha256(of_course.encode() + held).hexdigest()
            record = _found(path, whose) or {
                **record,
                "key": whose,
                **_marked(course, held, place, secret, each),
            }
        write_whole(path, json.dumps(record, indent=1).encode())
        say(record)
        return record

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(one, found))


def _marked(
    course: Course, held: bytes, place: Place, secret: str, each: Submission
) -> dict[str, Any]:
    try:
        result = marking.mark(course, held, place, secret, name=each.student)
    except ValueError as error:
        return {"state": "damaged", "problem": str(error)}
    return {
        "state": "look" if result.needs_a_person else "marked",
        "marks": {
            task: None if course.assignment.in_words(task) else result.of(task)
            for task in course.tasks
        },
        "words": result.words,
        "left_out": result.left_out,
        "outcomes": [outcome._asdict() for outcome in result.outcomes],
    }


def _found(path: Path, whose: str) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if record.get("key") == whose and record["state"] == "marked" else None
