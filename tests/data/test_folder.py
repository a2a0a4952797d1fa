"""hub: folders of files: nothing is lost without a word, and nothing outside is read."""

import json
import os
import warnings

import datasets
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet
import pytest
import soundfile

from modalign import data


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "a set [v2] *"
    path.mkdir()
    return path


def text(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", (8, 8)).save(path)


def sound(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(800), 8000, format="WAV")


def load(folder, *args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return data.load(f"hub:{folder}", *args, **options)


def skipping(folder, **options):
    """The rows that are kept, and why the others are not."""
    with pytest.warns(data.SkippedRows) as caught:
        rows = data.load(f"hub:{folder}", on_bad="skip", **options)
    (message,) = [w.message for w in caught if isinstance(w.message, data.SkippedRows)]
    return rows, message.rows


# texts


def test_texts_of_csv_stay_texts(folder):
    odd = ["NA", "null", "None", "nan", "True", "1e5", "2020-01-01", "+1", "0.50", "9" * 5000]
    lines = "".join(f"{i},{text},00{i}\n" for i, text in enumerate(odd))
    text(folder / "train.csv", f"n,text,code\n{lines}")
    rows = load(folder)
    assert rows["text"] == odd
    assert rows["code"][:3] == ["000", "001", "002"]
    assert rows["n"] == list(range(len(odd)))


def test_numbers_of_csv_are_numbers_where_nothing_is_lost_by_it(folder):
    text(folder / "train.csv", f"a,b,c,d\n1,0.5,1,{2**63}\n-2,,1.5,1\n")
    rows = load(folder)
    assert [rows[name][:] for name in "abcd"] == [[1, -2], [0.5, None], [1, 1.5], [str(2**63), "1"]]
    # the type is that of all files, so that splits agree
    text(folder / "test.csv", "a,b,c,d\n007,1,1,1\n")
    assert load(folder, "train")["a"] == ["1", "-2"]


def test_a_field_of_nothing_is_missing_and_quotes_are_an_empty_text(folder):
    text(folder / "train.csv", 'id,text\n1,\n2,""\n3,"a ""b"",\r\nc"\r\n\n4,d')
    assert load(folder)["text"] == [None, "", 'a "b",\r\nc', "d"]
    text(folder / "train.csv", "text\na\n\nb\n\n")
    assert load(folder)["text"] == ["a", None, "b"]


def test_texts_of_json_and_of_lines_stay_texts(folder):
    rows = [{"text": "2020-01-01"}, {"text": "007"}, {"text": "NA"}]
    text(folder / "train.jsonl", "\n".join(map(json.dumps, rows)))
    text(folder / "test.json", "\ufeff" + json.dumps(rows, indent=1))
    assert load(folder)["text"] == 2 * ["2020-01-01", "007", "NA"]
    lines = folder.parent / "lines"
    text(lines / "train.txt", "007\n\nNA\n")
    assert load(lines)["text"] == ["007", "", "NA"]


CSV = [
    ("1,b,c", "expected 2 fields as in the header, got 3"),
    ("1", "expected 2 fields as in the header, got 1"),
    ('1,"b', "a quote is not closed, or closed too early"),
    ('1,"b"c', "a quote is not closed, or closed too early"),
    (b"1,caf\xe9", r"expected UTF-8, got b'1caf\\xe9'"),
]
JSON = [
    ('{"id": "1", "text": ["b"]}', "text: expected string as in other rows, got"),
    ('{"id": "1", "text": 3}', "text: expected string as in other rows, got 3"),
    ('{"id": "1", "n": %s}' % ("9" * 30), "a whole number of at most 64 bits .*of 30 characters"),
    ('{"id": "1", "n": %s}' % ("9" * 5000), "a whole number of at most 64 bits .*5000 characters"),
    ('{"id": "1", "n": 1e999}', "expected a number within float64, got 1e999"),
    (r'{"id": "1", "text": "\ud800"}', "a lone surrogate"),
    ('{"id": "1", "id": "2"}', "the key 'id' is given twice"),
    ('{"id": %s}' % ("[" * 5000 + "]" * 5000), "expected at most 100 lists"),
    ('{"id": %s}' % ('{"a":' * 5000 + "1" + "}" * 5000), "expected at most 100 lists"),
    ("[1]", "expected a JSON object with keys"),
    ("{cut}", "expected a JSON object"),
    (b'{"id": "1", "text": "\xff"}', "expected UTF-8"),
]


@pytest.mark.parametrize(("bad", "problem"), CSV)
def test_a_bad_row_of_csv_is_named_or_counted(folder, bad, problem):
    line = bad if isinstance(bad, bytes) else bad.encode()
    text(folder / "train.csv", b"id,text\n0,a\n" + line + b"\n2,c\n")
    with pytest.raises(data.BadRow, match=rf"train\.csv, row 3: {problem}"):
        load(folder)
    rows, skipped = skipping(folder)
    assert (rows["id"], len(skipped)) == ([0, 2], 1)


@pytest.mark.parametrize("suffix", ["jsonl", "json"])
@pytest.mark.parametrize(("bad", "problem"), JSON)
def test_a_bad_row_of_json_is_named_or_counted(folder, suffix, bad, problem):
    line = bad if isinstance(bad, bytes) else bad.encode()
    rows = [b'{"id": "0", "text": "a"}', line, b'{"id": "2", "text": "c"}']
    content = b"\n".join(rows) if suffix == "jsonl" else b"[" + b",\n".join(rows) + b"]"
    text(folder / f"train.{suffix}", content)
    with pytest.raises(data.BadRow, match=rf"train\.{suffix}, row 2: .*{problem}"):
        load(folder)
    rows, skipped = skipping(folder)
    assert (rows["id"], len(skipped)) == (["0", "2"], 1)


def test_the_odd_value_is_the_rare_one_wherever_it_stands(folder):
    text(folder / "train.jsonl", '{"a": ["x"]}\n{"a": "b"}\n{"a": "c"}\n')
    with pytest.raises(data.BadRow, match="row 1: a: expected string as in other rows"):
        load(folder)
    text(folder / "train.jsonl", '{"a": 0.5}\n{"a": 2}\n{"a": 4611686018427387905}\n{"a": true}\n')
    rows, skipped = skipping(folder)
    assert rows["a"] == [0.5, 2.0]
    assert len(skipped) == 2


def test_a_bad_row_of_parquet_is_named_or_counted(folder):
    offsets, content = np.array([0, 1, 2, 3], np.int32), b"a\xffc"
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(content)]
    table = pa.table({"text": pa.Array.from_buffers(pa.string(), 3, buffers)})
    pyarrow.parquet.write_table(table, folder / "train.parquet")
    with pytest.raises(data.BadRow, match=r"train\.parquet, row 2: .*UTF8"):
        load(folder)
    assert skipping(folder)[0]["text"] == ["a", "c"]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.csv", "", "the file is empty"),
        ("a.csv", "id,id\n1,2\n", "2 columns are named 'id'"),
        ("a.json", '[{"a": 1},', "expected a JSON list"),
        ("a.json", "[" * 100_000, "expected a JSON list"),
        ("a.parquet", "PAR1", "damaged or of another format"),
        ("a.arrow", "ARROW1", "damaged or of another format"),
    ],
)
def test_a_damaged_file_is_named_or_counted(folder, name, content, problem):
    text(folder / name, content)
    text(folder / f"b{os.path.splitext(name)[1]}", content)
    with pytest.raises(data.BadRow, match=rf"a\.\w+: .*{problem}"):
        load(folder)
    with pytest.raises(ValueError, match="it has no row; skipped: "):
        data.load(f"hub:{folder}", on_bad="skip")


def test_files_whose_columns_disagree_are_refused(folder):
    for split, value in (("train", 1), ("test", "x")):
        table = pa.table({"a": [value]})
        pyarrow.parquet.write_table(table, folder / f"{split}.parquet")
    with pytest.raises(ValueError, match="column 'a' is Value.'int64'. in one file and"):
        load(folder)


# splits


@pytest.mark.parametrize("kind", ["wav", "png"])
def test_folders_of_splits_are_no_classes(folder, kind):
    make = sound if kind == "wav" else picture
    for split in ("train", "Test"):
        for i in range(2):
            make(folder / split / f"{i}.{kind.upper()}")
    rows = load(folder)
    assert rows["split"] == ["train", "train", "test", "test"]
    assert "label" not in rows.features
    assert load(folder, "test").num_rows == 2


def test_pictures_may_be_named_like_splits(folder):
    names = ["bridge", "cat", "train_station", "test_tube", "val_kilmer", "test"]
    for name in names:
        picture(folder / f"{name}.png")
    assert load(folder)["split"] == ["train"] * len(names)


def test_pictures_that_are_all_named_by_split_are_in_it(folder):
    for name in ("train_0", "train_1", "test_0"):
        picture(folder / f"{name}.png")
    assert load(folder)["split"] == ["train", "train", "test"]


def test_a_class_may_be_called_train(folder):
    for name in ("bus", "car", "train"):
        picture(folder / name / "0.png")
    rows = load(folder)
    assert [rows.features["label"].names[i] for i in rows["label"]] == ["bus", "car", "train"]
    for name in ("test", "bus"):
        picture(folder.parent / "inside" / "train" / name / "0.png")
    assert load(folder.parent / "inside", "train")["label"] == [0, 1]


def test_what_might_be_a_test_set_is_not_taken_for_training_data(folder):
    for name in ("train", "test", "extra"):
        text(folder / f"words_{name}.csv", f"text\n{name}\n")
    with pytest.raises(data.BadRow, match="words_extra.csv: it names no split, and words_test.csv"):
        load(folder)
    rows, skipped = skipping(folder)
    assert rows["text"] == ["train", "test"]
    assert len(skipped) == 1


@pytest.mark.parametrize(
    "name", ["test.csv", "TEST.CSV", "eval-1.csv", "test/a.csv", "x/test/a.csv"]
)
def test_a_test_set_alone_is_no_training_data(folder, name):
    text(folder / name, "text\na\n")
    assert load(folder)["split"] == ["test"]
    with pytest.raises(ValueError, match="no 'train' there, but test"):
        load(folder, "train")


def test_the_folder_of_a_test_set_is_no_training_data(tmp_path):
    text(tmp_path / "test" / "a.csv", "text\na\n")
    assert load(tmp_path / "test")["split"] == ["test"]


def test_a_column_of_splits_decides(folder):
    text(folder / "all.csv", "text,split\na,train\nb,test\nc,\n")
    assert load(folder)["split"] == ["train", "test", None]
    assert load(folder, "train")["text"] == ["a"]
    os.rename(folder / "all.csv", folder / "train.csv")
    with pytest.raises(data.BadRow, match=r"train.csv, row 3: its column split says 'test'"):
        load(folder)


def test_a_saved_set_is_split_by_its_column(tmp_path):
    data.load("digits").save_to_disk(tmp_path / "saved")
    assert load(tmp_path / "saved", "test").num_rows == 360
    assert load(tmp_path / "saved", "train", verify=False).num_rows == 1437


def test_two_names_of_one_split_are_refused(folder):
    for name in ("dev", "val"):
        text(folder / f"{name}.csv", "text\na\n")
    with pytest.raises(ValueError, match="dev and val would both be validation"):
        load(folder)
    text(folder.parent / "two" / "my_test" / "train.csv", "text\na\n")
    with pytest.raises(data.BadRow, match="its path names two splits, test and train"):
        load(folder.parent / "two")


def test_the_readme_of_a_repository_says_what_is_which_split(folder):
    for name in ("one", "two", "three"):
        text(folder / "x" / f"{name}.csv", f"text\n{name}\n")
    files = "\n".join(
        f"  - {{split: {s}, path: x/{n}.csv}}" for s, n in (("train", "two"), ("test", "one"))
    )
    text(
        folder / "README.md", f"---\nconfigs:\n- config_name: words\n  data_files:\n{files}\n---\n"
    )
    with pytest.warns(UserWarning, match="2 left out, not of kind table: README.md, x/three.csv"):
        rows = data.load(f"hub:{folder}")
    assert (rows["text"], rows["split"]) == (["two", "one"], ["train", "test"])
    with pytest.raises(ValueError, match="config: expected one of words, got 'other'"):
        load(folder, config="other")
    text(folder / "README.md", "---\nconfigs:\n- data_files: ../*.csv\n---\n")
    with pytest.raises(data.BadRow, match="leads out of the folder"):
        load(folder)


# files


def test_every_file_is_read_or_named(folder):
    for name in ("a.csv", "deep/er/b.TSV", "c.jsonl"):
        text(folder / name, '{"text": "x"}\n' if name.endswith("l") else "text\nx\n")
    for name in (".hidden.csv", ".git/config", "README.md", "deep/notes.docx"):
        text(folder / name, "text\ny\n")
    with pytest.warns(UserWarning, match="4 left out, not of kind table: .*notes.docx") as caught:
        rows = data.load(f"hub:{folder}")
    assert rows["text"] == ["x"] * 3
    assert all(name in str(caught[0].message) for name in (".git", ".hidden.csv", "README.md"))
    assert "4 left out" in rows.info.description


def test_what_is_no_file_is_not_waited_for(folder):
    text(folder / "a.csv", "text\nx\n")
    os.mkfifo(folder / "b.csv")
    (folder / "c.csv").symlink_to(folder / "nowhere")
    with pytest.warns(UserWarning, match="2 left out, not of kind table: b.csv, c.csv"):
        assert data.load(f"hub:{folder}").num_rows == 1


def test_a_folder_of_other_files_is_refused_with_their_names(folder):
    text(folder / "a.zip", "x")
    with pytest.raises(ValueError, match="expected files of .jpg.*it holds only a.zip"):
        load(folder)


def test_classes_are_told_apart_by_all_their_folders(folder):
    for name in ("animals/jaguar", "cars/jaguar"):
        picture(folder / "train" / name / "0.png")
    picture(folder / "test" / "1.png")
    rows = load(folder)
    assert rows.features["label"].names == ["animals/jaguar", "cars/jaguar"]
    assert rows["label"] == [0, 1, -1]
    picture(folder / "train" / "2.png")
    with pytest.raises(data.BadRow, match=r"train/2.png: it lies in no folder of a class"):
        load(folder)


@pytest.mark.parametrize("kind", ["audio", "image"])
def test_a_table_tells_about_files(folder, kind):
    make, suffix = (sound, "wav") if kind == "audio" else (picture, "png")
    for name in ("train/a", "train/b", "test/a"):
        make(folder / f"{name}.{suffix}")
    text(folder / "train" / "metadata.csv", f"file_name,text\nb.{suffix},007\na.{suffix},NA\n")
    text(folder / "test" / "metadata.jsonl", json.dumps({"file_name": f"a.{suffix}", "text": "1"}))
    rows = load(folder)
    assert rows.column_names == [kind, "text", "id", "split"]
    assert (rows["text"], rows["split"]) == (["007", "NA", "1"], ["train", "train", "test"])
    make(folder / "test" / f"c.{suffix}")
    with pytest.raises(data.BadRow, match=rf"test/c.{suffix}: no row of metadata names it"):
        load(folder)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("../secret.png", "'../secret.png' leads out of the folder"),
        ("/etc/passwd", "'/etc/passwd' leads out of the folder"),
        ("b.png", "no image .*b.png"),
        ("x" * 5000, "no image "),
        ("", "expected a column file_name"),
        ("a\0.png", ".*not the name of a file"),
    ],
)
def test_a_table_names_files_of_its_folder_only(folder, name, problem):
    picture(folder.parent / "secret.png")
    picture(folder / "a.png")
    text(folder / "metadata.csv", f"file_name,text\na.png,x\n{name},y\n")
    with pytest.raises(data.BadRow, match=f"metadata.csv, row 3: {problem}"):
        load(folder)
    assert skipping(folder)[0].num_rows == 1


def test_links_out_of_the_folder_are_refused(folder):
    picture(folder.parent / "outside" / "0.png")
    picture(folder / "a.png")
    (folder / "b.png").symlink_to(folder.parent / "outside" / "0.png")
    (folder / "c").symlink_to(folder.parent / "outside")
    with pytest.raises(data.BadRow, match="leads out of the folder"):
        load(folder)
    rows, skipped = skipping(folder)
    assert (rows.num_rows, len(skipped)) == (1, 2)
    # a folder that is itself reached by a link is the one that was named
    (folder.parent / "link").symlink_to(folder.parent / "outside")
    assert load(folder.parent / "link").num_rows == 1


@pytest.mark.parametrize("verify", [True, False])
def test_pictures_named_in_parquet_must_lie_in_the_folder(folder, verify):
    picture(folder.parent / "secret.png")
    paths = [folder.parent / "secret.png", "https://example.org/a.png", "b.png", None]
    cells = [{"bytes": None, "path": None if path is None else str(path)} for path in paths]
    many = [[], [], [], [cells[0]]]
    features = datasets.Features(image=datasets.Image(), many=datasets.List(datasets.Image()))
    table = pa.table([cells, many], schema=features.arrow_schema)
    pyarrow.parquet.write_table(table, folder / "train.parquet")
    with pytest.raises(data.BadRow, match=r"train.parquet, row 1: .*leads out of the folder"):
        load(folder, verify=verify)
    with pytest.raises(ValueError, match="it has no row"):
        data.load(f"hub:{folder}", on_bad="skip", verify=verify)


def test_a_saved_set_names_files_of_its_folder_only(folder):
    data.load("digits", "test").save_to_disk(folder)
    state = json.loads((folder / "state.json").read_text())
    name = state["_data_files"][0]["filename"]
    (folder / name).rename(folder.parent / name)
    state["_data_files"][0]["filename"] = f"../{name}"
    text(folder / "state.json", json.dumps(state))
    with pytest.raises(data.BadRow, match="leads out of the folder"):
        load(folder)
    text(folder / "state.json", "{")
    with pytest.raises(ValueError, match="damaged or of another format"):
        load(folder)
