import pathlib
import random
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import sacrebleu
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer import ptbtokenizer

from modalign import data
from modalign.metrics import caption_scores, caption_tokens, corpus_bleu, difference, rouge_l

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


# what the tokeniser of COCO's scorers answers, asked once
ANSWERED = [
    ("A dog\u2019s ball isn\u2019t red .", "a dog 's ball is n't red"),
    ("isn\u2018t ISN'T isn`t \u2019em \u2019til", "is n`t is n't is n`t \u2019em \u2019til"),
    ("A sign reads \u201cstop\u201d \u2014 then he waits\u2026", "a sign reads stop then he waits"),
    ("\u2018so\u2019 \u00abso\u00bb \u2039so\u203a ``so''", "so so so so"),
    ("a\u2013b a\u2014b a\u2015b a--b a---b a - b", "a b a b a b a b a b a b"),
    ("a man w/ a hat w/o shoes and/or", "a man w / a hat w/o shoes and/or"),
    ("he is gonna gotta wanna cannot dunno", "he is gon na got ta wan na can not dunno"),
    ("'tis 'twas y'all o'clock c'mon", "'t is 't was y' all o'clock c'mon"),
    ("50 % off , $5.00 US$5 50%", "50 % off $ 5.00 us$ 5 50 %"),
    ("\u00a35 \u20ac5.50 \u00a5100 5\u00a2 #1", "# 5 $ 5.50 \u00a5 100 5 cents # 1"),
    ("\u00bd cup 2\u00bd \u2153 1 1/2 10-1/2", "1/2 cup 2 1/2 1/3 1 1/2 10-1/2"),
    ("the \u201990s '90s 90's 1990s mid-1990s", "the \u201990s '90s 90 's 1990s mid-1990s"),
    ("A 4x4 at 5\u00b0 5\u00b0C 10\u00b2", "a 4x4 at 5 \u00b0 5 \u00b0 c 10 \u00b2"),
    ("at&t AT&T's R&B r&b", "at & t at&t 's r&b r & b"),
    ("a slip 'n' slide, rock'n'roll", "a slip 'n' slide rock 'n' roll"),
    ("RIF=ding an ant 's-eye-view", "rif = ding an ant 's eye-view"),
    ("a,b 1,000 5:30 .5 -5 6'2\"", "a b 1,000 5:30 .5 -5 6 2"),
    ("wow!!! what?! end.. a.b end.The", "wow !!! what ?! end a.b end.the"),
    ("U.S. p.m. Mr. St. etc. no. 5 no. ft. oz.", "u.s. p.m. mr. st. etc. no. 5 no ft. oz"),
    ("caf\u00e9 na\u00efve \u00e9t\u00e9\u2019s", "caf\u00e9 na\u00efve \u00e9t\u00e9 's"),
    (
        "a\U0001f600b \u2764\ufe0f \u2022 \u2122 zero\u200bwidth",
        "a b \u2764 \u2022 \u2122 zero width",
    ),
    ("tab\ty x\u00a0y soft\u00adhyphen", "tab y x y softhyphen"),
    ("www.x.com a@b.com @user #tag x_y c++", "www.x.com a@b.com @user #tag x_y c++"),
    ("a \u201c\u2018b\u2019\u201d &amp; it&apos;s", "a ``` b ''' & it 's"),
]


@pytest.mark.parametrize(("caption", "answered"), ANSWERED)
def test_tokens_are_those_that_cocos_tokeniser_answered(caption, answered):
    assert caption_tokens(caption) == answered.split()


def test_typographic_quotes_score_as_straight_ones():
    said = ["a dog's ball isn't red", "the man's hat isn't on the table"]
    straight = [["A dog's ball isn't red ."], ["The man's hat isn't on the table ."]]
    curly = [[text.replace("'", "\u2019") for text in texts] for texts in straight]
    scores = caption_scores(said, curly).as_dict()
    assert scores == caption_scores(said, straight).as_dict()
    assert scores["bleu_4"] == pytest.approx(1)


def of_coco(captions, folder):
    """Words of captions by the tokeniser that pycocoevalcap ships, in Java."""
    if shutil.which("java") is None:
        pytest.skip("no java: COCO's tokeniser cannot run")
    file = folder / "captions.txt"
    file.write_text("\n".join(captions) + "\n", encoding="utf-8")
    jar = pathlib.Path(ptbtokenizer.__file__).with_name(ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR)
    command = ["java", "-Xmx256m", "-Dfile.encoding=UTF-8", "-cp", jar]
    command += ["edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase", file]
    made = subprocess.run(command, capture_output=True, check=True)
    lines = made.stdout.decode("utf-8").split("\n")[:-1]
    assert len(lines) == len(captions)
    # the scorers cut at any white space what the tokeniser joined
    return [
        [word for word in line.split() if word not in ptbtokenizer.PUNCTUATIONS] for line in lines
    ]


def test_cocos_tokeniser_answers_that_still(tmp_path):
    captions, answered = zip(*ANSWERED, strict=True)
    assert of_coco(captions, tmp_path) == [words.split() for words in answered]


PIECES = (
    "' \u2019 \u2018 ` \" \u201c \u201d '' - \u2013 \u2014 -- \u2026 ... . , ; : ! ? / & % $ "
    "\u00a3 \u20ac # * + \u00bd \u00b0 5 90s 1,000 n't n\u2019t 's \u2019s \u2019ll 're 'n' "
    "dog Dog ca is can a I U.S. p.m."
)


def test_tokens_of_chance_joints_are_those_of_cocos_tokeniser(tmp_path):
    rng = random.Random(0)
    joints = ["".join(rng.choices(PIECES.split(), k=rng.randint(1, 3))) for _ in range(4000)]
    captions = [" ".join(joints[i : i + 4]) for i in range(0, len(joints), 4)]
    known = of_coco(captions, tmp_path)
    differing = [
        text for text, words in zip(captions, known, strict=True) if caption_tokens(text) != words
    ]
    assert len(differing) <= 5, differing


def test_words_of_flickr8k_differ_in_six_captions_with_brackets(real_data, tmp_path):
    lines = real_data / "flickr8k" / "text" / "Flickr8k.token.txt"
    captions = [line.split("\t")[1] for line in lines.read_text("utf-8").splitlines()]
    assert len(captions) == 40_460
    known = of_coco(captions, tmp_path)
    differing = [
        text for text, words in zip(captions, known, strict=True) if caption_tokens(text) != words
    ]
    assert len(differing) == 6
    assert all("(" in text for text in differing)


@pytest.mark.parametrize("caption", [None, 3, b"a dog", ["a", "dog"]])
def test_tokens_of_what_is_no_text_are_refused(caption):
    with pytest.raises(TypeError, match="caption: expected a text, got"):
        caption_tokens(caption)


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


# labels


def test_captions_and_references_are_paired_by_label():
    captions, references = draw()
    known = caption_scores(captions, references)
    names = [f"photo {i}" for i in range(len(captions))]
    said, told = pd.Series(captions, names), pd.Series(references, names)
    shuffled = told.sample(frac=1, random_state=0)
    for one, other in ((said, shuffled), (said.to_dict(), shuffled), (said, shuffled.to_dict())):
        found = caption_scores(one, other)
        assert found.as_dict() == known.as_dict()
        assert (found.counts == known.counts).all()


def test_a_reference_a_column_will_do():
    references = pd.DataFrame({"first": ["a dog runs", "two men"], "second": ["a dog", "men talk"]})
    found = caption_scores(["a dog runs", "men talk"], references)
    assert found.bleu[0] == pytest.approx(1)


@pytest.mark.parametrize(
    ("captions", "references", "error", "message"),
    [
        (pd.Series(["a", "b"], [3, 4]), pd.Series(TWO, [3, 5]), ValueError, "references: lacks 4"),
        (
            pd.Series(["a", "b"], [3, 3]),
            pd.Series(TWO),
            ValueError,
            "captions: expected each label",
        ),
        (pd.Series(["a", "b"], [3, 4]), TWO, TypeError, "a Series and a list"),
        (["a", "b"], dict(enumerate(TWO)), TypeError, "a dict and a list"),
    ],
)
def test_labels_that_do_not_pair_are_refused(captions, references, error, message):
    with pytest.raises(error, match=message):
        caption_scores(captions, references)


@pytest.mark.parametrize(
    "counts",
    [np.empty((0, 10), int), [[0] * 9 + [-1]], [[5, 0, 0, 0, 4, 3, 2, 1, 4, 4]]],
)
def test_bleu_of_counts_that_cannot_be_is_refused(counts):
    with pytest.raises(ValueError, match="counts: expected those of one caption or more"):
        corpus_bleu(np.array(counts))


@pytest.mark.parametrize("captions", ["ab", iter(["a", "b"]), 3])
def test_captions_that_are_no_list_are_refused(captions):
    with pytest.raises(TypeError, match="captions: expected a list, one entry a caption, got"):
        caption_scores(captions, TWO)


# ROUGE-L, and other languages


def common(a, b):
    """Length of the longest common subsequence, by its definition."""
    if not a or not b:
        return 0
    if a[-1] == b[-1]:
        return 1 + common(a[:-1], b[:-1])
    return max(common(a[:-1], b), common(a, b[:-1]))


def test_rouge_l_is_its_equation():
    captions, references = draw(8)
    captions = [" ".join(text.split()[:6]) for text in captions]
    references = [[" ".join(text.split()[:7]) for text in texts] for texts in references]
    for score, caption, texts in zip(
        rouge_l(captions, references), captions, references, strict=True
    ):
        said, told = caption.split(), [text.split() for text in texts]
        p = max(common(said, words) / len(said) for words in told)
        r = max(common(said, words) / len(words) for words in told)
        known = (1 + 1.2**2) * p * r / (r + 1.2**2 * p) if p else 0
        assert score == pytest.approx(known)


def test_rouge_l_is_that_of_coco():
    captions, references = draw()
    truth, said = dict(enumerate(references)), {i: [text] for i, text in enumerate(captions)}
    mean, known = Rouge().compute_score(truth, said)
    found = rouge_l(captions, references)
    assert found == pytest.approx(known)
    assert found.mean() == pytest.approx(mean)
    assert 0 < found.min() < found.max() <= 1


def test_rouge_l_of_a_caption_of_no_words_is_zero():
    assert rouge_l(["", ".", "a dog"], [["a dog"]] * 3).tolist() == [0, 0, 1]


def test_rouge_l_is_paired_by_label():
    captions = pd.Series(["a dog", "two men"], index=[7, 3])
    references = pd.Series([["two men talk"], ["a dog"]], index=[3, 7])
    found = rouge_l(captions, references)
    assert found.tolist() == rouge_l(["a dog", "two men"], [["a dog"], ["two men talk"]]).tolist()
    assert found[0] == 1
    assert found[1] < 1


CHINESE = (
    ["\u4e00\u53ea\u72d7\u5728\u8dd1", "\u4e24\u4e2a\u4eba\u5728\u8bf4\u8bdd"],
    [
        ["\u4e00\u53ea\u72d7\u5728\u8349\u5730\u4e0a\u8dd1"],
        ["\u4e24\u4e2a\u7537\u4eba\u8bf4\u8bdd"],
    ],
)


def test_a_tokeniser_of_another_language_takes_the_place_of_ours():
    spaced = [" ".join(text) for text in CHINESE[0]]
    told = [[" ".join(text) for text in texts] for texts in CHINESE[1]]
    found, known = caption_scores(*CHINESE, tokenize=list), caption_scores(spaced, told)
    assert found.as_dict() == known.as_dict()
    assert 0 < found.bleu[1] < 1
    assert caption_scores(*CHINESE).bleu[0] < 0.01  # each caption is one word for ours
    assert rouge_l(*CHINESE, tokenize=list).tolist() == rouge_l(spaced, told).tolist()


def test_our_own_tokeniser_by_argument_changes_nothing():
    captions, references = draw()
    found = caption_scores(captions, references, tokenize=caption_tokens)
    assert found.as_dict() == caption_scores(captions, references).as_dict()


@pytest.mark.parametrize("score", [caption_scores, rouge_l])
@pytest.mark.parametrize(
    ("tokenize", "kind", "message"),
    [
        (str.upper, TypeError, r"tokenize: expected a list of words, got str 'A.*captions\[0\]"),
        (lambda text: [1, 2], TypeError, "tokenize: expected a list of words, got list of 2"),
        (lambda text: None, TypeError, "tokenize: expected a list of words, got NoneType"),
        (lambda text: ["a b"], ValueError, "tokenize: expected words without spaces, got 'a b'"),
        (lambda text: ["a", ""], ValueError, "tokenize: expected words without spaces, got ''"),
        (lambda text: ["a\u3000"], ValueError, "tokenize: expected words without spaces, got 'a"),
        (lambda text: [], ValueError, r"references\[0\]\[0\]: expected words, got 'a dog'"),
    ],
)
def test_tokenisers_that_are_refused(score, tokenize, kind, message):
    with pytest.raises(kind, match=message):
        score(["a dog", "two men"], [["a dog"], ["two men"]], tokenize=tokenize)


@pytest.mark.parametrize(
    ("captions", "references", "kind", "message"),
    [
        ([], [], ValueError, "captions: expected at least 1, got 0"),
        (["a"], [], ValueError, "references: expected one list a caption, got 0 for 1"),
        ("a dog", [["a"]], TypeError, "captions: expected a list, one entry a caption, got str"),
        (["a"], ["a"], ValueError, r"references\[0\]: expected a list of texts, got 'a'"),
        (["a <end>"], [["a"]], ValueError, r"captions\[0\]: expected words alone, got '<end>'"),
        (["a"], [["a", "."]], ValueError, r"references\[0\]\[1\]: expected words, got '.'"),
        ([3], [["a"]], TypeError, r"captions\[0\]: expected a text, got int 3"),
    ],
)
def test_rouge_l_refuses(captions, references, kind, message):
    with pytest.raises(kind, match=message):
        rouge_l(captions, references)
