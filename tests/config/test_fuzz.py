"""Whatever a recipe holds, it parses or there is one error that a person can read."""

import copy
import time
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tutelage.config import build_job, read_recipe, shipped_recipes
from tutelage.errors import TutelageError

TEXTS = {name: path.read_text(encoding="utf-8") for name, path in shipped_recipes().items()}
DIGITS = yaml.safe_load(TEXTS["digits"])

quick = settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([10**30, -(10**30), 0.5, -1.0, 1e-300, float("inf"), float("nan")]),
    st.sampled_from(["", "kd", "cnn", ":", "a:b", "..:x", "topk:0", "topk:3", "\0", "x" * 300]),
    st.sampled_from([[], {}, [[]], [None], {"kind": "shift"}, {"kind": 3}, {"": 1}, {1: 2}]),
    st.text(max_size=8),
)


def places(value, path=()):
    """Paths to all values of a nested structure."""
    if path:
        yield path
    if isinstance(value, dict | list):
        inside = value.items() if isinstance(value, dict) else enumerate(value)
        for key, below in inside:
            yield from places(below, (*path, key))


PLACES = sorted(places(DIGITS), key=str)


def read(folder: Path, content: str | bytes, overrides=()):
    """The recipe, or the error; anything else is what these tests look for."""
    path = folder / "mine.yaml"
    if isinstance(content, str):
        content = content.encode("utf-8", errors="surrogatepass")
    path.write_bytes(content)
    try:
        return read_recipe(path, overrides)
    except TutelageError as error:
        return error


def build(recipe):
    """The job, or the error."""
    if isinstance(recipe, TutelageError):
        return recipe
    try:
        return build_job(recipe)
    except TutelageError as error:
        return error


@quick
@given(st.one_of(st.text(), st.binary()))
def test_random_content_is_an_error(tmp_path, content):
    assert isinstance(read(tmp_path, content), TutelageError)


@quick
@given(
    st.sampled_from(sorted(TEXTS)),
    st.lists(
        st.tuples(
            st.floats(0, 1),
            st.integers(0, 12),
            st.one_of(st.text(max_size=4), st.text("{}[]:,&*!|>-\n \t'\"#%@`?0.9e", max_size=4)),
        ),
        min_size=1,
        max_size=4,
    ),
)
def test_a_shipped_recipe_with_slips_of_the_pen_parses_or_is_an_error(tmp_path, name, slips):
    text = TEXTS[name]
    for share, length, inserted in slips:
        start = int(share * len(text))
        text = text[:start] + inserted + text[start + length :]
    found = read(tmp_path, text)
    assert str(found)
    assert isinstance(found, TutelageError) or found.output is not None


@quick
@given(st.lists(st.tuples(st.sampled_from(PLACES), values), min_size=1, max_size=3))
def test_a_recipe_with_any_value_anywhere_makes_a_job_or_an_error(tmp_path, changes):
    content = copy.deepcopy(DIGITS)
    for path, value in changes:
        place = content
        for key in path[:-1]:
            place = place[key] if _has(place, key) else {}
        if isinstance(place, dict) or (isinstance(place, list) and _has(place, path[-1])):
            place[path[-1]] = value
    if _is_digits(content):
        assert build(read(tmp_path, yaml.safe_dump(content)))


@quick
@given(st.sampled_from(PLACES), values)
def test_any_override_makes_a_job_or_an_error(tmp_path, path, value):
    text = yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
    change = f"{'.'.join(map(str, path))}={text}"
    if path[0] != "data":
        assert build(read(tmp_path, TEXTS["digits"], [change]))


@quick
@given(st.text(max_size=30))
def test_any_text_as_an_override_is_taken_or_an_error(tmp_path, text):
    assert read(tmp_path, TEXTS["digits"], [text])


deep = st.recursive(
    values,
    lambda inside: st.one_of(
        st.lists(inside, max_size=3),
        st.dictionaries(st.sampled_from(["kind", "loss", "weight", "base", "model"]), inside),
    ),
    max_leaves=8,
)


@quick
@given(st.sampled_from(PLACES), deep)
def test_anything_nested_anywhere_makes_a_job_or_an_error(tmp_path, path, value):
    content = copy.deepcopy(DIGITS)
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    if _is_digits(content) and path[0] != "data":
        assert build(read(tmp_path, yaml.safe_dump(content)))


BOMBS = {
    "aliases": "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{n}: &{n} [{', '.join([f'*{m}'] * 9)}]\n" for m, n in pairwise("abcdefghi")),
    "deep list": "data: " + "[" * 20_000,
    "deep map": "data: " + "{a: " * 5_000,
    "long number": "seeds: [" + "9" * 100_000 + "]",
    "merge of itself": "a: &a\n  <<: *a\n",
    "long key": "? " + "k" * 200_000 + "\n: 1\n",
    "many keys": "".join(f"key{n}: 1\n" for n in range(20_000)),
    "sexagesimal": "seeds: " + ":".join(["59"] * 3_000),
}


@pytest.mark.parametrize("name", sorted(BOMBS))
def test_a_recipe_that_would_explode_is_an_error_within_seconds(tmp_path, name):
    begin = time.process_time()
    found = read(tmp_path, BOMBS[name])
    assert isinstance(found, TutelageError)
    assert "mine.yaml" in str(found)
    assert len(str(found)) < 3000
    assert time.process_time() - begin < 5


def test_the_places_that_are_changed_reach_every_part():
    assert {path[0] for path in PLACES} == set(DIGITS)
    assert ("objective", "terms", 0, "temperature") in PLACES


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_a_recipe_cut_anywhere_parses_or_is_an_error(tmp_path, name):
    found = [read(tmp_path, TEXTS[name][:cut]) for cut in range(0, len(TEXTS[name]), 40)]
    assert any(isinstance(outcome, TutelageError) for outcome in found)
    assert all(str(outcome) for outcome in found)


def _has(place, key):
    if isinstance(place, list):
        return isinstance(key, int) and key < len(place)
    return isinstance(place, dict) and key in place


def _is_digits(content):
    """Other data would be looked for, and downloaded."""
    data = content.get("data")
    return not isinstance(data, dict) or data.get("kind") == "digits"
