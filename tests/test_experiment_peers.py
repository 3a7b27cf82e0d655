import json
import runpy
from pathlib import Path

import pytest

EXPERIMENT = Path(__file__).parent.parent / "experiments" / "peers"


@pytest.mark.usefixtures("optimized", "x64")
def test_the_solvers_give_the_stored_curves_of_neural_tangents(tmp_path):
    main = runpy.run_path(str(EXPERIMENT / "run.py"))["main"]
    results = main(smoke=True, folder=tmp_path)
    assert {row["solver"] for row in results["rows"]} == {"replay", "sde", "spectral"}
    for row in results["rows"]:
        assert max(row[part] for part in {"train", "unseen", "outputs"} & set(row)) < 1e-3, row
    for curves in results["curves"].values():
        assert curves["peer"][-1] < 0.1 * curves["peer"][0]
    assert json.loads((tmp_path / "results.json").read_text())["rows"] == results["rows"]
    assert (tmp_path / "figure.png").stat().st_size > 10_000
