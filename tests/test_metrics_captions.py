import pathlib
import random
import shutil
import subprocess
import sys

import numpy as np
import pytest
import sacrebleu
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.tokenizer import ptbtokenizer

from modalign import data
from modalign.metrics import caption_scores, caption_tokens, corpus_bleu, difference

WORDS = ["a", "the", "dog", "cat", "runs", "sits", "on", "in", "grass", "water", "red", "two"]


def draw(n=30, seed=0):
    """Captions of made-up words, each with two to four references like it."""
    rng = random.Random(seed)

    def text():
        return " ".join(rng.choices(WORDS, k=rng.randint(4, 12)))

    captions = [text() for _ in range(n)]
    references = [
        [" ".join([*caption.split()[:-2], text()]) for _ in range(rng.randint(2, 4))]
        for caption in captions
    ]
    return captions, references


@pytest.fixture
def flickr8k(real_data):
    return data.load("flickr8k", "test", verify=False)["captions"]


# scores


def test_bleu_is_sacrebleus():
    captions, references = draw()
    found = caption_scores(captions, references)
    columns = [[each[k] if k < len(each) else None for each in references] for k in range(4)]
    for k in range(1, 5):
        metric = sacrebleu.BLEU(tokenize="none", smooth_method="none", max_ngram_order=k)
        known = metric.corpus_score(captions, columns).score / 100
        assert found.bleu[k - 1] == pytest.approx(known, abs=1e-8)


def test_scores_are_those_of_coco():
    captions, references = draw()
    found = caption_scores(captions, references)
    truth, said = dict(enumerate(references)), {i: [text] for i, text in enumerate(captions)}
    bleu, _ = Bleu(4).compute_score(truth, said, verbose=0)
    cider, ciders = Cider().compute_score(truth, said)
    assert found.bleu == pytest.approx(bleu)
    assert found.cider == pytest.approx(cider)
    assert found.ciders == pytest.approx(ciders)
    assert corpus_bleu(found.counts) == pytest.approx(bleu, rel=1e-12)


def test_bleu_of_some_rows_is_bleu_of_these_captions():
    captions, references = draw()
    counts = caption_scores(captions, references).counts
    drawn = [3, 3, 7, 20]
    some = caption_scores([captions[i] for i in drawn], [references[i] for i in drawn])
    assert corpus_bleu(counts[drawn]) == pytest.approx(some.bleu)


def test_a_paired_bootstrap_of_bleu_tells_a_worse_captioner():
    captions, references = draw()
    cut = [" ".join(caption.split()[:3]) for caption in captions]
    good, bad = caption_scores(captions, references), caption_scores(cut, references)
    bleu_4 = difference(
        good.counts,
        bad.counts,
        statistic=lambda rows: corpus_bleu(rows)[3],
        method="percentile",
        resamples=300,
    )
    assert bleu_4.mean == pytest.approx(good.bleu[3] - bad.bleu[3])
    assert 0 < bleu_4.low < bleu_4.mean < bleu_4.high
    assert difference(good.ciders, bad.ciders, method="percentile").low > 0


def test_a_caption_equal_to_a_reference_scores_1():
    _, references = draw()
    found = caption_scores([texts[1] for texts in references], references)
    assert found.bleu == pytest.approx((1, 1, 1, 1))


def test_captions_that_share_nothing_score_0():
    found = caption_scores(["x y z u v", "u v w x y"], [["a b c d e"], ["f g h i j"]])
    assert found.bleu == pytest.approx((0, 0, 0, 0), abs=1e-6)
    assert found.cider == 0


def test_an_empty_caption_counts_as_one_of_no_words():
    found = caption_scores(["", "a dog runs on grass"], [["A cat ."], ["A dog runs on grass ."]])
    assert found.ciders[0] == 0
    assert found.bleu[0] == pytest.approx(np.exp(1 - 7 / 5))
    nothing = caption_scores(["", ""], [["A cat ."], ["A dog ."]])
    assert nothing.bleu == pytest.approx((0, 0, 0, 0), abs=1e-6)


def test_case_and_punctuation_do_not_matter():
    captions, references = draw()
    loud = [caption.upper() + " !" for caption in captions]
    assert (
        caption_scores(loud, references).as_dict() == caption_scores(captions, references).as_dict()
    )


# tokens


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("A dog , a ball .", "a dog a ball"),
        ("A dog, a ball.", "a dog a ball"),
        ("A dog 's ball", "a dog 's ball"),
        ("The dog's ball; it isn't red!", "the dog 's ball it is n't red"),
        ("They're `` here '' -- \"now\" ...", "they 're here now"),
        ("A black-and-white T-shirt - yes", "a black-and-white t-shirt yes"),
        ("the boys' 1,000 toys at 5:30", "the boys 1,000 toys at 5:30"),
        ("Mr. P. in Washington D.C. .", "mr. p. in washington d.c."),
        ("a man (left) cannot swim", "a man left can not swim"),
        ("  ", ""),
    ],
)
def test_tokens(caption, tokens):
    assert " ".join(caption_tokens(caption)) == tokens


def test_tokens_are_those_of_cocos_tokeniser(flickr8k, tmp_path):
    if shutil.which("java") is None:
        pytest.skip("no java: COCO's tokeniser cannot run")
    captions = [text for texts in flickr8k for text in texts]
    captions += ["A dog's ball, isn't it? They're here; we can't see.", "Two men (left) talk!"]
    file = tmp_path / "captions.txt"
    file.write_text("\n".join(captions), encoding="utf-8")
    jar = pathlib.Path(ptbtokenizer.__file__).with_name(ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR)
    command = ["java", "-Xmx256m", "-cp", jar, "edu.stanford.nlp.process.PTBTokenizer"]
    made = subprocess.run(
        [*command, "-preserveLines", "-lowerCase", file], capture_output=True, check=True
    )
    # the list is in upper case and the words in lower: brackets slip through
    left_out = {each.lower() for each in ptbtokenizer.PUNCTUATIONS}
    lines = made.stdout.decode("utf-8").splitlines()
    known = [[word for word in line.split() if word not in left_out] for line in lines]
    assert len(known) == len(captions)
    differing = [
        text for text, words in zip(captions, known, strict=True) if caption_tokens(text) != words
    ]
    assert differing == []


# Flickr8k, the floors that any captioner is to be compared with


def test_a_human_caption_against_the_other_four(flickr8k):
    found = caption_scores([texts[0] for texts in flickr8k], [texts[1:] for texts in flickr8k])
    assert found.bleu[3] == pytest.approx(0.2095, abs=5e-5)


def test_one_caption_for_all_photographs(flickr8k):
    found = caption_scores(["A dog is running through the grass ."] * len(flickr8k), flickr8k)
    assert found.bleu[3] == pytest.approx(0.0406, abs=5e-5)


def test_a_random_training_caption(flickr8k):
    texts = data.load("flickr8k", "train", verify=False, row="caption")["text"]
    bleus = [
        caption_scores(random.Random(seed).choices(texts, k=len(flickr8k)), flickr8k).bleu[3]
        for seed in range(3)
    ]
    assert np.mean(bleus) == pytest.approx(0.0177, abs=0.003)


# what is refused


TWO = [["a dog"], ["a cat"]]


@pytest.mark.parametrize("mark", ["<end>", "<start>", "<pad>", "<eos>", "</s>", "[SEP]", "[PAD]"])
def test_a_mark_of_the_decoder_is_refused(mark):
    with pytest.raises(ValueError, match=r"captions\[1\]: .* cut a caption at its first end mark"):
        caption_scores(["a dog", f"a cat {mark} {mark}"], TWO)


@pytest.mark.parametrize(
    ("captions", "references", "error", "message"),
    [
        (["a dog"], TWO, ValueError, "references: expected one list a caption, got 2 for 1"),
        (["a dog"], TWO[:1], ValueError, "captions: expected at least 2, got 1"),
        ([], [], ValueError, "captions: expected at least 2, got 0"),
        (["a", "b"], [["a"], []], ValueError, r"references\[1\]: expected a list of texts, got \["),
        (["a", "b"], ["a", "b"], ValueError, r"references\[0\]: expected a list .*, got 'a'"),
        (["a", "b"], [["a"], ["b", " ."]], ValueError, r"references\[1\]\[1\]: expected words"),
        (["a", 3], TWO, TypeError, r"captions\[1\]: expected a text, got int 3"),
        (["a", None], TWO, TypeError, r"captions\[1\]: expected a text, got NoneType"),
    ],
)
def test_scores_refuse(captions, references, error, message):
    with pytest.raises(error, match=message):
        caption_scores(captions, references)


def test_without_the_scorers_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)
    with pytest.raises(ImportError, match=r"pip install 'modalign\[captions\]'"):
        caption_scores(["a", "b"], TWO)
    assert caption_tokens("A dog .") == ["a", "dog"]
