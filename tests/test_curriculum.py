import io
import warnings

import pytest
import torch

from modalign.gradients import GradientCurriculum
from tests import _inputs as inputs
from tests._inputs import INF, NAN


def gammas(curriculum, batches):
    found = []
    for _ in range(batches):
        found.append(curriculum.gamma)
        curriculum.keeps(torch.tensor([1.0]))
    return found


def test_gamma_rises_in_a_line_and_stays():
    assert gammas(GradientCurriculum(steps=3), 5) == pytest.approx([-0.3, -0.2, -0.1, 0, 0])


def test_shapes():
    expected = {"cosine": [-1, -0.7071, 0, 0.7071, 1, 1], "step": [-1, -1, -1, -1, 1, 1]}
    for shape, values in expected.items():
        found = gammas(GradientCurriculum(-1, 1, steps=4, shape=shape), 6)
        assert found == pytest.approx(values, abs=1e-4)


def test_it_keeps_what_is_above_gamma_and_what_is_undefined():
    cosines = torch.tensor([-0.5, 0.2, 0.2 + 1e-9, 0.5, NAN], dtype=torch.float64)
    kept = GradientCurriculum(0.2, 0.2, steps=1).keeps(cosines)
    assert kept.tolist() == [False, False, True, True, True]


def test_with_a_gamma_of_0_or_more_no_batch_in_conflict_is_kept():
    cosines = torch.linspace(-1, 1, 101)
    for gamma in (0, 0.1):
        kept = GradientCurriculum(gamma, 1, steps=1).keeps(cosines)
        assert (cosines[kept] > 0).all()


def test_the_clock_ticks_at_dropped_batches_too():
    curriculum = GradientCurriculum(0, 1, steps=10)
    for _ in range(3):
        assert not curriculum.keeps(torch.tensor([-1.0]))
    assert (curriculum.batch, curriculum.kept, curriculum.dropped) == (3, 0, 3)
    assert curriculum.gamma == pytest.approx(0.3)
    curriculum.keeps(torch.tensor([0.2, 0.4]))
    assert (curriculum.batch, curriculum.kept, curriculum.dropped) == (4, 0.5, 0)


def test_batches_dropped_in_a_row_are_told_with_the_rate():
    curriculum = GradientCurriculum(0, 0, steps=1, patience=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for cosine in (1.0, -1.0, -1.0, 1.0, -1.0, -1.0):
            curriculum.keeps(torch.tensor([cosine]))
    with pytest.warns(UserWarning, match=r"last 3 batches were all dropped.*0\.286 over all 7"):
        curriculum.keeps(torch.tensor([-1.0]))


def test_state_comes_back():
    curriculum, other = (GradientCurriculum(-0.5, 0.5, steps=7) for _ in range(2))
    for cosine in (-0.9, 0.1, -0.9):
        curriculum.keeps(torch.tensor([cosine]))
    file = io.BytesIO()
    torch.save(curriculum.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert vars(other) == vars(curriculum)
    assert gammas(other, 9) == gammas(curriculum, 9)


def test_a_state_of_another_is_refused():
    curriculum = GradientCurriculum(-0.5, 0.5, steps=7)
    before = curriculum.state_dict()
    other = GradientCurriculum(-0.5, 0.5, steps=8).state_dict()
    with pytest.raises(ValueError, match="state: expected steps 7, got 8"):
        curriculum.load_state_dict(other)
    with pytest.raises(ValueError, match="state: expected .*batch.*, got none"):
        curriculum.load_state_dict({})
    assert curriculum.state_dict() == before


BAD = {
    "start below -1": ({"start": -1.1}, "start: expected a gamma from -1 to 1, got -1.1"),
    "end above 1": ({"end": 1.5}, "end: expected a gamma from -1 to 1, got 1.5"),
    "NaN": ({"end": NAN}, "end: expected a gamma from -1 to 1, got nan"),
    "infinity": ({"start": -INF}, "start: expected a gamma from -1 to 1, got -inf"),
    "start above end": ({"start": 0.2, "end": 0.1}, "start: expected .* at most end, 0.1, got 0.2"),
    "no steps": ({"steps": 0}, "steps: expected a number above 0, got 0"),
    "half a step": ({"steps": 0.5}, "steps: expected int"),
    "no patience": ({"patience": 0}, "patience: expected a number above 0"),
    "another shape": ({"shape": "linaer"}, "shape: .*did you mean 'linear'"),
}


@inputs.hostile(BAD)
def test_refused(change, message):
    with pytest.raises((ValueError, TypeError), match=message):
        GradientCurriculum(**{"steps": 5, **change})
