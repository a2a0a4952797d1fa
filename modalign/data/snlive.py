"""``snli-ve``: does a photograph entail a sentence, contradict it, or neither?

The rows are those of e-SNLI-VE (Kayser et al. 2021; SNLI-VE: Xie et al. 2019) on photographs of
Flickr8k, whose folder is read too. Most of these photographs belong to Flickr8k's training list:
``flickr8k_split`` tells which, so that no model is evaluated on photographs of its pretraining.
"""

from __future__ import annotations

import os
import pathlib

import datasets

from modalign.data import flickr8k
from modalign.data._files import (
    Once,
    Problem,
    Reading,
    Row,
    Source,
    fields,
    numbered_lines,
    sentence,
)

FILES = {
    split: f"flickr8k_{name}.tsv"
    for split, name in (("train", "train"), ("validation", "dev"), ("test", "test"))
}
LABELS = ("entailment", "neutral", "contradiction")
HEADER = ("pairID", "image", "hypothesis", "gold_label")


def read(
    reading: Reading, *, flickr8k_folder: str | os.PathLike[str] | None = None
) -> datasets.Dataset:
    """Photographs, sentences and labels in the order of the files.

    Args:
        reading: the call of ``load``.
        flickr8k_folder: folder of the ``flickr8k`` set; beside the set's own by default.
    """
    files = reading.split_files()
    photographs = Reading(flickr8k.SOURCE, None, folder=flickr8k_folder or beside(reading))
    lists = flickr8k.image_splits(photographs)
    images = photographs.existing("images")
    rows: list[Row] = []
    for split, path in files.items():
        once = Once("pairID")

        def row(line: bytes, split: str = split, once: Once = once) -> Row:
            key, image, hypothesis, label = fields(line, HEADER)
            if label not in LABELS:
                raise Problem(f"gold_label: expected one of {', '.join(LABELS)}, got {label!r}")
            return {
                "id": once(key),
                "image": reading.image(image, images),
                "text": sentence(hypothesis, "hypothesis"),
                "label": LABELS.index(label),
                "photograph": image,
                "flickr8k_split": lists.get(image),
                "split": split,
            }

        header, *lines = numbered_lines(path)
        if header[1] != "\t".join(HEADER).encode():
            raise ValueError(
                f"snli-ve: {header[0]}: expected the header {' TAB '.join(HEADER)}, "
                f"got {header[1][:60]!r}"
            )
        rows += reading.sift(lines, row)
    return reading.table(rows, _features())


def beside(reading: Reading) -> pathlib.Path:
    """The folder of ``flickr8k`` beside the set's own."""
    return reading.path(".").absolute().parent / "flickr8k"


def _features() -> datasets.Features:
    return datasets.Features(
        id=datasets.Value("string"),
        image=datasets.Image(),
        text=datasets.Value("string"),
        label=datasets.ClassLabel(names=list(LABELS)),
        photograph=datasets.Value("string"),
        flickr8k_split=datasets.Value("string"),
        split=datasets.Value("string"),
    )


SOURCE = Source(
    name="snli-ve",
    holds="photographs of Flickr8k with sentences they entail, contradict or leave open",
    splits=("train", "validation", "test"),
    origin="https://github.com/maximek3/e-ViL (e-SNLI-VE), rows on Flickr8k photographs",
    terms="research use; the photographs under Flickr8k's terms",
    read=read,
    folder="snlive",
    split_files=FILES,
    layout=(
        f"flickr8k_{{dev,test}}.tsv with the columns {', '.join(HEADER)}, separated by tabs: the "
        "rows of esnlive_{dev,test}.csv whose photograph is in Flickr8k; beside flickr8k/"
    ),
    checksums={
        FILES["validation"]: "571087301319dec5cb2e77b2565972c1a732f5798451df12cae52d4a26580973",
        FILES["test"]: "043bc14931347afb0963757d0100e4db827f9b8e83cd854cb64c01ef13e6a6cc",
    },
)
