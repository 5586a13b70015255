# The paper's table beside its published numbers.


def scored(wildcards):
    """Return a table's inputs, and ask again for every file between it and the raw data that is gone.

    Snakemake holds a table for up to date when files it was made from are missing (a training that failed, a fresh clone
    with results in git). `forcefiles` is private: tests/test_engines.py fails a training and must see the next run rebuild.
    """
    files = data("table")(wildcards)  # an unknown experiment is refused here
    workflow.dag.forcefiles.update(
        f for f in plan.files(P, [wildcards.experiment]) if not os.path.exists(f)
    )
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
        uses=uses("table"),
        code=code("table"),
        own=own("table"),
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
        uses=uses("paper"),
        code=code("paper"),
        own=own("paper"),
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
        uses=uses("results"),
        code=code("results"),
        own=own("results"),
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
        uses=uses("report"),
        code=code("report"),
        own=own("report"),
    shell:
        "python -m pipeline.report"
