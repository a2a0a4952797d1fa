"""BLEU, CIDEr-D and ROUGE-L of captions, by the scorers of the COCO captioning challenge.

The scorers are those of ``pycocoevalcap`` (Chen et al. 2015), which papers report; BLEU is of
Papineni et al. (2002), CIDEr-D of Vedantam et al. (2015) and ROUGE-L of Lin (2004). METEOR is left
out: the one that papers report needs Java. Score what the model says on its own: captions made with
the true words as input (teacher forcing) score higher than any decoder does.
"""

import dataclasses
import importlib.util
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from modalign._checks import checked, describe
from modalign.metrics._paired import paired
from modalign.metrics._words import words

Tokenize = Callable[[str], Sequence[str]]
_MARKS = re.compile(r"<(?:start|end|pad|bos|eos|sos|/?s)>|\[(?:cls|sep|pad|bos|eos)\]", re.I)


def caption_tokens(caption: str) -> list[str]:
    """The words of a caption in lower case, without punctuation, as COCO's scorers see them.

    They cut captions by the Penn Treebank tokeniser of Stanford CoreNLP 3.4.1, which needs Java,
    and remove punctuation. Clitics are words (``dog 's``, ``is n't``), with straight or typographic
    quotes; hyphens within words and the full stops of abbreviations stay; a half is written
    ``1/2``, a pound ``#`` and a euro ``$``, as there. What differs:

    - Brackets, in 6 of Flickr8k's 40,460 captions, the only ones that differ. They go here; the
      original means to remove them, and leaves ``-lrb-``. So do those of smileys and of telephone
      numbers.
    - Two words that a full stop joins, such as ``etc.I``, the stars of ``\\*``, and letters that
      came to Unicode after 2010.

    Raises:
        TypeError: for what is no text.

    >>> caption_tokens("A dog's ball isn\u2019t \u201cblack-and-white\u201d\u2026")
    ['a', 'dog', "'s", 'ball', 'is', "n't", 'black-and-white']
    """
    if not isinstance(caption, str):
        raise TypeError(f"caption: expected a text, got {describe(caption)}")
    return words(caption)


@dataclasses.dataclass(frozen=True)
class CaptionScores:
    """Scores of n captions.

    Attributes:
        bleu: BLEU-1 to BLEU-4 of the corpus, from 0 to 1.
        cider: CIDEr-D, the mean of ``ciders``.
        counts: (n, 10), what BLEU is made of, see :func:`corpus_bleu`.
        ciders: (n,), CIDEr-D of each caption, from 0 to 10. How rare a word is, is counted in
            the references of all n.
    """

    bleu: tuple[float, ...]
    cider: float
    counts: Int64[np.ndarray, "n 10"]
    ciders: Float64[np.ndarray, "n"]

    def as_dict(self) -> dict[str, float]:
        """``bleu_1`` to ``bleu_4``, and ``cider``."""
        bleus = {f"bleu_{k}": value for k, value in enumerate(self.bleu, start=1)}
        return bleus | {"cider": self.cider}


def caption_scores(
    captions: Sequence[str] | Mapping[Any, str],
    references: Sequence[Sequence[str]] | Mapping[Any, Sequence[str]],
    *,
    tokenize: Tokenize | None = None,
) -> CaptionScores:
    """Score each caption against its references, as COCO's scorers do.

    Linear in the number of words: about a second for Flickr8k's 1,000 test photographs. For an
    interval of BLEU, resample ``counts`` (see the example), and of CIDEr, ``ciders``.

    Args:
        captions: n texts, 2 or more, without ``<start>``, ``<end>`` and ``<pad>``. An empty one
            counts as a caption of no words.
        references: for each caption one text or more. Where both have labels (mappings, pandas
            objects) they are paired by them, in the order of the captions.
        tokenize: what cuts a text into words, for other languages than English; by default
            :func:`caption_tokens`, whose scores are those that papers report. It does all there is
            to do: lower case and punctuation too.

    Raises:
        ValueError: for other numbers of captions than of references, fewer than 2 (every word
            would be in every photograph's references, and CIDEr 0), an example without
            reference, a reference without words, a caption that still holds a mark, labels that
            one side lacks, and a word of ``tokenize`` that is empty or holds a space.
        TypeError: where captions or references are no texts, one side alone has labels, or
            ``tokenize`` gives no list of texts.
        ImportError: without ``pycocoevalcap``.

    >>> references = [["A dog runs .", "A brown dog runs ."], ["Two men talk .", "Men talk ."]]
    >>> found = caption_scores(["a dog runs fast", "two men talk"], references)
    >>> {name: round(value, 3) for name, value in found.as_dict().items()}
    {'bleu_1': 0.857, 'bleu_2': 0.828, 'bleu_3': 0.77, 'bleu_4': 0.0, 'cider': 4.964}
    >>> from modalign.metrics import difference
    >>> bleu_2 = difference(
    ...     found.counts, statistic=lambda rows: corpus_bleu(rows)[1], method="percentile"
    ... )
    >>> f"{bleu_2:.2f}"
    '0.83 [0.71, 1.00]'
    """
    captions, references = _paired(captions, references)
    if len(captions) < 2:
        raise ValueError(f"captions: expected at least 2, got {len(captions)}")
    _require_scorers("caption_scores: BLEU and CIDEr are those")
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer
    from pycocoevalcap.cider.cider_scorer import CiderScorer

    bleu_scorer, cider_scorer = BleuScorer(n=4), CiderScorer(n=4, sigma=6.0)
    for said, told in _examples(captions, references, tokenize):
        bleu_scorer += (said, told)
        cider_scorer += (said, told)
    bleu, _ = bleu_scorer.compute_score(option="closest")
    cider, ciders = cider_scorer.compute_score()
    counts = np.array([_counts(example) for example in bleu_scorer.ctest])
    return CaptionScores(tuple(map(float, bleu)), float(cider), counts, ciders)


@checked
def corpus_bleu(counts: Int64[np.ndarray, "n 10"]) -> tuple[float, ...]:
    """BLEU-1 to BLEU-4 of a corpus from the counts of its captions; equal to COCO's scorer.

    BLEU of a resampled corpus is BLEU of the resampled rows, which takes a tenth of a
    millisecond: this is the statistic to bootstrap.

    Args:
        counts: of each caption, the n-grams found in a reference (n = 1 to 4, at most as often
            as in one reference), all its n-grams (1 to 4), its length, and that of the reference
            closest in length (the shorter of two as close).

    Raises:
        ValueError: for no row, or counts that cannot be.

    >>> counts = np.array([[4, 2, 0, 0, 5, 4, 3, 2, 5, 6]])
    >>> round(corpus_bleu(counts)[1], 3)  # ((4 / 5) (2 / 4)) ** (1 / 2) exp(1 - 6 / 5)
    0.518
    """
    if not len(counts) or (counts < 0).any() or (counts[:, :4] > counts[:, 4:8]).any():
        raise ValueError(
            "counts: expected those of one caption or more, none below 0 and no more n-grams found "
            f"than there are, got {describe(counts)}"
        )
    total = counts.sum(0, dtype=float)
    found, all_, (length, closest) = total[:4], total[4:8], total[8:]
    # the constants of COCO's scorer: nothing found is nearly, not quite, 0
    precision = (found + 1e-15) / (all_ + 1e-9)
    bleu = precision.cumprod() ** (1 / np.arange(1, 5))
    ratio = (length + 1e-15) / (closest + 1e-9)
    return tuple((bleu * np.exp(min(0, 1 - 1 / ratio))).tolist())


def rouge_l(
    captions: Sequence[str] | Mapping[Any, str],
    references: Sequence[Sequence[str]] | Mapping[Any, Sequence[str]],
    *,
    tokenize: Tokenize | None = None,
) -> Float64[np.ndarray, "n"]:
    """ROUGE-L of each caption, as COCO's scorer has it; their mean is what papers report.

    With l the longest common subsequence of a caption's and a reference's words, p is the largest
    l / (words of the caption) over its references, and r the largest l / (words of the reference).
    The score is (1 + b^2) p r / (r + b^2 p) with b = 1.2, and 0 for a caption of no words. Other
    packages have other b, stems or references, and other numbers.

    The product of the words of a caption and of its references in time.

    Args:
        captions: as :func:`caption_scores`, 1 or more.
        references: as :func:`caption_scores`.
        tokenize: as :func:`caption_scores`.

    Returns:
        From 0 to 1; ``difference`` of two systems' scores is a paired comparison.

    Raises:
        ValueError: as :func:`caption_scores`, but for its smallest number of captions.
        TypeError: as :func:`caption_scores`.
        ImportError: without ``pycocoevalcap``.

    >>> references = [["A dog runs .", "A brown dog runs ."], ["Two men talk .", "Men talk ."]]
    >>> rouge_l(["a dog runs fast", "two men talk"], references).round(3).tolist()
    [0.88, 1.0]
    >>> japanese = ["\u72ac\u304c\u8d70\u308b"], [["\u72ac\u304c\u8d70\u3063\u3066\u3044\u308b"]]
    >>> rouge_l(*japanese, tokenize=list).round(3).tolist()  # by characters
    [0.693]
    """
    captions, references = _paired(captions, references)
    if not len(captions):
        raise ValueError("captions: expected at least 1, got 0")
    _require_scorers("rouge_l: ROUGE-L is that")
    from pycocoevalcap.rouge.rouge import Rouge

    scorer = Rouge()
    return np.array(
        [
            scorer.calc_score([said], told)
            for said, told in _examples(captions, references, tokenize)
        ],
        dtype=float,
    )


def _require_scorers(what: str) -> None:
    if importlib.util.find_spec("pycocoevalcap") is None:
        raise ImportError(
            f"{what} of the package pycocoevalcap, which is not installed: "
            "pip install 'modalign[captions]'"
        )


def _paired(captions: Any, references: Any) -> tuple[Any, Any]:
    """Both in the order of the captions."""
    for given, name in ((captions, "captions"), (references, "references")):
        if isinstance(given, str) or not hasattr(given, "__len__"):
            raise TypeError(f"{name}: expected a list, one entry a caption, got {describe(given)}")
    if len(captions) != len(references):
        raise ValueError(
            f"references: expected one list a caption, got {len(references)} for {len(captions)}"
        )
    return paired(captions, references, ("captions", "references"))


def _examples(
    captions: Any, references: Any, tokenize: Tokenize | None
) -> Iterator[tuple[str, list[str]]]:
    """Tokens of captions and of their references, joined by spaces as the scorers take them."""
    for i, (caption, texts) in enumerate(zip(captions, references, strict=True)):
        if isinstance(texts, str) or not len(texts):
            raise ValueError(f"references[{i}]: expected a list of texts, got {texts!r:.60}")
        said = _tokens(caption, f"captions[{i}]", tokenize)
        told = [_tokens(text, f"references[{i}][{k}]", tokenize) for k, text in enumerate(texts)]
        if "" in told:
            k = told.index("")
            raise ValueError(f"references[{i}][{k}]: expected words, got {texts[k]!r}")
        yield said, told


def _tokens(text: str, name: str, tokenize: Tokenize | None) -> str:
    if not isinstance(text, str):
        raise TypeError(f"{name}: expected a text, got {type(text).__name__} {text!r:.60}")
    mark = _MARKS.search(text)
    if mark:
        raise ValueError(
            f"{name}: expected words alone, got {mark[0]!r} in {text!r:.60}: cut a caption at its "
            "first end mark and drop start and padding, or they are scored as words"
        )
    if tokenize is None:
        return " ".join(caption_tokens(text))
    tokens = tokenize(text)
    texts = isinstance(tokens, Sequence) and all(isinstance(token, str) for token in tokens)
    if not texts or isinstance(tokens, str):
        raise TypeError(f"tokenize: expected a list of words, got {describe(tokens)} for {name}")
    # the scorers cut at spaces, so that such a word would be none or two
    for token in tokens:
        if token.split() != [token]:
            raise ValueError(f"tokenize: expected words without spaces, got {token!r} for {name}")
    return " ".join(tokens)


def _counts(example: dict[str, Any]) -> list[int]:
    length = example["testlen"]
    closest = min((abs(each - length), each) for each in example["reflen"])[1]
    return [*example["correct"], *example["guess"], length, closest]
