"""What runs say together: one table, intervals over seeds, paired differences, a page."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import json
import math
import pathlib
import typing
from collections.abc import Sequence

from modalign.rerun import inventory
from modalign.rerun.execution import Result, finished
from modalign.rerun.inventory import Folder

if typing.TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Path = pathlib.Path
SEED = "seed"
COSTS = ("seconds", "peak_memory_mib")
MOST_PANELS = 6
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


def _runs(path: Path) -> tuple[list[Result], list[str]]:
    """The finished runs of a sweep's file or of a folder, and the names of those missing."""
    import yaml

    if path.is_dir():
        folders = sorted(each.parent for each in path.glob("*/provenance.json"))
        names = [each.name for each in folders if not each.name.startswith(".")]
        folder, names = path, [name for name in names if not name.endswith(".failed")]
    elif path.is_file():
        held = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(held, dict) or "runs" not in held:
            raise ValueError(f"report: {path} names no runs; give the file that the sweep wrote")
        folder, names = path.parent, held["runs"]
    else:
        raise FileNotFoundError(f"report: there is no {path}: expected a sweep's file or a folder")
    found = {name: finished(folder / name) for name in names}
    runs = [run for run in found.values() if run]
    if not runs:
        raise ValueError(f"report: {path} has no finished run")
    of = sorted({run.chapter for run in runs})
    if len(of) > 1:
        raise ValueError(f"report: {path} has runs of {', '.join(of)}; give one sweep's file")
    return runs, [name for name, run in found.items() if not run]


def table_of(runs: Sequence[Result]) -> pd.DataFrame:
    """One row a run: its name, parameters, glued values, time and memory."""
    import pandas as pd

    rows = []
    for run in runs:
        parameters = {name: _cell(value) for name, value in run.parameters.items()}
        values = {
            f"{name} (value)" if name in parameters else name: _cell(value)
            for name, value in run.values.items()
        }
        rows.append(
            {"run": run.name, **parameters, **values, **{k: run.provenance[k] for k in COSTS}}
        )
    table = pd.DataFrame(rows)
    for name in table.columns:
        # a value that is a number in one run and text in another is text
        if {type(value) for value in table[name]} > {str}:
            table[name] = table[name].map(str)
    return table


def _cell(value: object) -> object:
    return value if isinstance(value, bool | int | float | str) else json.dumps(value)


def _interval(values: pd.Series) -> dict[str, float]:
    """Mean and 95% interval of one value a seed; of a single seed the mean alone."""
    from modalign.metrics import seed_interval

    sample = values.to_numpy(dtype=float)
    mean = low = high = math.nan
    if len(sample) and all(map(math.isfinite, sample)):
        mean = float(sample.mean())
        if len(sample) > 1:
            mean, low, high = map(float, seed_interval(sample))
    return {"seeds": len(sample), "mean": mean, "low": low, "high": high}


def _over_seeds(values: pd.Series, seeded: bool) -> pd.Series:
    """One value a seed: the mean of its runs, NaN where one of them is."""
    if not seeded:
        return values
    return values.groupby(SEED).agg(lambda of_one: of_one.mean(skipna=False))


def _means(table: pd.DataFrame, metrics: list[str]) -> pd.DataFrame:
    """Mean of each metric over seeds, for each level of ``by``."""
    import pandas as pd

    rows = []
    for metric in metrics:
        for level, part in table.groupby("level", sort=False):
            values = part.set_index(SEED)[metric] if SEED in part else part[metric]
            over_seeds = _over_seeds(values, SEED in part)
            row = {"metric": metric, "level": level, "runs": len(part), **_interval(over_seeds)}
            rows.append(row)
    return pd.DataFrame(rows)


def _differences(
    table: pd.DataFrame, others: list[str], metrics: list[str], baseline: str
) -> pd.DataFrame:
    """Each level less the baseline, paired by seed and by all other parameters that vary."""
    import pandas as pd

    keys = [*([SEED] if SEED in table else []), *others]
    sides = {
        level: part.set_index(keys)[metrics] if keys else part[metrics].reset_index(drop=True)
        for level, part in table.groupby("level", sort=False)
    }
    rows = []
    for level, part in sides.items():
        if level == baseline:
            continue
        shared = part.index.intersection(sides[baseline].index)
        pairs = part.loc[shared] - sides[baseline].loc[shared]
        for metric in metrics:
            over_seeds = _over_seeds(pairs[metric], SEED in keys)
            found = _interval(over_seeds)
            rows.append({"metric": metric, "level": level, "against": baseline, **found})
            rows[-1]["verdict"] = _verdict(found)
    return pd.DataFrame(rows)


def _verdict(found: dict[str, float]) -> str:
    if math.isnan(found["low"]):
        return "no interval"
    if found["low"] > 0:
        return "higher"
    return "lower" if found["high"] < 0 else "undecided"


@dataclasses.dataclass
class Report:
    """What a set of runs says.

    Attributes:
        title: the chapter and what it was compared by.
        path: the sweep's file or the folder that was read.
        table: one row a run: parameters, glued values, seconds and memory.
        means: mean and 95% interval over seeds, for each metric and level.
        differences: paired differences from the baseline, with 95% intervals over seeds.
        remarks: what a reader of the tables must know.
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
        """The paired differences, a panel a metric; None where nothing is compared."""
        if self.differences.empty:
            return None
        import matplotlib.pyplot as plt
        from matplotlib.figure import Figure

        from modalign import plots

        metrics = list(dict.fromkeys(self.differences["metric"]))[:MOST_PANELS]
        levels = self.differences["level"].nunique()
        with plt.rc_context():
            plots.use_style()
            figure = Figure(figsize=(1 + 3 * len(metrics), 1.2 + 0.4 * levels))
            axes = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
            for ax, metric in zip(axes, metrics, strict=True):
                part = self.differences[self.differences["metric"] == metric]
                plots.forest(ax, part, "level", "against")
                ax.set_title(metric, fontsize=9)
                ax.set_xlabel(f"less {part['against'].iloc[0]}")
        return figure

    def png(self) -> bytes:
        """The figure as a picture; empty where nothing is compared."""
        figure = self.figure()
        picture = io.BytesIO()
        if figure:
            figure.savefig(picture, dpi=110)
        return picture.getvalue()

    def write(self, folder: Folder | None = None) -> Path:
        """Write tables (parquet and CSV), figure and page; beside what was read by default."""
        beside = self.path.resolve()
        beside = beside if beside.is_dir() else beside.with_suffix("")
        target = Path(folder) if folder else beside.with_name(f"{beside.name}.report")
        target.mkdir(parents=True, exist_ok=True)
        tables = {"runs": self.table, "means": self.means, "differences": self.differences}
        for name, table in tables.items():
            table.to_csv(target / f"{name}.csv", index=False)
            table.to_parquet(target / f"{name}.parquet", index=False)
        if picture := self.png():
            (target / "figure.png").write_bytes(picture)
        page = PAGE.format(title=html.escape(self.title), body=self._repr_html_())
        (target / "report.html").write_text(page, encoding="utf-8")
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
        by: parameters whose values are compared; all that vary but the seed by default.
        metric: glued values to compare; all numbers that vary by default.
        baseline: the value of ``by`` that the others are compared with; by default the first of
            the grid.

    Raises:
        ValueError: for runs of several chapters, or an unknown parameter, metric or baseline.
        FileNotFoundError: where there is nothing.
    """
    path = Path(path)
    runs, missing = _runs(path)
    table = table_of(runs)
    parameters = list(runs[0].parameters)
    varying = [name for name in parameters if table[name].nunique() > 1 and name != SEED]
    numbers = [
        name
        for name in table.columns
        if name not in parameters and name not in COSTS and table[name].dtype.kind in "if"
    ]
    by = [by] if isinstance(by, str) else list(by or varying)
    for name in by:
        inventory.require_known(name, parameters, "by")
    wanted = [metric] if isinstance(metric, str) else list(metric or ())
    for name in wanted:
        inventory.require_known(name, [*numbers, *COSTS], "metric")
    metrics = wanted or [name for name in numbers if table[name].nunique(dropna=False) > 1]
    if not metrics:
        raise ValueError(f"report: no glued number differs between the {len(runs)} runs of {path}")
    if path.is_dir():  # in the order of their names, which are hashes
        table = table.sort_values(by, kind="stable", ignore_index=True)
    levels = [
        ", ".join(f"{name}={value}" for name, value in zip(by, row, strict=True)) or "all"
        for row in table[by].itertuples(index=False)
    ]
    named = table.assign(level=levels)
    first = levels[0] if baseline is None else f"{by[0] if by else ''}={baseline}"
    if baseline is not None:
        first = _level_of(first, by, runs, baseline)
        inventory.require_known(first, dict.fromkeys(levels), "baseline")
    others = [name for name in varying if name not in by]
    remarks = [f"{len(runs)} runs of {path}"]
    if missing:
        remarks.append(f"{len(missing)} runs of the sweep are missing: {', '.join(missing)}")
    for name in metrics:
        bad = int((~table[name].map(math.isfinite)).sum())
        if bad:
            remarks.append(f"{name} is not finite in {bad} runs: what contains them has no mean")
    return Report(
        title=f"{runs[0].chapter} by {', '.join(by)}" if by else runs[0].chapter,
        path=path,
        table=table,
        means=_means(named, metrics),
        differences=_differences(named, others, metrics, first),
        remarks=remarks,
        origin=_origin(runs),
    )


def _level_of(text: str, by: list[str], runs: Sequence[Result], baseline: object) -> str:
    """The level that a baseline names: 0 means 0.0 of a parameter that holds floats."""
    if len(by) != 1:
        raise ValueError(f"baseline: expected one parameter in by, got {', '.join(by) or 'none'}")
    for run in runs:
        value = run.parameters[by[0]]
        if value == baseline or str(value) == str(baseline) or _as_number(baseline) == value:
            return f"{by[0]}={_cell(value)}"
    return text


def _as_number(value: object) -> float | None:
    try:
        return float(str(value))
    except ValueError:
        return None


def _origin(runs: Sequence[Result]) -> list[str]:
    """Versions, commits and machines of runs, each combination once."""
    told: dict[str, int] = {}
    for run in runs:
        made = run.provenance
        machine = made["machine"]
        line = (
            f"made with modalign {made['version']} ({made['commit'] or 'no commit'}), Python "
            f"{made['python']}, torch {made['libraries']['torch']}, on {machine['processor']}, "
            f"{machine['cores']} cores, {made['device']}"
        )
        told[line] = told.get(line, 0) + 1
    return [f"{count} runs {line}" for line, count in told.items()]


@dataclasses.dataclass
class Comparison:
    """What differs between two runs, as tables with a row a difference.

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
        if one != two and not (one != one and two != two):
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
        FileNotFoundError: where there is no run.
    """
    one = a if isinstance(a, Result) else Result(a)
    two = b if isinstance(b, Result) else Result(b)
    if one.chapter != two.chapter:
        raise ValueError(f"compare: expected runs of one chapter, got {one.chapter}, {two.chapter}")
    results = _changed(one.values, two.values, "value")
    numeric = [
        y - x if isinstance(x, int | float) and isinstance(y, int | float) else ""
        for x, y in zip(results["A"], results["B"], strict=True)
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
