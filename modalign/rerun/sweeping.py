"""Many runs: a grid times seeds, here or on dask workers, each run made once and none lost."""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import itertools
import json
import logging
import math
import operator
import os
import pathlib
import queue
import signal
import threading
import time
import typing
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from modalign import records
from modalign._command import command, shortest_path
from modalign.rerun import execution, inventory
from modalign.rerun._yaml import read_yaml
from modalign.rerun.execution import Plan
from modalign.rerun.inventory import Folder, Value

if typing.TYPE_CHECKING:
    import distributed

Path = pathlib.Path
POLL_SECONDS = 0.05
BUSY_SECONDS = 0.5
CONNECT_SECONDS = 10
PATIENCE_SECONDS = 600  # for a scheduler that restarts
HERE = ("device", "dataset")  # parameters that name what a machine may not have
IN_FLIGHT = 500  # tasks handed out at a time: each carries its notebook
MOST_RUNS = 100_000  # of a sweep: more than a machine makes in a month
EXPECTED = {
    "grid": "a list of values each, such as {seed: [0, 1]}",
    "parameters": "a value each, such as {seed: 0}",
}


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The runs of a sweep: every combination of the grid, with every seed.

    Attributes:
        chapter: such as ``cka``.
        grid: values by parameter.
        seeds: of every combination; empty for the chapter's own.
        preset: changed by the combinations.
        parameters: changes common to all runs.
    """

    chapter: str
    grid: dict[str, list[Value]]
    seeds: list[int]
    preset: str = "default"
    parameters: dict[str, Value] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return f"{self.chapter}-sweep-{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    def changes(self) -> list[dict[str, Value]]:
        """The parameters of each run; runs that share a seed lie together.

        >>> Sweep("cka-loss", {"lambda_cka": [0.0, 0.1]}, [0, 1]).changes()[1]
        {'seed': 0, 'lambda_cka': 0.1}
        """
        axes: dict[str, Sequence[Value]] = {"seed": self.seeds} if self.seeds else {}
        axes.update(self.grid)
        return [
            {**self.parameters, **dict(zip(axes, values, strict=True))}
            for values in itertools.product(*axes.values())
        ]

    def to_yaml(self) -> str:
        """The sweep as the text of a sweep file."""
        import yaml

        return yaml.safe_dump(dataclasses.asdict(self), sort_keys=False, allow_unicode=True)


def define_sweep(
    chapter: str,
    grid: Mapping[str, Sequence[object]],
    *,
    seeds: int | Sequence[int] = 0,
    preset: str = "default",
    parameters: Mapping[str, object] | None = None,
    root: Folder | None = None,
) -> Sweep:
    """Check the runs of a sweep.

    Args:
        chapter: such as ``"cka"``.
        grid: values by parameter.
        seeds: how many (0, 1, ...) or which; 0 keeps the chapter's own.
        preset: changed by the combinations.
        parameters: changes common to all runs.
        root: the book's folder; found from the working directory by default.

    Raises:
        ValueError: for an unknown name, a value that does not fit, the same value twice, a
            parameter that is both fixed and swept, or more than `MOST_RUNS` runs.
    """
    known = inventory.parameters(chapter, root=root)
    grid, numbers = _mapping(grid, "grid"), _seeds(seeds)
    if numbers:
        inventory.require_known("seed", known, "seeds: parameter")
    axes: dict[str, object] = {**grid, **({"seed": numbers} if numbers else {})}
    fixed = inventory.settings(
        known, _mapping({} if parameters is None else parameters, "parameters")
    )
    found: dict[str, list[Value]] = {}
    for name, values in axes.items():
        inventory.require_known(name, known, "grid")
        # an array of numpy gives Python's numbers
        values = values.tolist() if hasattr(values, "tolist") else values
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise ValueError(
                f"grid: {name}: expected a list of one or more values, got {values!r:.80}"
            )
        _require_few(math.prod(len(held) for held in [*found.values(), values]))
        try:
            found[name] = [known[name].check(value) for value in values]
        except ValueError as error:
            raise ValueError(f"grid: {error}") from None
        distinct = {tuple(each) if isinstance(each, list) else each for each in found[name]}
        if len(distinct) < len(values):
            raise ValueError(f"grid: {name}: a value is given twice: {values!r:.80}")
        if name in fixed or (name == "seed" and name in grid and numbers):
            raise ValueError(f"grid: {name}: is both fixed and swept")
    inventory.resolve(chapter, fixed, preset, root=root)
    swept = typing.cast("list[int]", found.pop("seed", []))
    return Sweep(chapter, found, swept, preset, fixed)


def _require_few(runs: int) -> None:
    if runs > MOST_RUNS:
        raise ValueError(f"sweep: expected {MOST_RUNS:,} runs or fewer, got {runs:,}")


def _mapping(values: object, what: str) -> Mapping[str, typing.Any]:
    if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
        raise ValueError(f"{what}: expected parameters with {EXPECTED[what]}, got {values!r:.80}")
    return values


def _seeds(seeds: object) -> list[int]:
    """The seeds of a number of them, or of a list."""
    refusal = ValueError(
        "seeds: expected a number of seeds, 0 or more, or a list of whole numbers, got "
        f"{seeds!r:.80}"
    )
    try:
        if not isinstance(seeds, Iterable):
            count = _whole(seeds)
            if count < 0:
                raise refusal
            _require_few(count)
            return list(range(count))
        if isinstance(seeds, str | Mapping):
            raise refusal
        return [_whole(seed) for seed in seeds]
    except TypeError:
        raise refusal from None


def _whole(number: object) -> int:
    if isinstance(number, bool):
        raise TypeError("a bool is not a number here")
    return operator.index(typing.cast(int, number))


def read_sweep(path: Folder, *, root: Folder | None = None) -> Sweep:
    """Read a sweep file: YAML with ``chapter`` and any of grid, seeds, preset, parameters.

    Raises:
        ValueError: if it is not such a file, or names something that the chapter does not have.
        FileNotFoundError: if it is missing.
    """
    held = read_yaml(Path(path))
    if not isinstance(held, dict) or "chapter" not in held:
        raise ValueError(f"{path}: expected a sweep file: a mapping with the key chapter")
    wanted = [field.name for field in dataclasses.fields(Sweep)]
    for key in held:
        inventory.require_known(str(key), [*wanted, "runs"], f"{path}: key")
    for key in ("chapter", "preset"):
        if not isinstance(held.get(key) or "", str):
            raise ValueError(f"{path}: {key}: expected a name, got {held[key]!r:.80}")
    # a key with nothing behind it is a key that was not given
    given = {key: value for key, value in held.items() if value is not None}
    try:
        return define_sweep(
            given.get("chapter", ""),
            given.get("grid", {}),
            seeds=given.get("seeds", 0),
            preset=given.get("preset", "default"),
            parameters=given.get("parameters", {}),
            root=root,
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


@dataclasses.dataclass
class Outcome:
    """The outcome of a sweep.

    Attributes:
        sweep: as it was asked for.
        path: the sweep's file; `report` reads it.
        states: of each run, by its name: found, ran, failed, or stopped.
        problems: of runs that failed, in a line each.
        remarks: on events that change no result.
    """

    sweep: Sweep
    path: Path
    states: dict[str, str]
    problems: dict[str, str]
    remarks: list[str]

    @property
    def ok(self) -> bool:
        return set(self.states.values()) <= {"found", "ran"}

    def __str__(self) -> str:
        counts = collections.Counter(self.states.values())
        summary = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
        lines = [f"{len(self.states)} runs: {summary}"]
        lines += [f"  {name}: {problem}" for name, problem in self.problems.items()]
        lines += self.remarks
        if not self.ok:
            lines.append("The same command again makes the missing runs.")
        look = command("report", shortest_path(str(self.path)))
        return "\n".join([*lines, f"Look at them with: {look}"])

    __repr__ = __str__


STATES = ("ran", "found", "failed", "stopped")


def perform_on_worker(
    plan: Plan, output: str, timeout: float | None, stop: str, env: Mapping[str, str] | None = None
) -> tuple[str, str]:
    """Make one run: returns its state, and a line about a failure."""
    if Path(stop).exists():
        return "stopped", ""
    try:
        state, result = execution.perform(
            plan, execution.output_folder(output), timeout=timeout, stop=Path(stop), env=env
        )
    except (OSError, RuntimeError, ValueError) as error:
        return "failed", str(error)
    if result is None or result.failure is None:
        return state, ""
    return state, f"cell {result.failure.cell}: {result.failure.message} (see {result.notebook})"


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


class _Here:
    """Workers on this machine: threads, each of which waits for the kernel of its run.

    They open no port. Code reaches a kernel through sockets that are files of this user. The one
    port of a kernel, on loopback, is ipykernel's, and takes only text with the kernel's secret.
    """

    lost = False

    def __init__(self, jobs: int, devices: Sequence[str] = ()) -> None:
        self.pool = concurrent.futures.ThreadPoolExecutor(jobs, "modalign-run")
        self.devices: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        for n in range(jobs):
            self.devices.put(devices[n % len(devices)] if devices else None)

    def submit(
        self, plan: Plan, output: str, timeout: float | None, stop: str
    ) -> concurrent.futures.Future[tuple[str, str]]:
        return self.pool.submit(self._perform, plan, output, timeout, stop)

    def _perform(
        self, plan: Plan, output: str, timeout: float | None, stop: str
    ) -> tuple[str, str]:
        device = self.devices.get()
        try:
            env = {} if device is None else {"CUDA_VISIBLE_DEVICES": device}
            return perform_on_worker(plan, output, timeout, stop, env)
        finally:
            self.devices.put(device)

    def settled(self, future: typing.Any) -> bool:
        return bool(future.done())

    def answer(self, future: typing.Any) -> tuple[str, str]:
        if error := future.exception():
            return "failed", f"{type(error).__name__}: {error}"
        return future.result()

    def close(self) -> None:
        self.pool.shutdown(cancel_futures=True)


class _Dask:
    """The workers of a dask scheduler, which may lose some of them and may itself start again."""

    def __init__(self, scheduler: typing.Any) -> None:
        self.scheduler = scheduler
        self.logger = logging.getLogger("distributed")
        self.level = self.logger.level
        self.logger.setLevel(logging.CRITICAL)  # its messages are replaced by one line here
        try:
            self._connect()
        except BaseException:
            self.logger.setLevel(self.level)
            raise

    def _connect(self) -> None:
        import distributed

        try:
            self.client = distributed.Client(self.scheduler, timeout=CONNECT_SECONDS)
        except (OSError, ValueError, TypeError, asyncio.TimeoutError) as error:
            where = getattr(self.scheduler, "scheduler_address", self.scheduler)
            raise OSError(f"scheduler: none answers at {where}: {error}") from None

    @property
    def lost(self) -> bool:
        return self.client.status in ("closed", "closing")

    def reconnect(self, stopping: Callable[[], bool]) -> None:
        """Wait for a scheduler that starts again, until asked to stop."""
        until = time.monotonic() + PATIENCE_SECONDS
        while not stopping():
            try:
                self._connect()
            except OSError:
                if time.monotonic() > until:
                    raise
            else:
                return

    def submit(
        self, plan: Plan, output: str, timeout: float | None, stop: str
    ) -> distributed.Future:
        with warnings.catch_warnings():
            # dask takes its notebook for a mistake
            warnings.filterwarnings("ignore", message="Sending large graph")
            return self.client.submit(
                perform_on_worker,
                plan,
                output,
                timeout,
                stop,
                # never the key of an earlier task: dask would take that one's result
                key=f"{plan.name}-{uuid.uuid4().hex[:8]}",
                pure=False,
            )

    def settled(self, future: typing.Any) -> bool:
        return future.status != "pending"

    def answer(self, future: typing.Any) -> tuple[str, str]:
        import distributed

        if future.status == "finished":
            try:
                return future.result(timeout=CONNECT_SECONDS)
            except (OSError, asyncio.TimeoutError, concurrent.futures.CancelledError):
                # its worker or the scheduler left; its results are on the disk, and will be found
                return "busy", ""
        if future.status == "error":
            error = future.exception()
            if isinstance(error, distributed.KilledWorker):
                return "failed", "its worker died each time it was tried (out of memory?)"
            return "failed", f"{type(error).__name__}: {error}"
        return "busy", ""  # the scheduler forgot it: it is handed out again

    def close(self) -> None:
        try:
            self.client.close(timeout=CONNECT_SECONDS)
        finally:
            self.logger.setLevel(self.level)


class _Coordinator:
    """Hands plans to workers until each is made, whatever becomes of the workers."""

    def __init__(
        self,
        workers: _Here | _Dask,
        plans: Sequence[Plan],
        output: Path,
        timeout: float | None,
        bar: typing.Any,
    ) -> None:
        self.workers, self.output, self.timeout, self.bar = workers, output, timeout, bar
        number = uuid.uuid4().hex
        # to rename a file needs no room on a full disk
        self.go, self.stop = (output / execution.LOCKS / f"{w}-{number}" for w in ("go", "stop"))
        self.waiting = collections.deque(plans)
        self.running: dict[typing.Any, Plan] = {}
        self.states: dict[str, str] = {}
        self.problems: dict[str, str] = {}
        self.remarks: list[str] = []
        self.busy_until = 0.0
        self.asked = self.stopping = False

    def run(self) -> None:
        """Return when every plan has a state; once asked to stop, when nothing runs any more."""
        self.go.touch()
        try:
            with _asked_to_end(self._ask):
                while self.waiting or self.running:
                    self._turn()
        except BaseException:
            self._stop()
            raise
        finally:
            self.workers.close()
            for left in (self.go, self.stop):
                left.unlink(missing_ok=True)

    def _turn(self) -> None:
        if self.asked and not self.stopping:
            self.bar.write("Stopping: runs that are not finished are ended, the others are kept.")
            self._stop()
        if self.stopping:
            for plan in self.waiting:
                self.states[plan.name] = "stopped"
            self.waiting.clear()
        if isinstance(self.workers, _Dask) and self.workers.lost:
            self.remarks.append("The scheduler was lost; its runs were handed out again.")
            self.waiting.extend(self.running.values())
            self.running.clear()
            self.workers.reconnect(lambda: self.asked)
            return
        if time.monotonic() >= self.busy_until:
            while self.waiting and len(self.running) < IN_FLIGHT and not self.workers.lost:
                self._submit(self.waiting.popleft())
        settled = [future for future in self.running if self.workers.settled(future)]
        for future in settled:
            self._settle(future, self.running.pop(future))
        if not settled:
            time.sleep(POLL_SECONDS)

    def _submit(self, plan: Plan) -> None:
        future = self.workers.submit(plan, str(self.output), self.timeout, str(self.stop))
        self.running[future] = plan

    def _settle(self, future: typing.Any, plan: Plan) -> None:
        state, problem = self.workers.answer(future)
        if state == "busy":
            if not self.stopping:
                self.waiting.append(plan)
                self.busy_until = time.monotonic() + BUSY_SECONDS
                return
            state = "stopped"
        self.states[plan.name] = state
        if problem:
            self.problems[plan.name] = problem
        self.bar.update()
        self.bar.set_postfix(failed=len(self.problems)) if self.problems else None

    def _ask(self) -> None:
        # a signal may come in the middle of a write: all else is left to the next turn
        self.asked = True

    def _stop(self) -> None:
        if not self.stopping:
            self.stopping = True
            self.go.rename(self.stop)


@contextlib.contextmanager
def _asked_to_end(stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` on the first Ctrl-C or SIGTERM, wherever the program is; end on the second."""

    def handle(number: int, frame: object) -> None:
        for each in before:
            signal.signal(each, signal.default_int_handler)
        stop()

    before: dict[signal.Signals, typing.Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {each: signal.signal(each, handle) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def sweep(
    what: Sweep | str,
    grid: Mapping[str, Sequence[object]] | None = None,
    *,
    seeds: int | Sequence[int] = 0,
    preset: str = "default",
    parameters: Mapping[str, object] | None = None,
    output: Folder = "runs",
    scheduler: str | distributed.deploy.Cluster | None = None,
    jobs: int | None = None,
    timeout: float | None = None,
    progress: bool = True,
    root: Folder | None = None,
) -> Outcome:
    """Make every run of a sweep that is not there yet, each in a kernel of its own.

    A run is made once: calls that overlap, in one folder, share what they make. A worker that
    dies, or a scheduler that restarts, costs only unfinished runs. Ctrl-C ends the running
    kernels and keeps finished runs.

    Args:
        what: a chapter, or a sweep that `read_sweep` gave, which brings its own grid.
        grid, seeds, preset, parameters: as for `define_sweep`.
        output: folder of the runs, and of the sweep's file; all workers must see it there.
        scheduler: address of a dask scheduler, or a cluster of dask's, whose TLS is then used;
            this machine by default, where no port is opened.
        jobs: runs at a time on this machine; one a GPU with ``device="cuda"`` or ``"auto"``, if it
            has some, else one a core.
        timeout: seconds after which a run's kernel is ended.
        progress: show a bar with the time left.
        root: the book's folder; found from the working directory by default.

    Raises:
        ValueError: before anything starts, for a name or a value that does not fit, or a device
            that is not there.
        FileNotFoundError: before anything starts, for a data set that is not there.
        OSError: for an output folder that cannot be written, or a scheduler that is not there.
    """
    if isinstance(what, str):
        what = define_sweep(
            what, grid or {}, seeds=seeds, preset=preset, parameters=parameters, root=root
        )
    elif not isinstance(what, Sweep):
        raise ValueError(f"sweep: expected a chapter or a sweep, got {what!r:.80}")
    elif grid or seeds or parameters or preset != "default":
        raise ValueError("sweep: expected a sweep or a chapter with a grid, got both")
    if jobs is not None and _whole(jobs) < 1:
        raise ValueError(f"jobs: expected 1 or more, got {jobs}")
    execution.require_timeout(timeout)
    plans = execution.plans(what.chapter, what.changes(), what.preset, root=root)
    devices = {plan.parameters.get("device", "cpu") for plan in plans}
    if scheduler is None:  # workers of other machines see for themselves
        known = inventory.parameters(what.chapter, root=root)
        asked = {tuple(plan.parameters.get(name) for name in HERE): plan for plan in plans}
        for plan in asked.values():
            inventory.require_here(plan.parameters, known)
    there = {plan.name for plan in plans if execution.finished(Path(output) / plan.name)}
    missing = [plan for plan in plans if plan.name not in there]
    states, problems, remarks = dict.fromkeys(there, "found"), {}, []
    with contextlib.ExitStack() as opened:
        # nothing is written before all that can be refused is refused
        if missing:
            cards = gpus() if devices & {"cuda", "auto"} else []
            count = min(jobs or len(cards) or os.cpu_count() or 1, len(missing))
            workers = _Here(count, cards) if scheduler is None else _Dask(scheduler)
            opened.callback(workers.close)
        folder = execution.output_folder(output)
        path = _write_file(what, plans, folder)
        if missing:
            bar = _bar(what.name, len(plans), len(there), progress)
            opened.callback(bar.close)
            coordinator = _Coordinator(workers, missing, folder, timeout, bar)
            coordinator.run()
            states |= coordinator.states
            problems, remarks = coordinator.problems, coordinator.remarks
    if execution.plans(what.chapter, [{}], root=plans[0].root)[0].notebook != plans[0].notebook:
        remarks.append(
            "The notebook changed meanwhile: these runs are of the version at the start."
        )
    if missing and (reason := records.commit()[1]):
        remarks.append(f"No commit is recorded with the runs: {reason}.")
    states = {plan.name: states[plan.name] for plan in plans}
    return Outcome(what, path, states, problems, list(dict.fromkeys(remarks)))


def _bar(name: str, total: int, initial: int, shown: bool) -> typing.Any:
    """A bar of runs, in a terminal or a notebook."""
    with warnings.catch_warnings():
        # in a notebook without widgets it is drawn as text, which is no news
        warnings.filterwarnings("ignore", message="IProgress not found")
        from tqdm.auto import tqdm
    disable = None if shown else True
    return tqdm(desc=name, total=total, initial=initial, unit="run", disable=disable)


def _write_file(what: Sweep, plans: Sequence[Plan], folder: Path) -> Path:
    """Write the sweep's file: the sweep as asked for, and the names of its runs."""
    import yaml

    path = folder / f"{what.name}.yml"
    runs = yaml.safe_dump({"runs": [plan.name for plan in plans]})
    records.write_whole(path, (what.to_yaml() + runs).encode())
    return path
