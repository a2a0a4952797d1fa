"""``flickr8k``: 8,091 photographs with five captions each (Hodosh, Young and Hockenmaier 2013).

The official caption file also describes ``2258277193_586949ec62.jpg`` (five rows, one of them
under a misspelt name), a photograph that was never distributed. Those rows are left out if
the photograph is absent, and the data set's description says so.

Kaggle hands the photographs out in another layout: a folder ``Images/`` and a file ``captions.txt``
in CSV with the header ``image,caption``, without the official split. ``layout="kaggle"`` reads it;
if the lists of the official release lie in ``text/`` beside it, rows have their split.

``flickr8k-expert``: for 5,822 pairs of a test photograph and a test caption, mostly another
photograph's, how well the caption describes the photograph, as three experts judged it.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

import datasets

from modalign._checks import require_choice
from modalign.data._files import (
    Once,
    Problem,
    Reading,
    Row,
    Source,
    decoded,
    fields,
    numbered_lines,
    sentence,
)
from modalign.data._tables import delimited

LISTS = {
    "train": "text/Flickr_8k.trainImages.txt",
    "validation": "text/Flickr_8k.devImages.txt",
    "test": "text/Flickr_8k.testImages.txt",
}
CAPTIONS = "text/Flickr8k.token.txt"
KAGGLE = "captions.txt"
LAYOUTS = {"official": ("images", CAPTIONS), "kaggle": ("Images", KAGGLE)}
JUDGEMENTS = "text/ExpertAnnotations.txt"
SCORES = ("1", "2", "3", "4")
NEVER_DISTRIBUTED = "2258277193_586949ec62.jpg"


def image_splits(reading: Reading) -> dict[str, str]:
    """The split of every photograph that the official lists name."""
    splits: dict[str, str] = {}
    for split, name in LISTS.items():

        def add(line: bytes, split: str = split) -> None:
            image = sentence(decoded(line), "file name of a photograph")
            if image in splits:
                raise Problem(f"duplicate: {image} is in the {splits[image]} list already")
            splits[image] = split

        reading.sift(numbered_lines(reading.existing(name)), add)
    return splits


def parse(line: bytes) -> tuple[str, str, str]:
    """Photograph, number and text of a caption.

    >>> parse(b"1000268201_693b08cb0e.jpg#1\\tA girl going into a wooden building .")
    ('1000268201_693b08cb0e.jpg', '1', 'A girl going into a wooden building .')
    """
    key, caption = fields(line, ("IMAGE#NUMBER", "CAPTION"))
    image, mark, number = key.rpartition("#")
    if not mark or not image or not number.isdecimal():
        raise Problem(f"expected IMAGE#NUMBER before the tab, got {key!r}")
    if image == f"{NEVER_DISTRIBUTED}.1":
        image = NEVER_DISTRIBUTED
    return image, number, sentence(caption, "caption")


def read(
    reading: Reading,
    *,
    images: str | os.PathLike[str] | None = None,
    row: str = "image",
    layout: str = "official",
) -> datasets.Dataset:
    """Photographs with their captions, in the order of the caption file.

    Args:
        reading: the call of ``load``.
        images: folder of the photographs, of any resolution; ``images/`` beside ``text/`` by
            default.
        row: ``image`` for a row a photograph, with ``captions``; ``caption`` for a row a caption,
            with ``text``.
        layout: ``official``, or ``kaggle`` for ``Images/`` and ``captions.txt``, whose captions
            are numbered in their order.
    """
    require_choice(row, ("image", "caption"), "flickr8k: row")
    require_choice(layout, tuple(LAYOUTS), "flickr8k: layout")
    pictures, source = LAYOUTS[layout]
    folder = _photographs(reading, images, pictures)
    if layout == "official":
        splits = image_splits(reading)
        captions = _captions(reading, splits)
    else:
        splits = _splits_if_there(reading)
        captions = _kaggle_captions(reading, splits)
    if NEVER_DISTRIBUTED in captions and not (folder / NEVER_DISTRIBUTED).exists():
        left_out = len(captions.pop(NEVER_DISTRIBUTED))
        reading.notes.append(
            f"{left_out} captions of {NEVER_DISTRIBUTED}, never distributed, are left out"
        )
    _refuse_uncaptioned(reading, folder, splits, captions, source)

    def make(image: str) -> Row:
        cell = reading.image(image, folder)
        return {
            "id": image,
            "image": cell,
            "captions": [text for _, _, text in captions[image]],
            "split": splits.get(image),
        }

    items = ((captions[image][0][0], image) for image in captions)
    rows = reading.sift(items, make)
    if row == "image":
        return reading.table(rows, _features(captions=datasets.List(datasets.Value("string"))))
    flat = [
        {**each, "id": f"{each['id']}#{number}", "text": text}
        for each in rows
        for _, number, text in captions[each["id"]]
    ]
    for each in flat:
        del each["captions"]
    return reading.table(flat, _features(text=datasets.Value("string")))


def read_judgements(
    reading: Reading, *, images: str | os.PathLike[str] | None = None
) -> datasets.Dataset:
    """Pairs of a photograph and a caption with three judgements, in the order of their file.

    A judgement is 4 if the caption describes the photograph, 3 if it almost does, with minor
    mistakes, 2 if it describes minor aspects only, and 1 if it does not describe it at all.
    ``own`` says whether the caption was written for this photograph.

    Args:
        reading: the call of ``load``.
        images: as in `read`.
    """
    folder = _photographs(reading, images, "images")
    splits = image_splits(reading)
    texts = {
        f"{image}#{number}": text
        for image, found in _captions(reading, splits).items()
        for _, number, text in found
    }
    once = Once("pair")

    def row(line: bytes) -> Row | None:
        image, caption, *judgements = fields(line, ("IMAGE", "CAPTION", *("JUDGEMENT",) * 3))
        if not set(judgements) <= set(SCORES):
            raise Problem(f"expected judgements from 1 to 4, got {', '.join(judgements)}")
        if caption not in texts:
            raise Problem(f"no caption {caption} in {CAPTIONS}")
        key = once(f"{image} {caption}")
        if not reading.wanted(splits.get(image)):
            return None
        return {
            "id": key,
            "image": reading.image(image, folder),
            "text": texts[caption],
            "judgements": [int(each) for each in judgements],
            "own": caption.rpartition("#")[0] == image,
            "photograph": image,
            "caption": caption,
            "split": splits.get(image),
        }

    rows = reading.sift(numbered_lines(reading.existing(JUDGEMENTS)), row)
    features = _features(
        text=datasets.Value("string"),
        judgements=datasets.List(datasets.Value("int32"), length=3),
        own=datasets.Value("bool"),
        photograph=datasets.Value("string"),
        caption=datasets.Value("string"),
    )
    return reading.table([each for each in rows if each is not None], features)


def _photographs(
    reading: Reading, images: str | os.PathLike[str] | None, usual: str
) -> pathlib.Path:
    folder = reading.existing(usual) if images is None else pathlib.Path(images)
    if not folder.is_dir():
        raise FileNotFoundError(f"{reading.source.name}: images: no folder {folder}")
    return folder


def _captions(reading: Reading, splits: dict[str, str]) -> dict[str, list[tuple[str, str, str]]]:
    """Of each photograph that was asked for: place, number and text of its captions."""
    once = Once("caption")

    def parsed(item: tuple[str, bytes]) -> tuple[str, str, str, str]:
        image, number, text = parse(item[1])
        once(f"{image}#{number}")
        return item[0], image, number, text

    captions: dict[str, list[tuple[str, str, str]]] = {}
    lines = numbered_lines(reading.existing(CAPTIONS))
    for place, image, number, text in reading.sift(((line[0], line) for line in lines), parsed):
        if reading.wanted(splits.get(image)):
            captions.setdefault(image, []).append((place, number, text))
    return captions


def _splits_if_there(reading: Reading) -> dict[str, str]:
    """The official split if its lists are here; without them no split can be asked for."""
    there = [name for name in LISTS.values() if reading.path(name).exists()]
    if there or reading.split is not None:
        return image_splits(reading)
    reading.remark("no row has a split, because the lists of the official split are not in text/")
    return {}


def _kaggle_captions(
    reading: Reading, splits: dict[str, str]
) -> dict[str, list[tuple[str, str, str]]]:
    """As `_captions`, from a table with the columns image and caption."""
    captions: dict[str, list[tuple[str, str, str]]] = {}
    path = reading.existing(KAGGLE)
    try:
        rows, make = delimited(path, ",")
    except Problem as problem:
        reading.refuse(str(path), problem)
        return {}

    def parsed(item: tuple[str, Any]) -> tuple[str, str, str]:
        row = make(item[1])
        if set(row) != {"image", "caption"}:
            raise Problem(f"expected the header image,caption, got {','.join(row)}")
        image = sentence(row["image"] or "", "file name of a photograph")
        return item[0], image, sentence(row["caption"] or "", "caption")

    for place, image, text in reading.sift(((row[0], row) for row in rows), parsed):
        if reading.wanted(splits.get(image)):
            before = captions.setdefault(image, [])
            before.append((place, str(len(before)), text))
    return captions


def _refuse_uncaptioned(
    reading: Reading,
    folder: pathlib.Path,
    splits: dict[str, str],
    captions: dict[str, list[tuple[str, str, str]]],
    source: str,
) -> None:
    """A photograph that is listed, or lies in the folder, without any caption is a bad row."""
    for image, split in splits.items():
        if reading.wanted(split) and image not in captions:
            reading.refuse(str(reading.path(LISTS[split])), f"{image} has no caption")
    if reading.split is None:
        for path in sorted(folder.iterdir()):
            if (
                path.suffix.lower() == ".jpg"
                and path.name not in captions
                and path.name not in splits
            ):
                reading.refuse(str(path), f"no caption of it in {source}")


def _features(**texts: object) -> datasets.Features:
    return datasets.Features(
        id=datasets.Value("string"),
        image=datasets.Image(),
        **texts,
        split=datasets.Value("string"),
    )


OFFICIAL = "images/*.jpg, text/Flickr8k.token.txt and text/Flickr_8k.{train,dev,test}Images.txt"
SOURCE = Source(
    name="flickr8k",
    holds="8,091 photographs with five captions each, and the official split",
    splits=("train", "validation", "test"),
    origin="https://hockenmaier.cs.illinois.edu/Framing_Image_Description/KCCA.html",
    terms="research use only; do not redistribute",
    read=read,
    folder="flickr8k",
    needs=(CAPTIONS, *LISTS.values()),
    layout=f"{OFFICIAL}; or Images/*.jpg and captions.txt, for layout='kaggle'",
    checksums={
        CAPTIONS: "9b8608b02da9040581f1e3d4c8738db1fb6f63314342100432adc3962f77d71a",
        LISTS["train"]: "e330ddd5156a4c2d2e2b67bc587e70e588f2d132bd8a10dc54dcb71e58115d8e",
        LISTS["validation"]: "18ba829f47f6df1cb830bf7f0506e2ddf333818925299babbd1bbcaf50fdc504",
        LISTS["test"]: "c0924146c131458ceba45da59670fe9520eadce1e5cafffa16a817672a9b1f17",
    },
)

EXPERT = dataclasses.replace(
    SOURCE,
    name="flickr8k-expert",
    holds="5,822 pairs of a test photograph and a caption, each judged by three experts",
    splits=("test",),
    read=read_judgements,
    needs=(JUDGEMENTS, *SOURCE.needs),
    layout=f"{OFFICIAL}, and text/ExpertAnnotations.txt",
    checksums={
        **SOURCE.checksums,
        JUDGEMENTS: "56c2b1a9e1a46ba73b8b151abd7c3c8b1676fbacadb559d0c2eb6524b166cf4f",
    },
)
