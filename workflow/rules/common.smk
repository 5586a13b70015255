# What every rule asks of pipeline/plan.py, by its wildcards: data files; the digest of its code and params keys, as one param.
# Code is a param, not an input: contents count, not times, and a graph of 10,000 jobs stays small.

import inspect
import re

BROUGHT = {label for e in P.experiments.values() for label in e.predictions}


def one_of(names):
    return "|".join(map(re.escape, names)) or "-"


def asked(function):
    """Return the function with errors that a user can mend as one line: Snakemake would print a traceback around them."""

    def answer(*arguments):
        try:
            return function(*arguments)
        except RetakeError as error:
            raise SystemExit(f"error: {error}") from None

    return answer


def signed(function):
    """Return the function with its signature ready: Snakemake looks into it ten times a job."""
    function.__signature__ = inspect.signature(function)
    return function


@asked
def fields(stage, wildcards):
    return plan.fields_of(P, stage, **wildcards)


def data(stage):
    def files(wildcards):
        # What a killed job left is made again unasked (--rerun-incomplete): stages write atomically, nothing is lost by it.
        # Set here because Snakemake's settings come after parsing.
        workflow.dag_settings.force_incomplete = True
        return asked(plan.inputs)(P, stage, fields(stage, wildcards))

    return signed(files)


def kept(file):
    """Return an output that stays, or with `compute.predictions: drop` one that goes when all that read it are made."""
    return temp(file) if P.compute.predictions == "drop" else file


def made_of(stage):
    def told(wildcards):
        instance = fields(stage, wildcards)
        return plan.made_of(P, stage, instance) | {
            "own": plan.own_files(stage, instance)
        }

    return signed(told)


def gpus(stage):
    return signed(lambda wildcards: plan.gpus(P, stage, fields(stage, wildcards)))
