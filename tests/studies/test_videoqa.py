"""The study of the chapter "Video QA": what its clips tell whom, its inputs, sweep and verdicts."""

import collections
import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from torch.testing import assert_close

from modalign import records
from modalign.metrics import difference
from modalign.studies.videoqa import answers, clips, figures, recording, training
from modalign.studies.videoqa.setting import (
    CAPTIONED,
    CLAIMS,
    RATES,
    READINGS,
    ROWS,
    TRIED,
    Setting,
    with_cka,
)
from tests._inputs import draw

TINY = {"examples": 64, "watched": 8, "tested": 12, "epochs": 2, "captioned": 32}
READ = with_cka("STAGE", "question, counted")


def setting(**options):
    return Setting(**{**TINY, **options})


@pytest.fixture(scope="module")
def run():
    return training.train(setting(**{**ROWS[READ], "warmup_steps": 1}))


@pytest.fixture(scope="module")
def drawn():
    return [clips.sample_clip(0, i) for i in range(1500)]


def guess(clip, *, subtitles, video, moment):
    """The answers that are left for one who makes the best of what is seen."""
    sure = [a for a in clip.answers if a.startswith(clips.SURE)]
    if sure:
        return sure
    colour = clip.question.split()[2]
    if subtitles:
        told = [line.split()[1] for line in clip.lines if line.startswith(f"{colour} ")]
        if told:
            return told
    if video:
        scenes = [clip.scenes[clip.moment]] if moment else clip.scenes
        return [o.shape for scene in scenes for o in scene.objects if o.colour == colour]
    return list(clip.answers)


def share(drawn, **seen):
    """Percent of the answers that are right, where one is guessed of those that are left."""
    hits = []
    for clip in drawn:
        left = guess(clip, **seen)
        right = clip.answers[clip.label]
        assert right in left
        assert len(set(left)) == len(left)
        assert set(left) <= set(clip.answers)
        hits.append(1 / len(left))
    return 100 * np.mean(hits)


@pytest.mark.parametrize(
    ("name", "subtitles", "video", "moment"),
    [
        ("answers", False, False, False),
        ("subtitles", True, False, False),
        ("video", False, True, False),
        ("apart", True, True, False),
        ("together", True, True, True),
    ],
)
def test_whoever_sees_less_scores_what_is_said(drawn, name, subtitles, video, moment):
    expected = clips.expected(0.5, 0.2)[name]
    found = share(drawn, subtitles=subtitles, video=video, moment=moment)
    assert found == pytest.approx(expected, abs=3)


def test_the_dials_have_their_ends():
    for text, answer, expected in ((0, 0, 20), (1, 0, 100), (0, 1, 100)):
        some = [clips.sample_clip(1, i, text_bias=text, answer_bias=answer) for i in range(40)]
        assert share(some, subtitles=True, video=False, moment=False) == pytest.approx(expected)
        assert clips.expected(text, answer)["subtitles"] == pytest.approx(expected)
        assert all(clip.told == bool(text) for clip in some)
    with pytest.raises(ValueError, match=r"text_bias: expected a probability, got 1.5"):
        clips.sample_clip(0, 0, text_bias=1.5)


def test_answers_and_moments_are_spread_evenly(drawn):
    for values, number in (
        ([clip.label for clip in drawn], 5),
        ([clip.moment for clip in drawn], clips.MOMENTS),
        ([clip.answers[clip.label].split()[-1] for clip in drawn], 6),
    ):
        counts = collections.Counter(values)
        assert len(counts) == number
        assert max(counts.values()) < 1.25 * len(drawn) / number
    assert clips.sample_clip(0, 7) == drawn[7]
    assert clips.sample_clip(1, 7) != drawn[7]
    assert clips.sample_clip(0, 7, split="test") != drawn[7]


def test_a_row_has_lines_regions_and_labels_of_its_own_moment(drawn):
    for clip in drawn[:40]:
        row = clips.row(clip, clips.regions(clip, torch.zeros(4, 2, 32)))
        batch = training.stage_batch([row])
        assert batch.inputs["video"].mask.all()
        for m in range(clips.MOMENTS):
            said = clips.vectors(f"{clip.speakers[m]} speaks", clip.lines[m])
            text = batch.inputs["subtitles"]
            assert_close(text.values[0, m][text.mask[0, m]], said)
            for r, o in enumerate(clip.scenes[m].objects):
                seen = clips.vector(f"seen {o.colour}") + clips.vector(f"seen {o.shape}")
                assert_close(batch.inputs["video"].values[0, m, r], seen)
        target, start, end = (each.item() for each in batch.truth)
        assert (target, start, end) == (clip.label, clip.moment, clip.moment)
        words = [*clip.question.split(), *clip.answers[clip.label].split()]
        asked = clip.scenes[clip.moment].objects[clip.place]
        expected = torch.zeros_like(batch.labels[0])
        for place, word in enumerate(words):
            expected[clip.moment, place, clip.place] = word in (asked.colour, asked.shape)
        assert torch.equal(batch.labels[0], expected)
        assert expected.sum() == 2


@pytest.mark.parametrize("model", ["tvqa", "stage"])
def test_a_model_without_a_stream_is_given_the_same_for_all(model):
    blind = setting(model=model, streams=())
    splits, words = training.data(blind)
    found = training.build(blind, words).eval()
    assert found.streams == ["subtitles"]
    tensors = splits["test"].tensors
    assert (tensors["subtitles"] == tensors["subtitles"][:1]).all()
    seeing, _ = training.data(setting(model=model))
    assert not torch.equal(seeing["test"].tensors["subtitles"], tensors["subtitles"])
    changed = {**tensors, "video": draw(*tensors["video"].shape)}
    outputs = [training.output(found, each).logits for each in (tensors, changed)]
    assert_close(*outputs, rtol=0, atol=0)


def test_rows_of_a_model_begin_alike_and_differ_later():
    _, words = training.data(setting())
    weights = [training.build(setting(weight=w), words).state_dict() for w in (0, 0.1)]
    assert_close(*weights, rtol=0, atol=0)
    for name in ("TVQA_abc", "STAGE"):
        rows = [name, *(with_cka(name, reading) for reading in READINGS)]
        seen = []
        for row in rows:
            options = {**ROWS[row], **TINY}
            if options.get("warmup_steps"):
                options["warmup_steps"] = 1
            model = training.train(Setting(**options)).model
            seen.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        for i, one in enumerate(seen):
            assert not any(torch.equal(one, other) for other in seen[:i])


def test_lambda_stands_beside_the_loss_of_a_question(run):
    last = run.history.iloc[-1]
    assert last.loss == pytest.approx(last.task - 0.1 * 32 * last.cka, abs=1e-3)
    weights = {row: changes.get("weight", 0) for row, changes in ROWS.items()}
    assert weights["TVQA_abc + CKA, batch, before"] == pytest.approx(0.2 / 32)
    assert weights["STAGE + CKA, batch, counted"] == pytest.approx(0.1 / 4)
    assert weights[f"{CAPTIONED} + CKA, question, before"] == 0.1


def test_a_warm_up_is_counted_or_goes_before():
    counted, before = (
        training.train(setting(weight=0.1, warmup_steps=3, counted=counted)).history
        for counted in (True, False)
    )
    assert counted.step.tolist() == [2, 4]
    assert before.step.tolist() == [2, 4, 6, 7]
    for each in (counted, before):
        first = each.iloc[0]
        assert first.loss == pytest.approx(-0.1 * 32 * first.cka, abs=1e-5)


def test_a_run_that_stopped_goes_on_to_the_bit(tmp_path, monkeypatch):
    chosen = setting(**ROWS[READ] | {"warmup_steps": 3})
    whole = training.train(chosen)
    checkpoint = tmp_path / "run.pt"
    usual, calls = training.right, []

    def breaks(*given):
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return usual(*given)

    monkeypatch.setattr(training, "right", breaks)
    with pytest.raises(KeyboardInterrupt):
        training.train(chosen, checkpoint=checkpoint)
    monkeypatch.setattr(training, "right", usual)
    taken_up = training.train(chosen, checkpoint=checkpoint)
    weights = [each.model.state_dict() for each in (whole, taken_up)]
    assert_close(*weights, rtol=0, atol=0)
    assert taken_up.history.equals(whole.history)


def test_what_is_measured_is_of_test_questions(run):
    found = training.measured(run)
    logits = torch.cat([each.logits for each in training.outputs(run.model, run.splits["test"])])
    labels = torch.tensor([clip.label for clip in run.splits["test"].clips])
    right = (logits.argmax(1) == labels).double()
    assert found["accuracy"] == pytest.approx(100 * right.mean().item())
    told = torch.tensor([clip.told for clip in run.splits["test"].clips])
    assert found["told"] == pytest.approx(100 * right[told].mean().item())
    assert 0 <= found["moment"] <= 100
    assert {"video_cka", "video_cka_before", "subtitles_cka", "region"} <= set(found)
    assert found["video_cka"] != found["video_cka_before"]
    assert run.history.validation.iloc[-1] == training.right(run.model, run.splits["validation"])


def test_a_map_on_the_object_finds_it(run):
    questions = run.splits["test"]
    (found,) = training.outputs(run.model, questions)
    n = torch.arange(len(questions.clips))
    target, moment = questions.tensors["target"], questions.tensors["start"]
    place = torch.tensor([clip.place for clip in questions.clips])
    attention = torch.zeros_like(found.attention["video"])
    attention[n, target, moment, 2, place] = 1
    spans = found.spans.clone()
    spans[n, target, 0] = moment
    perfect = found._replace(attention={"video": attention}, spans=spans)
    assert training.looked(run, [perfect]) == {"moment": 100.0, "region": 100.0}
    attention = attention.flip(-1)
    wrong = found._replace(attention={"video": attention}, spans=(spans + 1) % 4)
    assert training.looked(run, [wrong]) == {"moment": 0.0, "region": 0.0}


def test_captions_name_what_is_seen():
    drawn = [clips.sample_clip(0, i) for i in range(400)]
    noise = 0.1 * draw(400, 4, 2, 32)
    found = torch.stack([clips.regions(c, each) for c, each in zip(drawn, noise, strict=True)])
    written = training.trained_captioner(drawn, found, seed=0)
    said = training.captions_of(written, found)
    assert {len(lines) for lines in said} == {2 * clips.MOMENTS}
    assert training.captions_right(training.Questions(drawn, said, {})) > 60
    rolled = training.Questions(drawn, said[1:] + said[:1], {})
    assert training.captions_right(rolled) < 10
    row = clips.row(drawn[0], found[0], said[0])
    batch = training.stage_batch([row], streams=["subtitles", "video", "captions"])
    text = batch.inputs["captions"]
    for m in range(clips.MOMENTS):
        both = clips.vectors(*said[0][2 * m : 2 * m + 2])
        assert_close(text.values[0, m][text.mask[0, m]], both)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    recording.tune(folder=folder, **{**TINY, "epochs": 1})
    rows = ["STAGE", with_cka("STAGE", "batch, before"), with_cka(CAPTIONED, "batch, before")]
    recording.record(rows=rows, seeds=[0, 1], folder=folder, **TINY)
    return folder


def test_both_sides_try_the_same_rates_and_take_their_best(recorded):
    trials = records.load("videoqa/tuning", folder=recorded)
    tried = trials.groupby(["model", "cka"]).learning_rate.apply(sorted)
    assert tried.to_list() == [sorted(RATES)] * 4
    rates = recording.tuned_rates(trials)
    for (model, cka), rate in rates.items():
        side = trials[(trials.model == model) & (trials.cka == cka)]
        best = side[side.validation == side.validation.max()].learning_rate.min()
        assert rate == best
    rows = records.load("videoqa/shapes", folder=recorded).attrs["parameters"]["rows"]
    assert rows["STAGE"]["learning_rate"] == rates["stage", False]
    for row in (with_cka("STAGE", "batch, before"), with_cka(CAPTIONED, "batch, before")):
        assert rows[row]["learning_rate"] == rates["stage", True]


def test_a_sweep_keeps_curves_and_scores(recorded):
    table = records.load("videoqa/shapes", folder=recorded)
    assert table.groupby("row").step.max().to_list() == [4, 4, 4]
    runs = recording.scores(table)
    assert len(runs) == 6
    assert runs.accuracy.notna().all()
    assert runs.captions_right.notna().sum() == 2
    found = recording.claims(table).set_index(["claim", "contrast"])
    pivot = runs.pivot(index="seed", columns="row", values="accuracy")
    row = with_cka("STAGE", "batch, before")
    judged = found.loc[("c10", f"{row} minus STAGE")]
    expected = difference(pivot[row].to_dict(), pivot["STAGE"].to_dict())
    assert judged["mean"] == pytest.approx(expected.mean)
    assert judged.smallest == 2.58
    assert set(found.index.get_level_values(0)) == {"c10", "c11", "c12a", "c12b"}


def table_of(effects, seeds=5):
    """A table in which rows have given accuracies and CKA beside what all have."""
    noise = np.random.default_rng(0).normal(0, 1e-3, size=(len(ROWS), seeds, 3))
    rows = []
    for i, row in enumerate(ROWS):
        for seed in range(seeds):
            accuracy, cka = effects.get(row, (0, 0))
            a, v, s = noise[i, seed]
            rows.append(
                {
                    "row": row,
                    "seed": seed,
                    "step": 10,
                    **dict.fromkeys(recording.CURVE, 0.1),
                    "accuracy": 60 + seed + accuracy + a,
                    "video_cka": 0.1 + cka + v,
                    "video_cka_before": 0.1,
                    "video_cka_debiased": 0.1,
                    "video_cka_shuffled": 0.1,
                    "subtitles_cka": 0.5 + s,
                    "captions_cka": 0.5 + s,
                }
            )
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("accuracy", "cka", "expected"),
    [
        (5, 0.6, ["holds", "holds", "holds", "holds", "holds"]),
        (-5, -0.05, ["reversed", "reversed", "reversed", "reversed", "reversed"]),
        (0, 0.1, ["absent", "absent", "absent", "holds", "reversed"]),
    ],
)
def test_verdicts_follow_the_side_of_the_effects(tmp_path, accuracy, cka, expected):
    effects = {}
    for reading in READINGS:
        effects[with_cka("TVQA_abc", reading)] = (accuracy, cka)
        effects[with_cka("STAGE", reading)] = (accuracy, cka)
        effects[with_cka(CAPTIONED, reading)] = (2 * accuracy, cka)
    records.save(table_of(effects), "videoqa/shapes", parameters={}, seconds=1.0, folder=tmp_path)
    found = recording.verdicts(tmp_path)
    assert found.index.tolist() == list(CLAIMS)
    assert found.verdict.tolist() == expected


def test_a_verdict_depends_where_readings_differ(tmp_path):
    effects = {with_cka("STAGE", READINGS[0]): (5, 0)}
    records.save(table_of(effects), "videoqa/shapes", parameters={}, seconds=1.0, folder=tmp_path)
    found = recording.verdicts(tmp_path).verdict
    assert found["c10"] == "depends"
    assert found["c9"] == "absent"


def test_claims_are_about_rows_that_are_trained():
    assert TRIED in READINGS
    for contrasts in CLAIMS.values():
        for each in contrasts:
            assert {each.row, each.other} <= set(ROWS)
            assert each.smallest > 0
    for changes in ROWS.values():
        Setting(**changes)


def test_tables_and_figures_show_the_table(run):
    table = table_of({})
    assert figures.by_reading(table, "accuracy").shape == (3, 5)
    found = figures.floors(table, clips.expected(0.5, 0.2))
    assert found["at best"].tolist() == pytest.approx([36, 68, 60, 80, 36, 68, 60, 100])
    assert len(figures.similarity(table)) == 15
    judged = recording.claims(table)
    assert figures.counted(judged, "c9") == "absent in 4"
    told = figures.told(judged, ["c10", "c12a", "c12b"])
    assert set(told.model) == {"STAGE", "TVQA_abc", CAPTIONED}
    assert set(told.reading) == set(READINGS)
    assert told.loc["c12a", "minus"].to_list() == ["without CKA", "before training"] * 8
    assert set(told.loc["c12b", "minus"]) == {"subtitles"}
    looked = figures.looks(run, 0)
    texts = [text.get_text() for ax in looked.axes[:4] for text in ax.texts]
    assert len(texts) == 8
    assert [sum(map(int, texts[i : i + 2])) for i in (0, 2, 4, 6)] == pytest.approx(
        [100] * 4, abs=1
    )
    blind = dataclasses.replace(
        run, model=training.build(setting(streams=("subtitles",)), run.words)
    )
    with pytest.raises(ValueError, match="run: expected one with video"):
        figures.looks(blind, 0)


def test_the_text_quotes_the_table():
    table = table_of({}).assign(
        told=90.0, untold=40.0, moment=99.0, region=98.0, captions_right=97.0
    )
    judged = recording.claims(table)
    found = figures.quoted(table, judged, {"apart": 80.0})
    assert found["table-apart"] == 80
    assert (found["stage-told"], found["tvqa-untold"], found["captions-right"]) == (90, 40, 97)
    assert found["range-c9"] == figures.range_of(judged, "c9")
    assert found["paper-stage-cka"] == 72.89
    means = recording.scores(table).groupby("row").accuracy.mean()
    assert found["tvqa-mean"] == pytest.approx(means["TVQA_abc"])
    undecided = judged[judged.verdict == "undecided"]
    assert {name for name in found if name.startswith("need-")} == {
        f"need-{claim}" for claim in undecided.claim
    }


def test_biased_cka_falls_with_the_number_of_questions(run):
    found = figures.by_number(run)
    assert found.questions.to_list() == [2, 4, 8, 12] * 2
    for _, part in found.groupby("stream"):
        assert part.cka.iloc[0] > 2 * part.cka.iloc[-1]
        assert part.cka.to_list() == pytest.approx(part.shuffled.to_list(), abs=0.2)
    all_of_them = found[found.questions == 12].set_index("stream").cka
    measured = training.similarities(training.outputs(run.model, run.splits["test"]))
    assert all_of_them["video"] == pytest.approx(measured["video_cka"])
    legend = figures.numbers(found).axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == [
        "subtitles",
        "subtitles, shuffled",
        "video",
        "video, shuffled",
    ]


def test_cka_in_training_is_that_of_the_last_epoch():
    table = table_of({})
    table.loc[table.row == "STAGE", "cka"] = 0.7
    earlier = table.assign(step=5, accuracy=np.nan, cka=0.9)
    found = figures.in_training(pd.concat([earlier, table]))
    assert found.biased["STAGE", "without"] == pytest.approx(0.7)
    assert found.biased[CAPTIONED, "question, counted"] == pytest.approx(0.1)
    assert len(found) == 9


def test_the_real_answers_give_away_more_than_chance(real_data, tmp_path):
    answers.record(folder=tmp_path)
    found = records.load("videoqa/answers", folder=tmp_path).set_index("guess")
    assert found.accuracy["longest"] == pytest.approx(33.3, abs=0.5)
    assert (found.low > 20).all()
    assert (found.questions == 3017).all()


def test_labels_at_random_give_nothing_away():
    rng = np.random.default_rng(0)
    texts = np.array(["yes", "no", "he did", "she was late", "in the car", "a book", "to eat"])
    rows = [
        {
            "question": "who was late",
            "answers": texts[rng.permutation(7)[:5]].tolist(),
            "label": int(rng.integers(5)),
            "video": str(i % 50),
        }
        for i in range(2000)
    ]
    assert answers.guesses(rows).accuracy.to_list() == pytest.approx([20] * 3, abs=3)


def test_answers_that_cannot_be_learned_from_are_refused():
    row = {"question": "Who?", "answers": ["a"] * 5, "label": -1, "video": "v"}
    with pytest.raises(ValueError, match="rows: expected a label of each, row 0 has none"):
        answers.guesses([row])
    with pytest.raises(ValueError, match="rows: expected 5 clips or more, got 1"):
        answers.guesses([row | {"label": 0}] * 9)


REFUSED = {
    "model": "hero",
    "streams": ("sound",),
    "examples": 31,
    "watched": 1,
    "tested": 0,
    "warmup_steps": -1,
    "epochs": 0,
}


@pytest.mark.parametrize("name", REFUSED)
def test_settings_out_of_range_are_refused(name):
    with pytest.raises(ValueError, match=f"{name}: expected"):
        setting(**{name: REFUSED[name]})


def test_captions_are_for_stage_alone():
    with pytest.raises(ValueError, match="streams: captions are given to STAGE alone"):
        setting(model="tvqa", streams=("subtitles", "video", "captions"))
    with pytest.raises(ValueError, match="rows: expected one of"):
        recording.record(rows=["STAGE + HERO"])
