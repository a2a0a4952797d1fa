"""Write what became of the papers' claims into the pages that show it.

python tools/ledger.py [--check]

The page of claims, the book's first page and the README hold a part between two marks, which is
computed from the recorded tables. With --check nothing is written, and the exit status says whether
the pages are as they would be written.
"""

import argparse
import pathlib
import re
import sys

import pandas as pd

from modalign.metrics import SYMBOLS
from modalign.studies import ledger

BEGIN, END = "<!-- ledger: begin -->", "<!-- ledger: end -->"
NO_BREAK = "\N{NO-BREAK SPACE}"
SHORT = {"cka": "CKA", "gradients": "gradients", "codis": "CODIS", "neumatch": "NeuMATCH"}


def claims(table: pd.DataFrame) -> str:
    """A section a paper, with a row a claim."""
    parts = [scores(table)]
    for key, title in ledger.PAPERS.items():
        parts.append(f"## {title}")
        parts.append("| | claim | paper | verdict | ours | seeds |\n|---|---|---|---|---|---|")
        rows = [_row(row) for row in ledger.of_paper(table, key).to_dict("records")]
        parts[-1] += "\n" + "\n".join(rows)
    return "\n\n".join(parts)


def _row(row: dict) -> str:
    page, _, label = row["chapter"].partition("#")
    role = (
        f"{{ref}}`{row['id']} <{label}>`"
        if label
        else f"{{doc}}`{row['id']} <../notebooks/{page}>`"
    )
    verdict = f"{row['symbol']}{NO_BREAK}{row['verdict']}"
    verdict += ", exploratory" if row["exploratory"] else ""
    seeds = "" if pd.isna(row["pairs"]) else f"{int(row['pairs'])}"
    if not pd.isna(row["seeds"]):
        seeds += f"; about {int(row['seeds'])} would decide, in {row['hours']:.0f} h"
    where = f"{row['printed']} ({row['where']})"
    value = re.sub(f"([{''.join(SYMBOLS.values())}]) ", rf"\1{NO_BREAK}", row["value"])
    cells = (role, row["says"], where, verdict, value, seeds)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def scores(table: pd.DataFrame) -> str:
    """The scoreboard: how many claims of each paper have which verdict.

    The head has symbols alone, since a phone is too narrow for their names.
    """
    counts = ledger.scoreboard(table)
    head = ["", *(SYMBOLS[kind] for kind in counts.columns)]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for key, row in counts.iterrows():
        name = SHORT.get(str(key), f"all {len(table)}")
        lines.append("| " + " | ".join([name, *map(str, row)]) + " |")
    names = ", ".join(f"{SYMBOLS[kind]}{NO_BREAK}{kind}" for kind in counts.columns)
    shared = ", ".join(table["id"][table["paper"].str.contains(",")])
    once = f"The last row counts a claim of two papers once ({shared})."
    depends = table[table["verdict"] == "depends"]
    none = ", ".join(depends["id"][~depends["value"].str.contains(SYMBOLS["holds"])])
    whole = f"Of those that depend, no reading holds in {none}." if none else ""
    return "\n".join([*lines, "", f"{names}. {once} {whole}".rstrip()])


PAGES = {"book/claims.md": claims, "book/intro.md": scores, "README.md": scores}


def written(text: str, part: str) -> str:
    """A page with its part between the marks.

    Raises:
        ValueError: for a page without the two marks.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"page: expected the marks {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{part}\n\n{END}{after}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).parents[1])
    parser.add_argument("--check", action="store_true", help="write nothing")
    given = parser.parse_args(arguments)
    table = ledger.ledger()
    stale = []
    for name, make in PAGES.items():
        page = given.root / name
        text = page.read_text(encoding="utf-8")
        new = written(text, make(table))
        if new != text:
            stale.append(name)
            if not given.check:
                page.write_text(new, encoding="utf-8")
    if stale:
        print(f"{'stale' if given.check else 'written'}: {', '.join(stale)}")
    return 1 if stale and given.check else 0


if __name__ == "__main__":
    sys.exit(main())
