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
        made_of=made_of("score"),
    shell:
        "python -m pipeline.score --experiment {wildcards.experiment} --model {wildcards.model}"


rule score_shard:
    input:
        data=data("score_shard"),
    output:
        scores=temp("data/shards/scores/{experiment}/{model}/{shards}/{shard}.parquet"),
    log:
        "logs/score-{experiment}-{model}-{shard}_{shards}.log",
    benchmark:
        "logs/benchmarks/score_shard-{experiment}-{model}-{shards}-{shard}.tsv"
    threads: P.compute.threads
    resources:
        gpu=gpus("score_shard"),
        mem_mb=4000,
        runtime=720,
    params:
        made_of=made_of("score_shard"),
    shell:
        "python -m pipeline.score --experiment {wildcards.experiment} --model {wildcards.model} --shard {wildcards.shard}/{wildcards.shards}"
