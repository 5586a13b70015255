# What every rule asks of pipeline/plan.py: its fields, data files, code and params keys, by its wildcards.


def fields(stage):
    return lambda wildcards: plan.fields_of(P, stage, **wildcards)


def data(stage):
    return lambda wildcards: plan.inputs(P, stage, plan.fields_of(P, stage, **wildcards))


def code(stage):
    return lambda wildcards: plan.code(stage, plan.fields_of(P, stage, **wildcards))


def uses(stage):
    return lambda wildcards: plan.uses(P, stage, plan.fields_of(P, stage, **wildcards))
