# One value a row: window, step, sample, metric. Averages are made in the table.


rule score:
    input:
        data=data("score"),
    output:
        scores="data/scores/{experiment}/{model}.parquet",
    log:
        "logs/score-{experiment}-{model}.log",
    benchmark:
        "logs/benchmarks/score-{experiment}-{model}.tsv"
    threads: P.compute.threads
    resources:
        gpu=gpus("score"),
        mem_mb=4000,
        runtime=720,
    params:
        uses=uses("score"),
        code=code("score"),
    shell:
        "python -m pipeline.score --experiment {wildcards.experiment} --model {wildcards.model}"
