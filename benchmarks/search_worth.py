"""What a searched merge is worth on facts that it was not searched on: CMA-ES against the others.

    uv run python benchmarks/search_worth.py runs/merge_search_smollm2

H is the search's own fitness, measured where the search did not look: the harmonic mean of generalization and locality
(teacher-forced) over the facts that were left out of the search, and of perplexity before / after on score.general's
texts, at most 1. A cell's number is the mean over its seeds. Intervals: 95 %, from 2,000 draws with replacement of each
seed's facts, the same ones for both sides of a difference; they do not hold what other texts would change.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from kedit_glue.metrics import GENERALIZATION, LOCALITY, SUCCESS
from kedit_glue.scores import one_number

DRAWS = 2000


def main() -> None:
    cells: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for file in sorted(Path(sys.argv[1]).glob("*_seed-*/scores.json")):
        name, seed = re.fullmatch(r"(.+)_seed-(\d+)", file.parent.name).groups()  # type: ignore[union-attr]
        cells[name][int(seed)] = json.loads(file.read_text(encoding="utf-8"))
    print("| chosen by | fitness on its 40 facts | edit success | generalization | locality | texts | H |")
    drawn = {name: draws(of) for name, of in cells.items()}
    for name, of in cells.items():
        found = [parts(document, None) for document in of.values()]
        fitness = [document["search"]["merges"][-1]["best"]["fitness"] for document in of.values()]
        shown = [mean(fitness), *(mean([one[key] for one in found]) for key in (SUCCESS, GENERALIZATION, LOCALITY))]
        change = mean([one["change"] for one in found])
        print(f"| {name} | {' | '.join(f'{100 * value:.1f}' for value in shown)} | {100 * change:+.2f} | "
              f"{100 * mean([one['H'] for one in found]):.1f} {interval(drawn[name])} |")  # fmt: skip
    best = "cma_es"
    for name in [other for other in cells if other != best]:
        difference = mean([parts(cells[best][s], None)["H"] - parts(d, None)["H"] for s, d in cells[name].items()])
        paired = [a - b for a, b in zip(drawn[best], drawn[name], strict=True)]
        print(f"H of {best} less {name}: {100 * difference:+.2f} {interval(paired)}")


def parts(document: dict[str, Any], chosen: list[int] | None) -> dict[str, float]:
    """Means over the facts that no search saw, or over those of them with these places."""
    seen = set(document["search"]["facts"])
    facts = [fact for fact in document["facts"] if fact["id"] not in seen]
    facts = [facts[at] for at in chosen] if chosen is not None else facts
    found = {
        key: mean([v for fact in facts if (v := one_number(fact["after"][key])) is not None])
        for key in (SUCCESS, GENERALIZATION, LOCALITY)
    }
    (change,) = [task["change"] for task in document["after"]["general_change"].values() if task.get("change_is")]
    kept = min(1.0, 1 / (1 + change))
    return {**found, "change": change, "H": 3 / (1 / found[GENERALIZATION] + 1 / found[LOCALITY] + 1 / kept)}


def draws(of: dict[int, dict[str, Any]]) -> list[float]:
    """H, mean over seeds, for each draw of facts; the same draws for each cell."""
    found = [[] for _ in range(DRAWS)]  # type: list[list[float]]
    for seed, document in sorted(of.items()):
        count = len(document["facts"]) - len(document["search"]["facts"])
        rng = random.Random(seed)
        for draw in found:
            draw.append(parts(document, [rng.randrange(count) for _ in range(count)])["H"])
    return [mean(draw) for draw in found]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def interval(values: list[float]) -> str:
    ordered = sorted(values)
    low, high = ordered[int(0.025 * len(ordered))], ordered[int(0.975 * len(ordered)) - 1]
    return f"[{100 * low:+.1f}, {100 * high:+.1f}]"


if __name__ == "__main__":
    main()
