"""Word maps, as released weights carry them, of captions and of questions."""

from collections.abc import Collection, Mapping

PAD, UNKNOWN = "<pad>", "<unk>"


def require_word_map(word_map: Mapping[str, int], marks: Collection[str]) -> None:
    """Raise a ValueError for a word map without a mark, or whose tokens are not 0 to its size - 1.

    Args:
        word_map: token of each word, with ``<pad>`` at 0.
        marks: that it has to have.

    >>> require_word_map({"<pad>": 0, "cat": 1}, ["<pad>"])
    """
    for mark in marks:
        if mark not in word_map:
            raise ValueError(f"word_map: expected the mark {mark}, found none")
    if sorted(word_map.values()) != list(range(len(word_map))) or word_map[PAD] != 0:
        raise ValueError(
            f"word_map: expected the tokens 0 to {len(word_map) - 1}, once each, and {PAD} at 0"
        )
