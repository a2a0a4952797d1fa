"""The YAML that people write: presets, sweeps, the table of contents."""

import time

import pytest

from modalign.rerun import _yaml
from modalign.rerun._yaml import read_yaml


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "a.yml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        (
            "a: 1\nb: [0.5, -1.0e-3, true, x, 0x1f, 0, -0]\n",
            {"a": 1, "b": [0.5, -0.001, True, "x", 31, 0, 0]},
        ),
        ("\ufeffa: é\n", {"a": "é"}),
        ("a: &x [1, 2]\nb: *x\nc: [*x, *x]\n", {"a": [1, 2], "b": [1, 2], "c": [[1, 2], [1, 2]]}),
        ("a: &x {p: 1, q: 2}\nb: {<<: *x, q: 3}\n", {"a": {"p": 1, "q": 2}, "b": {"p": 1, "q": 3}}),
        (
            "a: &x {p: 1}\nb: &y {<<: *x, p: 2}\nc: {<<: [*x, *y]}\n",
            {"a": {"p": 1}, "b": {"p": 2}, "c": {"p": 1}},
        ),
        ("'1': a\n1: b\n", {"1": "a", 1: "b"}),
        ("a: '010'\nb: 1_0x\nc: a:1\n", {"a": "010", "b": "1_0x", "c": "a:1"}),
    ],
)
def test_plain_yaml_is_read(write, text, value):
    assert read_yaml(write(text)) == value


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 30)
)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3: a is given twice"),
        ("a: {b: 1, b: 1}\n", "line 1: b is given twice"),
        ("yes: 1\ntrue: 2\n", "line 2: true is given twice"),
        ("1: a\n0x1: b\n", "line 2: 0x1 is given twice"),
        ("a: 010\n", "line 1: 010 is another number"),
        ("a: [1,\n 1:30]\n", "line 2: 1:30 is another number"),
        ("a: 1_000\n", "line 1: 1_000 is another number"),
        ("a: 1_000.5\n", "line 1: 1_000.5 is another number"),
        ("a: [\n", "line 2: expected the node content"),
        ("a: b: c\n", "line 1: mapping values are not allowed here"),
        ("a: 1\n---\nb: 2\n", "line 2: but found another document"),
        ("a: *b\n", "line 1: found undefined alias"),
        ("a: !!python/object/apply:os.system [ls]\n", "line 1: could not determine a constructor"),
        ("? [1]\n: 2\n", "line 1: found unhashable key"),
        ("a: 2001-99-99\n", "month must be in 1..12"),
        ("a: " + "9" * 5000 + "\n", "not YAML"),
        ("a: &a [*a]\n", "an alias stands inside the value that it names"),
        ("a: " + "[" * 5000 + "]" * 5000, "nested too deep"),
        (BOMB, "more than 500,000 values"),
        (MERGES, "more than 500,000 values"),
        (b"a: 1\nb: caf\xe9\n", "line 2: expected UTF-8"),
        (b"a: \x00\n", "not YAML"),
        (b"#" * (_yaml.LARGEST + 1), "expected YAML of 4 MiB or less"),
    ],
)
def test_what_is_not_plain_is_refused_in_a_line_and_at_once(write, text, problem):
    started = time.monotonic()
    with pytest.raises(ValueError, match="a.yml: ") as caught:
        read_yaml(write(text))
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("name", "kind"), [("no.yml", FileNotFoundError), (".", IsADirectoryError)]
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, kind):
    with pytest.raises(kind, match=f"{tmp_path / name}: cannot be read: "):
        read_yaml(tmp_path / name)
