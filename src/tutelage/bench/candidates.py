"""Which settings of each method a comparison tries: as many of one as of any other."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial

from tutelage import losses
from tutelage.bench.suites import Layers
from tutelage.losses import KD, CrossEntropy
from tutelage.objective import Loss, Objective

GRID_SIZE = 6
SCALES = (0.1, 0.3, 1.0, 3.0, 0.01, 0.001)
WEIGHTS = (1.0, 9.0)
TEMPERATURES = (2.0, 4.0)
GENTLER = ((1.0, 1.0), (2.0, 0.3))
MEMORY = 1024

Make = Callable[[], Loss]
Grid = tuple[Objective, ...]


@cache
def candidates(layers: Layers) -> Mapping[str, Grid]:
    """Objectives to try, by method. The baseline has one, because it has no settings.

    Every loss with a teacher is added to the plain task loss of weight 1. A loss with a
    temperature, or a setting like it, is tried at two of them with two weights and at two gentler
    pairs; a loss on features with its usual weight times 3, 1, 0.3, 0.1, 0.01 and 0.001, for usual
    weights come from trainings fifty times as long as a short suite's.

    Args:
        layers: Where the two networks are looked at.
    """
    grids = {"cross_entropy": (1.0 * CrossEntropy(),), **_on_labels(layers), **_on_logits()}
    grids |= _on_vectors(layers)
    if layers.have_maps:
        grids |= _on_maps(layers)
    return grids


def _on_labels(layers: Layers) -> dict[str, Grid]:
    shares = (0.05, 0.1, 0.2, 0.4, 0.01, 0.02)
    past = (0.2, 0.4, 0.6, 0.8, 0.05, 0.1)
    return {
        "label_smoothing": tuple(1.0 * losses.LabelSmoothing(share) for share in shares),
        "teacher_free": _product(
            partial(losses.TeacherFree, 0.9), (4.0, 20.0), (0.1, 1.0), (4.0, 0.03), (1.0, 0.1)
        ),
        "auxiliary_heads": _scaled(partial(losses.AuxiliaryHeads, layers.student[:-1]), 1.0),
        "mutual_learning": _product(
            losses.MutualLearning, (1.0, 2.0), (0.3, 1.0), (1.0, 0.1), (2.0, 0.1)
        ),
        "past_self": tuple(1.0 * losses.PastSelf(share) for share in past),
    }


def _on_logits() -> dict[str, Grid]:
    return {
        "kd": _product(KD, TEMPERATURES, WEIGHTS, *GENTLER),
        "logit_mse": _scaled(losses.LogitMSE, 1.0),
        "ctkd": _product(partial(losses.CTKD, 1.0), (4.0, 20.0), WEIGHTS, (1.0, 1.0), (4.0, 0.3)),
        "dist": _product(
            partial(losses.DIST, 1.0, 1.0), (1.0, 4.0), (2.0, 8.0), (1.0, 0.5), (2.0, 2.0)
        ),
        "dkd": _product(
            lambda t: losses.DKD(1.0, 8.0, t), TEMPERATURES, (0.3, 1.0), (1.0, 0.1), (2.0, 0.03)
        ),
        "er_kd": _product(lambda t: losses.ERKD(KD(t)), TEMPERATURES, WEIGHTS, *GENTLER),
        "logit_standardisation": _product(
            lambda t: losses.LogitStandardisation(KD(t)), TEMPERATURES, WEIGHTS, *GENTLER
        ),
        "mlkd": _scaled(losses.MLKD, 1.0),
        "nkd": _product(partial(losses.NKD, 1.5), (1.0, 2.0), (1.0, 3.0), (1.0, 0.3), (1.0, 0.1)),
        "ofa_logit": _product(losses.OFALogit, (1.0, 1.4), WEIGHTS, (1.0, 0.3), (1.4, 0.3)),
        "ttm": _product(losses.TTM, (4.0, 10.0), (4.0, 40.0), (2.0, 4.0), (4.0, 0.4)),
        "wsld": _product(losses.WSLD, TEMPERATURES, WEIGHTS, *GENTLER),
        "wttm": _product(losses.WTTM, (4.0, 10.0), (4.0, 40.0), (2.0, 4.0), (4.0, 0.4)),
    }


def _on_vectors(layers: Layers) -> dict[str, Grid]:
    """Losses that take one vector per sample, or compute one."""
    ours, theirs = layers.student_vector, layers.teacher_vector
    usual: dict[str, tuple[Make, float]] = {
        "crd": (partial(losses.CRD, ours, theirs), 0.8),
        "crd_memory": (partial(losses.CRDMemory, ours, theirs, negatives=MEMORY), 0.8),
        "ofa": (partial(losses.OFA, layers.student[:-1]), 1.0),
        "srd": (partial(losses.SRD, ours, theirs), 2.0),
        "vkd": (partial(losses.VkD, ours, theirs), 1.0),
        "correlation_congruence": (partial(losses.CorrelationCongruence, ours, theirs), 100.0),
        "pkt": (partial(losses.PKT, ours, theirs), 500.0),
        "rkd_angle": (partial(losses.RKDAngle, ours, theirs), 50.0),
        "rkd_distance": (partial(losses.RKDDistance, ours, theirs), 25.0),
        "similarity_preserving": (partial(losses.SimilarityPreserving, ours, theirs), 3000.0),
    }
    grids = {name: _scaled(make, weight) for name, (make, weight) in usual.items()}
    return grids | {
        "simkd": tuple(
            task * CrossEntropy() + weight * losses.SimKD()
            for task, weight in ((0, 1), (0, 10), (1, 1), (1, 10), (1, 0.3), (1, 0.1))
        )
    }


def _on_maps(layers: Layers) -> dict[str, Grid]:
    """Losses that compare feature maps position by position, on the middle layer or the last."""
    every = (layers.student, layers.teacher)
    middle = len(layers.student) // 2
    hint = (layers.student[middle], layers.teacher[middle])
    last = (layers.student[-1], layers.teacher[-1])
    usual: dict[str, tuple[Make, float]] = {
        "activation_boundaries": (partial(losses.ActivationBoundaries, *every), 3.0),
        "attention_transfer": (partial(losses.AttentionTransfer, *every), 1000.0),
        "cwd": (partial(losses.CWD, *last), 10.0),
        "factor_transfer": (partial(losses.FactorTransfer, *last), 200.0),
        "fitnets": (partial(losses.FitNets, *hint), 100.0),
        "nst": (partial(losses.NST, *every), 50.0),
        "review_kd": (partial(losses.ReviewKD, *every), 2.0),
        "vid": (partial(losses.VID, *every), 1.0),
    }
    if layers.have_equal_widths:
        usual["fsp"] = (partial(losses.FSP, *every), 50.0)
    return {name: _scaled(make, weight) for name, (make, weight) in usual.items()}


def _scaled(make: Make, usual_weight: float) -> Grid:
    return tuple(1.0 * CrossEntropy() + round(scale * usual_weight, 6) * make() for scale in SCALES)


def _product(
    make: Callable[[float], Loss],
    settings: Sequence[float],
    weights: Sequence[float],
    *gentler: tuple[float, float],
) -> Grid:
    pairs = [*((setting, weight) for setting in settings for weight in weights), *gentler]
    return tuple(1.0 * CrossEntropy() + weight * make(setting) for setting, weight in pairs)
