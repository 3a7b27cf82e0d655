"""Stopping rules as text."""

from __future__ import annotations

import re
from typing import cast

from ntkpredict.counter import Framework
from ntkpredict.stopping.best import Best
from ntkpredict.stopping.early import EarlyStopping
from ntkpredict.stopping.metric import Metric, On
from ntkpredict.stopping.rule import AnyOf, MaxSteps, StoppingRule
from ntkpredict.stopping.target import Converged, TargetAccuracy, TargetLoss

_FRAMEWORK = r"((?P<framework>keras|huggingface|lightning)_)?"
_ON = r"(?P<on>train_|validation_|val_)?"
_METRIC = r"(?P<metric>loss|accuracy)"
_NUMBER = r"(?P<number>[0-9.eE+-]+)"
_RULE = re.compile(
    rf"{_ON}(?P<name>loss|accuracy|converged|steps)"
    rf"\s*(?P<sign><=|<|>=|>)\s*{_NUMBER}(?P<relative>x)?"
)
_PATIENCE = re.compile(
    rf"{_FRAMEWORK}{_ON}({_METRIC}_)?patience\s*>=?\s*(?P<patience>[0-9]{{1,15}})"
    rf"\s*@\s*(?P<every>[0-9]{{1,15}})(\s*>\s*{_NUMBER})?"
)
_BEST = re.compile(rf"best_{_ON}{_METRIC}")


def parse(text: str) -> StoppingRule:
    """A rule from text, as the command line takes it.

    ``patience>=5@20`` is `EarlyStopping(5, every=20)`; ``>0.01`` after it is its `min_delta`. It
    and `Best` look at validation where nothing else is said, and patience at the loss. It counts as
    Keras does, or as ``huggingface_`` or ``lightning_`` before it says.

    >>> str(parse("loss<=0.1x | val_accuracy>=0.95"))
    'loss<=0.1x | validation_accuracy>=0.95'
    >>> str(parse("val_accuracy_patience>=5@20>0.01"))
    'validation_accuracy_patience>=5@20>0.01'
    >>> parse("best_val_loss")
    Best(on='validation', metric='loss')

    Raises:
        ValueError: not a rule, or a value outside of its range.
    """
    rules = [_parse_one(part.strip()) for part in text.split("|")]
    return rules[0] if len(rules) == 1 else AnyOf(tuple(rules))


def _parse_one(text: str) -> StoppingRule:
    if match := _PATIENCE.fullmatch(text):
        delta = 0.0 if match["number"] is None else _float(match["number"], text)
        patience, every = int(match["patience"]), int(match["every"])
        on = _on(match, "validation")
        framework = cast(Framework, match["framework"] or "keras")
        return EarlyStopping(patience, every, delta, on, _metric(match), framework)
    if match := _BEST.fullmatch(text):
        return Best(_on(match, "validation"), _metric(match))
    match = _RULE.fullmatch(text)
    if match is None or not _is_sensible(match):
        msg = (
            f"until: got {text!r}; expected loss<=0.1, loss<=0.1x (of the initial loss), "
            "accuracy>=0.9, converged<0.01, steps>=500, patience>=5@20 (5 evaluations, one every "
            "20 steps, without a better validation loss) or best_val_loss, "
            "with val_ for validation, joined by |"
        )
        raise ValueError(msg)
    number, on = _float(match["number"], text), _on(match, "train")
    if match["name"] == "loss":
        return (
            TargetLoss(relative=number, on=on) if match["relative"] else TargetLoss(number, on=on)
        )
    if match["name"] == "accuracy":
        return TargetAccuracy(number, on=on)
    if match["name"] == "converged":
        return Converged(number)
    if not number.is_integer():
        msg = f"until: got {text!r}; expected a whole number of steps"
        raise ValueError(msg)
    return MaxSteps(int(number))


def _float(number: str, text: str) -> float:
    try:
        return float(number)
    except ValueError as error:
        msg = f"until: {number!r} in {text!r} is not a number"
        raise ValueError(msg) from error


def _on(match: re.Match[str], default: On) -> On:
    if match["on"] is None:
        return default
    return "train" if match["on"] == "train_" else "validation"


def _metric(match: re.Match[str]) -> Metric:
    return "accuracy" if match["metric"] == "accuracy" else "loss"


def _is_sensible(match: re.Match[str]) -> bool:
    falling = match["name"] in ("loss", "converged")
    splits = match["on"] is None or match["name"] in ("loss", "accuracy")
    relative = match["relative"] is None or match["name"] == "loss"
    return ("<" in match["sign"]) == falling and splits and relative
