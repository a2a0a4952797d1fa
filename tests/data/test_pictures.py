"""flickr8k, nlvr and snli-ve: pictures with text, in full where they are, and as tiny files."""

import json
from collections import Counter

import numpy as np
import PIL.Image
import pytest

from modalign import data


def picture(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), np.uint8)
    PIL.Image.fromarray(noise).save(path)
    return path


def cut(path):
    path.write_bytes(path.read_bytes()[:-200])
    return path


def skipping(name, folder, **options):
    """The rows that are kept, and why the others are not."""
    with pytest.warns(data.SkippedRows) as caught:
        rows = data.load(name, folder=folder, on_bad="skip", **options)
    (message,) = [w.message for w in caught if isinstance(w.message, data.SkippedRows)]
    assert f"{len(message.rows)} bad rows were skipped" in rows.info.description
    return rows, message.rows


# flickr8k


@pytest.mark.parametrize(
    ("split", "count"), [(None, 8091), ("train", 6000), ("validation", 1000), ("test", 1000)]
)
def test_flickr8k_in_full(real_data, split, count):
    rows = data.load("flickr8k", split, verify=split == "test", checksums=True)
    assert rows.num_rows == count == len(set(rows["id"]))
    assert {len(captions) for captions in rows["captions"]} == {5}
    assert rows[0]["image"].size == (128, 128)
    expected = {"train": 6000, "validation": 1000, "test": 1000, None: 91}
    assert Counter(rows["split"]) == (expected if split is None else {split: count})


def test_flickr8k_reports_the_photograph_that_was_never_distributed(real_data):
    rows = data.load("flickr8k", row="caption", verify=False)
    assert rows.num_rows == 5 * 8091 == 40460 - 5
    assert "5 captions of 2258277193_586949ec62.jpg, never distributed" in rows.info.description
    assert rows[0]["id"] == "1000268201_693b08cb0e.jpg#0"
    assert rows[0]["text"].startswith("A child in a pink dress is climbing")


@pytest.fixture
def flickr8k(tmp_path):
    folder = tmp_path / "flickr8k"
    text = folder / "text"
    text.mkdir(parents=True)
    for i, name in enumerate(("a.jpg", "b.jpg", "c.jpg", "d.jpg")):
        picture(folder / "images" / name, i)
    lines = [f"{name}.jpg#{k}\tCaption {k} of {name} .\n" for name in "abcd" for k in range(2)]
    (text / "Flickr8k.token.txt").write_text("".join(lines))
    for split, name in (("train", "a"), ("dev", "b"), ("test", "c")):
        (text / f"Flickr_8k.{split}Images.txt").write_text(f"{name}.jpg\n")
    return folder


def captions(folder, change):
    path = folder / "text" / "Flickr8k.token.txt"
    path.write_bytes(change(path.read_bytes()))


def test_small_flickr8k_is_read(flickr8k):
    rows = data.load("flickr8k", folder=flickr8k)
    assert rows["split"] == ["train", "validation", "test", None]
    assert rows[1]["captions"] == ["Caption 0 of b .", "Caption 1 of b ."]
    assert rows[0]["image"].size == (60, 40)
    each = data.load("flickr8k", "test", folder=flickr8k, row="caption")
    assert each["id"] == ["c.jpg#0", "c.jpg#1"]
    with pytest.raises(ValueError, match="flickr8k: row: expected one of image, caption"):
        data.load("flickr8k", folder=flickr8k, row="word")


def test_flickr8k_takes_another_folder_of_images(flickr8k):
    other = flickr8k / "small"
    (flickr8k / "images").rename(other)
    assert data.load("flickr8k", folder=flickr8k, images=other).num_rows == 4
    with pytest.raises(FileNotFoundError, match="no .*/images. Get it from"):
        data.load("flickr8k", folder=flickr8k)
    with pytest.raises(FileNotFoundError, match="images: no folder nowhere"):
        data.load("flickr8k", folder=flickr8k, images="nowhere")


@pytest.mark.parametrize(
    ("change", "row", "problem", "kept"),
    [
        (lambda text: text.replace(b"a.jpg#1\t", b"a.jpg#1 "), 2, "got 1 fields", 4),
        (lambda text: text.replace(b"a.jpg#1", b"a.jpg"), 2, "expected IMAGE#NUMBER", 4),
        (lambda text: text.replace(b"a.jpg#1", b"a.jpg#0"), 2, "duplicate: caption 'a.jpg#0'", 4),
        (lambda text: text.replace(b"Caption 1 of b .", b" "), 4, "got an empty one", 4),
        (lambda text: text.replace(b"1 of b", b"\xff of b"), 4, "expected UTF-8", 4),
        (lambda text: text.replace(b"a.jpg#1", b"\na.jpg#1"), 2, "got 1 fields", 4),
        (lambda text: text + b"e.jpg#0\tNo picture .", 9, "no image .*e.jpg", 4),
    ],
)
def test_a_bad_caption_is_named_or_counted(flickr8k, change, row, problem, kept):
    captions(flickr8k, change)
    with pytest.raises(data.BadRow, match=rf"Flickr8k.token.txt, row {row}: .*{problem}"):
        data.load("flickr8k", folder=flickr8k)
    rows, skipped = skipping("flickr8k", flickr8k)
    assert rows.num_rows == kept
    assert len(skipped) == 1
    assert f"row {row}: " in skipped[0]


def test_a_truncated_photograph_is_named_or_counted(flickr8k):
    cut(flickr8k / "images" / "b.jpg")
    with pytest.raises(data.BadRow, match=r"token.txt, row 3: .*images/b.jpg is truncated"):
        data.load("flickr8k", folder=flickr8k)
    rows, skipped = skipping("flickr8k", flickr8k)
    assert rows["id"] == ["a.jpg", "c.jpg", "d.jpg"]
    assert len(skipped) == 1
    assert data.load("flickr8k", "test", folder=flickr8k).num_rows == 1
    assert data.load("flickr8k", folder=flickr8k, verify=False).num_rows == 4


def test_a_photograph_without_caption_is_a_bad_row(flickr8k):
    captions(flickr8k, lambda text: b"".join(text.splitlines(keepends=True)[2:-2]))
    rows, skipped = skipping("flickr8k", flickr8k)
    assert rows["id"] == ["b.jpg", "c.jpg"]
    assert "trainImages.txt: a.jpg has no caption" in skipped[0]
    assert "d.jpg: no caption of it" in skipped[1]


# flickr8k as Kaggle lays it out


@pytest.fixture
def kaggle(tmp_path):
    folder = tmp_path / "flickr8k"
    for i, name in enumerate(("a.jpg", "b.jpg", "c.jpg", "d.jpg")):
        picture(folder / "Images" / name, i)
    lines = [f'{name}.jpg,"Caption {k} , of ""{name}"" ."\n' for name in "abcd" for k in range(2)]
    (folder / "captions.txt").write_text("image,caption\n" + "".join(lines))
    return folder


def load_kaggle(folder, *args, **options):
    with pytest.warns(UserWarning, match="no row has a split, because the lists"):
        return data.load("flickr8k", *args, folder=folder, layout="kaggle", **options)


def test_flickr8k_of_kaggle_is_read(kaggle):
    rows = load_kaggle(kaggle)
    assert rows["id"] == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    assert rows["split"] == [None] * 4
    assert rows[1]["captions"] == ['Caption 0 , of "b" .', 'Caption 1 , of "b" .']
    assert rows[0]["image"].size == (60, 40)
    each = load_kaggle(kaggle, row="caption")
    assert each["id"][:3] == ["a.jpg#0", "a.jpg#1", "b.jpg#0"]
    data.check("flickr8k", folder=kaggle, layout="kaggle")


def test_both_layouts_give_the_same_rows(kaggle):
    text = kaggle / "text"
    text.mkdir()
    for split, name in (("train", "a"), ("dev", "b"), ("test", "c")):
        (text / f"Flickr_8k.{split}Images.txt").write_text(f"{name}.jpg\n")
    lines = [f'{n}.jpg#{k}\tCaption {k} , of "{n}" .\n' for n in "abcd" for k in range(2)]
    (text / "Flickr8k.token.txt").write_text("".join(lines))
    for split in (None, "train", "validation", "test"):
        for row in ("image", "caption"):
            ours = data.load("flickr8k", split, folder=kaggle, layout="kaggle", row=row)
            images = {"images": kaggle / "Images"}
            official = data.load("flickr8k", split, folder=kaggle, row=row, **images)
            assert ours.remove_columns("image").to_list() == (
                official.remove_columns("image").to_list()
            )
            assert ours.features == official.features


@pytest.mark.parametrize(
    ("change", "row", "problem"),
    [
        (lambda text: text.replace('b.jpg,"Caption 0 , of ""b"" ."', "b.jpg"), 4, "got 1"),
        (lambda text: text.replace('"Caption 1 , of ""b"" ."', ""), 5, "a caption, got an empty"),
        (lambda text: text.replace('"Caption 1 , of ""b"" ."', "one , two"), 5, "got 3"),
        (lambda text: text.replace('b.jpg,"Caption 1', ',"Caption 1'), 5, "file name of a photog"),
        (lambda text: text.replace('""b"" ."\nc', '""b"" .\nc'), 5, "a quote is not closed"),
        (lambda text: text + "e.jpg,No picture .\n", 10, "no image .*e.jpg"),
        (lambda text: text + "../secret.jpg,Outside .\n", 10, "leads out of the folder"),
        (
            lambda text: text.replace("image,caption", "image,text"),
            2,
            "expected the header image,c",
        ),
    ],
)
def test_a_bad_row_of_kaggle_is_named(kaggle, change, row, problem):
    path = kaggle / "captions.txt"
    path.write_text(change(path.read_text()))
    with pytest.raises(data.BadRow, match=rf"captions.txt, row {row}: .*{problem}"):
        data.load("flickr8k", folder=kaggle, layout="kaggle")


def test_kaggle_photographs_without_caption_and_files_that_lack(kaggle):
    path = kaggle / "captions.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-2]))
    with pytest.raises(data.BadRow, match=r"d.jpg: no caption of it in captions.txt"):
        data.load("flickr8k", folder=kaggle, layout="kaggle")
    with pytest.raises(FileNotFoundError, match=r"no .*Flickr_8k.trainImages.txt"):
        data.load("flickr8k", "train", folder=kaggle, layout="kaggle")
    with pytest.raises(
        ValueError, match=r"flickr8k: layout: expected one of official, kaggle, got"
    ):
        data.load("flickr8k", folder=kaggle, layout="Kaggle")
    path.write_text("")
    with pytest.raises(data.BadRow, match=r"captions.txt: .*the file is empty"):
        data.load("flickr8k", folder=kaggle, layout="kaggle")
    path.unlink()
    for ask in (data.load, data.check):
        with pytest.raises(FileNotFoundError, match=r"no .*captions.txt. Get it from"):
            ask("flickr8k", folder=kaggle, layout="kaggle")


def test_a_photograph_in_two_splits_is_a_bad_row(flickr8k):
    (flickr8k / "text" / "Flickr_8k.testImages.txt").write_text("c.jpg\na.jpg\n")
    with pytest.raises(data.BadRow, match="testImages.txt, row 2: .*a.jpg is in the train list"):
        data.load("flickr8k", folder=flickr8k)


def test_judgements_in_full(real_data):
    rows = data.load("flickr8k-expert", verify=False, checksums=True)
    assert rows.num_rows == 5822 == len(set(rows["id"]))
    assert len(set(rows["photograph"])) == 1000
    assert sum(rows["own"]) == 158
    counts = Counter(score for scores in rows["judgements"] for score in scores)
    assert counts == {1: 9797, 2: 4997, 3: 1701, 4: 971}
    of_own = np.array(rows.filter(lambda own: own, input_columns="own")["judgements"])
    assert of_own.mean() > 3.5 > 2 > np.mean(list(counts.elements()))
    assert data.load("flickr8k-expert", "test", verify=False).num_rows == 5822


@pytest.fixture
def judged(flickr8k):
    lines = ["c.jpg\tc.jpg#0\t4\t4\t3\n", "c.jpg\ta.jpg#1\t1\t1\t2\n"]
    (flickr8k / "text" / "ExpertAnnotations.txt").write_text("".join(lines))
    return flickr8k


def test_small_judgements_are_read(judged):
    first, second = data.load("flickr8k-expert", folder=judged)
    assert first["judgements"] == [4, 4, 3]
    assert (first["own"], second["own"]) == (True, False)
    assert (second["photograph"], second["caption"]) == ("c.jpg", "a.jpg#1")
    assert second["text"] == "Caption 1 of a ."
    assert second["split"] == "test"
    assert second["image"].size == (60, 40)
    with pytest.raises(FileNotFoundError, match="images: no folder nowhere"):
        data.load("flickr8k-expert", folder=judged, images="nowhere")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"c.jpg\tc.jpg#1\t4\t4", "got 4 fields"),
        (b"c.jpg\tc.jpg#1\t4\t4\t5", "judgements from 1 to 4, got 4, 4, 5"),
        (b"c.jpg\tc.jpg#1\t4\t4\t", "judgements from 1 to 4, got 4, 4, "),
        (b"c.jpg\tc.jpg#7\t4\t4\t4", "no caption c.jpg#7 in text/Flickr8k.token.txt"),
        (b"c.jpg\tc.jpg#0\t4\t4\t4", "duplicate: pair 'c.jpg c.jpg#0'"),
        (b"e.jpg\tc.jpg#1\t4\t4\t4", "no image .*e.jpg"),
    ],
)
def test_a_bad_judgement_is_named_or_counted(judged, line, problem):
    path = judged / "text" / "ExpertAnnotations.txt"
    path.write_bytes(path.read_bytes() + line)
    with pytest.raises(data.BadRow, match=rf"ExpertAnnotations.txt, row 3: .*{problem}"):
        data.load("flickr8k-expert", folder=judged)
    rows, _ = skipping("flickr8k-expert", judged)
    assert rows.num_rows == 2


# nlvr


@pytest.mark.parametrize(("split", "count", "true"), [("validation", 989, 547), ("test", 990, 556)])
def test_nlvr_in_full(real_data, split, count, true):
    rows = data.load("nlvr", split, checksums=True)
    assert rows.num_rows == count == len(set(rows["id"]))
    assert sum(rows["label"]) == true
    assert rows.features["label"].names == ["false", "true"]
    assert all(len(boxes) == 3 for boxes in rows["structure"])
    assert rows[0]["image"].size == (400, 100)


def test_nlvr_names_the_split_that_is_not_there(real_data):
    with pytest.warns(UserWarning, match="no file here: train .*train.json") as caught:
        rows = data.load("nlvr", verify=False)
    assert caught[0].filename == __file__
    assert rows.num_rows == 1979
    with pytest.raises(FileNotFoundError, match="nlvr: no .*train.json. Get it from"):
        data.load("nlvr", "train")


def example(identifier="1-0", **changes):
    item = {"x_loc": 1, "y_loc": 2, "type": "circle", "color": "Black", "size": 10}
    row = {"sentence": "There is a circle.", "label": "true", "identifier": identifier}
    return {**row, "directory": "0", "structured_rep": [[item], [item, item], []], **changes}


def nlvr(folder, *rows):
    (folder / "dev").mkdir(exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "dev" / "dev.json").write_text("\n".join(lines))
    for name in ("1-0", "1-1"):
        picture(folder / "dev" / "images" / "0" / f"dev-{name}-0.png")
    return folder


def test_small_nlvr_is_read(tmp_path):
    nlvr(tmp_path, example(), example("1-1", label="false"))
    rows = data.load("nlvr", "validation", folder=tmp_path)
    assert rows["label"] == [1, 0]
    assert [len(box) for box in rows[0]["structure"]] == [1, 2, 0]
    with pytest.raises(data.BadRow, match="row 1: no image .*dev-1-0-5.png"):
        data.load("nlvr", "validation", folder=tmp_path, permutation=5)
    with pytest.raises(ValueError, match="permutation: expected 0 to 5, got 6"):
        data.load("nlvr", "validation", folder=tmp_path, permutation=6)


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ("{not json", "expected a JSON object, got"),
        ("[]", "expected a JSON object"),
        (example(), "duplicate: identifier '1-0' came before"),
        (example("1-1", label="maybe"), "label: expected 'true' or 'false', got 'maybe'"),
        (example("1-1", sentence=3), "sentence: expected str, got 3"),
        (example("1-1", sentence=" "), "expected a sentence, got an empty one"),
        (example("1-1", structured_rep=[[]]), "structured_rep: expected three lists"),
        (example("1-1", structured_rep=[[{"x_loc": 1}], [], []]), "expected a key 'y_loc'"),
        ({"label": "true"}, "expected a key 'sentence', got 'label'"),
        (example("9-9"), "no image .*dev-9-9-0.png"),
    ],
)
def test_a_bad_example_is_named_or_counted(tmp_path, bad, problem):
    nlvr(tmp_path, example(), bad)
    with pytest.raises(data.BadRow, match=f"nlvr: .*dev.json, row 2: {problem}"):
        data.load("nlvr", "validation", folder=tmp_path)
    rows, skipped = skipping("nlvr", tmp_path, split="validation")
    assert (rows.num_rows, len(skipped)) == (1, 1)


def test_a_truncated_picture_is_named(tmp_path):
    nlvr(tmp_path, example(), example("1-1"))
    cut(tmp_path / "dev" / "images" / "0" / "dev-1-1-0.png")
    with pytest.raises(data.BadRow, match="row 2: .*dev-1-1-0.png is truncated"):
        data.load("nlvr", "validation", folder=tmp_path)


# snli-ve


@pytest.mark.parametrize(
    ("split", "count", "photographs", "training"),
    [("validation", 3217, 233, 185), ("test", 4155, 285, 213)],
)
def test_snli_ve_in_full(real_data, split, count, photographs, training):
    rows = data.load("snli-ve", split, checksums=True)
    assert rows.num_rows == count == len(set(rows["id"]))
    where = dict(zip(rows["photograph"], rows["flickr8k_split"], strict=True))
    assert len(where) == photographs
    assert list(where.values()).count("train") == training
    classes = Counter(rows.features["label"].int2str(label) for label in rows["label"])
    entailments = {"validation": (1188, 769, 1260), "test": (1476, 1044, 1635)}[split]
    assert classes == dict(zip(rows.features["label"].names, entailments, strict=True))


def snlive(flickr8k, *rows, header="pairID\timage\thypothesis\tgold_label"):
    folder = flickr8k.parent / "snlive"
    folder.mkdir()
    (folder / "flickr8k_dev.tsv").write_text("\n".join([header, *rows]) + "\n")
    return folder


def test_small_snli_ve_is_read(flickr8k):
    folder = snlive(flickr8k, 'a#0r1e\ta.jpg\tHe said "yes".\tentailment')
    rows = data.load("snli-ve", "validation", folder=folder)
    assert rows[0]["text"] == 'He said "yes".'
    assert rows[0]["flickr8k_split"] == "train"
    flickr8k.rename(flickr8k.parent / "elsewhere")
    with pytest.raises(FileNotFoundError, match="flickr8k: no folder .* Get it from"):
        data.load("snli-ve", "validation", folder=folder)
    other = flickr8k.parent / "elsewhere"
    assert data.load("snli-ve", "validation", folder=folder, flickr8k_folder=other).num_rows == 1


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ("b#0\tb.jpg\tA dog.", "expected pairID TAB image .*got 3 fields"),
        ("b#0\tb.jpg\tA dog.\t-", "gold_label: expected one of entailment.*got '-'"),
        ("a#0\tb.jpg\tA dog.\tneutral", "duplicate: pairID 'a#0'"),
        ("b#0\tb.jpg\t\tneutral", "expected a hypothesis, got an empty one"),
        ("b#0\tz.jpg\tA dog.\tneutral", "no image .*z.jpg"),
    ],
)
def test_a_bad_pair_is_named_or_counted(flickr8k, bad, problem):
    folder = snlive(flickr8k, "a#0\ta.jpg\tA dog.\tneutral", bad)
    with pytest.raises(data.BadRow, match=f"snli-ve: .*_dev.tsv, row 3: {problem}"):
        data.load("snli-ve", "validation", folder=folder)
    rows, skipped = skipping("snli-ve", folder, split="validation")
    assert (rows.num_rows, len(skipped)) == (1, 1)


def test_another_header_is_refused(flickr8k):
    folder = snlive(flickr8k, header="id\timage\ttext\tlabel")
    with pytest.raises(ValueError, match="row 1: expected the header pairID TAB"):
        data.load("snli-ve", "validation", folder=folder)


# files named in data sets


@pytest.fixture
def secret(tmp_path):
    return picture(tmp_path / "secret.jpg")


@pytest.mark.parametrize("how", ["../../secret.jpg", "absolute", "link"])
@pytest.mark.parametrize("name", ["flickr8k", "flickr8k-expert", "snli-ve"])
@pytest.mark.parametrize("verify", [True, False])
def test_photographs_of_other_folders_are_not_read(judged, secret, how, name, verify):
    named = {"absolute": str(secret), "link": "link.jpg"}.get(how, how)
    if how == "link":
        (judged / "images" / named).symlink_to(secret)
    captions(judged, lambda text: text + f"{named}#0\tNot of this set .\n".encode())
    with open(judged / "text" / "ExpertAnnotations.txt", "a") as file:
        file.write(f"{named}\tc.jpg#0\t4\t4\t4\n")
    folder = snlive(judged, "a#0\ta.jpg\tA dog.\tneutral", f"b#0\t{named}\tA dog.\tneutral")
    folder, split = (folder, "validation") if name == "snli-ve" else (judged, None)
    with pytest.raises(
        data.BadRow, match="row [39]: .*leads out of the folder .*images, and is not"
    ):
        data.load(name, split, folder=folder, verify=verify)
    rows, skipped = skipping(name, folder, split=split, verify=verify)
    assert len(skipped) == 1
    assert not any("secret" in str(cell) or "link" in str(cell) for cell in rows["id"])


def test_pictures_of_other_folders_are_not_read(tmp_path):
    nlvr(tmp_path, example(), example(identifier="1-1", directory="../.."))
    picture(tmp_path / "dev-1-1-0.png")
    assert data.load("nlvr", "validation", folder=tmp_path, on_bad="raise").num_rows == 2
    nlvr(tmp_path, example(), example(identifier="1-1", directory="../../.."))
    with pytest.raises(data.BadRow, match="row 2: .*leads out of the folder"):
        data.load("nlvr", "validation", folder=tmp_path)


@pytest.mark.parametrize("name", ["text/Flickr8k.token.txt", "images"])
def test_files_of_a_set_are_no_links_out_of_it(flickr8k, name):
    (flickr8k / name).rename(flickr8k.parent / "elsewhere")
    (flickr8k / name).symlink_to(flickr8k.parent / "elsewhere")
    with pytest.raises(data.BadRow, match=f"flickr8k: '{name}' leads out of the folder"):
        data.load("flickr8k", folder=flickr8k)


@pytest.mark.parametrize("number", [2**40, 10**30])
def test_a_number_beyond_its_column_is_a_bad_row(tmp_path, number):
    item = {"x_loc": number, "y_loc": 2, "type": "circle", "color": "Black", "size": 10}
    nlvr(tmp_path, example(), example("1-1", structured_rep=[[item], [], []]))
    with pytest.raises(data.BadRow, match="dev.json, row 2: "):
        data.load("nlvr", "validation", folder=tmp_path)
    rows, skipped = skipping("nlvr", tmp_path, split="validation")
    assert (rows.num_rows, len(skipped)) == (1, 1)
