"""YAML as people write it by hand: read safely, and refused in a line if it is not plain."""

from __future__ import annotations

import pathlib
import re
import typing

import yaml

LARGEST = 4 * 2**20  # bytes: a sweep's file of a hundred thousand runs is below it
MOST = 500_000  # values, those of aliases counted wherever they stand
# YAML 1.1 reads these as numbers, though of another value than they look like
DISGUISED = re.compile(r"[-+]?(0[0-9_]+|[0-9][0-9_]*(:[0-9.]+)+|[0-9.]*_[0-9_.]*)$")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which also refuses faults that it would pass over."""

    def compose_mapping_node(self, anchor: typing.Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        keys: set[object] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                held = self.construct_object(key)
                if held in keys:
                    raise _refusal(f"{key.value} is given twice", key)
                keys.add(held)
        return node

    def construct_scalar(self, node: typing.Any) -> typing.Any:
        text = super().construct_scalar(node)
        number = node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
        if number and DISGUISED.match(text):
            raise _refusal(
                f"{text} is another number in YAML than it looks like; write it in plain digits, "
                "or in quotes for a text",
                node,
            )
        return text

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and _size(node, {}) > MOST:
            raise _refusal(f"more than {MOST:,} values, those of aliases included", node)
        return node


def _refusal(text: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(None, None, text, node.start_mark)


def _size(node: yaml.Node, known: dict[int, int | None]) -> int:
    """How many values a node stands for, once every alias is replaced by its value."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) in known:
        size = known[id(node)]
        if size is None:
            raise _refusal("an alias stands inside the value that it names", node)
        return size
    known[id(node)] = None
    pairs = node.value if isinstance(node, yaml.MappingNode) else [(each,) for each in node.value]
    known[id(node)] = size = 1 + sum(_size(each, known) for pair in pairs for each in pair)
    return size


def read_yaml(path: str | pathlib.Path) -> typing.Any:
    """Read a YAML file into plain values; None if it is empty.

    Raises:
        OSError: if it cannot be read; ``FileNotFoundError`` if there is none.
        ValueError: if it is not UTF-8, not YAML, above `LARGEST`, or holds more than `MOST` values
            (aliases counted out), a key twice, or a number that YAML reads as another one. Names
            the file and, if there is one, the line.
    """
    try:
        with open(path, "rb") as file:
            held = file.read(LARGEST + 1)
    except OSError as error:
        raise type(error)(f"{path}: cannot be read: {error.strerror}") from None
    if len(held) > LARGEST:
        raise ValueError(f"{path}: expected YAML of {LARGEST / 2**20:.0f} MiB or less, got more")
    try:
        return yaml.load(held.decode("utf-8"), _Loader)
    except UnicodeDecodeError as error:
        line = held[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}: line {line}: expected UTF-8, got {error.reason}") from None
    except RecursionError:
        raise ValueError(f"{path}: cannot be read: lists nested too deep") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise ValueError(f"{path}: {where}{error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # an impossible date, a number of ten thousand digits, a character that no text has
        raise ValueError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
