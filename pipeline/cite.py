"""What to cite for a table: its models, datasets and metrics.

    python -m pipeline.cite kitti

Entries stand in workflow/references.bib; their `keywords` say which kinds of model, dataset and metric they are for.
"""

from __future__ import annotations

import argparse
import functools
import re
from pathlib import Path

from pipeline import params
from pipeline.errors import RetakeError, near, run
from pipeline.params import Params

FILE = Path("workflow/references.bib")


@functools.cache
def entries() -> dict[str, str]:
    """Return {BibTeX key: entry as it stands in workflow/references.bib}."""
    texts = re.findall(r"^@\w+\{[^,\s]+,\n.*?^\}$", FILE.read_text(), re.MULTILINE | re.DOTALL)
    return {text.partition("{")[2].partition(",")[0]: text for text in texts}


@functools.cache
def by_keyword() -> dict[str, list[str]]:
    """Return {keyword, such as "model:dmvfn": BibTeX keys}."""
    named: dict[str, list[str]] = {}
    for key, text in entries().items():
        for keyword in re.search(r"keywords = \{(.*?)\}", text).group(1).split(","):  # type: ignore[union-attr]
            named.setdefault(keyword.strip(), []).append(key)
    return named


def of_model(p: Params, name: str) -> list[str]:
    """Return the BibTeX keys of a model, and of the flow estimator that it reads; none for what is not in the file."""
    if name not in p.models:  # brought
        return []
    model = p.models[name]
    return list(
        dict.fromkeys([*by_keyword().get(f"model:{model.kind}", []), *(of_model(p, model.flow) if model.flow else [])])
    )


def of_dataset(p: Params, name: str) -> list[str]:
    """Return the BibTeX keys of a dataset."""
    return by_keyword().get(f"dataset:{p.datasets[name].kind}", [])


def of_experiment(p: Params, name: str) -> list[str]:
    """Return the BibTeX keys of all that a table uses, each once; raises RetakeError for an unknown experiment."""
    if name not in p.experiments:
        raise RetakeError(f"no experiment {name!r}{near(name, p.experiments)}")
    e = p.experiments[name]
    used = [key for model in e.models for key in of_model(p, model)]
    used += [key for dataset in (e.dataset, e.trained_on) for key in of_dataset(p, dataset)]
    used += [key for metric in e.metrics.values() for key in by_keyword().get(f"metric:{metric.kind}", [])]
    return list(dict.fromkeys(used))


def main() -> None:
    """Print the entries."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", nargs="+", help="entry of `experiments`")
    args = parser.parse_args()
    p = params.load()
    used = dict.fromkeys(key for name in args.experiment for key in of_experiment(p, name))
    print("\n\n".join(entries()[key] for key in used))


if __name__ == "__main__":
    run(main, "cite")
