"""One training loop for every chapter: on a CPU, on a GPU, and on several by ``accelerate launch``.

:func:`fit` is meant to be read: it is the loop. Devices, mixed precision and processes are
accelerate's; beside it are the averages, the checkpoints and the random states that make a run
that was stopped and taken up equal to one that was not.
"""

from modalign.training.batches import Shuffled, seeded, shuffled
from modalign.training.loop import fit
from modalign.training.progress import DivergenceError

__all__ = ["DivergenceError", "Shuffled", "fit", "seeded", "shuffled"]
