"""Many runs together: one table, intervals over seeds, paired differences, a page."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import html
import io
import json
import math
import pathlib
import typing
from collections.abc import Iterable, Mapping, Sequence

from modalign import records
from modalign.rerun import inventory
from modalign.rerun._yaml import read_yaml
from modalign.rerun.execution import Result
from modalign.rerun.inventory import Folder

if typing.TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Path = pathlib.Path
SEED, CODE = "seed", "code"
COSTS = ("seconds", "peak_memory_mib")
MOST_PANELS, MOST_LEVELS = 6, 60  # of the figure
MOST_NAMED = 8  # runs in a line
ROUNDING = 4 * 2.0**-23  # of a float32, in which most numbers were computed
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto }}
body {{ max-width: 60rem; padding: 0 1rem }}
table {{ border-collapse: collapse; font-size: .9rem }} div {{ overflow-x: auto }}
th, td {{ border-bottom: 1px solid #ccc; padding: .2rem .6rem; text-align: right }}
img {{ max-width: 100% }}
</style></head><body>
{body}
</body></html>
"""


@dataclasses.dataclass
class _Set:
    """The runs of a folder, or of a sweep's file.

    Attributes:
        runs: those that finished, each once.
        remarks: on the others.
        grid: of the sweep; empty for a folder.
        codes: the code of each run, by its name.
    """

    runs: list[Result]
    remarks: list[str]
    grid: dict[str, list[typing.Any]]
    codes: dict[str, tuple[str, str]]


def _few(names: Sequence[str]) -> str:
    """The first names of a list that may be long.

    >>> _few([str(n) for n in range(100)])
    '0, 1, 2, 3, 4, 5, 6, 7 and 92 more'
    """
    shown = ", ".join(names[:MOST_NAMED])
    return shown if len(names) <= MOST_NAMED else f"{shown} and {len(names) - MOST_NAMED} more"


def _counted(number: int) -> str:
    return "1 run" if number == 1 else f"{number} runs"


def _named(path: Path) -> tuple[list[str], dict[str, list[typing.Any]]]:
    """The names of the runs of a folder or of a sweep's file, and the grid of the latter."""
    if path.is_dir():
        # a name that begins with a dot is being written
        return sorted(each.parent.name for each in path.glob("[!.]*/provenance.json")), {}
    if not path.is_file():
        raise FileNotFoundError(f"report: there is no {path}: expected a sweep's file or a folder")
    held = read_yaml(path)
    if not isinstance(held, dict) or not isinstance(held.get("runs"), list):
        raise ValueError(f"report: {path} names no runs; give the file that the sweep wrote")
    for name in held["runs"]:
        if not isinstance(name, str) or Path(name).name != name:
            raise ValueError(f"report: {path}: runs: expected names of runs, got {name!r:.80}")
    grid = held["grid"].items() if isinstance(held.get("grid"), dict) else ()
    return held["runs"], {
        name: values for name, values in grid if isinstance(values, list) and values
    }


def _runs(path: Path) -> _Set:
    """The finished runs of a sweep's file or of a folder, and remarks on the others."""
    names, grid = _named(path)
    folder = path if path.is_dir() else path.parent
    found: dict[str, Result] = {}
    codes: dict[str, tuple[str, str]] = {}
    left: dict[str, list[str]] = {"failed": [], "missing": [], "damaged": [], "copies": []}
    for name in dict.fromkeys(names):
        try:
            run = Result(folder / name)
            code = _code(run)
        except FileNotFoundError:
            failed = (folder / f"{name}.failed").exists()
            left["failed" if failed else "missing"].append(name)
            continue
        except ValueError as error:
            left["damaged"].append(f"{name} ({error})")
            continue
        if not run.ok:
            left["failed"].append(name)
        elif path.is_file() and run.name != name:
            left["damaged"].append(f"{name} (it holds the run {run.name})")
        elif run.name in found:
            left["copies"].append(f"{name} (of {run.name})")
        else:
            found[run.name], codes[run.name] = run, code
    remarks = [
        f"{_counted(len(each))} left out, {state}: {_few(each)}"
        for state, each in left.items()
        if each
    ]
    if not found:
        raise ValueError("; ".join([f"report: {path} has no finished run", *remarks]))
    of = sorted({run.chapter for run in found.values()})
    if len(of) > 1:
        raise ValueError(f"report: {path} has runs of {', '.join(of)}; give one sweep's file")
    return _Set(list(found.values()), remarks, grid, codes)


def _code(run: Result) -> tuple[str, str]:
    """The code of a run, as two digests: of its notebook, and of all that the notebook uses."""
    held = json.loads(run.notebook.read_bytes())
    try:
        code = [
            "".join(cell["source"])
            for cell in held.get("cells", [])
            if cell["cell_type"] == "code"
            and "injected-parameters" not in cell["metadata"].get("tags", [])
        ]
    except (AttributeError, KeyError, TypeError):
        raise ValueError(f"run: {run.notebook} is damaged: make the run again") from None
    return hashlib.sha256(json.dumps(code).encode()).hexdigest()[:8], run.provenance["source"][:8]


def _codes(runs: Sequence[Result], found: Sequence[tuple[str, str]]) -> tuple[list[int], list[str]]:
    """The version of the code of each run, from 1, the oldest; and a line about them."""
    dates: dict[tuple[str, str], str] = {}
    for code, run in zip(found, runs, strict=True):
        dates[code] = min(dates.get(code, run.provenance["date"]), run.provenance["date"])
    order = sorted(dates, key=lambda code: (dates[code], code))
    numbers = [order.index(code) + 1 for code in found]
    if len(order) == 1:
        return numbers, []
    parts = [
        f"code {n} ({_counted(found.count(code))} since {dates[code]}; notebook {code[0]}, package "
        f"and libraries {code[1]})"
        for n, code in enumerate(order, 1)
    ]
    return numbers, [
        f"the runs are of {len(order)} versions of the code, each a row of its own: "
        + ", ".join(parts)
    ]


class _Columns:
    """Where parameters and glued values stand in the table, whose column names are distinct."""

    def __init__(self, runs: Sequence[Result]) -> None:
        taken = {"run", CODE, *COSTS}
        self.parameters = self._named((run.parameters for run in runs), "parameter", taken)
        self.values = self._named((run.values for run in runs), "value", taken)

    @staticmethod
    def _named(held: Iterable[Mapping[str, object]], what: str, taken: set[str]) -> dict[str, str]:
        columns = {}
        for name in dict.fromkeys(name for each in held for name in each):
            column = _text_of(name)
            while column in taken:
                column = f"{column} ({what})"
            taken.add(column)
            columns[name] = column
        return columns


def table_of(runs: Sequence[Result], codes: Sequence[int] | None = None) -> pd.DataFrame:
    """One row a run: its name, parameters, glued values, time and memory.

    A name that is taken is followed by its kind, as in ``rate (value)``.
    """
    import pandas as pd

    columns = _Columns(runs)
    found = {"run": pd.Series([run.name for run in runs])}
    if codes and len(set(codes)) > 1:
        found[CODE] = pd.Series(codes)
    for name, column in columns.parameters.items():
        found[column] = _column([run.parameters.get(name) for run in runs])
    for name, column in columns.values.items():
        found[column] = _column([run.values.get(name) for run in runs])
    for name in COSTS:
        found[name] = _column([run.provenance[name] for run in runs])
    return pd.DataFrame(found)


def _cell(value: object) -> bool | int | float | str | None:
    """A value as every file of a table can hold it; lists become JSON."""
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    return _text_of(value if isinstance(value, str) else json.dumps(value, default=str))


def _text_of(text: str) -> str:
    """A text that UTF-8 can write."""
    return text.encode("utf-8", "backslashreplace").decode()


def _column(values: Sequence[object]) -> pd.Series:
    """Values of one type, so that every file format holds them; text if they share none."""
    import pandas as pd

    cells = [_cell(value) for value in values]
    kinds = {type(cell) for cell in cells} - {type(None)}
    if str in kinds:
        return pd.Series([None if cell is None else str(cell) for cell in cells], dtype=object)
    if len(kinds) == 1 and kinds <= {bool, int}:
        whole = "boolean" if kinds == {bool} else "Int64"
        return pd.Series(cells, dtype=whole if None in cells else None)
    return pd.Series([math.nan if cell is None else float(cell) for cell in cells])


def _number(value: object) -> float | None:
    """A value as a number, a bool as 0 or 1; None if it is not a number."""
    if not isinstance(value, bool | int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


@dataclasses.dataclass(frozen=True)
class _Row:
    """A row of the report: the values that are compared, and the version of the code."""

    level: tuple[object, ...]
    code: int


@dataclasses.dataclass
class _Compared:
    """Runs sorted into the rows of a report.

    Attributes:
        metrics: numbers of each run (NaN if it has none), by name.
        rows: the row of each run.
        names: of the rows.
        seeds: of each run; None if means are not over seeds.
        partners: the values that two runs share if they are compared, beside the code.
    """

    metrics: dict[str, list[float]]
    rows: list[_Row]
    names: dict[_Row, str]
    seeds: list[object] | None
    partners: list[str]

    def runs_of(self, row: _Row) -> list[int]:
        return [n for n, each in enumerate(self.rows) if each == row]

    def over_seeds(self, runs: Sequence[int], values: Sequence[float]) -> dict[str, float]:
        """Mean and 95% interval of one value a seed: the mean of its runs."""
        from modalign.metrics import seed_interval

        by_seed: dict[str, list[float]] = {}
        for run, value in zip(runs, values, strict=True):
            by_seed.setdefault(repr(self.seeds[run] if self.seeds else None), []).append(value)
        sample = [sum(each) / len(each) for each in by_seed.values()]
        mean = low = high = math.nan
        if sample and all(map(math.isfinite, sample)):
            mean = sum(sample) / len(sample)
            if len(sample) > 1:
                mean, low, high = map(float, seed_interval(sample))
        return {"seeds": len(sample), "mean": mean, "low": low, "high": high}

    def means(self) -> pd.DataFrame:
        """Mean of each metric over seeds, for each row."""
        import pandas as pd

        found = []
        for metric, numbers in self.metrics.items():
            for row, name in self.names.items():
                runs = self.runs_of(row)
                mean = self.over_seeds(runs, [numbers[n] for n in runs])
                found.append({"metric": metric, "level": name, "runs": len(runs), **mean})
        return pd.DataFrame(found)

    def differences(self, baseline: tuple[object, ...]) -> tuple[pd.DataFrame, list[str]]:
        """Each row minus the baseline of the same code, paired by all else that varies.

        Also remarks on runs without a partner.
        """
        import pandas as pd

        found, remarks, alone = [], [], 0
        pairs: dict[_Row, list[tuple[int, int]]] = {}
        for row, name in self.names.items():
            against = _Row(baseline, row.code)
            if row == against:
                continue
            if against not in self.names:
                remarks.append(f"{name} has no baseline of its code: it is compared with none")
                continue
            other = {self.partners[n]: n for n in self.runs_of(against)}
            runs = self.runs_of(row)
            pairs[row] = [(n, other[self.partners[n]]) for n in runs if self.partners[n] in other]
            alone += len(runs) - len(pairs[row])
        if alone:
            remarks.append(
                f"{_counted(alone)} without a partner in the baseline: left out of the differences"
            )
        for metric, numbers in self.metrics.items():
            for row, both in pairs.items():
                values = [numbers[one] - numbers[two] for one, two in both]
                mean = self.over_seeds([one for one, _ in both], values)
                size = max((abs(numbers[n]) for pair in both for n in pair), default=0.0)
                found.append(
                    {
                        "metric": metric,
                        "level": self.names[row],
                        "against": self.names[_Row(baseline, row.code)],
                        **mean,
                        "verdict": _verdict(mean, size * ROUNDING),
                    }
                )
        return pd.DataFrame(found), remarks


def _verdict(found: Mapping[str, float], rounding: float = 0.0) -> str:
    """The verdict of an interval; one that comes as near to 0 as rounding decides nothing.

    >>> _verdict({"low": 1e-17, "high": 2e-17}, rounding=1e-7)
    'undecided'
    """
    if math.isnan(found["low"]):
        return "no interval"
    if found["low"] > rounding:
        return "higher"
    return "lower" if found["high"] < -rounding else "undecided"


@dataclasses.dataclass
class Report:
    """The tables of a set of runs, and the remarks on them.

    Attributes:
        title: the chapter, and the parameters that it was compared by.
        path: the sweep's file or the folder that was read.
        table: one row a run: parameters, glued values, seconds and memory.
        means: mean and 95% interval over seeds, for each metric and level.
        differences: paired differences from the baseline, with 95% intervals over seeds.
        remarks: for readers of the tables.
        origin: where the runs were made: versions, commits and machines.
    """

    title: str
    path: Path
    table: pd.DataFrame
    means: pd.DataFrame
    differences: pd.DataFrame
    remarks: list[str]
    origin: list[str]

    def figure(self) -> Figure | None:
        """The paired differences, a panel a metric; None if nothing is compared."""
        if self.differences.empty:
            return None
        import matplotlib.pyplot as plt
        from matplotlib.figure import Figure

        from modalign import plots

        metrics = list(dict.fromkeys(self.differences["metric"]))[:MOST_PANELS]
        levels = list(dict.fromkeys(self.differences["level"]))[:MOST_LEVELS]
        shown = self.differences[self.differences["level"].isin(levels)]
        with plt.rc_context():
            plots.use_style()
            figure = Figure(figsize=(1 + 3 * len(metrics), 1.2 + 0.4 * len(levels)))
            axes = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
            for ax, metric in zip(axes, metrics, strict=True):
                part = shown[shown["metric"] == metric]
                plots.forest(ax, part, "level", "metric")
                against = part["against"].unique()
                label = against[0] if len(against) == 1 else "the baseline of the same code"
                # names of others: a dollar is a dollar
                for text in (ax.set_title(metric, fontsize=9), ax.set_xlabel(f"minus {label}")):
                    text.set_parse_math(False)
        return figure

    def png(self) -> bytes:
        """The figure as a picture; empty if nothing is compared."""
        figure = self.figure()
        picture = io.BytesIO()
        if figure:
            figure.savefig(picture, dpi=110)
        return picture.getvalue()

    def write(self, folder: Folder | None = None) -> Path:
        """Write tables (parquet and CSV), figure and page; beside the runs or sweep by default.

        Raises:
            OSError: if a file cannot be written; those that were written before are whole.
        """
        beside = self.path.resolve()
        beside = beside if beside.is_dir() else beside.with_suffix("")
        target = Path(folder) if folder else beside.with_name(f"{beside.name}.report")
        files = {}
        tables = {"runs": self.table, "means": self.means, "differences": self.differences}
        for name, table in tables.items():
            files[f"{name}.csv"] = table.to_csv(index=False).encode()
            packed = io.BytesIO()
            table.to_parquet(packed, index=False)
            files[f"{name}.parquet"] = packed.getvalue()
        files["figure.png"] = self.png()
        page = PAGE.format(title=html.escape(self.title), body=self._repr_html_())
        files["report.html"] = page.encode()
        try:
            target.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise records.cannot_write(target, error) from error
        for name, content in files.items():
            if content:
                records.write_whole(target / name, content)
            else:  # a file of an earlier report would contradict this one
                (target / name).unlink(missing_ok=True)
        return target

    def __str__(self) -> str:
        parts = [self.title, *self.remarks, "", "Means over seeds, with 95% intervals:"]
        parts.append(_text(self.means))
        if not self.differences.empty:
            parts += ["", "Paired differences over seeds, with 95% intervals:"]
            parts.append(_text(self.differences))
        return "\n".join([*parts, "", *self.origin])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        def paragraphs(lines: list[str]) -> str:
            return "".join(f"<p>{html.escape(line)}</p>" for line in lines)

        body = f"<h1>{html.escape(self.title)}</h1>" + paragraphs(self.remarks)
        for head, table in [
            ("Means over seeds, with 95% intervals", self.means),
            ("Paired differences over seeds, with 95% intervals", self.differences),
        ]:
            if not table.empty:
                shown = table.to_html(index=False, float_format="{:.4g}".format, border=0)
                body += f"<h2>{head}</h2><div>{shown}</div>"
        if picture := self.png():
            data = base64.b64encode(picture).decode()
            body += f'<img alt="Paired differences" src="data:image/png;base64,{data}">'
        return body + paragraphs(self.origin)


def _text(table: pd.DataFrame) -> str:
    return str(table.to_string(index=False, float_format="{:.4g}".format))


def report(
    path: Folder,
    *,
    by: str | Sequence[str] | None = None,
    metric: str | Sequence[str] | None = None,
    baseline: object = None,
) -> Report:
    """Read runs and say what differs between them.

    Args:
        path: the file that a sweep wrote, or a folder of runs.
        by: parameters whose values are compared; all that vary but the seed by default. Runs of
            another code (of the notebook, the package or its libraries) are a row of their own.
        metric: glued values to compare; all numbers that vary by default. A bool counts as 0 or 1;
            a level in which a run lacks the number has no mean, and the run is named.
        baseline: the value of ``by`` that the others are compared with; by default the first of
            the grid.

    A verdict is given if an interval stays away from 0 by more than rounding: 4 units in the
    last place of float32, of the largest value compared.

    Raises:
        ValueError: for runs of several chapters, or an unknown parameter, metric or baseline.
        FileNotFoundError: if there is nothing.
    """
    path = Path(path)
    found = _runs(path)
    runs, remarks = found.runs, [f"{_counted(len(found.runs))} of {path}", *found.remarks]
    columns = _Columns(runs)
    parameters = list(columns.parameters)
    varying = [name for name in parameters if name != SEED and _varies(runs, name)]
    by = [by] if isinstance(by, str) else list(by or varying)
    for name in by:
        inventory.require_known(name, parameters, "by")
    if path.is_dir():  # in the order of their names, which are hashes
        runs = sorted(runs, key=lambda run: [_order(run.parameters.get(name)) for name in by])
    codes, of_codes = _codes(runs, [found.codes[run.name] for run in runs])
    metrics, lacking = _metrics(runs, columns, [metric] if isinstance(metric, str) else metric)
    remarks += of_codes + lacking
    rows = [
        _Row(tuple(_cell(run.parameters.get(name)) for name in by), code)
        for run, code in zip(runs, codes, strict=True)
    ]
    levels = {row.level: _level(by, row.level) for row in rows}
    suffix = len(set(codes)) > 1
    order = {level: n for n, level in enumerate(levels)}
    names = {
        row: levels[row.level] + (f", code {row.code}" if suffix else "")
        for row in sorted(set(rows), key=lambda row: (order[row.level], row.code))
    }
    first, remark = _baseline(baseline, by, levels, found.grid)
    others = [name for name in varying if name not in by]
    seeded = SEED in parameters and SEED not in by
    keys = [*([SEED] if seeded else []), *others]
    compared = _Compared(
        metrics,
        rows,
        names,
        [run.parameters.get(SEED) for run in runs] if seeded else None,
        [json.dumps([run.parameters.get(name) for name in keys]) for run in runs],
    )
    differences, unpaired = compared.differences(first)
    remarks += remark + unpaired
    if not differences.empty:
        rows_shown = differences["level"].nunique()
        shown = {"metrics": (len(metrics), MOST_PANELS), "levels": (rows_shown, MOST_LEVELS)}
        for what, (there, most) in shown.items():
            if there > most:
                remarks.append(f"the figure shows the first {most} of {there} {what}")
    return Report(
        title=f"{runs[0].chapter} by {', '.join(by)}" if by else runs[0].chapter,
        path=path,
        table=table_of(runs, codes),
        means=compared.means(),
        differences=differences,
        remarks=remarks,
        origin=_origin(runs),
    )


def _varies(runs: Sequence[Result], name: str) -> bool:
    return len({json.dumps(_cell(run.parameters.get(name))) for run in runs}) > 1


def _order(value: object) -> tuple[int, typing.Any]:
    """A key that sorts numbers, then texts, then missing values."""
    cell = _cell(value)
    if cell is None:
        return 2, ""
    return (1, cell) if isinstance(cell, str) else (0, cell)


def _level(by: Sequence[str], values: Sequence[object]) -> str:
    """The name of a level, by which no other is called."""

    def shown(value: object) -> str:
        if isinstance(value, str) and (not value or set(value) & set(',="\n')):
            with contextlib.suppress(ValueError):
                if isinstance(json.loads(value), list):  # which shows where it ends
                    return value
            return json.dumps(value)
        return str(value)

    pairs = zip(by, values, strict=True)
    return ", ".join(f"{name}={shown(value)}" for name, value in pairs) or "all"


def _metrics(
    runs: Sequence[Result], columns: _Columns, wanted: Sequence[str] | None
) -> tuple[dict[str, list[float]], list[str]]:
    """The numbers of each run by metric, NaN if it has none; and remarks on them."""
    held: dict[str, list[object]] = {
        column: [run.values.get(name) for run in runs] for name, column in columns.values.items()
    }
    costs = {name: [run.provenance[name] for run in runs] for name in COSTS}
    numbers = {name: [*map(_number, values)] for name, values in {**held, **costs}.items()}
    numbers = {name: found for name, found in numbers.items() if set(found) != {None}}
    remarks = []
    if wanted:
        # a name that a column of another kind has taken
        chosen = [name if name in numbers else columns.values.get(name, name) for name in wanted]
        for name in chosen:
            inventory.require_known(name, numbers, "metric")
    else:
        values = [name for name in numbers if name not in COSTS]
        if not values:
            raise ValueError(
                f"report: the {_counted(len(runs))} glued no number; --metric takes one of "
                f"{', '.join(COSTS)}"
            )
        constant = [name for name in values if len({repr(each) for each in numbers[name]}) == 1]
        chosen = [name for name in values if name not in constant] or values
        left = [f"{name} = {held[name][0]}" for name in constant if name not in chosen]
        if left:
            remarks.append(f"the same in all runs: {_few(left)}")
    for name in chosen:
        lack = [run.name for run, each in zip(runs, numbers[name], strict=True) if each is None]
        if lack:
            remarks.append(
                f"{name} is not a number in {_counted(len(lack))} ({_few(lack)}): levels with "
                "them have no mean"
            )
        bad = sum(each is not None and not math.isfinite(each) for each in numbers[name])
        if bad:
            remarks.append(
                f"{name} is not finite in {_counted(bad)}: levels with them have no mean"
            )
    return {
        name: [math.nan if each is None else each for each in numbers[name]] for name in chosen
    }, remarks


def _baseline(
    asked: object,
    by: Sequence[str],
    levels: Mapping[tuple[object, ...], str],
    grid: Mapping[str, list[typing.Any]],
) -> tuple[tuple[object, ...], list[str]]:
    """The level that the others are compared with, and remarks on it."""
    there = list(levels)
    if asked is None:
        first = there[0]
        wanted = tuple(
            _cell(grid[name][0]) if name in grid else value
            for name, value in zip(by, first, strict=True)
        )
        if wanted in levels:
            # as the runs have it: 0.0 for 0
            return next(level for level in there if level == wanted), []
        return first, [
            f"{_level(by, wanted)}, the first of the grid, has no finished run: the others are "
            f"compared with {levels[first]}"
        ]
    if len(by) != 1:
        raise ValueError(f"baseline: expected one parameter in by, got {', '.join(by) or 'none'}")
    name = _level(by, [asked])
    for level in there:
        texts = {str(level[0])} | ({str(level[0]).lower()} if isinstance(level[0], bool) else set())
        # 0 means 0.0 of a parameter that holds floats
        if str(asked) in texts or _as_number(asked) == level[0] or _cell(asked) == level[0]:
            name = levels[level]
    inventory.require_known(name, levels.values(), "baseline")
    return next(level for level in there if levels[level] == name), []


def _as_number(value: object) -> float | None:
    try:
        return float(str(value))
    except ValueError:
        return None


def _origin(runs: Sequence[Result]) -> list[str]:
    """Versions, commits and machines of runs, each combination once."""
    counts: dict[str, int] = {}
    for run in runs:
        made = run.provenance
        commit = made["commit"] or f"no commit: {made.get('no_commit', 'none was recorded')}"
        line = (
            f"made with modalign {made['version']} ({commit}), Python "
            f"{made['python']}, torch {made['libraries']['torch']}, on {inventory.place_text(made)}"
        )
        counts[line] = counts.get(line, 0) + 1
    return [f"{_counted(count)} {line}" for line, count in counts.items()]


@dataclasses.dataclass
class Comparison:
    """The differences between two runs, as tables with a row a difference.

    Attributes:
        a, b: the runs.
        parameters: those with other values.
        results: glued values that differ.
        environment: code, versions, machine, device and cost.
    """

    a: Result
    b: Result
    parameters: pd.DataFrame
    results: pd.DataFrame
    environment: pd.DataFrame

    def _tables(self) -> list[tuple[str, pd.DataFrame]]:
        return [
            ("Parameters", self.parameters),
            ("Results", self.results),
            ("Environment", self.environment),
        ]

    def __str__(self) -> str:
        parts = [f"A is {self.a.folder}", f"B is {self.b.folder}"]
        for name, table in self._tables():
            parts += ["", f"{name} that differ:" if len(table) else f"{name}: the same"]
            parts += [_text(table)] if len(table) else []
        return "\n".join(parts)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        body = f"<p>{html.escape(f'A is {self.a.folder}, B is {self.b.folder}')}</p>"
        for name, table in self._tables():
            body += f"<h3>{name}</h3>"
            body += table.to_html(index=False, border=0) if len(table) else "<p>the same</p>"
        return body


def _changed(a: dict[str, typing.Any], b: dict[str, typing.Any], head: str) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for name in dict.fromkeys([*a, *b]):
        one, two = a.get(name, "(none)"), b.get(name, "(none)")
        # a list that holds NaN is equal to none, not even to itself
        if one != two and json.dumps(one) != json.dumps(two):
            rows.append({head: name, "A": one, "B": two})
    return pd.DataFrame(rows, columns=[head, "A", "B"], dtype=object)


def _flat(held: dict[str, typing.Any], prefix: str = "") -> dict[str, typing.Any]:
    found = {}
    for name, value in held.items():
        inner = _flat(value, f"{prefix}{name} ") if isinstance(value, dict) else None
        found.update(inner if inner is not None else {f"{prefix}{name}": value})
    return found


def compare(a: Folder | Result, b: Folder | Result) -> Comparison:
    """Two runs side by side.

    Args:
        a, b: folders of runs, or what `run` returned.

    Raises:
        ValueError: for runs of two chapters, or a damaged one.
        FileNotFoundError: if there is no run.
    """
    one = a if isinstance(a, Result) else Result(a)
    two = b if isinstance(b, Result) else Result(b)
    if one.chapter != two.chapter:
        raise ValueError(f"compare: expected runs of one chapter, got {one.chapter}, {two.chapter}")
    results = _changed(one.values, two.values, "value")
    numeric = [
        "" if x is None or y is None else y - x
        for x, y in zip(map(_number, results["A"]), map(_number, results["B"]), strict=True)
    ]
    made = (
        *("version", "commit", "source", "python", "libraries", "machine", "device"),
        *("failure", "date", "seconds", "peak_memory_mib"),
    )
    sides = [_flat({name: run.provenance[name] for name in made}) for run in (one, two)]
    return Comparison(
        one,
        two,
        _changed(one.parameters, two.parameters, "parameter"),
        results.assign(**{"B - A": numeric}),
        _changed(sides[0], sides[1], "of"),
    )
