"""Recorded runs: sweeps over seeds, and tidy tables beside the provenance that makes them facts."""

from __future__ import annotations

import datetime
import glob
import hashlib
import importlib.metadata
import io
import json
import os
import pathlib
import platform
import resource
import shutil
import subprocess
import sys
import typing
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence

import modalign

if typing.TYPE_CHECKING:
    import pandas as pd

Task = typing.TypeVar("Task")
Found = typing.TypeVar("Found")

AGAIN = "make the run again, or restore both files from git"
LIBRARIES = ("torch", "numpy", "scikit-learn", "torchmetrics", "jaxtyping")


def _git(*arguments: str) -> str:
    """Git's answer about the checkout that the package lies in.

    Raises:
        LookupError: if it says nothing, with the reason.
    """
    here = pathlib.Path(modalign.__file__).parents[1]
    if not (here / ".git").exists():
        raise LookupError(f"{here} is not a git checkout")
    try:
        answer = subprocess.run(["git", "-C", here, *arguments], capture_output=True, text=True)
    except OSError as error:
        raise LookupError(f"git does not start: {error.strerror}") from None
    if answer.returncode:
        # the first line says what it is, the others how to change it
        said = answer.stderr.strip() or f"it ended with status {answer.returncode}"
        raise LookupError(f"git refuses: {said.splitlines()[0]}")
    return answer.stdout.strip()


def commit() -> tuple[str | None, str | None]:
    """The commit of modalign, and if there is none the reason.

    The commit ends in ``+changes`` if tracked files of the package differ from it.
    """
    try:
        found = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", "modalign")
    except LookupError as error:
        return None, str(error)
    return found + ("+changes" if changed else ""), None


def library_version(library: str) -> str | None:
    """The installed version of a library; None if it is not installed."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def place() -> str:
    """Where this process computes, in a line: processor, the GPU that torch has started, and torch.

    >>> ", torch " in place()
    True
    """
    torch = sys.modules.get("torch")
    used = [torch.cuda.get_device_name()] if torch and torch.cuda.is_initialized() else []
    return ", ".join([_processor(), *used, f"torch {library_version('torch')}"])


def peak_memory() -> float:
    """Largest resident memory of this process so far, in MiB."""
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        # a process that was forked from a large one reports that one's size in getrusage
        peaks = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        if peaks:
            return int(peaks[0].split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024**2 if sys.platform == "darwin" else 1024)


def _data() -> dict[str, typing.Any] | None:
    """The files under ``MODALIGN_DATA``: their number, size, and one digest of names and sizes."""
    root = os.environ.get("MODALIGN_DATA")
    if not root or not os.path.isdir(root):
        return None
    sizes = {
        path.relative_to(root).as_posix(): path.stat().st_size
        for path in pathlib.Path(root).rglob("*")
        if path.is_file()
    }
    listing = json.dumps(sorted(sizes.items())).encode()
    return {
        "files": len(sizes),
        "bytes": sum(sizes.values()),
        "fingerprint": hashlib.sha256(listing).hexdigest()[:16],
    }


def provenance() -> dict[str, typing.Any]:
    """Say what produced a result: code, libraries, machine and time.

    Returns:
        ``version`` and ``commit`` of modalign (see `commit`; if it is None, ``no_commit`` says
        why), ``python``, ``libraries`` with their versions, ``machine`` (processor, cores,
        system), ``device`` (the GPU's name if torch is loaded and sees one), ``data`` (number,
        size and fingerprint of the files under ``MODALIGN_DATA``; None if it is not set) and
        ``date`` (UTC).

    >>> provenance()["version"] == modalign.__version__
    True
    """
    # a process that never loaded torch has computed nothing on a GPU
    torch = sys.modules.get("torch")
    found, reason = commit()
    return {
        "version": modalign.__version__,
        "commit": found,
        **({"no_commit": reason} if reason else {}),
        "python": platform.python_version(),
        "libraries": {name: library_version(name) for name in LIBRARIES},
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.machine()}",
        },
        "device": torch.cuda.get_device_name() if torch and torch.cuda.is_available() else "cpu",
        "data": _data(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _seal_of(record: Mapping[str, typing.Any]) -> str:
    rest = {name: value for name, value in record.items() if name != "seal"}
    return _digest(json.dumps(rest, sort_keys=True).encode())


def seal(record: Mapping[str, typing.Any], content: bytes) -> dict[str, typing.Any]:
    """Add two checksums to the record of a file: ``sha256`` of the file, ``seal`` of the record.

    They reveal damage and edits; they are not a signature.

    Args:
        record: the content of a JSON file.
        content: of the file that it describes.

    Raises:
        TypeError: for a record that is not plain data.

    >>> record = seal({"rows": 2}, b"0.5")
    >>> seal_broken(record, b"0.5"), seal_broken(record, b"0.9")
    (None, 'the file is not the one that was written')
    >>> seal_broken({**record, "rows": 3}, b"0.5")
    'its record is not the one that was written'
    """
    # as it will be read: a tuple is a list there, and a key a text
    plain = json.loads(json.dumps({**record, "sha256": _digest(content)}))
    return {**plain, "seal": _seal_of(plain)}


def seal_broken(record: Mapping[str, typing.Any], content: bytes) -> str | None:
    """The contradiction of a file and its record; None if they are as written."""
    if "seal" not in record or "sha256" not in record:
        return "its record has no checksum"
    if record["seal"] != _seal_of(record):
        return "its record is not the one that was written"
    if record["sha256"] != _digest(content):
        return "the file is not the one that was written"
    return None


def write_whole(path: str | pathlib.Path, content: bytes) -> None:
    """Write a file so that there is the old one or the new one, and never a part.

    Raises:
        OSError: if it cannot be written; it names the file, the reason and the room left.
    """
    path = pathlib.Path(path)
    scratch = path.with_name(f".{path.name.removeprefix('.')}.{os.getpid()}")
    try:
        try:
            with open(scratch, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: pathlib.Path, error: OSError) -> OSError:
    """The error of a file that could not be written: path, reason, and the room on its disk."""
    there = next((each for each in path.absolute().parents if each.is_dir()), None)
    room = f"; its disk has {shutil.disk_usage(there).free / 2**20:,.0f} MiB free" if there else ""
    return OSError(error.errno, f"cannot write {path}: {error.strerror or error}{room}")


def results_folder(folder: str | pathlib.Path | None = None) -> pathlib.Path:
    """The folder of recorded tables: a given one, else the book's ``results/``.

    The book's is the nearest one above the working directory, else the one beside the package.

    Raises:
        FileNotFoundError: if no folder is given and neither place has one.

    >>> results_folder("tables").name
    'tables'
    """
    if folder is not None:
        return pathlib.Path(folder)
    here = pathlib.Path.cwd()
    for root in (here, *here.parents, pathlib.Path(modalign.__file__).parents[1]):
        if (root / "results" / "README.md").exists():
            return root / "results"
    raise FileNotFoundError(
        f"results: no folder results/ with a README.md above {here} or beside the package; "
        "run from a checkout of the book, which carries the recorded tables"
    )


def save(
    table: pd.DataFrame,
    name: str,
    *,
    parameters: dict[str, typing.Any],
    seconds: float,
    folder: str | pathlib.Path | None = None,
) -> pathlib.Path:
    """Write ``name.csv`` and its provenance ``name.json``, both or neither.

    The provenance holds the table's SHA-256 and a checksum of its own, which `load` compares.

    Args:
        table: one row a measurement, tidy.
        name: path below the results folder without a suffix, such as ``cka/map``.
        parameters: of the run, seeds included.
        seconds: wall time of the run.
        folder: where to write; the book's ``results/`` by default.

    Returns:
        The path of the table.

    Raises:
        ValueError: for an empty table.
        OSError: if a file cannot be written.
    """
    if table.empty:
        raise ValueError(f"save: table for {name!r} has no row; a recorded run has at least one")
    path = results_folder(folder) / f"{name}.csv"
    record = {
        "parameters": parameters,
        "rows": len(table),
        "seconds": round(seconds, 1),
        "peak_memory_mib": round(peak_memory(), 1),
        **provenance(),
    }
    if "no_commit" in record:
        warnings.warn(f"{path}: no commit is recorded: {record['no_commit']}", stacklevel=2)
    content = table.to_csv(index=False, float_format="%.5g", lineterminator="\n").encode()
    _write_pair(path, content, record)
    return path


def _pending(path: pathlib.Path, digest: str) -> pathlib.Path:
    """Where a table waits until its provenance is in its place."""
    return path.with_name(f".{path.name}.{digest[:16]}")


def _write_pair(path: pathlib.Path, content: bytes, record: Mapping[str, typing.Any]) -> None:
    """Replace a table and its provenance in one step, which is the renaming of the provenance.

    Before it the old pair is whole; after it `load` finds the new table, here or in its place.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error
    sealed = seal(record, content)
    text = json.dumps(sealed, indent=2) + "\n"
    pending = _pending(path, sealed["sha256"])
    write_whole(pending, content)
    try:
        write_whole(path.with_suffix(".json"), text.encode())
    except BaseException:
        pending.unlink(missing_ok=True)
        raise
    pending.replace(path)
    for name in (path.name, path.with_suffix(".json").name):
        for left in path.parent.glob(f".{glob.escape(name)}.*"):  # by a process that was killed
            left.unlink(missing_ok=True)


def load(name: str, folder: str | pathlib.Path | None = None) -> pd.DataFrame:
    """Read a recorded table; its provenance is in ``table.attrs``.

    Raises:
        FileNotFoundError: if the table or its provenance is missing.
        ValueError: if the table or its provenance is not as `save` wrote it.
    """
    import pandas as pd

    path = results_folder(folder) / f"{name}.csv"
    record = path.with_suffix(".json")
    if not record.exists():
        raise FileNotFoundError(
            f"load: no run {record}; its chapter's gpu preset makes it (results/README.md)"
        )
    try:
        made = json.loads(record.read_bytes())
    except ValueError:
        made = None
    if not isinstance(made, dict):
        raise ValueError(f"load: {record} is damaged: it holds no JSON object; {AGAIN}")
    pending = _pending(path, str(made.get("sha256")))
    if pending.exists():  # of a `save` that was ended between its two steps
        pending.replace(path)
    if not path.exists():
        raise FileNotFoundError(f"load: no table {path} beside its provenance; {AGAIN}")
    content = path.read_bytes()
    if broken := seal_broken(made, content):
        raise ValueError(f"load: {path} and {record.name}: {broken}; {AGAIN}")
    table = pd.read_csv(io.BytesIO(content))
    table.attrs = made
    return table


def each(
    work: Callable[[Task], Found],
    tasks: Sequence[Task],
    *,
    jobs: int = 1,
    title: str | None = None,
    progress: bool = True,
) -> list[Found]:
    """Run the tasks of a sweep in processes of their own, each on one thread of torch.

    A run then gives the same numbers whatever runs beside it. An error ends the sweep: tasks that
    have not begun are dropped.

    Args:
        work: a function of a module, which a process can import.
        tasks: its arguments, one call each.
        jobs: processes at a time.
        title: of the bar.
        progress: show a bar.

    Returns:
        The result of each call, in the order of ``tasks``.
    """
    import concurrent.futures
    import multiprocessing

    from tqdm import tqdm

    context = multiprocessing.get_context("spawn")
    with (
        concurrent.futures.ProcessPoolExecutor(jobs, context, initializer=_one_thread) as pool,
        tqdm(total=len(tasks), desc=title, disable=not progress) as bar,
    ):
        calls = [pool.submit(work, task) for task in tasks]
        try:
            for call in concurrent.futures.as_completed(calls):
                call.result()
                bar.update()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [call.result() for call in calls]


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def listing(names: Iterable[str], folder: str | pathlib.Path | None = None) -> pd.DataFrame:
    """The provenance of recorded tables, a row each: seeds, cost, commit and machine."""
    import pandas as pd

    rows = []
    for name in names:
        made = load(name, folder).attrs
        rows.append(
            {
                "table": f"results/{name}.csv",
                "rows": made["rows"],
                "seeds": made["parameters"]["seeds"],
                "minutes": round(made["seconds"] / 60, 1),
                "commit": made["commit"],
                "machine": f"{made['machine']['processor']}, {made['machine']['cores']} cores, "
                f"{made['device']}, torch {made['libraries']['torch']}",
            }
        )
    return pd.DataFrame(rows)
