"""Which tests stay in one process where pytest-xdist runs them side by side.

xdist's own marks write into an attribute that nodes of pytest 9.2 no longer have, and are lost.
"""

from xdist.scheduler import LoadScopeScheduling

# what takes longest begins first, so that no process is left alone with it at the end
FIRST = ("tests/test_book.py", "tests/test_notebooks.py", "tests/rerun/test_rerun.py")


def group(nodeid):
    """Each chapter, and each other file.

    >>> group("tests/test_notebooks.py::test_stored_outputs_come_out_again[cka]")
    'tests/test_notebooks.py[cka]'
    >>> group("tests/test_lars.py::test_schedulers[StepLR-adam]")
    'tests/test_lars.py'
    """
    file, _, test = nodeid.partition("::")
    chapters = file == "tests/test_notebooks.py"
    return file + test[test.index("[") :] if chapters and "[" in test else file


class Groups(LoadScopeScheduling):
    """Gives whole groups to processes, so that what a file makes for its tests is made once."""

    def _split_scope(self, nodeid):
        return group(nodeid)
