"""What all data sets have in common: names, splits, options, folders, the table of sources."""

import inspect

import pytest

from modalign import data
from modalign.data import _files

NAMES = [each["name"] for each in data.available()]


def test_every_set_says_what_it_holds_where_from_and_on_which_terms():
    for each in data.available():
        assert each["holds"]
        assert each["origin"]
        assert each["terms"]
        assert set(each["splits"]) <= set(data.SPLITS)
        assert each["get"]
        assert each["found"] or not each["embedded"]


def test_an_unknown_name_is_refused_with_the_closest():
    with pytest.raises(ValueError, match="name: expected one of .* got 'digit'; did you mean 'dig"):
        data.load("digit")


@pytest.mark.parametrize(("split", "close"), [("tset", "test"), ("training", "train")])
def test_an_unknown_split_is_refused_with_the_closest(split, close):
    with pytest.raises(ValueError, match=f"digits: split: .*got '{split}'; did you mean '{close}'"):
        data.load("digits", split)


def test_a_split_that_a_set_lacks_is_refused_with_those_it_has():
    with pytest.raises(ValueError, match="expected one of train, test, got 'validation'"):
        data.load("digits", "validation")


def test_an_unknown_option_is_refused_with_the_closest():
    with pytest.raises(ValueError, match="spoken-digits: option: .*'sed'; did you mean 'seed'"):
        data.load("spoken-digits", sed=1)
    with pytest.raises(ValueError, match="digits: takes no options, got 'seed'"):
        data.load("digits", seed=1)


def test_a_folder_for_a_set_without_files_is_refused(tmp_path):
    with pytest.raises(ValueError, match="digits: folder: the set reads no folder"):
        data.load("digits", folder=tmp_path)


def test_an_unknown_way_with_bad_rows_is_refused():
    with pytest.raises(ValueError, match="on_bad: expected one of raise, skip, got 'ignore'"):
        data.load("digits", on_bad="ignore")


FETCHED = [name for name in NAMES if data.source(name).folder is not None]


@pytest.mark.parametrize("name", FETCHED)
def test_without_a_folder_the_error_says_what_to_get_and_where_to_put_it(name, monkeypatch):
    monkeypatch.delenv("MODALIGN_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="MODALIGN_DATA is not set") as error:
        data.load(name)
    source = data.source(name)
    for part in (source.origin, source.terms, f"folder {source.folder}/", source.layout):
        assert part in str(error.value)


@pytest.mark.parametrize("name", FETCHED)
def test_a_missing_folder_is_named(name, monkeypatch, tmp_path):
    monkeypatch.setenv("MODALIGN_DATA", str(tmp_path))
    folder = tmp_path / data.source(name).folder
    with pytest.raises(FileNotFoundError, match=f"no folder {folder}. Get it from"):
        data.load(name)
    with pytest.raises(FileNotFoundError, match="no folder elsewhere"):
        data.load(name, folder="elsewhere")
    assert not next(each for each in data.available() if each["name"] == name)["found"]


@pytest.mark.parametrize("name", FETCHED)
def test_an_empty_folder_is_no_data_set(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{name}: no {tmp_path}/.* Get it from"):
        data.load(name, folder=tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_every_option_of_a_loader_has_a_default(name):
    _, *options = inspect.signature(data.source(name).read).parameters.values()
    assert all(option.default is not option.empty for option in options)
    assert all(option.kind is option.KEYWORD_ONLY for option in options)


def test_a_set_without_checksums_says_so_when_asked():
    with pytest.raises(ValueError, match="digits: checksums: no checksum is recorded"):
        data.load("digits", checksums=True)


@pytest.mark.parametrize("name", [name for name in NAMES if data.source(name).checksums])
def test_real_files_are_the_official_ones(name, real_data):
    source = data.source(name)
    reading = _files.Reading(source, None, checksums=True)
    assert all(reading.path(file).exists() for file in source.checksums)


@pytest.mark.parametrize("name", [name for name in NAMES if data.source(name).checksums])
def test_a_changed_file_fails_its_checksum(name, tmp_path):
    source = data.source(name)
    file = tmp_path / next(iter(source.checksums))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("changed")
    with pytest.raises(ValueError, match=f"{file} is not the official file: expected SHA-256"):
        data.load(name, folder=tmp_path, checksums=True)


@pytest.mark.parametrize("name", FETCHED)
def test_a_set_that_is_not_here_is_refused_before_anything_is_read(name, monkeypatch, tmp_path):
    monkeypatch.delenv("MODALIGN_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match=f"{name}: .*MODALIGN_DATA is not set. Get it from"):
        data.check(name)
    with pytest.raises(FileNotFoundError, match=f"{name}: no {tmp_path}/.* Get it from"):
        data.check(name, folder=tmp_path)


@pytest.mark.parametrize("name", FETCHED)
def test_a_set_that_is_here_passes_the_check(name, real_data, monkeypatch):
    monkeypatch.setattr(_files, "numbered_lines", None)  # nothing is read
    data.check(name, "test" if "test" in data.source(name).splits else None)


def test_the_check_refuses_what_load_refuses():
    data.check("digits", "test")
    for wrong in (("digit",), ("digits", "tset")):
        with pytest.raises(ValueError, match="did you mean"):
            data.check(*wrong)
    with pytest.raises(ValueError, match="takes no options, got 'seed'"):
        data.check("digits", seed=1)
    with pytest.raises(FileNotFoundError, match="no folder no/such; .*download=True"):
        data.check("hub:no/such")
    with pytest.raises(TypeError, match="name: expected a text, got int 3"):
        data.check(3)


def test_a_split_without_its_file_is_refused_by_the_check(real_data):
    with pytest.raises(FileNotFoundError, match="nlvr: no .*train.json. Get it from"):
        data.check("nlvr", "train")
