"""What dask loads into the workers of a cluster on this machine."""

import signal


def dask_setup(_worker: object) -> None:
    """Leave Ctrl-C, which a terminal sends to all its processes, to the one that coordinates."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
