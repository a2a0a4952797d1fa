"""Many runs: a grid times seeds, over dask workers, each run made once and none lost."""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import signal
import threading
import time
import typing
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence

from modalign.rerun import execution, inventory
from modalign.rerun.execution import Plan
from modalign.rerun.inventory import Folder, Value

if typing.TYPE_CHECKING:
    import distributed

Path = pathlib.Path
POLL_SECONDS = 0.05
BUSY_SECONDS = 0.5
CONNECT_SECONDS = 10
PATIENCE_SECONDS = 600  # for a scheduler that restarts
IN_FLIGHT = 500  # tasks handed out at a time: each carries its notebook


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What a sweep runs: every combination of the grid, with every seed.

    Attributes:
        chapter: such as ``cka``.
        grid: values by parameter.
        seeds: of every combination; empty for the chapter's own.
        preset: what the combinations change.
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

        >>> Sweep("cka", {"lambda_cka": [0.0, 0.1]}, [0, 1]).changes()[1]
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
    """Check what a sweep is to run.

    Args:
        chapter: such as ``"cka"``.
        grid: values by parameter.
        seeds: how many (0, 1, ...) or which; 0 keeps the chapter's own.
        preset: what the combinations change.
        parameters: changes common to all runs.
        root: the book's folder; found from the working directory by default.

    Raises:
        ValueError: for an unknown name, a value that does not fit, the same value twice, a
            parameter that is both fixed and swept.
    """
    known = inventory.parameters(chapter, root=root)
    numbers = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if isinstance(seeds, int) and seeds < 0:
        raise ValueError(f"seeds: expected a number of seeds, 0 or more, got {seeds}")
    axes = {**grid, **({"seed": numbers} if numbers else {})}
    fixed = inventory.settings(known, parameters or {})
    found = {}
    for name, values in axes.items():
        inventory.require_known(name, known, "grid")
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise ValueError(f"grid: {name}: expected a list of one or more values, got {values!r}")
        found[name] = [known[name].check(value) for value in values]
        if any(value in found[name][:n] for n, value in enumerate(found[name])):
            raise ValueError(f"grid: {name}: a value is given twice: {found[name]}")
        if name in fixed or (name == "seed" and name in grid and numbers):
            raise ValueError(f"grid: {name}: is both fixed and swept")
    inventory.resolve(chapter, fixed, preset, root=root)
    swept = typing.cast("list[int]", found.pop("seed", []))
    return Sweep(chapter, found, swept, preset, fixed)


def read_sweep(path: Folder, *, root: Folder | None = None) -> Sweep:
    """Read a sweep file: YAML with ``chapter`` and any of grid, seeds, preset, parameters.

    Raises:
        ValueError: where it is no such file, or names what the chapter does not have.
        FileNotFoundError: where it is missing.
    """
    import yaml

    try:
        held = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: no YAML: {error}") from None
    if not isinstance(held, dict) or "chapter" not in held:
        raise ValueError(f"{path}: expected a sweep file: a mapping with the key chapter")
    wanted = [field.name for field in dataclasses.fields(Sweep)]
    for key in held:
        inventory.require_known(str(key), [*wanted, "runs"], f"{path}: key")
    return define_sweep(
        held["chapter"],
        held.get("grid") or {},
        seeds=held.get("seeds") or 0,
        preset=held.get("preset") or "default",
        parameters=held.get("parameters"),
        root=root,
    )


@dataclasses.dataclass
class Outcome:
    """What a sweep came to.

    Attributes:
        sweep: what was asked for.
        path: the sweep's file; `report` reads it.
        states: of each run, by its name: found, ran, failed, or stopped.
        problems: of runs that failed, in a line each.
        remarks: what happened on the way and does not change a result.
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
        told = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
        lines = [f"{len(self.states)} runs: {told}"]
        lines += [f"  {name}: {problem}" for name, problem in self.problems.items()]
        lines += self.remarks
        if not self.ok:
            lines.append("The same command again makes what is missing.")
        return "\n".join([*lines, f"Look at them with: modalign report {self.path}"])

    __repr__ = __str__


STATES = ("ran", "found", "failed", "stopped")


def perform_on_worker(plan: Plan, output: str, timeout: float | None, stop: str) -> tuple[str, str]:
    """What one task does: the run's state, and a line about what went wrong."""
    if Path(stop).exists():
        return "stopped", ""
    try:
        # a worker of another machine may have no such device
        inventory.require_device(plan.parameters.get("device"))
        state, result = execution.perform(
            plan, execution.output_folder(output), timeout=timeout, stop=Path(stop)
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


@contextlib.contextmanager
def _local_cluster(jobs: int | None, devices: Sequence[str]) -> Iterator[str]:
    """Workers on this machine, one run at a time each, with a GPU each where there are some."""
    import distributed

    jobs = jobs or len(devices) or os.cpu_count() or 1
    # a run's memory is its kernel's, which dask does not see; its limits are for its own data
    common = {"nthreads": 1, "memory_limit": 0, "dashboard": False, "silence_logs": 50}
    workers = {
        n: {
            "cls": distributed.Nanny,
            "options": {
                **common,
                "preload": ["modalign.rerun._worker"],
                "env": {"CUDA_VISIBLE_DEVICES": devices[n % len(devices)]} if devices else {},
            },
        }
        for n in range(jobs)
    }
    scheduler = {
        "cls": distributed.Scheduler,
        "options": {"host": "127.0.0.1", "port": 0, "dashboard_address": "127.0.0.1:0"},
    }
    with distributed.SpecCluster(workers=workers, scheduler=scheduler, silence_logs=50) as cluster:
        yield cluster.scheduler_address


class _Coordinator:
    """Hands plans to workers until each is made, whatever becomes of workers and scheduler."""

    def __init__(
        self,
        address: str,
        plans: Sequence[Plan],
        output: Path,
        timeout: float | None,
        bar: typing.Any,
    ) -> None:
        self.address, self.output, self.timeout, self.bar = address, output, timeout, bar
        self.stop = output / execution.LOCKS / f"stop-{uuid.uuid4().hex}"
        self.waiting = collections.deque(plans)
        self.running: dict[distributed.Future, Plan] = {}
        self.states: dict[str, str] = {}
        self.problems: dict[str, str] = {}
        self.remarks: list[str] = []
        self.busy_until = 0.0
        self.stopping = False
        self.client = self._connect()

    def _connect(self) -> distributed.Client:
        import distributed

        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return distributed.Client(self.address, timeout=CONNECT_SECONDS)
            except (OSError, asyncio.TimeoutError) as error:
                # a scheduler that was there before may be starting again
                if (not self.states and not self.running) or time.monotonic() > until:
                    raise OSError(f"scheduler: none answers at {self.address}: {error}") from None

    def run(self) -> None:
        """Return when every plan has a state; once told to stop, when nothing runs any more."""
        with _told_to_end(self._stop):
            try:
                while self.waiting or self.running:
                    self._turn()
            finally:
                self.client.close(timeout=CONNECT_SECONDS)
                self.stop.unlink(missing_ok=True)

    def _turn(self) -> None:
        if self.stopping:
            for plan in self.waiting:
                self.states[plan.name] = "stopped"
            self.waiting.clear()
        if self.client.status in ("closed", "closing"):
            self.remarks.append("The scheduler was lost; its runs were handed out again.")
            self.waiting.extend(self.running.values())
            self.running.clear()
            self.client = self._connect()
        if time.monotonic() >= self.busy_until and self.client.status == "running":
            while self.waiting and len(self.running) < IN_FLIGHT:
                self._submit(self.waiting.popleft())
        settled = [future for future in self.running if future.status != "pending"]
        for future in settled:
            self._settle(future, self.running.pop(future))
        if not settled:
            time.sleep(POLL_SECONDS)

    def _submit(self, plan: Plan) -> None:
        future = self.client.submit(
            perform_on_worker,
            plan,
            str(self.output),
            self.timeout,
            str(self.stop),
            # never the key of an earlier task: dask would take that one's result
            key=f"{plan.name}-{uuid.uuid4().hex[:8]}",
            pure=False,
        )
        self.running[future] = plan

    def _settle(self, future: distributed.Future, plan: Plan) -> None:
        import distributed

        if future.status == "finished":
            try:
                state, problem = future.result(timeout=CONNECT_SECONDS)
            except (OSError, asyncio.TimeoutError, concurrent.futures.CancelledError):
                # its worker or the scheduler left; what it did is on the disk, and will be found
                state, problem = "busy", ""
        elif future.status == "error":
            error = future.exception()
            state, problem = "failed", f"{type(error).__name__}: {error}"
            if isinstance(error, distributed.KilledWorker):
                problem = "its worker died each time it was tried (out of memory?)"
        else:
            state, problem = "busy", ""  # the scheduler forgot it: it is handed out again
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

    def _stop(self) -> None:
        self.stopping = True
        self.stop.touch()
        self.bar.write("Stopping: runs that are not finished are ended, the others are kept.")


@contextlib.contextmanager
def _told_to_end(stop: Callable[[], None]) -> Iterator[None]:
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
    scheduler: str | None = None,
    jobs: int | None = None,
    timeout: float | None = None,
    progress: bool = True,
    root: Folder | None = None,
) -> Outcome:
    """Make every run of a sweep that is not there yet, each in a kernel of its own.

    A run is made once: calls that overlap, in one folder, share what they make. A worker that
    dies, or a scheduler that restarts, costs only what was unfinished. Ctrl-C ends the running
    kernels and keeps what is finished.

    Args:
        what: a chapter, or a sweep that `read_sweep` gave, which brings its own grid.
        grid, seeds, preset, parameters: as for `define_sweep`.
        output: folder of the runs, and of the sweep's file; all workers must see it there.
        scheduler: address of a dask scheduler; a cluster on this machine by default.
        jobs: runs at a time on this machine; one a GPU with ``device="cuda"``, else one a core.
        timeout: seconds after which a run's kernel is ended.
        progress: show a bar with the time left.
        root: the book's folder; found from the working directory by default.

    Raises:
        ValueError: before anything starts, for a name or a value that does not fit, or a device
            that is not there.
        OSError: for an output folder that cannot be written, or a scheduler that is not there.
    """
    from tqdm.auto import tqdm

    if isinstance(what, str):
        what = define_sweep(
            what, grid or {}, seeds=seeds, preset=preset, parameters=parameters, root=root
        )
    elif grid or seeds or parameters or preset != "default":
        raise ValueError("sweep: expected a sweep or a chapter with a grid, got both")
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs: expected 1 or more, got {jobs}")
    execution.require_timeout(timeout)
    plans = execution.plans(what.chapter, what.changes(), what.preset, root=root)
    devices = {plan.parameters.get("device", "cpu") for plan in plans}
    if scheduler is None:
        for device in devices:
            inventory.require_device(device)
    folder = execution.output_folder(output)
    path = _write_file(what, plans, folder)
    there = [plan for plan in plans if execution.finished(folder / plan.name)]
    missing = [plan for plan in plans if plan not in there]
    states, problems, remarks = {plan.name: "found" for plan in there}, {}, []
    if missing:
        with (
            tqdm(
                desc=what.name,
                total=len(plans),
                initial=len(there),
                unit="run",
                disable=None if progress else True,
            ) as bar,
            contextlib.nullcontext(scheduler)
            if scheduler is not None
            else _local_cluster(jobs, gpus() if "cuda" in devices else []) as address,
        ):
            coordinator = _Coordinator(address, missing, folder, timeout, bar)
            coordinator.run()
        states |= coordinator.states
        problems, remarks = coordinator.problems, coordinator.remarks
    if execution.plans(what.chapter, [{}], root=plans[0].root)[0].notebook != plans[0].notebook:
        remarks.append(
            "The notebook changed meanwhile: these runs are of the version at the start."
        )
    states = {plan.name: states[plan.name] for plan in plans}
    return Outcome(what, path, states, problems, list(dict.fromkeys(remarks)))


def _write_file(what: Sweep, plans: Sequence[Plan], folder: Path) -> Path:
    """Write the sweep's file: what was asked for, and the names of its runs."""
    import yaml

    path = folder / f"{what.name}.yml"
    scratch = folder / f".{what.name}.{uuid.uuid4().hex[:8]}"
    runs = yaml.safe_dump({"runs": [plan.name for plan in plans]})
    scratch.write_text(what.to_yaml() + runs, encoding="utf-8")
    scratch.replace(path)
    return path
