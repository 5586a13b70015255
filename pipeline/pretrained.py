"""Get a pretrained file, verified: a row of workflow/weights.csv in, `data/weights/<name>.json` out.

    python -m pipeline.pretrained --weights alexnet

The file lies in `data/weights/<file>`, fetched or put there by hand. The manifest names it with its SHA-256, null where it
cannot be had: whether that stops a table is the experiment's to say (`missing_weights`). Both engines make the manifest
again when the file appears, changes or goes, and then the stages that read it.
"""

from __future__ import annotations

import argparse

from pipeline import params, plan, weights
from pipeline.atomic import claim
from pipeline.errors import log, run
from pipeline.identity import content
from pipeline.store import sealed


def main() -> None:
    """Parse the command line and write the manifest."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", required=True, help="name of a row of workflow/weights.csv")
    args = parser.parse_args()
    p = params.load()
    fields = plan.fields_of(p, "pretrained", weights=args.weights)
    output = plan.path("pretrained", **fields)
    claim(output)
    manifest: dict[str, str | None] = {"file": weights.source_of(args.weights).file, "sha256": None}
    try:
        manifest["sha256"] = content(weights.path(args.weights, patient=False))
    except weights.Missing as error:
        log.warning("%s", error)
    sealed.write(output, manifest | plan.token("pretrained", fields))
    log.info("%s: %s", args.weights, manifest["sha256"] or "not here")


if __name__ == "__main__":
    run(main, "pretrained")
