# What every rule asks of pipeline/plan.py, by its wildcards: data files, the digest of its code, params keys.
# Code is a param, not an input: contents count, not times, and a graph of 10,000 jobs stays small.


def data(stage):
    return lambda wildcards: plan.inputs(
        P, stage, plan.fields_of(P, stage, **wildcards)
    )


def code(stage):
    return lambda wildcards: plan.digest(stage, plan.fields_of(P, stage, **wildcards))


def uses(stage):
    return lambda wildcards: plan.uses(P, stage, plan.fields_of(P, stage, **wildcards))
