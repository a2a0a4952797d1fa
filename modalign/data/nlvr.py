"""``nlvr``: is a sentence true of a synthetic picture? (Suhr, Lewis, Yeh and Artzi 2017).

Each picture has three boxes with shapes in them; ``structure`` lists those of each. The official
release has six pictures of each example, with the boxes in every order.
"""

from __future__ import annotations

from typing import Any

import datasets

from modalign.data._files import (
    Once,
    Problem,
    Reading,
    Row,
    Source,
    json_object,
    numbered_lines,
    sentence,
    typed,
)

NAMES = {"train": "train", "validation": "dev", "test": "test"}
FILES = {split: f"{name}/{name}.json" for split, name in NAMES.items()}
LABELS = ("false", "true")
KEYS = {"sentence": str, "label": str, "identifier": str, "directory": str, "structured_rep": list}
ITEM = {"x_loc": int, "y_loc": int, "size": int, "type": str, "color": str}


def parse(line: bytes) -> dict[str, Any]:
    """One example; its label and its three boxes are checked."""
    example = json_object(line, KEYS)
    if example["label"] not in LABELS:
        raise Problem(f"label: expected 'true' or 'false', got {example['label']!r}")
    boxes = example["structured_rep"]
    if len(boxes) != 3 or not all(isinstance(box, list) for box in boxes):
        raise Problem(f"structured_rep: expected three lists, got {boxes!r:.60}")
    for box in boxes:
        for item in box:
            typed(item, ITEM)
    return example


def read(reading: Reading, *, permutation: int = 0) -> datasets.Dataset:
    """Pictures, sentences and labels in the order of the files.

    Args:
        reading: the call of ``load``.
        permutation: which of the six pictures of an example, 0 to 5.
    """
    if permutation not in range(6):
        raise ValueError(f"nlvr: permutation: expected 0 to 5, got {permutation!r}")
    rows: list[Row] = []
    for split, path in reading.split_files().items():
        once = Once("identifier")

        def row(line: bytes, split: str = split, once: Once = once) -> Row:
            example, name = parse(line), NAMES[split]
            key = once(example["identifier"])
            picture = f"{name}/images/{example['directory']}/{name}-{key}-{permutation}.png"
            return {
                "id": f"{name}-{key}",
                "image": reading.image(picture),
                "text": sentence(example["sentence"], "sentence"),
                "label": LABELS.index(example["label"]),
                "structure": [
                    [{key: item[key] for key in ITEM} for item in box]
                    for box in example["structured_rep"]
                ],
                "split": split,
            }

        rows += reading.sift(numbered_lines(path), row)
    return reading.table(rows, _features())


def _features() -> datasets.Features:
    item = {key: datasets.Value("int32" if kind is int else "string") for key, kind in ITEM.items()}
    return datasets.Features(
        id=datasets.Value("string"),
        image=datasets.Image(),
        text=datasets.Value("string"),
        label=datasets.ClassLabel(names=list(LABELS)),
        structure=datasets.List(datasets.List(item)),
        split=datasets.Value("string"),
    )


SOURCE = Source(
    name="nlvr",
    holds="synthetic pictures of shapes in three boxes, with sentences that are true or false",
    splits=("train", "validation", "test"),
    origin="https://github.com/lil-lab/nlvr (folder nlvr)",
    terms="CC BY 4.0",
    read=read,
    folder="nlvr",
    split_files=FILES,
    layout="{train,dev,test}/{train,dev,test}.json and {train,dev,test}/images/",
    checksums={
        "dev/dev.json": "0d312c3d7309393c0e36d286c70b884fb276819699e9f8f2bcea2854ad46537b",
        "test/test.json": "9a337ac016455eebe8aef70a6e94977dbcd9e75aec56f0fb09477a9c1038528d",
    },
)
