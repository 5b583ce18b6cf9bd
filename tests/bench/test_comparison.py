"""All methods go through one comparison, small, and are judged by what is measured."""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from tutelage.bench import comparison, cost
from tutelage.bench.candidates import GRID_SIZE, candidates
from tutelage.bench.comparison import TUNING_SEED, compare
from tutelage.bench.cost import costs_against
from tutelage.bench.leaderboard import Leaderboard, Score, Standing, as_page, verdict
from tutelage.bench.suites import SUITES, Layers, Length, Suite
from tutelage.cli.app import app, guarded
from tutelage.data.sources import Splits, TensorSource
from tutelage.data.views import Identity, Shift
from tutelage.engine import OptimizerSettings, TrainSettings
from tutelage.engine.events import StageDone
from tutelage.errors import ConfigError, TrainingError, UnknownNameError
from tutelage.inputs import ImageInputs
from tutelage.losses import FAMILIES, KD, LOSSES, CrossEntropy, FitNets
from tutelage.models.nets import resnet
from tutelage.records import load_record
from tutelage.tasks import Classification
from tutelage.teachers import ModuleTeacher
from tutelage.types import Batch

pytestmark = pytest.mark.whole

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "src/tutelage/leaderboards"
STAGES = ("stage1", "stage2", "stage3")
SETTINGS = TrainSettings(epochs=1, batch_size=16, optimizer=OptimizerSettings(lr=0.003))


def part(count, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    inputs = torch.randint(0, 90, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    for label in range(3):
        inputs[labels == label, :, 2 * label : 2 * label + 3] += 120
    return TensorSource(inputs, labels)


def small_suite(patch):
    """A suite of tiny networks, in which a step is timed once."""
    splits = Splits(
        part(80, 0), part(30, 1), part(40, 2), ("a", "b", "c"), ImageInputs((0.3,), (0.3,))
    )
    tiny = Suite(
        title="Tiny",
        load=lambda path: splits,
        teacher_name="tiny",
        teacher=partial(resnet, 3, width=4),
        teacher_settings=SETTINGS,
        teacher_views=Identity(),
        student=partial(resnet, 3, width=2),
        settings=SETTINGS,
        layers=Layers(STAGES, STAGES, "pool", "pool", have_maps=True),
        lengths={
            "short": Length(1, 48, Identity()),
            "full": Length(1, None, Shift(1)),
        },
    )
    patch.setitem(SUITES, "tiny", tiny)
    patch.setattr(cost, "TURNS", 1)
    return tiny


@pytest.fixture
def suite(monkeypatch):
    return small_suite(monkeypatch)


class Done(NamedTuple):
    """A comparison that others read, or go on from in a copy of its folder."""

    out: Path
    boards: list[Leaderboard]
    trained: list[StageDone]

    def copy(self, folder):
        shutil.copytree(self.out, folder, dirs_exist_ok=True)
        return folder


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The labels, plain KD and DKD over two seeds."""
    out = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as patch:
        small_suite(patch)
        return Done(out, *run(out, methods=["dkd"]))


@pytest.fixture
def single(monkeypatch):
    """One setting of each method, so that nothing is tuned."""
    there = comparison.candidates

    def firsts(layers):
        return {name: grid[:1] for name, grid in there(layers).items()}

    monkeypatch.setattr(comparison, "candidates", firsts)


def run(out, **choices):
    events = []
    boards = list(compare("tiny", out, num_seeds=2, listener=events.append, **choices))
    trained = [event for event in events if isinstance(event, StageDone) and not event.was_there]
    return boards, trained


@pytest.mark.parametrize("name", SUITES)
def test_every_method_is_tried_with_as_many_settings_as_any_other(name):
    grids = candidates(SUITES[name].layers)
    sizes = {method: len(grid) for method, grid in grids.items()}
    assert sizes.pop("cross_entropy") == 1
    assert set(sizes.values()) == {GRID_SIZE}
    for method, grid in grids.items():
        assert len({objective.describe() for objective in grid}) == len(grid), method
        assert all(method in objective.losses for objective in grid)


def test_no_loss_is_left_out_but_where_it_cannot_work():
    maps = Layers(STAGES, STAGES, "pool", "pool", have_maps=True, have_equal_widths=True)
    others = ("language", "embedding", "transformer", "binary", "values")
    pictured = LOSSES.keys() - set().union(*(FAMILIES[kind].keys() for kind in others))
    assert candidates(maps).keys() == pictured
    unequal = replace(maps, have_equal_widths=False)
    assert pictured - candidates(unequal).keys() == {"fsp"}


def test_all_methods_go_through(suite, single, tmp_path):
    board = list(compare("tiny", tmp_path, num_seeds=1))[-1]
    names = [standing.method for standing in board.standings]
    assert names[:2] == ["cross_entropy", "kd"]
    assert set(names) == candidates(suite.layers).keys() == board.costs.keys()
    page = (tmp_path / "tiny/short/leaderboard.md").read_text()
    assert all(f"| `{name}` " in page for name in names)
    others = {s.method for s in board.standings if s.parameters != board.student_parameters}
    assert others == {"simkd"}


def test_a_second_call_trains_nothing_and_says_the_same(suite, done, tmp_path):
    out = done.copy(tmp_path)
    board = run(out, methods=["fitnets"])[0][-1]
    assert load_record(out / "tiny/short/results.json", Leaderboard) == board
    assert all(len(standing.last) == 2 for standing in board.standings)
    again, trained = run(out, methods=["fitnets"])
    assert again[-1].standings == board.standings
    assert trained == []


def test_settings_are_chosen_on_validation_data_under_a_seed_of_their_own(done):
    _, boards, trained = done
    kd = boards[-1].standings[1]
    best = max(trial.accuracy for trial in kd.trials)
    chosen = next(trial for trial in kd.trials if trial.accuracy == best)
    assert kd.objective == chosen.objective
    seeds = {event.name.split("seed ")[-1] for event in trained if event.name.startswith("kd/")}
    assert seeds == {"0", "1", str(TUNING_SEED)}
    assert len([event for event in trained if event.name.startswith("dkd/")]) == GRID_SIZE + 2


def test_all_students_of_a_seed_start_alike_and_learn_alike_from_equal_objectives(
    suite, done, tmp_path
):
    study = comparison._Study(
        "tiny",
        suite,
        suite.lengths["short"],
        done.copy(tmp_path),
        "short",
        (0,),
        None,
        lambda event: None,
    )
    grid = (1.0 * CrossEntropy(), 1.0 * CrossEntropy() + 0.0 * KD())
    plain, idle = (study.train("twin", number, grid, 7) for number in range(2))
    pairs = zip(plain.last.state_dict().values(), idle.last.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_a_remembered_teacher_teaches_as_the_live_one_does(suite, done, tmp_path):
    study = comparison._Study(
        "tiny",
        suite,
        suite.lengths["short"],
        done.copy(tmp_path),
        "short",
        (0,),
        None,
        lambda event: None,
    )
    grid = (1.0 * CrossEntropy() + 10.0 * FitNets("stage2"),)
    remembered = study.train("memory", 0, grid, 0)
    live = study.of_teacher.live(study.teacher, chunk=16, layers=("stage2",))
    taught = study.lab.train("live", 0, suite.student, grid[0], study.settings, teacher=live)
    pairs = zip(
        remembered.last.state_dict().values(), taught.last.state_dict().values(), strict=True
    )
    assert all(torch.equal(one, other) for one, other in pairs)


def test_many_views_are_taught_from_a_cache_and_features_live(suite, single, done, tmp_path):
    boards, _ = run(done.copy(tmp_path), length="full", methods=["fitnets"])
    assert [standing.method for standing in boards[-1].standings][-1] == "fitnets"
    assert (tmp_path / "tiny/full/cache/manifest.json").is_file()
    assert boards[-1].num_train == 80


def test_a_setting_whose_numbers_go_wrong_is_not_chosen(suite, done, tmp_path, monkeypatch):
    train = comparison._Study.train

    def diverging(self, method, number, grid, seed):
        if method == "kd" and number == 0:
            raise TrainingError("nan")
        return train(self, method, number, grid, seed)

    monkeypatch.setattr(comparison._Study, "train", diverging)
    boards, _ = run(done.copy(tmp_path), methods=["kd"])
    kd = boards[-1].standings[1]
    assert kd.trials[0].accuracy is None
    assert kd.objective != kd.trials[0].objective
    assert "| diverged |" in as_page(boards[-1])


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"length": "long"}, "short"),
        ({"methods": ["kdd"]}, "kd"),
    ],
)
def test_an_unknown_name_is_one_clear_error(suite, tmp_path, choice, said):
    with pytest.raises(UnknownNameError, match=said):
        run(tmp_path, **choice)


def test_data_without_a_validation_part_are_refused(suite, tmp_path, monkeypatch):
    splits = replace(suite.load(None), valid=None)
    monkeypatch.setitem(SUITES, "tiny", replace(suite, load=lambda path: splits))
    with pytest.raises(ConfigError, match="no validation part"):
        run(tmp_path)


def standing(method, accuracies, over_baseline, over_kd=None):
    scores = [Score(accuracy, 0.9, 0.02, 0.3) for accuracy in accuracies]
    return Standing(method, f"1.0 * {method}", [], scores, scores, over_baseline, over_kd)


def test_the_page_ranks_by_accuracy_and_says_what_the_intervals_say(suite, done):
    board = replace(
        done.boards[-1],
        standings=[
            standing("cross_entropy", [0.8, 0.82], None),
            standing("kd", [0.85, 0.87], (0.05, 0.01, 0.09)),
            standing("dkd", [0.7, 0.72], (-0.1, -0.2, -0.05), (-0.15, -0.2, -0.1)),
            standing("nkd", [0.9, 0.9], (0.08, 0.02, 0.14), (0.04, -0.01, 0.09)),
            standing("pkt", [0.81, 0.81], (0.0, -0.02, 0.02), (-0.05, -0.1, 0.0)),
        ],
    )
    page = as_page(board)
    order = [page.index(f"| `{name}` |") for name in ("nkd", "kd", "cross_entropy", "pkt", "dkd")]
    assert order == sorted(order)
    assert "- Helped, against the labels alone: `nkd`, `kd`.\n" in page
    assert "- Did nothing that could be seen: `pkt`.\n" in page
    assert "- Hurt: `dkd`.\n" in page
    assert "- Better than plain KD, tuned as carefully: none.\n" in page
    assert "- Worse than plain KD: `dkd`.\n" in page
    assert "86.00 ± 12.71" in page  # t(0.975; 1) = 12.71 times 0.01
    assert "**-10.00 [-20.00, -5.00]**" in page
    assert verdict((0.0, 0.0, 0.1)) == "no evidence"


def test_the_page_says_what_it_does_not_compare_and_how_short_it_is():
    short = load_record(SHIPPED / "cnn_to_mlp.json", Leaderboard)
    page = as_page(short)
    assert "for want of maps or channels that fit: " in page
    assert "`attention_transfer`, `cwd`," in page
    assert "`kd`" not in page.partition("that fit: ")[2].partition("\n")[0]
    assert "`--length full`" in page
    assert "`--length full`" not in as_page(replace(short, length="full"))


def test_a_method_with_another_student_is_marked_in_its_row():
    page = as_page(load_record(SHIPPED / "vit_to_cnn.json", Leaderboard))
    assert "| `kd` |" in page
    assert "| `simkd` (a student 57% larger, another start) |" in page
    assert "Not the same student: `simkd`." in page


@pytest.mark.parametrize("parameters", [None, 6274])
def test_a_method_with_other_parts_of_equal_size_is_marked_too(parameters):
    board = load_record(SHIPPED / "vit_to_cnn.json", Leaderboard)
    assert board.student_parameters == 6274
    standings = [replace(standing, parameters=parameters) for standing in board.standings]
    page = as_page(replace(board, standings=standings))
    assert "| `simkd` (another student, another start) |" in page
    assert "Not the same student: `simkd`." in page
    assert page.count("another student, another start") == 1


def test_losses_that_leave_the_student_as_it_is_say_so():
    assert {name for name, loss in LOSSES.items() if loss.changes_student} == {"simkd"}


def test_a_dearer_loss_costs_more_time_and_memory_than_plain_kd():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(64, 1, 8, 8, generator=generator)
    ids = torch.arange(64)
    batch = Batch(inputs, ids % 3, ids, torch.zeros_like(ids))
    task = Classification(num_classes=3)
    layers = Layers(STAGES, STAGES, "pool", "pool", have_maps=True)
    names = ("kd", "cross_entropy", "crd_memory")
    objectives = {name: candidates(layers)[name][0] for name in names}
    teacher = ModuleTeacher(resnet(3, width=4), task, chunk=64, layers=("pool",))
    costs = costs_against(
        "kd", objectives, partial(resnet, 3, width=2), task, teacher, batch, num_samples=4000
    )
    assert costs["crd_memory"].megabytes > 2 * costs["kd"].megabytes
    activations = 64 * 8 * 8 * 2 * 4 / 1e6  # one map of the first stage
    assert costs["kd"].megabytes > activations
    assert 0.5 < costs["kd"].ratio < 2
    assert all(cost.milliseconds > 0 for cost in costs.values())


def test_an_mlp_and_a_transformer_take_part():
    for name in ("cnn_to_mlp", "vit_to_cnn"):
        suite = SUITES[name]
        images = torch.zeros(2, 1, 28, 28)
        with torch.no_grad():
            assert suite.teacher().eval()(images).shape == (2, 10)
            assert suite.student().eval()(images).shape == (2, 10)
    assert isinstance(SUITES["cnn_to_mlp"].student().hidden2, torch.nn.Sequential)


def test_cifar100_goes_through_from_a_path(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    pictures = torch.randint(0, 256, (400, 3074), dtype=torch.uint8)
    pictures[:, 1] = torch.arange(400) % 100
    (folder / "train.bin").write_bytes(pictures.numpy().tobytes())
    (folder / "test.bin").write_bytes(pictures[:100].numpy().tobytes())
    suite = SUITES["cifar100-resnet56-resnet20"]
    published = suite.lengths["full"]
    assert (published.epochs, published.samples, published.views.num_views) == (240, None, 162)
    assert suite.settings.optimizer == OptimizerSettings(
        kind="sgd", lr=0.05, momentum=0.9, weight_decay=5e-4
    )
    drops = [suite.settings.schedule.factor(step, 240) for step in (149, 150, 180, 210)]
    assert drops == pytest.approx([1, 0.1, 0.01, 0.001])
    small = replace(
        suite,
        teacher=partial(resnet, 100, 3, width=4),
        student=partial(resnet, 100, 3, width=2),
        teacher_settings=replace(suite.teacher_settings, epochs=1),
        lengths={"full": replace(published, epochs=1, samples=64)},
    )
    monkeypatch.setitem(SUITES, "standin", small)
    boards = list(
        compare("standin", tmp_path, length="full", num_seeds=1, methods=["kd"], data=tmp_path)
    )
    assert boards[-1].num_train == 64
    assert boards[-1].views == "crop_flip(4)"


def test_the_command_prints_where_each_method_stands(suite, done, tmp_path, capsys):
    done.copy(tmp_path)
    (tmp_path / "tiny/short/leaderboard.md").unlink()
    arguments = ["bench", "tiny", "--out", str(tmp_path), "--seeds", "2", "--methods", "dkd"]
    assert guarded(lambda **settings: app(arguments, **settings)) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("cross_entropy", "kd", "dkd", "over the baseline"))
    assert (tmp_path / "tiny/short/leaderboard.md").is_file()


def test_the_command_names_the_suites_for_one_that_is_not_there(capsys):
    assert guarded(lambda **settings: app(["bench", "fashion"], **settings)) == 2
    assert "fashion_mnist" in capsys.readouterr().err


@pytest.mark.parametrize("file", sorted(SHIPPED.glob("*.json")), ids=lambda file: file.stem)
def test_a_shipped_leaderboard_is_the_page_in_the_docs(file):
    board = load_record(file, Leaderboard)
    assert board.suite == file.stem
    page = ROOT / "docs/leaderboards" / f"{file.stem}.md"
    assert page.read_text() == as_page(board), (
        f"{page} is stale: copy leaderboard.md and results.json of the same run"
    )
    assert {standing.method for standing in board.standings} == board.costs.keys()
