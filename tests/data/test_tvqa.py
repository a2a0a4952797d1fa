"""tvqa and tvqa-plus, in full where they are, and as tiny files."""

import json

import h5py
import numpy as np
import pytest

from modalign import data


def test_tvqa_in_full(real_data):
    rows = data.load("tvqa", "test", checksums=True)
    assert rows.num_rows == 7623 == len(set(rows["id"]))
    assert set(rows["label"]) == {-1}
    assert [start for start in rows["start"] if start is None] == [None] * 3
    assert len(set(rows["show"])) == 6
    assert {len(answers) for answers in rows["answers"]} == {5}


def test_tvqa_plus_in_full(real_data):
    rows = data.load("tvqa-plus", "validation", checksums=True)
    assert rows.num_rows == 3017 == len(set(rows["id"]))
    assert set(rows["label"]) == set(range(5))
    assert sum(len(boxes) for boxes in rows["boxes"]) == 32682
    assert rows[0]["boxes"][0] == {
        "frame": 1,
        "label": "Raj",
        "left": 136,
        "top": 14,
        "width": 256,
        "height": 346,
    }
    assert all(start <= end for start, end in zip(rows["start"], rows["end"], strict=True))


@pytest.mark.parametrize("name", ["tvqa", "tvqa-plus"])
def test_missing_splits_are_named(real_data, name):
    with pytest.warns(
        UserWarning, match=f"{name}: these splits have no file here: train"
    ) as caught:
        data.load(name)
    assert caught[0].filename == __file__


def row(qid=1, **changes):
    answers = {f"a{i}": f"Answer {i}." for i in range(5)}
    base = {"qid": qid, "q": "Who?", "vid_name": "clip_1", "ts": "1.5-2", "answer_idx": 3}
    return {**base, **answers, "show_name": "Castle", **changes}


def box(**changes):
    return {"img_id": 1, "left": 0, "top": 2, "width": 3, "height": 4, "label": "Raj", **changes}


def tvqa(folder, *rows):
    lines = [each if isinstance(each, str) else json.dumps(each) for each in rows]
    (folder / "tvqa_val.jsonl").write_text("\n".join(lines))
    return folder


def plus(folder, *rows):
    (folder / "tvqa_plus_val.json").write_text(json.dumps(rows))
    return folder


def load(folder, name="tvqa", **options):
    return data.load(name, "validation", folder=folder, **options)


def test_both_files_give_the_same_columns(tmp_path):
    tvqa(tmp_path, row())
    plus(tmp_path, row(ts=[1.5, 2], answer_idx="3", bbox={"1": [box()]}))
    first, second = load(tmp_path)[0], load(tmp_path, "tvqa-plus")[0]
    assert second.pop("boxes")[0]["frame"] == 1
    assert first == second
    assert (first["label"], first["start"], first["end"]) == (3, 1.5, 2)


BAD = [
    (row(1), "duplicate: qid '1'"),
    (row(2, ts="1.5"), "ts: expected 'START-END'"),
    (row(2, ts="2.5-1"), "ts: expected"),
    (row(2, ts=None), "ts: expected"),
    (row(2, answer_idx=5), "answer_idx: expected 0 to 4, got 5"),
    (row(2, answer_idx="x"), "answer_idx: expected 0 to 4, got 'x'"),
    (row("2"), "qid: expected int, got '2'"),
    (row(2, q=" "), "expected a question, got an empty one"),
    (row(2, a4=""), "expected a text in a4, got an empty one"),
    ({"qid": 2}, "expected a key 'q'"),
]


@pytest.mark.parametrize(("bad", "problem"), [*BAD, ("{cut", "expected a JSON object")])
def test_a_bad_question_is_named_or_counted(tmp_path, bad, problem):
    tvqa(tmp_path, row(), bad)
    with pytest.raises(data.BadRow, match=f"tvqa: .*tvqa_val.jsonl, row 2: ({problem})"):
        load(tmp_path)
    with pytest.warns(data.SkippedRows, match="tvqa: skipped 1 bad rows, kept 1 rows"):
        assert load(tmp_path, on_bad="skip").num_rows == 1


@pytest.mark.parametrize(
    ("boxes", "problem"),
    [
        ({"1": [box(img_id=2)]}, "bbox: expected img_id 1, from 1, got 2"),
        ({"0": [box(img_id=0)]}, "bbox: expected img_id 0, from 1"),
        ({"1": [box(width=0)]}, "a width and height above 0"),
        ({"1": [box(left=float("nan"))]}, "expected finite sides"),
        ({"1": [{"img_id": 1}]}, "expected a key 'label'"),
        ({"1": 3}, "bbox: expected a list of boxes"),
        ([], "bbox: expected dict"),
    ],
)
def test_a_bad_box_is_named_or_counted(tmp_path, boxes, problem):
    plus(tmp_path, row(bbox={}), row(2, bbox=boxes))
    with pytest.raises(data.BadRow, match=f"tvqa_plus_val.json, row 2: .*{problem}"):
        load(tmp_path, "tvqa-plus")
    with pytest.warns(data.SkippedRows):
        assert load(tmp_path, "tvqa-plus", on_bad="skip").num_rows == 1


@pytest.mark.parametrize("content", [b"[{", b"{}", b"\xff"])
def test_a_damaged_list_is_named(tmp_path, content):
    (tmp_path / "tvqa_plus_val.json").write_bytes(content)
    with pytest.raises(ValueError, match="tvqa_plus_val.json: expected a JSON list"):
        load(tmp_path, "tvqa-plus")


@pytest.mark.parametrize("ts", ["NaN-NaN", "nan-3.2", [float("nan"), 1.0]])
def test_a_span_that_is_not_a_number_is_none(tmp_path, ts):
    rows = load(tvqa(tmp_path, row(ts=ts)))
    assert (rows[0]["start"], rows[0]["end"]) == (None, None)


SRT = (
    "1\r\n00:00:01,500 --> 00:00:03,000\r\n(Beckett:)A caf\xe9,\r\nCastle?\r\n\r\n"
    "2\r\n00:01:00,000 --> 00:01:01,000\r\n\r\n"
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "latin-1"])
def test_subtitles_are_utf_8_or_else_cp1252(tmp_path, encoding):
    said = (
        SRT if encoding == "latin-1" else SRT.replace("A caf\xe9", "\u201cA caf\xe9\u201d \u2013")
    )
    (tmp_path / "srt").mkdir()
    (tmp_path / "srt" / "clip_1.srt").write_bytes(said.encode(encoding))
    rows = load(tvqa(tmp_path, row(), row(2)), subtitles=tmp_path / "srt")
    start = "A café" if encoding == "latin-1" else "“A café” \u2013"
    assert rows[1]["subtitles"] == [
        {"text": f"(Beckett:){start}, Castle?", "start": 1.5, "end": 3.0},
        {"text": "", "start": 60.0, "end": 61.0},
    ]


def test_subtitles_of_neither_encoding_are_named(tmp_path):
    (tmp_path / "srt").mkdir()
    (tmp_path / "srt" / "clip_1.srt").write_bytes(b"1\n00:00:01,500 --> 00:00:03,000\n\x81\n")
    with pytest.raises(data.BadRow, match="row 1: .*clip_1.srt: expected UTF-8 or cp1252"):
        load(tvqa(tmp_path, row()), subtitles=tmp_path / "srt")


def test_subtitles_and_features_of_other_folders_are_not_read(tmp_path):
    (tmp_path / "srt").mkdir()
    (tmp_path / "secret.srt").write_text("1\n00:00:01,500 --> 00:00:03,000\nHm\n")
    tvqa(tmp_path, row(), row(2, vid_name="../secret"))
    (tmp_path / "srt" / "clip_1.srt").write_text("")
    with pytest.raises(data.BadRow, match="row 2: '../secret.srt' leads out of the folder"):
        load(tmp_path, subtitles=tmp_path / "srt")
    np.save(tmp_path / "secret.npy", np.ones((2, 3)))
    with pytest.raises(data.BadRow, match="row 1: no features of 'clip_1'"):
        load(tmp_path, video_features=tmp_path / "srt")
    np.save(tmp_path / "srt" / "clip_1.npy", np.ones((2, 3)))
    with pytest.raises(data.BadRow, match="row 2: .*'../secret.npy' leads out of the folder"):
        load(tmp_path, video_features=tmp_path / "srt")


ODD = [
    (f'"n": {"9" * 30}', "at most 64 bits"),
    (f'"n": {"9" * 5000}', "at most 64 bits"),
    (r'"show_name": "\ud800"', "a lone surrogate"),
    ('"show_name": ["a"]', "show: .* does not fit"),
    (f'"n": {"[" * 5000}{"]" * 5000}', "at most 100 lists"),
    ('"n": 1, "n": 2', "the key 'n' is given twice"),
]


@pytest.mark.parametrize("name", ["tvqa", "tvqa-plus"])
@pytest.mark.parametrize(("odd", "problem"), ODD)
def test_an_odd_value_is_a_bad_row(tmp_path, name, odd, problem):
    good, bad = ({**row(i), "ts": [1, 2], "bbox": {}} for i in (1, 2))
    if name == "tvqa":
        good, bad = row(1), row(2)
    del good["show_name"], bad["show_name"]
    lines = [json.dumps(good), json.dumps(bad)[:-1] + f", {odd}}}"]
    (tmp_path / "tvqa_val.jsonl").write_text("\n".join(lines))
    (tmp_path / "tvqa_plus_val.json").write_text(f"[{', '.join(lines)}]")
    with pytest.raises(data.BadRow, match=f"val.jsonl?, row 2: .*{problem}"):
        load(tmp_path, name)
    with pytest.warns(data.SkippedRows, match="skipped 1 bad rows, kept 1 rows"):
        assert load(tmp_path, name, on_bad="skip").num_rows == 1


@pytest.mark.parametrize("change", [{"left": 1e39}, {"img_id": 2**40}])
def test_a_number_beyond_its_column_is_a_bad_row(tmp_path, change):
    frame = str(change.get("img_id", 1))
    plus(tmp_path, row(bbox={}, ts=[1, 2]), row(2, ts=[1, 2], bbox={frame: [box(**change)]}))
    with pytest.raises(data.BadRow, match="tvqa_plus_val.json, row 2: boxes: .* does not fit"):
        load(tmp_path, "tvqa-plus")
    with pytest.warns(data.SkippedRows):
        assert load(tmp_path, "tvqa-plus", on_bad="skip").num_rows == 1


def test_bad_subtitles_are_named(tmp_path):
    (tmp_path / "srt").mkdir()
    tvqa(tmp_path, row())
    with pytest.raises(data.BadRow, match="row 1: no subtitles .*clip_1.srt"):
        load(tmp_path, subtitles=tmp_path / "srt")
    (tmp_path / "srt" / "clip_1.srt").write_text("1\n00:00:01 -> 2\nHm")
    with pytest.raises(data.BadRow, match="row 1: .*clip_1.srt, cue 1: expected a number and"):
        load(tmp_path, subtitles=tmp_path / "srt")
    with pytest.raises(FileNotFoundError, match="subtitles: no folder nowhere"):
        load(tmp_path, subtitles="nowhere")


def test_features_of_clips_and_words_come_with_the_rows(tmp_path):
    tvqa(tmp_path, row(), row(2))
    with h5py.File(tmp_path / "clips.h5", "w") as file:
        file["clip_1"] = np.ones((7, 2048), np.float16)
    with h5py.File(tmp_path / "words.h5", "w") as file:
        for qid in (1, 2):
            for part in ("q", "a0", "a1", "a2", "a3", "a4"):
                file[f"{qid}_{part}"] = np.full((qid, 3), 0.5)
    rows = load(tmp_path, video_features=tmp_path / "clips.h5", text_features=tmp_path / "words.h5")
    assert rows[1]["video_features"].shape == (7, 2048)
    assert rows["id"] == ["1", "2"]
    assert rows["video"] == ["clip_1"] * 2
    assert rows[1]["question_features"].shape == (2, 3)
    assert [each.shape for each in rows[1]["answer_features"]] == [(2, 3)] * 5
    with h5py.File(tmp_path / "others.h5", "w") as file:
        for part in ("q", "a0", "a1", "a2", "a3"):
            file[f"1_{part}"] = np.ones((1, 3))
        file["1_a4"] = np.array([[0.0], [np.inf]]).repeat(3, 1)
    with pytest.raises(data.BadRow, match="row 1: .*others.h5, key '1_a4': .* infinity in row 1"):
        load(tmp_path, text_features=tmp_path / "others.h5")
