"""One toy book and one confined process for the tests of a file."""

import pytest

from modalign.course import checks, containment
from tests.course import _toy


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    return _toy.book(tmp_path_factory.mktemp("book"))


@pytest.fixture(scope="module")
def toy(book):
    return checks.load("toy", book)


@pytest.fixture(scope="module")
def kind():
    works = [name for name, problem in containment.available().items() if not problem]
    if not works:
        pytest.skip("nothing here confines students' code")
    return works[-1]


@pytest.fixture(scope="module")
def place(kind):
    with containment.Place(kind) as found:
        yield found
