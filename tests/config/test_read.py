import re
from pathlib import Path

import pytest
import yaml

from tutelage.config import build_job, read_recipe, shipped_recipes
from tutelage.config.read import MAX_BYTES, MAX_DEPTH
from tutelage.config.schema import Recipe
from tutelage.errors import ConfigError, ModelError, TutelageError, UnknownNameError

DIGITS = shipped_recipes()["digits"].read_text(encoding="utf-8")


def write(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


# Names and files.


def test_a_shipped_recipe_is_found_by_name_and_by_path(tmp_path):
    assert read_recipe("digits") == read_recipe(write(tmp_path, DIGITS))


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_every_shipped_recipe_is_accepted(name):
    assert read_recipe(name).output == Path("runs") / ("mine" if name == "template" else name)


def test_an_unknown_name_is_told_the_nearest_and_all():
    with pytest.raises(
        UnknownNameError,
        match=r"Unknown recipe 'digitz'\. Did you mean 'digits'\? Known: .*digits,",
    ):
        read_recipe("digitz")


@pytest.mark.parametrize("name", ["none.yaml", "none.yml", "\0.yaml", "x" * 5000 + ".yaml"])
def test_a_file_that_is_not_there_is_said_so(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="no such file"):
        read_recipe(name)


def test_a_folder_is_no_recipe(tmp_path):
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(ConfigError, match="is a folder, a file is needed"):
        read_recipe(tmp_path / "folder.yaml")


# What a file must not be.


def _bomb() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a recipe is a mapping"),
        ("# only a comment\n", "a recipe is a mapping"),
        ("- a\n- b\n", "a recipe is a mapping"),
        ("3: 4\n", "a recipe is a mapping"),
        (_bomb(), r"the alias \*a0 is not allowed"),
        ("seeds: &a [*a]\n", r"the alias \*a is not allowed"),
        ("seeds: " + "[" * 5000, f"nested deeper than {MAX_DEPTH}"),
        ("data: " + "{a: " * 5000, f"nested deeper than {MAX_DEPTH}"),
        ("output: !!python/object/apply:os.getcwd []\n", "the tag .* is not allowed"),
        ("output: !!python/object:object {}\n", "the tag .* is not allowed"),
        ("data: !!binary /w==\n", "the tag .* is not allowed"),
        ("data: !mine {kind: digits}\n", "the tag .* is not allowed"),
        ("seeds: 2001-99-99\n", "not readable as YAML: month must be"),
        ("seeds: [0, 1\n", "not readable as YAML"),
        ("a: b: c\n", "not readable as YAML"),
        ("a: 1\n---\na: 2\n", "not readable as YAML"),
        ("seeds: [0]\nbaseline: true\nseeds: [1]\n", "the key 'seeds' occurs twice"),
        ("data: {kind: digits, kind: mnist}\n", "the key 'kind' occurs twice"),
        ("? [a, b]\n: 1\n", "not readable as YAML"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else None,
)
def test_a_text_that_is_no_recipe_is_refused(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_recipe(path)
    assert str(caught.value).startswith(str(path))


def test_a_python_tag_runs_nothing(tmp_path):
    mark = tmp_path / "was-run"
    path = write(tmp_path, f"output: !!python/object/apply:os.mkdir ['{mark}']\n")
    with pytest.raises(ConfigError):
        read_recipe(path)
    assert not mark.exists()


@pytest.mark.parametrize("content", [b"\xff\xfe\x00\x80", bytes(range(256)), b"\x00" * 64])
def test_bytes_that_are_no_text_are_refused(tmp_path, content):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"cannot be read|not readable as YAML"):
        read_recipe(path)


def test_a_huge_file_is_refused_unread(tmp_path, monkeypatch):
    path = write(tmp_path, "#" * (MAX_BYTES + 1))
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(ConfigError, match=f"larger than {MAX_BYTES:,} bytes"):
        read_recipe(path)


# Keys and values.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "epochs=3",
            r"epochs: Extra inputs .* \(got 3\)\..* Known: assistants, baseline, budget, cache,",
        ),
        ("sedes=[1]", r"sedes: .*Did you mean 'seeds'\?"),
        ("train.epoch=2", r"train\.epoch: .*\(got 2\)\. Did you mean 'epochs'\? Known: accumulate"),
        ("teacher.training.optimizer.lrr=1", r"teacher\.training\.optimizer\.lrr: .*Did you mean"),
        ("data.pathh=x", r"data\.pathh: .*\(got 'x'\)\. Did you mean 'path'\? Known: kind, path"),
        ("cache.kodec=x", r"cache\.kodec: .*Did you mean 'codec'\?"),
        ("data.kind=mnits", r"data: .*'mnits'.* 'digits', 'mnist', .*Did you mean 'mnist'\?"),
        ("data={}", r"data: .*\(got \{\}\)\. Give its kind"),
        ("data=null", r"data: .*\(got None\)"),
        (
            "optimizer.kind=sdg",
            r"optimizer\.kind: .*Unknown optimizer 'sdg'. Did you mean 'sgd'",
        ),
        ("task=detection", r"task: .*Unknown task 'detection'.*Known: classification, .*, regr"),
        ("train.epochs=0", r"train\.epochs: .*greater than or equal to 1 \(got 0\)"),
        ("train.epochs=1.5", r"train\.epochs: .*integer.*\(got 1\.5\)"),
        ("train.epochs=many", r"train\.epochs: .*integer.*\(got 'many'\)"),
        ("train.batch_size=-1", r"train\.batch_size: .*greater than or equal to 1 \(got -1\)"),
        ("teacher.training.train.ema=2", r"teacher\.training\.train\.ema: .*less than 1 \(got 2\)"),
        ("optimizer.lr=0", r"optimizer\.lr: .*greater than 0 \(got 0\)"),
        ("optimizer.lr=.nan", r"optimizer\.lr must be a finite number, got nan"),
        ("train.checkpoint_s=.inf", r"train\.checkpoint_s must be a finite number, got inf"),
        ("student.settings.dropout=-.inf", r"student\.settings\.dropout must be .*got -inf"),
        ("objective.terms.0.temperature=.nan", r"objective\.terms\[0\]\.temperature must"),
        ("seeds=[]", r"seeds: .*at least 1 item"),
        ("seeds=[0, 1, 0]", r"seeds: .*each seed may occur once.*\(got \[0, 1, 0\]\)"),
        ("seeds=[-1]", r"seeds\[0\]: .*greater than or equal to 0 \(got -1\)\.$"),
        (f"seeds=[{10**30}]", r"seeds\[0\]: .*less than"),
        (f"data.seed={10**30}", r"data\.seed: .*less than"),
        ("measure.batch_sizes=[1, 0]", r"measure\.batch_sizes\[1\]: .*\(got 0\)"),
        ("baseline=perhaps", r"baseline: .*boolean.*\(got 'perhaps'\)"),
        ("output=null", r"output: .*\(got None\)"),
        ("teacher.std=[0]", r"teacher\.std\[0\]: .*greater than 0 \(got 0\)"),
        ("train={1: 2}", r"train\[1\]: Keys should be strings"),
        ("train=5", r"train: .*\(got 5\)"),
    ],
)
def test_a_wrong_key_or_value_is_one_error_with_place_and_value(change, message):
    with pytest.raises(ConfigError, match=message) as caught:
        read_recipe("digits", [change])
    assert len(str(caught.value).splitlines()) == 1
    assert "pydantic" not in str(caught.value)


def test_several_things_that_are_wrong_are_said_at_once():
    with pytest.raises(ConfigError, match=r"train\.epochs: .*optimizer\.lr: .*sedes: "):
        read_recipe("digits", ["train.epochs=0", "optimizer.lr=-1", "sedes=[1]"])


def test_a_long_value_is_cut_in_the_message():
    with pytest.raises(ConfigError, match=r"baseline: .*\.\.\.") as caught:
        read_recipe("digits", [f"baseline={'x' * 10_000}"])
    assert len(str(caught.value)) < 500


def test_a_missing_key_is_named(tmp_path):
    path = write(tmp_path, "data: {kind: digits}\nteacher: {model: cnn}\noutput: out\n")
    with pytest.raises(ConfigError, match="student: Field required"):
        read_recipe(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("views.kind=shft", r"Unknown views 'shft'\. Did you mean 'shift'\? Known: crop_flip,"),
        ("views.pixel=2", r"'pixel'\. Did you mean 'pixels'\?"),
        ("views.pixels=0", r"views: pixels must be 1 or more, got 0"),
        ("views.pixels=two", r"pixels.*'two'"),
        ("views.pixels=1.5", r"pixels.*1\.5"),
        ("views={kind: standard}", r"views 'standard' cannot be made .*num_views"),
        ("objective.terms.0.loss=kdd", r"Unknown loss 'kdd'\. Did you mean 'kd'\?"),
        ("objective.terms.0.tempratur=2", r"'tempratur'\. Did you mean 'temperature'\?"),
        ("objective.terms.0.temperature=0", r"temperature must be above 0 .*got 0"),
        ("objective.terms.0.temperature=four", r"objective\.terms\[0\]: loss 'kd' .*'four'"),
        ("objective.terms.0.weight=-1", r"weight of 'kd' must be 0 or more and finite, got -1"),
        ("objective.task_weight=-1", r"weight of 'cross_entropy' must be 0 or more"),
        ("objective.terms.0.loss=math:sin", r"'math' is no module of your own"),
        ("objective.terms.0.loss=pytest:fail", r"'pytest:fail' is no subclass of tutelage\.Loss"),
        ("objective.terms.0.loss=no.such:Loss", r"there is no module 'no.such'"),
        ("objective.terms.0.loss=':x'", r"there is no module ''"),
        ("objective.terms.0.loss='..:x'", r"there is no module '\.\.'"),
        ("data.path=x", r"Unknown setting of data kind 'digits' 'path'\. Known: seed,"),
        ("data.valid_fraction=0.99999", r"A share of 0\.99999 of 1,198 samples is 1,198"),
        ("teacher.training=null", r"teacher: it has neither weights nor training"),
        ("teacher.mean=[0.5]", r"teacher: mean and std belong together"),
    ],
)
def test_what_only_the_objects_know_is_an_error_too(change, message):
    recipe = read_recipe("digits", [change])
    if message is None:
        assert build_job(recipe).teacher.train is None
        return
    with pytest.raises(TutelageError, match=message):
        build_job(recipe)


def test_a_teacher_with_nothing_to_teach_is_refused():
    recipe = read_recipe("digits", ["teacher={model: cnn}"])
    with pytest.raises(ConfigError, match="neither weights nor training"):
        build_job(recipe)


def test_a_loss_whose_module_breaks_is_one_clear_error(tmp_path, monkeypatch):
    write(tmp_path, "1 / 0\n", "breaks_on_import.py")
    monkeypatch.syspath_prepend(tmp_path)
    recipe = read_recipe("digits", ["objective.terms.0.loss=breaks_on_import:Mine"])
    with pytest.raises(ModelError, match=r"objective\.terms\[0\].*ZeroDivisionError"):
        build_job(recipe)


# Overrides.


@pytest.mark.parametrize(
    ("change", "place", "value"),
    [
        ("train.epochs=7", ("train", "epochs"), 7),
        ("seeds=[4]", ("seeds",), (4,)),
        ("seeds.1=9", ("seeds",), (0, 9, 2, 3, 4)),
        ("cache=null", ("cache",), None),
        ("output=a=b", ("output",), Path("a=b")),
        ("teacher.training.seed=3", ("teacher", "training", "seed"), 3),
        ("measure.seconds=1.5e+0", ("measure", "seconds"), 1.5),
        ("optimizer.weight_decay=1e-4", ("optimizer", "weight_decay"), 1e-4),
    ],
)
def test_an_override_reaches_its_place(change, place, value):
    found = read_recipe("digits", [change])
    for name in place:
        found = getattr(found, name)
    assert found == value


def test_later_overrides_win_and_can_make_what_was_null():
    recipe = read_recipe("digits", ["cache=null", "cache.codec=float16", "cache.codec=topk:2"])
    assert recipe.cache is not None
    assert recipe.cache.codec == "topk:2"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train", "write it as key=value"),
        ("=5", "write it as key=value"),
        ("seeds.9=1", "'9' is no place in a list of 5; count from 0"),
        ("seeds.-1=1", "'-1' is no place in a list"),
        ("seeds.x.y=1", "'x' is no place in a list"),
        ("train..epochs=1", "Extra inputs are not permitted"),
        ("base=mnist", "base: Extra inputs"),
        ("seeds=[0", "override 'seeds=\\[0': not readable as YAML"),
        ("seeds=2001-99-99", "not readable as YAML: month"),
        ("seeds=&a [*a]", "alias \\*a is not allowed"),
        ("seeds=" + "[" * 5000, "nested deeper than"),
        ("output=!!python/object/apply:os.getcwd []", "tag .* is not allowed"),
    ],
)
def test_a_wrong_override_is_refused(change, message):
    with pytest.raises(ConfigError, match=message) as caught:
        read_recipe("digits", [change])
    assert len(str(caught.value)) < 500


# Base.


def test_a_recipe_is_laid_over_its_base(tmp_path):
    path = write(tmp_path, "base: digits\nseeds: [7]\ntrain: {epochs: 2}\noutput: mine\n")
    recipe, base = read_recipe(path), read_recipe("digits")
    assert (recipe.seeds, recipe.train.epochs, recipe.output) == ((7,), 2, Path("mine"))
    assert recipe.train.batch_size == base.train.batch_size
    assert recipe.teacher == base.teacher


def test_another_model_or_kind_leaves_behind_what_belonged_to_the_first(tmp_path):
    lower = (
        "data: {kind: images, path: images, image_size: 32}\n"
        "teacher: {model: resnet, settings: {width: 32}, weights: a.pt, image_size: 64}\n"
        "student: {model: cnn, settings: {width: 8, stages: 3}}\noutput: out\n"
    )
    write(tmp_path, lower, "lower.yaml")
    upper = (
        "base: lower.yaml\ndata: {kind: digits}\nteacher: {model: mlp}\n"
        "student: {model: cnn, settings: {width: 4}}\n"
    )
    recipe = read_recipe(write(tmp_path, upper))
    assert recipe.data.kind == "digits"
    assert recipe.teacher.settings == {}
    assert recipe.teacher.weights is None
    assert recipe.teacher.image_size == 64
    assert recipe.student.settings == {"width": 4, "stages": 3}


def test_a_base_beside_the_recipe_goes_before_a_shipped_one(tmp_path):
    write(tmp_path, DIGITS.replace("seeds: [0, 1, 2, 3, 4]", "seeds: [11]"), "lower.yaml")
    path = write(tmp_path, "base: lower.yaml\n")
    assert read_recipe(path).seeds == (11,)


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("digit", "Did you mean 'digits'"),
        ("none.yaml", "no such file"),
        ("[digits]", "Unknown recipe"),
        ("x" * 5000, "Unknown recipe"),
        ("middle.yaml", "has a base itself; one level is allowed"),
        ("mine.yaml", "has a base itself"),
    ],
)
def test_a_base_that_cannot_be_used_is_refused(tmp_path, base, message):
    write(tmp_path, "base: digits\n", "middle.yaml")
    path = write(tmp_path, f"base: {base}\n")
    with pytest.raises(ConfigError, match=message):
        read_recipe(path)


# The resolved recipe.


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_a_resolved_recipe_reads_as_itself(tmp_path, name):
    recipe = read_recipe(name)
    text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
    assert read_recipe(write(tmp_path, text)) == recipe


def test_a_resolved_recipe_finds_own_networks_from_the_run_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    write(tmp_path / "mine", "from tutelage.models.nets import mlp as make\n", "nets.py")
    changes = ["student={model: 'nets.py:make'}", "output=deep/er/run"]
    job = build_job(read_recipe("digits", changes), folder=Path("mine"))
    folder = tmp_path / "deep" / "er" / "run"
    folder.mkdir(parents=True)
    saved = write(folder, yaml.safe_dump(dict(job.recipe)), "recipe.yaml")
    again = build_job(read_recipe(saved), folder=folder)
    assert again.make_student()
    assert again.recipe == job.recipe
    with pytest.raises(ConfigError, match="no such file"):
        build_job(read_recipe("digits", changes), folder=folder).make_student()


def test_every_key_of_the_schema_is_described():
    def models(model):
        yield model
        for field in model.model_fields.values():
            for part in re.findall(r"schema\.(\w+)", str(field.annotation)):
                yield from models(getattr(__import__("tutelage.config.schema").config.schema, part))

    for model in set(models(Recipe)):
        described = model.__doc__ or ""
        settled = "see `" in described or model.__name__ == "TeacherTraining"
        inherited = {key for base in model.__mro__[1:-1] for key in base.__annotations__}
        for key in model.model_fields:
            assert settled or key in inherited or f"{key}:" in described, f"{model}: {key}"


def test_a_typo_in_an_override_blames_the_override_and_not_the_file(tmp_path):
    with pytest.raises(
        ConfigError, match=r"^override 'teacher\.modle=x': teacher\.modle: Extra inp"
    ):
        read_recipe("digits", ["train.epochs=1", "teacher.modle=x"])
    with pytest.raises(ConfigError, match=r"^override 'data="):
        read_recipe("digits", ["data={kind: digits, pth: x}"])
    file = tmp_path / "own.yaml"
    file.write_text("data: {kind: digits}\nteacher: {modle: x}\nstudent: {model: mlp}\noutput: x\n")
    with pytest.raises(ConfigError, match=r"own\.yaml: teacher\.model: Field required.*modle"):
        read_recipe(file, ["train.epochs=1"])


@pytest.mark.parametrize(
    "override",
    ["train.epochs=true", "optimizer.lr=yes", "seeds=[true]", "teacher.weight=on"],
)
def test_truth_is_no_number(override):
    with pytest.raises(ConfigError, match=r"a number is needed, got True; YAML reads yes, no"):
        read_recipe("digits", [override])


@pytest.mark.parametrize(
    "override",
    ["objective.task_weight=nan", "objective.task_weight=1e999", "measure.seconds=inf"],
)
def test_numbers_written_as_text_are_finite_too(override):
    with pytest.raises(ConfigError, match=r"finite number"):
        read_recipe("digits", [override])


@pytest.mark.parametrize("override", ["measure.batch_sizes=[1000000000]", "measure.threads=5000"])
def test_a_measurement_fits_into_a_machine(override):
    with pytest.raises(ConfigError, match=r"less than or equal to"):
        read_recipe("digits", [override])


def test_an_empty_output_is_not_the_current_folder():
    with pytest.raises(ConfigError, match=r"an empty name would be the current folder"):
        read_recipe("digits", ['output=""'])


def test_a_run_in_the_current_folder_is_called_as_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert build_job(read_recipe("digits", ["output=."])).name == tmp_path.name


def test_a_built_in_teacher_with_settings_alone_would_teach_noise():
    changes = ["teacher={model: mlp, settings: {hidden: [4]}}"]
    with pytest.raises(ConfigError, match=r"teacher: it has neither weights nor training"):
        build_job(read_recipe("digits", changes))


def test_a_renamed_key_is_read_with_a_warning(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        shipped_recipes()["smollm2"].read_text().replace("block_size: 128", "block: 64")
    )
    with pytest.warns(FutureWarning, match=r"data\.block is now data\.block_size"):
        assert read_recipe(str(path)).data.block_size == 64
    with pytest.warns(FutureWarning, match=r"data\.block is now data\.block_size"):
        assert read_recipe("smollm2", ["data.block=32"]).data.block_size == 32
