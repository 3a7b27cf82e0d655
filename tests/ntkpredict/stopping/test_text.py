import doctest
import re

import numpy as np
import pytest

import ntkpredict as ntp
from ntkpredict.stopping import text
from tests.ntkpredict.stopping.rules import RULES


class TestParse:
    @pytest.mark.parametrize("rule", RULES, ids=str)
    def test_reads_what_str_writes(self, rule):
        assert ntp.parse(str(rule)) == rule

    @pytest.mark.parametrize("seed", range(20))
    def test_any_number_survives(self, seed):
        value = float(10 ** np.random.default_rng(seed).uniform(-12, 12))
        share = float(np.random.default_rng(seed).uniform(0.001, 0.999))
        for rule in (
            ntp.TargetLoss(value),
            ntp.TargetLoss(relative=share, on="validation"),
            ntp.TargetAccuracy(share),
            ntp.Converged(value),
            ntp.EarlyStopping(5, every=20, min_delta=value),
        ):
            assert ntp.parse(str(rule)) == rule

    def test_all_of_them_joined(self):
        rule = ntp.AnyOf(tuple(RULES))
        assert ntp.parse(str(rule)) == rule

    @pytest.mark.parametrize(
        ("text", "rule"),
        [
            ("loss<=0.1", ntp.TargetLoss(0.1)),
            ("loss < 0.1", ntp.TargetLoss(0.1)),
            ("  train_loss<=1e-1  ", ntp.TargetLoss(0.1)),
            ("val_loss<=.1x", ntp.TargetLoss(relative=0.1, on="validation")),
            ("validation_accuracy >= 0.9", ntp.TargetAccuracy(0.9, on="validation")),
            ("accuracy>0.9", ntp.TargetAccuracy(0.9)),
            ("converged<=0.01", ntp.Converged(0.01)),
            ("steps>=1e3", ntp.MaxSteps(1000)),
            ("patience>=5@20", ntp.EarlyStopping(5, 20)),
            ("patience > 5 @ 20 > 1e-2", ntp.EarlyStopping(5, 20, 0.01)),
            ("loss_patience>=5@20", ntp.EarlyStopping(5, 20)),
            ("val_patience>=5@20", ntp.EarlyStopping(5, 20)),
            ("train_patience>=5@20", ntp.EarlyStopping(5, 20, on="train")),
            ("accuracy_patience>=5@20", ntp.EarlyStopping(5, 20, metric="accuracy")),
            ("val_accuracy_patience>=5@20", ntp.EarlyStopping(5, 20, metric="accuracy")),
            ("best_val_loss", ntp.Best()),
            ("best_loss", ntp.Best()),
            ("best_validation_accuracy", ntp.Best(metric="accuracy")),
            ("best_train_loss", ntp.Best(on="train")),
            ("patience>=5@20|steps>=9", ntp.EarlyStopping(5, 20) | ntp.MaxSteps(9)),
            ("steps>=5|loss<=1", ntp.MaxSteps(5) | ntp.TargetLoss(1.0)),
        ],
    )
    def test_spellings(self, text, rule):
        assert ntp.parse(text) == rule

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "loss",
            "loss<=",
            "loss>=0.1",
            "accuracy<=0.9",
            "steps<=5",
            "converged>0.1",
            "f1>=0.9",
            "loss<=0.1 | ",
            "loss<=0.1 or steps>=5",
            "loss<=-",
            "loss<=1e",
            "loss<=1-2",
            "loss<=0.1xx",
            "test_loss<=0.1",
            "accuracy>=0.9x",
            "converged<0.1x",
            "steps>=500x",
            "val_steps>=500",
            "train_converged<0.1",
            "steps>=1.5",
            "steps>=1e999",
            "patience>=5",
            "patience>=5@",
            "patience<=5@20",
            "patience>=1.5@20",
            "patience>=-5@20",
            "patience>=5@20>",
            "patience>=5@20>1e",
            "patience>=5@20>=0.1",
            "patience>=5@20x",
            "patience>=5@" + 9999 * "9",
            "patience_loss>=5@20",
            "test_patience>=5@20",
            "best",
            "best_val",
            "best_f1",
            "val_best_loss",
            "best_val_loss<=0.1",
        ],
    )
    def test_bad_text(self, refused, text):
        with refused("until: "):
            ntp.parse(text)

    @pytest.mark.parametrize(
        "form",
        [
            "loss<=0.1",
            "loss<=0.1x",
            "accuracy>=0.9",
            "converged<0.01",
            "steps>=500",
            "patience>=5@20",
            "best_val_loss",
        ],
    )
    def test_the_message_shows_every_form(self, form):
        assert ntp.parse(form)
        with pytest.raises(ValueError, match=re.escape(form)):
            ntp.parse("soon")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("loss<=0", "value: got 0.0"),
            ("loss<=-1", "value: got -1.0"),
            ("loss<=1e999", "value: got inf"),
            ("loss<=2x", "relative: got 2.0"),
            ("accuracy>=90", "value: got 90.0"),
            ("converged<0", "eps: got 0.0"),
            ("steps>=0", "value: got 0"),
            ("patience>=5@0", "every: got 0"),
            ("patience>=5@20>-1", "min_delta: got -1.0"),
            ("patience>=5@20>1e999", "min_delta: got inf"),
            ("steps>=5 | loss<=0", "value: got 0.0"),
        ],
    )
    def test_values_outside_of_their_range(self, refused, text, message):
        with refused(message):
            ntp.parse(text)

    def test_doctests(self):
        failed, attempted = doctest.testmod(text)
        assert attempted > 0
        assert failed == 0
