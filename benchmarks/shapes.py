"""The shapes world on one core: how many a second, and how much memory.

python -m benchmarks.shapes [--repeats 5] [--number 1024] [--json FILE]

Rates are medians over the repeats. Memory is the highest that Python and NumPy held at once while
a stream of the given length was read, less what they held before.
"""

import itertools
import resource
import statistics
import time
import tracemalloc
from collections.abc import Callable

import datasets
from tqdm import tqdm

from benchmarks.common import parser, write
from modalign.data.shapes import (
    as_iterable,
    captions,
    questions,
    render_audio,
    render_images,
    render_video,
    sample_scene,
)


def rate(call: Callable[[], object], number: int, repeats: int, label: str) -> float:
    """How many a second, where one call makes ``number``; after one call to warm up."""
    call()
    seconds = []
    for _ in tqdm(range(repeats), desc=label, leave=False):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return number / statistics.median(seconds)


def read(stream: datasets.IterableDataset, number: int) -> None:
    """Read the first rows of a stream."""
    for _ in itertools.islice(stream, number):
        pass


def rates(number: int, repeats: int) -> dict[str, float]:
    """Of every view, and of rows by way of datasets."""
    scenes = [sample_scene(0, i) for i in range(number)]
    few = scenes[: number // 16]
    calls: dict[str, tuple[Callable[[], object], int]] = {
        "scenes drawn": (lambda: [sample_scene(0, i) for i in range(number)], number),
        "images painted, 64 x 64": (lambda: render_images(scenes), number),
        "scenes drawn and painted, 64 x 64": (
            lambda: render_images([sample_scene(0, i) for i in range(number)]),
            number,
        ),
        "images painted, 224 x 224": (lambda: render_images(few, 224), len(few)),
        "clips painted, 16 x 64 x 64": (lambda: [render_video(s) for s in few], len(few)),
        "sounds played, 1 s at 16 kHz": (lambda: [render_audio(s) for s in few], len(few)),
        "scenes captioned, 5 each": (lambda: [captions(s) for s in scenes], number),
        "scenes asked about, 5 each": (lambda: [questions(s) for s in scenes], number),
        "rows, image as PNG and text": (lambda: read(as_iterable(), number), number),
        "rows, image as array and text": (lambda: read(as_iterable(arrays=True), number), number),
    }
    return {name: rate(call, n, repeats, name) for name, (call, n) in calls.items()}


def peak(length: int) -> float:
    """Highest memory while a stream is read, in MB."""
    stream = as_iterable(views=["image", "boxes", "text"])
    tracemalloc.start()
    read(stream, length)
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found / 1e6


def main() -> None:
    options = parser(__doc__, repeats=5)
    options.add_argument("--number", type=int, default=1024, help="scenes a repeat (from 16)")
    arguments = options.parse_args()
    found = rates(arguments.number, arguments.repeats)
    for name, value in found.items():
        print(f"{name:36} {value:8.0f} a second")
    lengths = (arguments.number // 4, arguments.number * 2)
    peaks = {str(length): peak(length) for length in lengths}
    for length, value in peaks.items():
        print(f"stream of {length:>5} rows                 {value:8.1f} MB at most")
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(f"whole process                        {resident:8.0f} MB at most")
    write(arguments.json, rates=found, peak_mb=peaks, process_mb=resident)


if __name__ == "__main__":
    main()
