"""Recorded runs: sweeps over seeds, and tidy tables beside the provenance that makes them facts."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import resource
import subprocess
import sys
import typing
from collections.abc import Callable, Iterable, Sequence

import modalign

if typing.TYPE_CHECKING:
    import pandas as pd

Task = typing.TypeVar("Task")
Found = typing.TypeVar("Found")

LIBRARIES = ("torch", "numpy", "scikit-learn", "torchmetrics", "jaxtyping")


def _git(*arguments: str) -> str | None:
    """What git says of the checkout the package lies in; None where it lies in none."""
    here = pathlib.Path(modalign.__file__).parents[1]
    if not (here / ".git").exists():
        return None
    answer = subprocess.run(["git", "-C", here, *arguments], capture_output=True, text=True)
    return answer.stdout.strip() if answer.returncode == 0 else None


def library_version(library: str) -> str | None:
    """The installed version of a library; None where it is not installed."""
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
    """What lies under ``MODALIGN_DATA``: every file's name and size, as one digest."""
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
        ``version`` and ``commit`` of modalign (the commit ends in ``+changes`` where tracked
        files differed from it, and is None outside a checkout), ``python``, ``libraries``
        with their versions, ``machine`` (processor, cores, system), ``device`` (the GPU's name
        where torch is loaded and sees one), ``data`` (number, size and fingerprint of the files
        under ``MODALIGN_DATA``; None where it is not set) and ``date`` (UTC).

    >>> provenance()["version"] == modalign.__version__
    True
    """
    # a process that never loaded torch has computed nothing on a GPU
    torch = sys.modules.get("torch")
    commit = _git("rev-parse", "--short=12", "HEAD")
    if commit and _git("status", "--porcelain", "--untracked-files=no", "--", "modalign"):
        commit += "+changes"
    return {
        "version": modalign.__version__,
        "commit": commit,
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


def results_folder() -> pathlib.Path:
    """Find ``results/``: the nearest one above the working directory, else beside the package.

    Raises:
        FileNotFoundError: where neither place has one.
    """
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
    """Write ``name.csv`` and its provenance ``name.json``, each atomically.

    Args:
        table: one row a measurement, tidy.
        name: path below the results folder without a suffix, such as ``cka/map``.
        parameters: what the run was given, seeds included.
        seconds: wall time of the run.
        folder: where to write; the book's ``results/`` by default.

    Returns:
        The path of the table.

    Raises:
        ValueError: for an empty table.
    """
    if table.empty:
        raise ValueError(f"save: table for {name!r} has no row; a recorded run has at least one")
    path = pathlib.Path(folder) if folder is not None else results_folder()
    path = path / f"{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "parameters": parameters,
        "rows": len(table),
        "seconds": round(seconds, 1),
        "peak_memory_mib": round(peak_memory(), 1),
        **provenance(),
    }
    texts = {
        path: table.to_csv(index=False, float_format="%.5g"),
        path.with_suffix(".json"): json.dumps(record, indent=2) + "\n",
    }
    for target, text in texts.items():
        scratch = target.with_name(f".{target.name}.{os.getpid()}")
        scratch.write_text(text)
        scratch.replace(target)
    return path


def load(name: str, folder: str | pathlib.Path | None = None) -> pd.DataFrame:
    """Read a recorded table; its provenance is in ``table.attrs``.

    Raises:
        FileNotFoundError: where the table or its provenance is missing.
        ValueError: where the table has another number of rows than its provenance says.
    """
    import pandas as pd

    path = (pathlib.Path(folder) if folder is not None else results_folder()) / f"{name}.csv"
    if not path.exists():
        raise FileNotFoundError(
            f"load: no run {path}; its chapter's gpu preset makes it (results/README.md)"
        )
    table = pd.read_csv(path)
    table.attrs = json.loads(path.with_suffix(".json").read_text())
    if len(table) != table.attrs["rows"]:
        raise ValueError(
            f"load: {path} has {len(table)} rows, its provenance says {table.attrs['rows']}; "
            "make the run again"
        )
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

    A run then gives the same numbers whatever runs beside it. An error ends the sweep: what has
    not begun is dropped.

    Args:
        work: a function of a module, which a process can import.
        tasks: its arguments, one call each.
        jobs: processes at a time.
        title: what the bar is called.
        progress: show a bar.

    Returns:
        What each call returned, in the order of ``tasks``.
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
    """What stands behind recorded tables, a row each: seeds, cost, commit and machine."""
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
