"""One resumable sweep for every study: runs in processes of their own, each kept as it ends.

A run is a row's name and a setting, a dataclass with defaults for all and a ``seed``. The results
of each run are kept in a file, with a checksum, in a dotted folder beside the table. A sweep that
was killed goes on where it was, and loses no more than the runs that were under way. Those go on
from their checkpoint if the work keeps one.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import pathlib
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

import pandas as pd

from modalign import records


class Seeded(Protocol):
    """A setting: a frozen dataclass with defaults, and a seed."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    @property
    def seed(self) -> int: ...


Setting = TypeVar("Setting", bound=Seeded)


class Task(NamedTuple):
    """One run: the name of its row, its setting, and a file that it may keep itself in."""

    row: str
    setting: Any
    checkpoint: pathlib.Path

    def named(self, table: pd.DataFrame) -> pd.DataFrame:
        """A table with the run's ``row`` and ``seed`` as its first columns."""
        table.insert(0, "row", self.row)
        table.insert(1, "seed", self.setting.seed)
        return table


Work = Callable[[Task], pd.DataFrame]
Shorter = Callable[[Any], Iterable[Any]]


def require_apart(tuning: Iterable[int], seeds: Iterable[int]) -> None:
    """Refuse a seed that is both searched and tested with."""
    if both := sorted(set(tuning) & set(seeds)):
        raise ValueError(f"tuning, seeds: expected no seed in both, got {both}")


def settings_of(
    make: Callable[..., Setting], grid: Mapping[str, Iterable[Any]], seeds: Iterable[int]
) -> list[Setting]:
    """Every combination of a grid with every seed, seeds last."""
    names = [*grid, "seed"]
    return [
        make(**dict(zip(names, values, strict=True)))
        for values in itertools.product(*grid.values(), seeds)
    ]


def fixed_in(setting: Seeded, *varied: str) -> dict[str, Any]:
    """The fields of a setting but the seed, and those that vary."""
    fields = dataclasses.asdict(setting)
    return {name: value for name, value in fields.items() if name not in ("seed", *varied)}


def shared_by(settings: Sequence[Seeded]) -> dict[str, Any]:
    """The fields that are the same in all settings, but the seed."""
    fields = [dataclasses.asdict(each) for each in settings]
    varied = [name for name in fields[0] if any(each[name] != fields[0][name] for each in fields)]
    return fixed_in(settings[0], *varied)


def record(
    work: Work,
    tasks: Iterable[tuple[str, Seeded]],
    name: str,
    *,
    parameters: Mapping[str, Any],
    drop: Iterable[str] = (),
    jobs: int = 1,
    kept: str | None = None,
    shorter: Shorter | None = None,
    folder: str | pathlib.Path | None = None,
    progress: bool = True,
) -> list[pd.DataFrame]:
    """Make every run that is not kept yet, and save the rows of all as one recorded table.

    Its provenance has the ``parameters``, the ``commits`` and the ``places`` of the runs (see
    :func:`modalign.records.place`), and the seconds of all runs added up.
    Runs that an earlier call made at another commit, or with changes that were not committed, are
    used with a warning that names them.

    Args:
        work: a function of a module, from a :class:`Task` to tidy rows. Their ``attrs`` are kept
            too, as plain data. Their ``seconds`` replace the time measured here, because a run
            that went on from a checkpoint knows the time before it.
        tasks: (row, setting) pairs, each once.
        name: of the table, such as ``cka/map``.
        parameters: for :func:`modalign.records.save`.
        drop: columns that the table does not need.
        jobs: processes, of one thread each.
        kept: name of the folder of the runs; ``.map`` for the table ``cka/map``.
        shorter: the settings whose end is the beginning of a setting, the longest first. A run
            begins at the checkpoint of the first of them that is finished.
        folder: results folder; the book's by default.
        progress: show a bar.

    Returns:
        The rows of each task, in order, with the record of the run in ``attrs``.

    Raises:
        RuntimeError: for a run that failed; it names the run and the error. Others stay kept.
        ValueError: for no task, one that is there twice, or a kept file that is damaged.
        OSError: for a file that cannot be written.
    """
    path = records.results_folder(folder) / name
    runs = path.with_name(kept or f".{path.name}")
    pairs = list(tasks)
    parts = {_part(runs, *pair): pair for pair in pairs}
    if not 0 < len(parts) == len(pairs):
        raise ValueError(
            f"tasks: expected one or more, each once, got {len(pairs)} of which {len(parts)} differ"
        )
    runs.mkdir(parents=True, exist_ok=True)
    found = {part: _read(part, *pair) for part, pair in parts.items()}
    _warn_of_other_code(runs, [table for table in found.values() if table is not None])
    todo = [(part, *parts[part]) for part, table in found.items() if table is None]
    records.each(
        functools.partial(_make, work=work, shorter=shorter),
        todo,
        jobs=jobs,
        title=name if len(todo) == len(parts) else f"{name}, {len(parts) - len(todo)} kept",
        progress=progress,
    )
    found |= {part: _read(part, row, setting) for part, row, setting in todo}
    tables = [table for table in found.values() if table is not None]
    records.save(
        pd.concat(tables, ignore_index=True).drop(columns=list(drop)),
        name,
        parameters={**parameters, "commits": _commits(tables), "places": _places(tables)},
        seconds=sum(table.attrs["seconds"] for table in tables),
        folder=folder,
    )
    return tables


def _commits(tables: Iterable[pd.DataFrame]) -> list[str]:
    return sorted({str(table.attrs["commit"]) for table in tables})


def _places(tables: Iterable[pd.DataFrame]) -> list[str]:
    # older runs did not record it
    return sorted({table.attrs.get("place", "not recorded") for table in tables})


def _warn_of_other_code(runs: pathlib.Path, kept: Sequence[pd.DataFrame]) -> None:
    now = records.commit()[0]
    # two versions with changes, or without a commit, may differ
    same = {now} if now and "+" not in now else set()
    if other := set(_commits(kept)) - same:
        warnings.warn(
            f"{runs} keeps {len(kept)} of the runs from before, made at {', '.join(sorted(other))} "
            f"(now {now}); delete it to make them again",
            stacklevel=3,
        )


def _part(runs: pathlib.Path, row: str, setting: Seeded) -> pathlib.Path:
    """The file of a run, named by the fields that are not default: a new field renames no file."""
    name = "".join(letter if letter.isalnum() else "-" for letter in row)
    usual = dataclasses.asdict(type(setting)())
    given = {k: v for k, v in dataclasses.asdict(setting).items() if v != usual[k]}
    digest = hashlib.sha256(json.dumps([row, given], sort_keys=True).encode()).hexdigest()[:12]
    return runs / f"{name}-{setting.seed}-{digest}.run"


def _make(task: tuple[pathlib.Path, str, Seeded], *, work: Work, shorter: Shorter | None) -> None:
    """Make a run, and keep it in one piece: its record, and below it a line with its rows."""
    part, row, setting = task
    checkpoint = part.with_suffix(".pt")
    started = time.perf_counter()
    try:
        if shorter is not None and not checkpoint.exists():
            _begin(checkpoint, row, shorter(setting))
        table = work(Task(row, setting, checkpoint))
    except Exception as error:
        # some errors cannot be sent to another process, and none names its run
        raise RuntimeError(f"run {row!r}, {setting}: {type(error).__name__}: {error}") from error
    about = {
        "seconds": time.perf_counter() - started,
        **table.attrs,
        "row": row,
        "setting": dataclasses.asdict(setting),
        "commit": records.commit()[0],
        "place": records.place(),
    }
    content = json.dumps([list(table.columns), table.to_dict("split")["data"]]).encode()
    head = json.dumps(records.seal(about, content)).encode()
    records.write_whole(part, head + b"\n" + content)


def _begin(checkpoint: pathlib.Path, row: str, shorter: Iterable[Seeded]) -> None:
    """Copy the checkpoint of the first setting that is finished, and the files beside it."""
    for setting in shorter:
        part = _part(checkpoint.parent, row, setting)
        if _read(part, row, setting) is not None and part.with_suffix(".pt").exists():
            # the checkpoint itself last: once it is there, nothing is copied again
            for each in sorted(part.parent.glob(f"{part.stem}.pt*"), reverse=True):
                target = each.with_name(each.name.replace(part.stem, checkpoint.stem))
                scratch = target.with_name(f".{target.name}.part")
                shutil.copy(each, scratch)
                scratch.replace(target)
            return


def _plain(value: Any) -> Any:
    """As it is read again: a tuple is a list there."""
    return json.loads(json.dumps(value))


def _read(part: pathlib.Path, row: str, setting: Seeded) -> pd.DataFrame | None:
    """The rows of a finished run; None if no run of this setting has finished."""
    if not part.exists():
        return None
    head, _, content = part.read_bytes().partition(b"\n")
    try:
        about = json.loads(head)
    except ValueError:
        about = None
    held = isinstance(about, dict)
    if broken := records.seal_broken(about, content) if held else "its record is no JSON object":
        raise ValueError(f"{part}: {broken}; delete it, and its run is made again")
    own = {**dataclasses.asdict(type(setting)()), **about["setting"]}
    asked = dataclasses.asdict(setting)
    if _plain([about["row"], own]) != _plain([row, asked]):
        return None
    columns, rows = json.loads(content)
    table = pd.DataFrame(rows, columns=columns)
    table.attrs = about
    return table
