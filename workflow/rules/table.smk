# The paper's table beside its published numbers.


import functools


@functools.cache
def miss(dag):
    """Ask again for every file between a table and the raw data that is gone; once, for all tables: what no job makes is ignored.

    Snakemake holds a table for up to date when files it was made from are missing (a training that failed, a fresh clone
    with results in git). `forcefiles` is private: tests/test_engines.py fails a training and must see the next run rebuild.
    """
    files = plan.files(P, plan.whole(P))
    dag.forcefiles.update(file for file in files if not os.path.exists(file))


@signed
def scored(wildcards):
    """Return a table's inputs."""
    files = data("table")(wildcards)  # an unknown experiment is refused here
    miss(workflow.dag)
    return files


rule table:
    input:
        data=scored,
    output:
        csv=report(
            "results/{experiment}_metrics.csv",
            caption="../report/metrics.rst",
            category="{experiment}",
        ),
        markdown="results/{experiment}_metrics.md",
        latex="results/{experiment}_metrics.tex",
        steps=report(
            "results/{experiment}_steps.csv",
            caption="../report/steps.rst",
            category="{experiment}",
        ),
        speed=report(
            "results/{experiment}_speed.csv",
            caption="../report/speed.rst",
            category="{experiment}",
        ),
        picture=report(
            "results/{experiment}.png",
            caption="../report/picture.rst",
            category="{experiment}",
        ),
        record="results/records/{experiment}.json",
        means="results/{experiment}_means.json",
    log:
        "logs/table-{experiment}.log",
    benchmark:
        "logs/benchmarks/table-{experiment}.tsv"
    resources:
        mem_mb=1000,
        runtime=120,
    params:
        made_of=made_of("table"),
    shell:
        "python -m pipeline.table --experiment {wildcards.experiment}"


# What is made of all tables together: the papers' own, one file for programs, one page for people.


rule paper:
    input:
        data=data("paper"),
    output:
        csv=report(
            "results/paper/{paper}.csv",
            caption="../report/paper.rst",
            category="papers",
        ),
        markdown="results/paper/{paper}.md",
        latex="results/paper/{paper}.tex",
    log:
        "logs/paper-{paper}.log",
    benchmark:
        "logs/benchmarks/paper-{paper}.tsv"
    resources:
        mem_mb=500,
        runtime=30,
    params:
        made_of=made_of("paper"),
    shell:
        "python -m pipeline.paper {wildcards.paper}"


rule results:
    input:
        data=data("results"),
    output:
        results="results/results.json",
        macros="results/paper/macros.tex",
    log:
        "logs/results-all.log",
    benchmark:
        "logs/benchmarks/results-all.tsv"
    resources:
        mem_mb=500,
        runtime=30,
    params:
        made_of=made_of("results"),
    shell:
        "python -m pipeline.results"


rule report:
    input:
        data=data("report"),
    output:
        page=report(
            "results/report.html",
            caption="../report/page.rst",
            category="report",
        ),
    log:
        "logs/report-all.log",
    benchmark:
        "logs/benchmarks/report-all.tsv"
    resources:
        mem_mb=1000,
        runtime=60,
    params:
        made_of=made_of("report"),
    shell:
        "python -m pipeline.report"
