"""One run: a chapter executed with its own parameters, and kept whole or not at all."""

from __future__ import annotations

import ast
import contextlib
import copy
import dataclasses
import datetime
import fcntl
import html
import json
import math
import os
import pathlib
import re
import shlex
import shutil
import socket
import tempfile
import threading
import time
import typing
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence

import modalign
from modalign import records
from modalign.rerun import inventory as book
from modalign.rerun.inventory import Folder, Value

if typing.TYPE_CHECKING:
    import nbformat
    import psutil

Path = pathlib.Path
ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
OURS = ({"float"}, {"dict"})
MOST_BITS = 14_000  # of an integer: Python writes no more than 4300 digits
NOTEBOOK, RESULTS, PROVENANCE = "notebook.ipynb", "results.json", "provenance.json"
READING = "reading.ipynb"
LOCKS = ".locks"
NO_WIDGETS = "ignore:IProgress not found"  # tqdm's, though nobody looks at the bar
LONGEST_SOCKET = 80  # a path of a Unix socket holds 104 bytes or more; zmq appends to ours
SAMPLE_SECONDS = 0.5
OUTPUT_SECONDS = 600  # that the output of a cell may take to arrive after its end
SCRATCH, STALE_SECONDS = "modalign-scratch-", 60
# zmq drops messages above its limit of a thousand that wait: here there is no limit
NO_LIMIT = (
    "(lambda thread: thread.schedule(lambda: setattr(thread.socket, 'sndhwm', 0)))"
    "(get_ipython().kernel.iopub_thread)"
)
ASK = (
    "(lambda json, records: json.dumps({**records.provenance(), "
    "'peak_memory_mib': records.peak_memory()}))"
    "(__import__('json'), __import__('modalign.records', fromlist=['records']))"
)


@dataclasses.dataclass(frozen=True)
class Failure:
    """Why a run has no results.

    Attributes:
        reason: ``error`` in a cell, kernel that ``died``, output that was ``lost``, ``timeout`` or
            ``stopped``.
        message: in a line.
        cell: number of the cell that was running, from 1; 0 before the first.
        cells: how many there are.
        source: the code of that cell.
        traceback: of its error, without colours.
    """

    reason: str
    message: str
    cell: int
    cells: int
    source: str
    traceback: str

    def __str__(self) -> str:
        lines = (self.traceback or self.message).splitlines()
        return "\n".join(
            [
                f"stopped at cell {self.cell} of {self.cells}, which reads:\n",
                *(f"    {line}" for line in self.source.splitlines()),
                "\nand raised:\n" if self.reason == "error" else "\nwhen:\n",
                *(f"    {line}" for line in lines[-30:]),
            ]
        )


@dataclasses.dataclass
class Execution:
    """An executed notebook, as far as it came."""

    notebook: nbformat.NotebookNode
    seconds: float
    peak_memory_mib: float
    made: dict[str, typing.Any]
    failure: Failure | None


class LostOutput(Exception):
    """The kernel has moved on, and the end of a cell's output has not arrived."""


class _Watch:
    """Samples the memory of a kernel and its children, and ends them when it is time."""

    def __init__(self, timeout: float | None, stop: Path | None) -> None:
        self.timeout, self.stop = timeout, stop
        self.peak = 0.0
        self.ended = ""
        self.made: dict[str, typing.Any] = {}
        self.began = time.monotonic()
        self.over = threading.Event()
        self.thread: threading.Thread | None = None
        self.tree: list[psutil.Process] = []

    def follow(self, pid: int) -> None:
        import psutil

        with contextlib.suppress(psutil.NoSuchProcess):
            self.tree = [psutil.Process(pid)]
            self.thread = threading.Thread(target=self._sample, daemon=True)
            self.thread.start()

    def _look(self) -> None:
        """Bring the list of the kernel and all it started up to date."""
        import psutil

        with contextlib.suppress(psutil.NoSuchProcess):
            found = self.tree[0].children(recursive=True)
            # processes that lost their parent are remembered
            self.tree += [process for process in found if process not in self.tree]

    def _sample(self) -> None:
        while not self.over.wait(SAMPLE_SECONDS):
            self._look()
            self.peak = max(self.peak, sum(map(_resident, self.tree)) / 2**20)
            if self.timeout and time.monotonic() - self.began > self.timeout:
                self.ended = "timeout"
            elif self.stop and self.stop.exists():
                self.ended = "stopped"
            if self.ended:
                self.kill()
                return

    def kill(self) -> None:
        """End the kernel and all it started."""
        import psutil

        if self.tree:
            self._look()
        for process in self.tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def close(self) -> None:
        self.over.set()
        if self.thread:
            self.thread.join()
        self.kill()


def _resident(process: typing.Any) -> int:
    import psutil

    # a child may end between being listed and being asked
    with contextlib.suppress(psutil.NoSuchProcess):
        return int(process.memory_info().rss)
    return 0


def _engine() -> typing.Any:
    """Papermill's own engine, on this environment's kernel, with a watch beside it."""
    import jupyter_client.asynchronous
    import jupyter_client.kernelspec
    import zmq
    from nbclient.exceptions import CellExecutionComplete
    from papermill.clientwrap import PapermillNotebookClient
    from papermill.engines import NBClientEngine

    class Channels(jupyter_client.asynchronous.AsyncKernelClient):
        def __init__(self, **options: typing.Any) -> None:
            super().__init__(**options)
            self.context.setsockopt(zmq.RCVHWM, 0)  # of the sockets that it will make

    class Client(PapermillNotebookClient):
        watch: _Watch
        scratch: str

        def create_kernel_manager(self) -> typing.Any:
            # no search path: the kernel is that of this Python, whatever else is installed; and
            # a socket of our own, because ports chosen by two starting kernels can collide
            self.km = jupyter_client.AsyncKernelManager(
                kernel_name="python3",
                kernel_spec_manager=jupyter_client.kernelspec.KernelSpecManager(kernel_dirs=[]),
                connection_file=os.path.join(self.scratch, "k.json"),
                transport="ipc" if len(self.scratch) < LONGEST_SOCKET else "tcp",
            )
            self.km.client_factory = Channels
            return self.km

        def start_new_kernel(self, **options: typing.Any) -> None:
            super().start_new_kernel(**options)
            self.watch.follow(typing.cast(typing.Any, self.km).provisioner.pid)

        async def _async_poll_output_msg(
            self, parent_msg_id: str, cell: typing.Any, cell_index: int
        ) -> None:
            # asked behind the cell, so that the answer comes behind all that the cell has sent
            behind = self.kc.kernel_info()
            while True:
                message = await self.kc.iopub_channel.get_msg(timeout=None)
                parent = message["parent_header"].get("msg_id")
                if parent == parent_msg_id:
                    try:
                        self.process_message(message, cell, cell_index)
                    except CellExecutionComplete:
                        return
                elif parent == behind and message["content"].get("execution_state") == "idle":
                    raise LostOutput

        @contextlib.contextmanager
        def setup_kernel(self, **options: typing.Any) -> Iterator[None]:
            with super().setup_kernel(**options):
                try:
                    yield
                except BaseException:
                    # after an interrupt, nobody waits for the kernel's last message
                    self.watch.kill()
                    raise

        def papermill_execute_cells(self) -> None:
            self.wait_for_reply(self.kc.execute("", silent=True, user_expressions={"no": NO_LIMIT}))
            super().papermill_execute_cells()
            asked = self.kc.execute("", silent=True, user_expressions={"made": ASK})
            reply = self.wait_for_reply(asked)["content"].get("user_expressions", {})
            if reply.get("made", {}).get("status") == "ok":
                self.watch.made = json.loads(ast.literal_eval(reply["made"]["data"]["text/plain"]))

    class Engine(NBClientEngine):
        @classmethod
        def execute_managed_notebook(
            cls,
            nb_man: typing.Any,
            kernel_name: str,
            *,
            watch: _Watch,
            scratch: str,
            start: dict[str, typing.Any],
            **options: typing.Any,
        ) -> None:
            # kernels warn of local sockets, and call their shutdown an error
            options = {"timeout": None, "iopub_timeout": OUTPUT_SECONDS}
            client = Client(nb_man, extra_arguments=["--log-level=50"], **options)
            client.watch, client.scratch = watch, scratch
            client.execute(**start)

    return Engine


def require_timeout(timeout: float | None) -> None:
    if timeout is not None and not timeout > 0:
        raise ValueError(f"timeout: expected a number of seconds above 0, got {timeout}")


@contextlib.contextmanager
def scratch_folder() -> Iterator[str]:
    """A folder of the system's temporary ones, removed at the end or by a later call.

    A process that is killed leaves its folder. The maker of a folder holds a lock on it, so that a
    later call can find the folders that were left.
    """
    place = Path(tempfile.gettempdir())
    for left in place.glob(f"{SCRATCH}*"):
        with contextlib.suppress(OSError):  # of another user, or removed by another process
            found = left.lstat()
            # a new one is locked a moment after it is made
            if found.st_uid == os.getuid() and time.time() - found.st_mtime > STALE_SECONDS:
                _remove_unlocked(left)
    folder = tempfile.mkdtemp(prefix=SCRATCH)
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_SH)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def _remove_unlocked(folder: Path) -> None:
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(held)


def kernel_environment(scratch: str) -> dict[str, str]:
    """The environment of a kernel, whatever the shell says: figures, assertions, no start-up file.

    One thread, unless the shell says otherwise.
    """
    package = str(Path(modalign.__file__).parents[1])
    return {
        **dict.fromkeys(ONE_THREAD, "1"),
        "TQDM_MININTERVAL": "60",  # nobody watches, and each update is a message
        **os.environ,
        "IPYTHONDIR": scratch,
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYTHONOPTIMIZE": "",
        "PYTHONWARNINGS": ",".join(filter(None, [os.environ.get("PYTHONWARNINGS"), NO_WIDGETS])),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])),
    }


def execute(
    notebook: nbformat.NotebookNode,
    parameters: Mapping[str, Value],
    *,
    cwd: Path,
    timeout: float | None = None,
    progress: bool | dict[str, typing.Any] = False,
    stop: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Execution:
    """Execute a notebook with papermill in its own kernel; a failure is returned, not raised."""
    import nbclient.exceptions
    import papermill.execute
    import papermill.iorw
    import papermill.parameterize

    held = papermill.iorw.load_notebook_node(copy.deepcopy(notebook))
    if parameters:
        held = papermill.parameterize.parameterize_notebook(
            held, dict(parameters), kernel_name="python3", language="python"
        )
    held = papermill.execute.prepare_notebook_metadata(held, None, None)
    held.metadata.kernelspec = {"name": "python3", "language": "python", "display_name": "Python 3"}
    watch = _Watch(timeout, stop)
    started, reason = time.perf_counter(), ""
    with scratch_folder() as scratch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", NO_WIDGETS.split(":")[1])
        try:
            _engine().execute_notebook(
                held,
                "python3",
                progress_bar=progress,
                watch=watch,
                scratch=scratch,
                start={"cwd": str(cwd), "env": {**kernel_environment(scratch), **(env or {})}},
            )
        except (LostOutput, nbclient.exceptions.CellTimeoutError):
            watch.ended = "lost"
            reason = (
                "the end of the cell's output did not arrive: it was made faster than it could be "
                "sent, and the output that arrived may lack some of it"
            )
        except (nbclient.exceptions.DeadKernelError, RuntimeError) as error:
            # nbclient raises a RuntimeError for a kernel that died while it started
            reason = str(error) or type(error).__name__
        finally:
            watch.close()
    made = watch.made or records.provenance()
    return Execution(
        notebook=held,
        seconds=round(time.perf_counter() - started, 2),
        peak_memory_mib=round(max(watch.peak, made.pop("peak_memory_mib", 0.0)), 1),
        made=made,
        failure=_failure(held, reason, watch),
    )


def _failure(held: nbformat.NotebookNode, reason: str, watch: _Watch) -> Failure | None:
    """The failure that stopped a notebook; None if it ran to its end."""
    code = [cell for cell in held.cells if cell.cell_type == "code" and cell.source.strip()]
    raised = [out for cell in code for out in cell.outputs if out.output_type == "error"]
    if watch.ended == "stopped":
        reason = "the run was asked to stop"
    elif watch.ended == "timeout":
        reason = f"the run was not done within its {watch.timeout:g} s, and was ended"
    elif not reason and not raised:
        if all(cell.execution_count is not None for cell in code):
            return None
        reason = "the kernel was asked to exit before the last cell"
    started = [n for n, c in enumerate(held.cells) if c.metadata.papermill.get("start_time")]
    number = started[-1] if started else -1
    text = "\n".join(raised[0].traceback) if raised and not watch.ended else ""
    return Failure(
        reason=watch.ended or ("error" if raised else "died"),
        message=f"{raised[0].ename}: {raised[0].evalue}" if text else reason,
        cell=number + 1,
        cells=len(held.cells),
        source=held.cells[number].source if started else "",
        traceback=re.sub(r"\x1b\[[0-9;]*m", "", text),
    )


def glued(notebook: nbformat.NotebookNode) -> dict[str, typing.Any]:
    """The values glued in a notebook's outputs: numbers as numbers, the others as text."""
    values = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            name = output.get("metadata", {}).get("scrapbook", {}).get("name")
            texts = [
                text for kind, text in output.get("data", {}).items() if kind.endswith("text/plain")
            ]
            if name and texts:
                values[name] = _plain(texts[0])
    return values


def _plain(text: str) -> typing.Any:
    """The value of a repr; the repr itself if its value is not plain.

    >>> _plain("np.float64(0.5)"), _plain("nan"), _plain("'a'"), _plain("<Figure>")
    (0.5, nan, 'a', '<Figure>')
    """
    text = re.sub(r"^np\.\w+\((.*)\)$", r"\1", text)
    if text in ("nan", "inf", "-inf"):
        return float(text)
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text


def _strict(value: typing.Any) -> typing.Any:
    """A value in strict JSON, which `_unstrict` reads back.

    JSON has no word for a number that is not finite: a mapping from ``float`` to its name stands
    for it, and a list of pairs for a mapping that would look like such a one.

    >>> _strict([math.nan, {"float": "nan"}])
    [{'float': 'nan'}, {'dict': [['float', 'nan']]}]
    """
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if isinstance(value, dict):
        named = {str(key): _strict(each) for key, each in value.items()}
        if len(named) < len(value):  # as of 1 and "1"
            return repr(value)
        return {"dict": [list(pair) for pair in named.items()]} if set(named) in OURS else named
    if isinstance(value, list | tuple | set):
        return [_strict(each) for each in value]
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        return hex(value)
    return value if isinstance(value, bool | int | float | str | None) else repr(value)


def _unstrict(held: dict[str, typing.Any]) -> typing.Any:
    if set(held) == {"float"} and held["float"] in ("nan", "inf", "-inf"):
        return float(held["float"])
    return dict(held["dict"]) if set(held) == {"dict"} else held


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run before it runs: the code to execute, and the address that follows from it."""

    chapter: str
    preset: str
    parameters: dict[str, Value]
    changed: dict[str, Value]
    notebook: str
    source: str
    key: str
    root: str

    @property
    def name(self) -> str:
        return f"{self.chapter}-{self.key[:12]}"


def plans(
    chapter: str,
    changes: Sequence[Mapping[str, object]],
    preset: str = "default",
    *,
    root: Folder | None = None,
) -> list[Plan]:
    """Check runs and give each its address; the notebook is read once, for all of them.

    Raises:
        ValueError: for an unknown chapter, preset or parameter, or a value that does not fit.
    """
    import nbformat

    folder = book.book_root(root)
    held = book.read_notebook(book.notebook_path(chapter, folder))
    for cell in held.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    held.metadata.pop("modalign", None)
    known = book.parameters_of(held, chapter)
    base = book.resolve(chapter, {}, preset, root=folder)
    text, source = nbformat.writes(held), book.source_digest(folder, chapter, held)
    found = []
    for change in changes:
        values = {**base, **book.settings(known, change)}
        changed = {name: each for name, each in values.items() if each != known[name].default}
        key = book.run_key(held, values, chapter, source)
        found.append(Plan(chapter, preset, values, changed, text, source, key, str(folder)))
    return found


class Result:
    """A run that was made: its values, their cost, and their provenance.

    Attributes:
        folder: holds ``notebook.ipynb``, ``results.json`` and ``provenance.json``; of a run that
            succeeded also ``reading.ipynb``, its plain copy for any notebook program.
        provenance: parameters, versions, machine, time and memory.
        values: glued by the chapter, by name; a failed run has those that it reached.
        found: whether `run` found it instead of making it.
    """

    found = False

    def __init__(self, folder: Folder) -> None:
        """Read a run.

        Raises:
            FileNotFoundError: if a file is missing.
            ValueError: if one is damaged.
        """
        self.folder = Path(folder)
        try:
            texts = {name: (self.folder / name).read_bytes() for name in (PROVENANCE, RESULTS)}
            self.provenance: dict[str, typing.Any] = json.loads(texts[PROVENANCE])
            self.values: dict[str, typing.Any] = json.loads(texts[RESULTS], object_hook=_unstrict)
            self.values.items()
            json.loads((self.folder / NOTEBOOK).read_bytes())
            broken = records.seal_broken(self.provenance, texts[RESULTS])
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FileNotFoundError(
                f"run: no run in {self.folder}: {error.filename} is missing"
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ValueError(f"run: {self.folder} is damaged: make the run again") from None
        if broken:
            raise ValueError(
                f"run: {self.folder / RESULTS} is damaged: {broken}; make the run again"
            )

    @property
    def name(self) -> str:
        return str(self.provenance["name"])

    @property
    def chapter(self) -> str:
        return str(self.provenance["chapter"])

    @property
    def parameters(self) -> dict[str, Value]:
        return dict(self.provenance["parameters"])

    @property
    def notebook(self) -> Path:
        return self.folder / NOTEBOOK

    @property
    def failure(self) -> Failure | None:
        held = self.provenance["failure"]
        return Failure(**held) if held else None

    @property
    def ok(self) -> bool:
        return self.provenance["failure"] is None

    def _head(self) -> str:
        held = self.provenance
        changed = ", ".join(f"{name}={value!r}" for name, value in held["changed"].items())
        return (
            f"{held['chapter']}, {changed or 'as the book has it'}: {held['seconds']:.1f} s, "
            f"{held['peak_memory_mib']:.0f} MiB"
        )

    def __str__(self) -> str:
        if self.failure:
            return f"{self._head()}\n{self.failure}\n\nIts notebook is {self.notebook}"
        wide = max(map(len, self.values), default=0)
        rows = [f"  {name:<{wide}}  {_shown(value)}" for name, value in self.values.items()]
        return "\n".join([self._head(), *rows, f"In {self.folder}"])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        if self.failure:
            return f"<pre>{html.escape(str(self))}</pre>"
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{html.escape(_shown(value))}</td></tr>"
            for name, value in self.values.items()
        )
        return (
            f"<p>{html.escape(self._head())}</p><table><tbody>{rows}</tbody></table>"
            f"<p><code>{html.escape(str(self.folder))}</code></p>"
        )


def _shown(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else f"{value!s:.100}"


def finished(folder: Path) -> Result | None:
    """The run in a folder, if it is whole and succeeded."""
    try:
        found = Result(folder)
    except (FileNotFoundError, ValueError):
        return None
    return found if found.ok else None


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _remove(path: Path) -> None:
    """Remove a folder of a run; of a link, only the link."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def keep(plan: Plan, made: Execution, output: Path, root: Path) -> Result:
    """Write a run beside its place, then move it there in one step."""
    import nbformat

    from modalign.rerun.plain import names, plain

    name = plan.name if made.failure is None else f"{plan.name}.failed"
    results = json.dumps(_strict(glued(made.notebook)), indent=1, allow_nan=False) + "\n"
    held = {
        "name": plan.name,
        "chapter": plan.chapter,
        "preset": plan.preset,
        "parameters": plan.parameters,
        "changed": plan.changed,
        "key": plan.key,
        "source": plan.source,
        "seconds": made.seconds,
        "peak_memory_mib": made.peak_memory_mib,
        "failure": dataclasses.asdict(made.failure) if made.failure else None,
        **made.made,
    }
    texts = {
        NOTEBOOK: nbformat.writes(made.notebook, version=4) + "\n",
        RESULTS: results,
        PROVENANCE: json.dumps(records.seal(held, results.encode()), indent=1) + "\n",
    }
    if made.failure is None:
        folder = book.notebook_path(plan.chapter, root).parent
        read = plain(made.notebook, glued(made.notebook), names(root), folder)
        texts[READING] = nbformat.writes(read, version=4) + "\n"
    try:
        _place(texts, output, plan.name, name)
    except OSError as error:
        refused = records.cannot_write(output / name, error)
        raise OSError(rescue(texts, output / name, refused)) from None
    if made.failure is None:
        _remove(output / f"{plan.name}.failed")
    return Result(output / name)


def _place(texts: Mapping[str, str], output: Path, stem: str, name: str) -> None:
    """Write the files of a folder beside its place, then move it there."""
    scratch = output / f".{stem}.{uuid.uuid4().hex[:8]}"
    try:
        scratch.mkdir()
        for file, text in texts.items():
            _write(scratch / file, text)
        # a failed run lies there, or one that a crash has damaged
        _remove(output / name)
        scratch.rename(output / name)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def rescue(texts: Mapping[str, str], place: Path, error: OSError) -> str:
    """Put files that cannot be written where they belong somewhere else, and say where.

    A folder that could be written before the run may be full, or gone, after it.

    Args:
        texts: of the files, by name.
        place: the folder in which they belong.
        error: of :func:`modalign.records.cannot_write`.
    """
    problem = f"output: {error.strerror}"
    tried = dict.fromkeys([Path(tempfile.gettempdir()), Path.home(), Path.cwd()])
    for folder in tried:
        kept = Path(folder, f"modalign-rescued-{uuid.uuid4().hex[:8]}")
        try:
            _place(texts, folder, kept.name, kept.name)
        except OSError:
            continue
        files = [kept / name for name in texts] if place.is_dir() else [kept]
        moved = shlex.join(["mv", *map(str, files), str(place)])
        return f"{problem}. The results are in {kept}; make room, then: {moved}"
    where = ", ".join(map(str, tried))
    return f"{problem}. The results are lost: there was no room in {where} either"


def output_folder(output: Folder) -> Path:
    """Make the folder for runs and try to write there, before anything is computed.

    Raises:
        OSError: if it cannot be made or written.
    """
    try:
        # links are followed once, so that a run is made on the disk on which it stays
        folder = Path(os.path.realpath(output))
        (folder / LOCKS).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"0" * 2**16)
            probe.flush()
    except OSError as error:
        raise OSError(f"output: {records.cannot_write(Path(output), error).strerror}") from None
    return folder


@contextlib.contextmanager
def _claimed(name: str, output: Path) -> Iterator[bool]:
    """Hold the run's lock; yields False if another process has it.

    The lock is the kernel's (flock), so that it goes with the process that held it.
    """
    import filelock

    lock = filelock.FileLock(output / LOCKS / f"{name}.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _note(plan: Plan, output: Path, event: str) -> None:
    """Add a line to the run's journal; called under its lock."""
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
    line = {"event": event, "date": now, "host": socket.gethostname(), "pid": os.getpid()}
    with (output / LOCKS / f"{plan.name}.jsonl").open("a", encoding="utf-8") as journal:
        journal.write(json.dumps(line) + "\n")


def journal(name: str, output: Folder) -> list[dict[str, typing.Any]]:
    """Every start and end of a run, oldest first."""
    path = Path(output) / LOCKS / f"{name}.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _remove_left(plan: Plan, output: Path) -> None:
    """Remove half-written files of killed processes: of this run, and of runs not being made."""
    for left in output.glob(".*.????????"):
        name = left.name[1:-9]
        if name == plan.name:
            _remove(left)
        elif (output / LOCKS / f"{name}.lock").exists():
            with _claimed(name, output) as free:
                if free:
                    _remove(left)


def perform(
    plan: Plan,
    output: Path,
    *,
    timeout: float | None = None,
    progress: bool | dict[str, typing.Any] = False,
    stop: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> tuple[str, Result | None]:
    """Make a run unless it is there: ``found``, ``ran``, ``failed``, ``stopped`` or ``busy``.

    Busy is a run that another process is making now.

    Raises:
        OSError: if the run cannot be written.
        RuntimeError: if the source has changed since the run was planned.
    """
    import nbformat

    if there := finished(output / plan.name):
        return "found", there
    with _claimed(plan.name, output) as held:
        if not held:
            return "busy", None
        if there := finished(output / plan.name):
            return "found", there
        _remove_left(plan, output)
        root = Path(plan.root)
        root = root if (root / "_toc.yml").is_file() else book.book_root()
        notebook = nbformat.reads(plan.notebook, as_version=4)
        if book.source_digest(root, plan.chapter, notebook) != plan.source:
            raise RuntimeError(
                f"the source in {root} is not that of the plan: it changed since, or this machine "
                "has another version of the book, of Python or of a library"
            )
        book.require_here(plan.parameters, book.parameters_of(notebook, plan.chapter))
        _note(plan, output, "started")
        try:
            made = execute(
                notebook,
                plan.changed,
                cwd=root,
                timeout=timeout,
                progress=progress,
                stop=stop,
                env=env,
            )
        except BaseException:
            _note(plan, output, "stopped")
            raise
        if made.failure and made.failure.reason == "stopped":
            _note(plan, output, "stopped")
            return "stopped", None
        result = keep(plan, made, output, root)
        _note(plan, output, "finished" if result.ok else "failed")
    return ("ran" if result.ok else "failed"), result


def run(
    chapter: str,
    parameters: Mapping[str, object] | None = None,
    *,
    preset: str = "default",
    output: Folder = "runs",
    timeout: float | None = None,
    progress: bool = True,
    root: Folder | None = None,
) -> Result:
    """Run a chapter, or find the run if it was made before.

    Args:
        chapter: such as ``"cka"``; `chapters` lists them.
        parameters: changes on top of the preset; `parameters` lists what there is.
        preset: a key of ``notebooks/presets/CHAPTER.yml``.
        output: the run goes into ``OUTPUT/CHAPTER-HASH/``; the hash is of its code, parameters
            and source, so that equal runs share a folder.
        timeout: seconds after which the kernel is ended.
        progress: show a bar of cells (in a terminal or a notebook).
        root: the book's folder; found from the working directory by default.

    Returns:
        The run. One that failed says so in its ``failure``, and has its notebook as far as it ran.

    Raises:
        ValueError: before anything starts, for an unknown name, a value that does not fit, or a
            device that is not there.
        FileNotFoundError: before anything starts, for a data set that is not there.
        OSError: for an output folder that cannot be written; results that were computed before it
            became full are kept elsewhere, and the message says where.
        RuntimeError: if another process is making this very run.
    """
    require_timeout(timeout)
    (plan,) = plans(chapter, [parameters or {}], preset, root=root)
    folder = output_folder(output)
    bar: bool | dict[str, typing.Any] = {"desc": plan.name, "disable": None} if progress else False
    state, result = perform(plan, folder, timeout=timeout, progress=bar)
    if result is None:
        raise RuntimeError(f"run: {plan.name} is {state}: another process is making it in {folder}")
    result.found = state == "found"
    return result


def record_cost(result: Result, *, root: Folder | None = None) -> Path:
    """Keep time and memory of a run as the measured cost of its preset.

    Raises:
        ValueError: for a run that failed or that differs from a preset other than ``default``.
    """
    preset = book.resolve(result.chapter, {}, result.provenance["preset"], root=root)
    changed = {name: v for name, v in result.parameters.items() if preset.get(name) != v}
    book.require_costable(result.provenance["preset"], changed)
    if not result.ok:
        raise ValueError(f"record_cost: {result.folder} failed, so that its time is not a cost")
    return book.write_cost(result.provenance, root)
