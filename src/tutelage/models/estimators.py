"""Models of scikit-learn, and whatever has their methods, as networks that only answer."""

import hashlib
import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from tutelage.errors import ConfigError, ModelError, find, one_line
from tutelage.models.origin import Origin, remember
from tutelage.types import Signal

PREFIX = "sklearn:"
LEAST = 1e-6  # a probability: forests say exactly 0, whose logarithm nothing can be learned from
ANSWERS = {
    Signal.LOGITS: "predict_proba",
    Signal.BINARY_LOGITS: "predict_proba",
    Signal.VALUES: "predict",
}


class EstimatorNetwork(nn.Module):
    """A fitted estimator in the place of a network: it gives scores, and nothing of it is trained.

    Probabilities become logits: the logarithm for classes, the log odds for yes-or-no labels, both
    of probabilities held above one in a million. Values are given as they are.

    Args:
        estimator: Fitted, with `predict_proba` (classes, yes-or-no labels) or `predict` (values).
        gives: What kind of scores it shall give.
        width: How many scores; as many as it has classes if not given.

    Raises:
        ConfigError: It is not fitted, or gives no such scores.
    """

    def __init__(self, estimator: Any, gives: Signal, width: int | None = None) -> None:
        """Hold the estimator, with a fingerprint of all that it learned."""
        super().__init__()
        self.name = type(estimator).__name__
        self.estimator, self.gives = estimator, gives
        _check(estimator, gives, self.name)
        self.places, self.names = _classes(estimator, gives)
        self.width = width or max(self.places, default=0) + 1
        self.fingerprint: Tensor
        self.register_buffer("fingerprint", _fingerprint(estimator, self.name))

    def extra_repr(self) -> str:
        """The estimator with its settings, so that a fingerprint tells it."""
        return repr(self.estimator)

    @torch.no_grad()
    def forward(self, inputs: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch width"]:
        """Scores of rows of numbers; further axes of an input are flattened."""
        rows = inputs.detach().flatten(1).double().cpu().numpy()
        answer = getattr(self.estimator, ANSWERS[self.gives])
        try:
            with warnings.catch_warnings():  # as of names that its training rows had
                warnings.simplefilter("ignore")
                scores = self._scores(answer(rows))
        except ModelError:
            raise
        except Exception as error:  # an estimator may be anybody's
            raise ModelError(
                f"{self.name}: {ANSWERS[self.gives]} fails on {len(rows)} rows of {rows.shape[1]} "
                f"numbers ({type(error).__name__}: {one_line(error)}). It must take what the "
                "student takes, in the same order."
            ) from error
        return torch.from_numpy(np.ascontiguousarray(scores)).float().to(inputs.device)

    def _scores(self, given: Any) -> Shaped[np.ndarray, "..."]:
        if self.gives is Signal.VALUES:
            values = np.asarray(given, dtype=np.float64)
            return values[:, None] if values.ndim == 1 else values
        if self.gives is Signal.BINARY_LOGITS:
            yes = _yes(given)
            return np.asarray(np.log(yes) - np.log1p(-yes))
        shares = np.asarray(given, dtype=np.float64)
        scores = np.full((len(shares), self.width), np.log(LEAST))
        scores[:, list(self.places)] = np.log(np.clip(shares, LEAST, None))
        return scores


def _check(estimator: Any, gives: Signal, name: str) -> None:
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    if gives not in ANSWERS:
        raise ConfigError(
            f"teacher: {name} gives no {gives.value}. Use a network, or task: classification, "
            "multi_label or regression."
        )
    if not hasattr(estimator, ANSWERS[gives]):
        raise ConfigError(
            f"teacher: {name} has no {ANSWERS[gives]}, so it gives no {gives.value}. Give one that "
            "has it; sklearn.calibration.CalibratedClassifierCV adds it to any classifier."
        )
    try:
        check_is_fitted(estimator)
    except NotFittedError as error:
        raise ConfigError(f"teacher: {name} is not fitted. Call its fit first.") from error
    except TypeError:  # of another library: it shows when it is asked
        return


def _classes(estimator: Any, gives: Signal) -> tuple[tuple[int, ...], tuple[str, ...] | None]:
    """Which logit each column of the probabilities is, and the names of classes that have any."""
    classes = getattr(estimator, "classes_", None)
    if gives is not Signal.LOGITS or classes is None:
        return (), None
    found = np.asarray(classes)
    if found.dtype.kind in "biuf" and bool((found == found.astype(np.int64)).all()):
        return tuple(int(number) for number in found), None
    return tuple(range(len(found))), tuple(map(str, found))


def _yes(given: Any) -> Shaped[np.ndarray, "..."]:
    """Probabilities of yes, a column a label, however an estimator gives them."""
    if isinstance(given, list):  # one array of two columns a label
        columns = np.stack([np.asarray(one)[:, -1] for one in given], axis=1)
    else:
        shares = np.asarray(given, dtype=np.float64)
        is_one_label = shares.shape[1] == 2 and np.allclose(shares.sum(axis=1), 1)
        columns = shares[:, 1:] if is_one_label else shares
    return np.clip(columns.astype(np.float64), LEAST, 1 - LEAST)


def _fingerprint(estimator: Any, name: str) -> Tensor:
    import joblib

    try:
        text = joblib.hash(estimator)
    except Exception as error:  # pickle refuses open files, locks, functions without a name
        raise ModelError(
            f"teacher: {name} cannot be fingerprinted ({type(error).__name__}: {one_line(error)}). "
            "Keep no open files, locks or lambdas in it."
        ) from error
    return torch.tensor(list(hashlib.sha256(str(text).encode()).digest()), dtype=torch.uint8)


def as_estimator(given: Any, gives: Signal) -> EstimatorNetwork:
    """An estimator that somebody fitted, as a network.

    Args:
        given: The estimator; what it takes is one row of numbers a sample, as the student.
        gives: The scores that the task needs.

    Raises:
        ConfigError: It is not fitted, or gives no such scores.
    """
    network = EstimatorNetwork(given, gives)
    if network.names is not None:
        remember(network, Origin(network.names))
    return network


def is_estimator(given: object) -> bool:
    """Whether something has the methods of a fitted estimator of scikit-learn."""
    return callable(getattr(given, "predict", None)) and not isinstance(given, nn.Module | type)


def holds_estimator(network: nn.Module) -> bool:
    """Whether a network, or a part of it, is an estimator: it cannot be exported."""
    return any(isinstance(module, EstimatorNetwork) for module in network.modules())


def make_estimator(name: str, settings: Mapping[str, Any], gives: Signal, num_outputs: int) -> Any:
    """An estimator of scikit-learn by name, yet to be fitted.

    Args:
        name: Its class, such as HistGradientBoostingRegressor.
        settings: Arguments of its constructor; `random_state` is 0 where it has one and none is
            given.
        gives: The scores that the task needs.
        num_outputs: How many; where it fits one value or label alone, one is fitted for each.

    Raises:
        ConfigError: There is no such class for such scores, or it does not take the settings.
    """
    from sklearn.multioutput import MultiOutputClassifier, MultiOutputRegressor
    from sklearn.utils import all_estimators, get_tags

    if gives not in ANSWERS:
        raise ConfigError(
            f"teacher.model: {PREFIX}{name}: a model of scikit-learn gives no {gives.value}. Use "
            "task: classification, multi_label or regression."
        )
    kind = "regressor" if gives is Signal.VALUES else "classifier"
    made = find(f"{kind} of scikit-learn", name, dict(all_estimators(type_filter=kind)))
    known = inspect.signature(made).parameters
    for key in settings:
        find(f"setting of {name}", key, known)
    chosen = {"random_state": 0} if "random_state" in known else {}
    try:
        estimator = made(**{**chosen, **settings})
        is_several = gives is not Signal.LOGITS and num_outputs > 1
        fits_several = not is_several or get_tags(estimator).target_tags.multi_output
    except Exception as error:
        raise ConfigError(
            f"teacher.settings: {name} cannot be made with {dict(settings)}: "
            f"{type(error).__name__}: {one_line(error)}."
        ) from error
    if fits_several:
        return estimator
    return (MultiOutputRegressor if gives is Signal.VALUES else MultiOutputClassifier)(estimator)


def fit_estimator(
    estimator: Any, rows: Float[Tensor, "n ..."], labels: Tensor, gives: Signal, width: int
) -> EstimatorNetwork:
    """Fit an estimator on labelled rows.

    Args:
        estimator: As `make_estimator` makes it; fitted in place.
        rows: Inputs as networks see them; further axes are flattened.
        labels: Class numbers, or a column a value or label.
        gives: The scores that the task needs.
        width: How many.

    Raises:
        ModelError: It cannot be fitted on these data.
    """
    inputs = rows.flatten(1).double().cpu().numpy()
    wanted = labels.cpu().numpy()
    if wanted.ndim == 2 and wanted.shape[1] == 1:
        wanted = wanted[:, 0]
    if gives is not Signal.VALUES:
        wanted = wanted.astype(np.int64)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of convergence: its worth is measured all the same
            estimator.fit(inputs, wanted)
    except Exception as error:
        raise ModelError(
            f"teacher: {type(estimator).__name__} cannot be fitted on {len(inputs)} rows of "
            f"{inputs.shape[1]} numbers ({type(error).__name__}: {one_line(error)})."
        ) from error
    return EstimatorNetwork(estimator, gives, width)
