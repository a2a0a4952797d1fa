"""The ledger: what became of each claim of the four papers, computed from the recorded tables.

Each study declares its claims and reads its tables; here they stand side by side, one row an id. A
claim of which a study decides several parts or readings has one verdict over all of them, by
:func:`modalign.metrics.of_readings`. An exploratory reading never changes the verdict of a claim
that was also decided as planned; a claim that has no other readings is marked.
"""

import importlib
import pathlib
import re
from typing import Any, NamedTuple, get_args

import pandas as pd
import torch

from modalign import records
from modalign._checks import require_choice
from modalign.cka import cka
from modalign.metrics import SYMBOLS, Verdict, of_readings

PAPERS = {
    "cka": "Modality alignment between deep representations (Yun, Kim and Jung 2022)",
    "gradients": "Cross-modality gradient harmonization (Wu et al. 2022)",
    "codis": "Multi-modal alignment using representation codebook (Duan et al. 2022)",
    "neumatch": "Data-efficient alignment of multimodal sequences (Wang et al. 2020)",
}
NOT_TESTABLE: Verdict = "not testable here"


class Entry(NamedTuple):
    """A claim as the paper makes it.

    Attributes:
        paper: key of :data:`PAPERS`.
        says: the statement.
        printed: the paper's value.
        where: section, table or figure of the paper.
        chapter: the page that decides it, and a label on it if there is one.
        needs: what testing it would take, if it is not testable here.
    """

    paper: str
    says: str
    printed: str
    where: str
    chapter: str
    needs: str = ""


CLAIMS: dict[str, Entry] = {
    "c1": Entry(
        "cka", "the cosine loss alone lowers CKA", ".498 to .305", "4.1", "cka-loss#sec-cka-map"
    ),
    "c2": Entry("cka", "CKA alone raises the cosine", '"slightly"', "4.1", "cka-loss#sec-cka-map"),
    "c3": Entry(
        "cka",
        "CKA and cosine together beat the cosine, and converge faster",
        "a curve",
        "4.1",
        "cka-loss#sec-cka-map",
    ),
    "c4": Entry("cka", "a warm-up on CKA alone helps", "no number", "4.1", "cka-loss#sec-cka-map"),
    "c5": Entry(
        "cka", "CKA is invariant to rotation and scale", "stated", "3.2", "cka#sec-cka-sees"
    ),
    "c6": Entry(
        "cka",
        "CKA is robust with few examples, unlike CCA and SVCCA",
        "stated",
        "2.1, 3.2",
        "cka-loss#sec-cka-few",
    ),
    "c7": Entry(
        "cka",
        "captions: BLEU-4 rises with CKA",
        ".1560 to .1617",
        "4.2",
        "captioning#sec-captioning-photographs",
    ),
    "c8": Entry(
        "cka",
        "captions: training with CKA converges faster",
        "a curve",
        "Figure 6",
        "captioning#sec-captioning-photographs",
    ),
    "c9": Entry(
        "cka",
        "TVQA_abc answers better with CKA",
        "67.70 to 69.38",
        "Table 2",
        "videoqa#sec-videoqa-table2",
    ),
    "c10": Entry(
        "cka",
        "STAGE answers better with CKA",
        "70.31 to 72.89",
        "Table 2",
        "videoqa#sec-videoqa-table2",
    ),
    "c11": Entry(
        "cka",
        "generated captions add to it",
        "72.89 to 73.88",
        "Table 2",
        "videoqa#sec-videoqa-table2",
    ),
    "c12": Entry(
        "cka",
        "training raises CKA of video and text to the level within text",
        ".39 to .78, .27 to .67",
        "Table 1",
        "videoqa#sec-videoqa-table1",
    ),
    "c13": Entry(
        "cka",
        "linear and RBF kernels do equally well",
        '"no significant difference"',
        "8.3",
        "cka-real#sec-cka-kernels",
    ),
    "c14": Entry(
        "gradients",
        "the cosine of the gradients tells aligned from misaligned",
        "a conjecture",
        "deck",
        "vatt#sec-vatt-detector",
    ),
    "c15": Entry(
        "gradients", "realignment beats the baseline", "a table", "deck", "vatt#sec-vatt-table"
    ),
    "c16": Entry(
        "gradients", "the curriculum beats the baseline", "a table", "deck", "vatt#sec-vatt-table"
    ),
    "c17": Entry("gradients", "both together beat each", "a table", "deck", "vatt#sec-vatt-table"),
    "c18": Entry(
        "gradients",
        "reweighting the losses does not help",
        "a table",
        "deck",
        "vatt#sec-vatt-table",
    ),
    "c19": Entry(
        "gradients",
        "the gain persists as data grow larger and noisier",
        "three blocks",
        "deck",
        "vatt#sec-vatt-table",
    ),
    "c20": Entry(
        "gradients",
        "outputs of video and text are disentangled afterwards",
        "pictures",
        "deck",
        "vatt#sec-vatt-maps",
    ),
    "c21": Entry(
        "codis",
        "alignment within modalities adds to that across",
        "+1.21",
        "Table 4",
        "codis#sec-codis-table",
    ),
    "c22": Entry("codis", "the codebook adds to it", "+1.30", "Table 4", "codis#sec-codis-table"),
    "c23": Entry(
        "codis",
        "plans from teacher features beat those from student features",
        "+0.73",
        "Table 4",
        "codis#sec-codis-table",
    ),
    "c24": Entry(
        "codis", "zero-shot retrieval beats ALBEF's", "+1.25", "Table 1", "codis#sec-codis-table"
    ),
    "c25": Entry(
        "codis", "fine-tuned retrieval beats ALBEF's", "+0.65", "Table 2", "codis#sec-codis-tasks"
    ),
    "c26": Entry(
        "codis",
        "questions, pairs and entailment beat ALBEF's",
        "+0.27, +0.34, +0.10",
        "Table 3",
        "codis#sec-codis-tasks",
    ),
    "c27": Entry(
        "codis",
        "the transport plan is sparse",
        "at most 2 max(N, K) - 1 entries",
        "3.1",
        "codis#sec-codis-words",
    ),
    "c28": Entry(
        "neumatch",
        "without pretraining the network overfits; stopping early mends a part",
        "26.8/10.3, 24.2/6.8, 24.9/8.0",
        "Table 1",
        "neumatch-claims#sec-neumatch-against",
    ),
    "c29": Entry(
        "neumatch",
        "LARS beats Adam, with and without warm-up",
        "30.6/12.8, 24.7/9.3, 21.7/8.0",
        "Table 2",
        "neumatch-claims#sec-neumatch-against",
    ),
    "c30": Entry(
        "neumatch",
        "LARS raises the ratios of norms and brings the two stacks closer",
        "a table",
        "Table 3, Figure 4",
        "neumatch-claims#sec-neumatch-against",
    ),
    "c31": Entry(
        "neumatch",
        "SBN beats layer normalisation under LARS, and under Adam it does not",
        "a table",
        "Table 4",
        "neumatch-claims#sec-neumatch-against",
    ),
    "c32": Entry(
        "neumatch",
        "random projection does as well as full features; with 4xLN it does not",
        "a table",
        "Table 5",
        "neumatch-claims#sec-neumatch-against",
    ),
    "c33": Entry(
        "neumatch",
        "strong pretrained features do away with pretraining, and stay behind",
        "28.5/10.8",
        "Table 1",
        "neumatch-claims#sec-neumatch-against",
        needs="features of LXMERT for the clips of YouTube Movie Summaries",
    ),
    "c34": Entry(
        "neumatch",
        "under SBN means of outputs stay near 0, and their variances are far higher",
        "a figure",
        "Figure 5",
        "neumatch-claims#sec-neumatch-against",
    ),
    "c35": Entry(
        "neumatch",
        "with the three techniques test scores stay stable to the end",
        "a figure",
        "Figure 3",
        "neumatch-claims#sec-neumatch-against",
    ),
    "c36": Entry(
        "cka, codis",
        "attention and Grad-CAM look at the right place, the more so with the method",
        "pictures",
        "CKA 4.2, CODIS 4.6",
        "captioning#sec-captioning-world",
    ),
    "c37": Entry(
        "cka",
        "a step on one minibatch lowers the cosine of pairs outside it; CKA prevents that",
        "a drawing",
        "Figure 1",
        "cka-loss#sec-cka-outside",
    ),
    "c38": Entry(
        "neumatch",
        "random projection helps because fewer parameters are trained",
        "19% fewer",
        "4.6",
        "neumatch-claims#sec-neumatch-against",
    ),
    "c39": Entry(
        "cka",
        "CKA improves on contrastive losses of a minibatch",
        "stated",
        "3.3",
        "cka-loss#sec-cka-contrastive",
    ),
    "c40": Entry(
        "cka",
        "CCA and SVCCA are unsuitable as objectives of small minibatches",
        "stated",
        "3.2",
        "cka-loss#sec-cka-few",
    ),
    "c41": Entry(
        "neumatch",
        "layer normalisation has higher ratios of norms under LARS, and generalises worse",
        "tables",
        "Tables 3 and 4",
        "neumatch-claims#sec-neumatch-against",
    ),
}

STUDIES = {
    "cka.claims": "readings",
    "captioning.recording": "readings",
    "videoqa.recording": "readings",
    "vatt.claims": "readings",
    "codis.recording": "readings",
    "neumatch.claims": "every_reading",
}
"""Modules of :mod:`modalign.studies` that decide claims of the papers, and their readers."""


COLUMNS = [
    *("id", "claim", "reading", "says", "measure", "contrast", "budget", "table"),
    *("mean", "low", "high", "pairs", "smallest", "verdict", "seeds", "exploratory"),
]


def readings(folder: str | pathlib.Path | None = None) -> pd.DataFrame:
    """Every reading of every claim that a study decides from its tables.

    Args:
        folder: results folder; the book's by default.

    Returns:
        ``id``, ``claim``, ``reading``, ``says``, ``measure``, ``contrast``, ``budget``, ``table``,
        ``mean``, ``low``, ``high``, ``pairs``, ``smallest``, ``verdict``, ``seeds`` and
        ``exploratory``.

    Raises:
        KeyError: for a claim of a study that stands in no paper.
        FileNotFoundError: for a table that is not there.
    """
    found = []
    for name, read in STUDIES.items():
        rows = getattr(importlib.import_module(f"modalign.studies.{name}"), read)(folder)
        found.append(rows.assign(id=[_id(str(claim)) for claim in rows["claim"]])[COLUMNS])
    table = pd.concat(found, ignore_index=True)
    table = table[table["id"] != ""]
    if unknown := sorted(set(table["id"]) - set(CLAIMS)):
        raise KeyError(f"claims: {', '.join(unknown)} stand in no paper of the ledger")
    return table.reset_index(drop=True)


def _id(claim: str) -> str:
    """``c12`` of ``c12b``; an empty text for anything but a claim of a paper.

    >>> _id("c12b"), _id("Table 2")
    ('c12', '')
    """
    found = re.match(r"c\d+", claim)
    return found[0] if found else ""


def is_invariant(*, seed: int = 0) -> float:
    """How much CKA changes at most when one side is turned and scaled (c5)."""
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(40, d, generator=generator, dtype=torch.float64) for d in (6, 5))
    turn = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))[0]
    changed = [
        abs(float(cka(scale * x @ turn, y, debiased=debiased) - cka(x, y, debiased=debiased)))
        for scale in (1e-3, 1.0, 1e3)
        for debiased in (False, True)
    ]
    return max(changed)


def ledger(folder: str | pathlib.Path | None = None) -> pd.DataFrame:
    """One row a claim of the papers, in order of their ids.

    Args:
        folder: results folder; the book's by default.

    Returns:
        ``id``, ``paper``, ``says``, ``printed``, ``where``, ``verdict``, ``symbol``,
        ``exploratory``, ``value`` (of one reading its mean and interval; of several how many have
        which verdict), ``pairs`` (the fewest seeds), ``seeds`` (how many would decide what is
        undecided), ``hours`` (what they would cost, by :func:`hours_to_decide`), ``tables`` and
        ``chapter``.
    """
    every = readings(folder)
    rows = []
    for name, entry in CLAIMS.items():
        part = every[every["id"] == name]
        planned = part[~part["exploratory"].astype(bool)]
        own = planned if len(planned) else part
        rows.append(
            {
                "id": name,
                **entry._asdict(),
                **(_decided(own, folder) if len(own) else _without_table(name, entry)),
                "exploratory": bool(len(part)) and not len(planned),
            }
        )
    return pd.DataFrame(rows)


def _decided(own: pd.DataFrame, folder: str | pathlib.Path | None) -> dict[str, Any]:
    said = of_readings(own["verdict"])
    open_ones = own.dropna(subset="seeds") if said == "undecided" else own.head(0)
    hours = [
        hours_to_decide((part["seeds"] - part["pairs"]).max(), records.load(str(table), folder))
        for table, part in open_ones.groupby("table")
    ]
    return {
        "verdict": said,
        "symbol": SYMBOLS[said],
        "value": _value(own),
        "pairs": int(own["pairs"].min()),
        "seeds": int(open_ones["seeds"].max()) if len(open_ones) else None,
        "hours": max(hours, default=None),
        "tables": ", ".join(dict.fromkeys(own["table"])),
    }


RUN = ["row", "rate", "examples", "seed"]
"""Columns that tell the runs of a recorded table apart, as far as it has them."""


def hours_to_decide(seeds: int, table: pd.DataFrame) -> float:
    """Hours that more seeds of one comparison take: two runs a seed, one after the other.

    Args:
        seeds: how many more.
        table: a recorded table with its provenance. Its runs give the seconds of one, on a core of
            its machine, or its GPU.

    >>> table = pd.DataFrame({"row": ["a", "b"], "seed": [0, 0]})
    >>> table.attrs["seconds"] = 720.0
    >>> hours_to_decide(10, table)
    2.0
    """
    runs = len(table[[name for name in RUN if name in table]].drop_duplicates())
    return 2 * seeds * float(table.attrs["seconds"]) / runs / 3600


def _value(own: pd.DataFrame) -> str:
    if len(own) == 1:
        (row,) = own.itertuples()
        return f"{row.mean:.3g} [{row.low:.3g}, {row.high:.3g}]"
    counts = own["verdict"].value_counts()
    each = (f"{SYMBOLS[kind]} {counts[kind]}" for kind in get_args(Verdict) if kind in counts)
    return f"{len(own)} readings: {', '.join(each)}"


def _without_table(name: str, entry: Entry) -> dict[str, Any]:
    """The verdict on c5, which is an identity, and on claims that cannot be tested here."""
    nothing = {"pairs": None, "seeds": None, "hours": None, "tables": ""}
    if name == "c5":
        changed = is_invariant()
        said: Verdict = "holds" if changed < 1e-9 else "reversed"
        value = (
            "an identity; CKA changes by less than 1e-9" if said == "holds" else f"{changed:.1g}"
        )
        return {"verdict": said, "symbol": SYMBOLS[said], "value": value, **nothing}
    if not entry.needs:
        raise KeyError(f"{name}: no study decides it, and nothing says what it would take")
    return {
        "verdict": NOT_TESTABLE,
        "symbol": SYMBOLS[NOT_TESTABLE],
        "value": f"it would take {entry.needs}",
        **nothing,
    }


def of_paper(table: pd.DataFrame, paper: str) -> pd.DataFrame:
    """The rows of one paper; a claim of two papers belongs to both.

    Raises:
        ValueError: for a paper that is not one of :data:`PAPERS`.
    """
    require_choice(paper, tuple(PAPERS), "paper")
    return table[[paper in each.split(", ") for each in table["paper"]]].reset_index(drop=True)


def scoreboard(table: pd.DataFrame) -> pd.DataFrame:
    """How many claims of each paper have which verdict.

    Args:
        table: of :func:`ledger`.

    Returns:
        A row a paper, and one for all; a column a verdict. A claim of two papers counts in both.
    """
    rows = {key: of_paper(table, key)["verdict"].value_counts() for key in PAPERS}
    rows["all"] = table["verdict"].value_counts()
    return pd.DataFrame(rows).T.reindex(columns=list(get_args(Verdict))).fillna(0).astype(int)
