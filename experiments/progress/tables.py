"""The tables of the README, from results.json.

python experiments/progress/tables.py    # writes them
"""

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

TITLES = {
    "ours, with forecast": "**ours, with forecast**",
    "ours": "**ours**",
    "ours, extra points": "**ours, extra points** of 64 samples",
    "ours, mode": "ours, half-sample mode",
    "LC-PFN's curves": "LC-PFN's curves, exact posterior",
    "Luo": "Luo's method, as on the slides",
    "patience on the trend": "the rule on the trend itself",
    "maximum": "maximum (tqdm, Keras, Trainer)",
    "Composer": "Composer's formula",
}
COMPARED = {
    "ours, with forecast": "ours with forecast",
    "ours": "ours",
    "LC-PFN's curves": "LC-PFN's curves",
    "Luo": "Luo's method",
}
INDICATOR = {"ours, with forecast": "with forecast", "ours": "without"}
GROUPS = ("all", "patience 2", "patience 5", "patience 10", "near", "medium", "far")
"""That are known when somebody asks."""

ENDS = ("all", "stopped early", "to the maximum")


def main() -> None:
    """Put them in the place of those with the same header."""
    readme = HERE / "README.md"
    text = readme.read_text(encoding="utf-8")
    for lines in tables(json.loads((HERE / "results.json").read_text(encoding="utf-8"))):
        before, table = text.split(lines[0], 1)
        text = before + "\n".join(lines) + "\n\n" + table.split("\n\n", 1)[1]
    readme.write_text(text, encoding="utf-8")


def tables(results: dict[str, Any]) -> list[list[str]]:
    """The lines of each."""
    summary, regrets = results["summary"], results["against the maximum"]
    moments = list(next(iter(regrets["development"].values())))
    asked = [moment for moment in moments if moment.startswith("after")]
    shares = [moment for moment in moments if moment not in asked]
    return [
        *(of_methods(split, methods) for split, methods in summary.items()),
        of_nearness(summary),
        of_regrets(regrets, asked, GROUPS),
        of_regrets(regrets, shares, ENDS),
    ]


def of_methods(split: str, methods: dict[str, Any]) -> list[str]:
    """Errors and coverage at each share of the run."""

    def cell(row: dict[str, Any]) -> str:
        told = (row["median_relative"], row["mean_of_run"], row["covered_where_told"])
        return ", ".join(f"{share:.0%}" for share in told if share is not None)

    cases = next(iter(methods["maximum"].values()))["cases"]
    return [
        *head(f"{named(split)}, {cases} cases", methods["maximum"]),
        *(line(title, map(cell, methods[name].values())) for name, title in TITLES.items()),
    ]


def of_nearness(summary: dict[str, Any]) -> list[str]:
    """How often each is as near as the maximum or nearer."""
    shares = list(summary["development"]["maximum"])[1:]
    return [
        *head("no worse than the maximum", shares),
        *(
            line(
                f"{named(split)}, {title}",
                (f"{methods[name][share]['no_worse_than_maximum']:.0%}" for share in shares),
            )
            for split, methods in summary.items()
            for name, title in COMPARED.items()
        ),
    ]


def of_regrets(regrets: dict[str, Any], moments: list[str], groups: tuple[str, ...]) -> list[str]:
    """Mean errors beside the maximum's, group by group."""

    def cell(row: dict[str, Any]) -> str:
        text = f"{row['mean_error']:.0%} / {row['mean_error_maximum']:.0%}"
        if row["regret"] > 0:
            text = f"**{text}**"
        return text + "†" * (row["low"] > 0)

    return [
        *head("mean error / the maximum's", moments),
        *(
            line(
                f"{named(split)}, {title}, {group}",
                (cell(methods[name][moment][group]) for moment in moments),
            )
            for split, methods in regrets.items()
            for name, title in INDICATOR.items()
            for group in groups
        ),
    ]


def head(title: str, moments: Any) -> list[str]:
    """Its first two lines; a moment is its name, or a share of the run."""
    names = [name if name[-1] == "%" or " " in name else f"{float(name):.0%}" for name in moments]
    return [line(title, names), "|---" * (1 + len(names)) + "|"]


def line(title: str, cells: Any) -> str:
    """One row."""
    return f"| {title} | {' | '.join(cells)} |"


def named(split: str) -> str:
    """A split, as it is read."""
    return split.replace("-", " ")


if __name__ == "__main__":
    main()
