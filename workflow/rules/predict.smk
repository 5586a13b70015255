# Predictions of every test window: made by a model, or brought by the user as images.


rule predict:
    input:
        data=data("predict"),
    output:
        store=kept("data/predictions/{experiment}/{model}.arrow"),
        speed="data/predictions/{experiment}/{model}.speed.json",
    log:
        "logs/predict-{experiment}-{model}.log",
    benchmark:
        "logs/benchmarks/predict-{experiment}-{model}.tsv"
    wildcard_constraints:
        model=one_of(P.models),
    threads: P.compute.threads
    resources:
        gpu=gpus("predict"),
        mem_mb=4000,
        runtime=720,
    params:
        made_of=made_of("predict"),
    shell:
        "python -m pipeline.predict --experiment {wildcards.experiment} --model {wildcards.model}"


rule predict_shard:
    input:
        data=data("predict_shard"),
    output:
        store=temp(
            "data/shards/predictions/{experiment}/{model}/{shards}/{shard}.arrow"
        ),
        speed=temp(
            "data/shards/predictions/{experiment}/{model}/{shards}/{shard}.speed.json"
        ),
    log:
        "logs/predict-{experiment}-{model}-{shard}_{shards}.log",
    benchmark:
        "logs/benchmarks/predict_shard-{experiment}-{model}-{shards}-{shard}.tsv"
    threads: P.compute.threads
    resources:
        gpu=gpus("predict_shard"),
        mem_mb=4000,
        runtime=720,
    params:
        made_of=made_of("predict_shard"),
    shell:
        "python -m pipeline.predict --experiment {wildcards.experiment} --model {wildcards.model} --shard {wildcards.shard}/{wildcards.shards}"


rule bring:
    input:
        data=data("bring"),
    output:
        store=kept("data/predictions/{experiment}/{model}.arrow"),
    log:
        "logs/bring-{experiment}-{model}.log",
    benchmark:
        "logs/benchmarks/bring-{experiment}-{model}.tsv"
    wildcard_constraints:
        model=one_of(BROUGHT),
    resources:
        mem_mb=1000,
        runtime=240,
    params:
        made_of=made_of("bring"),
    shell:
        "python -m pipeline.bring --experiment {wildcards.experiment} --model {wildcards.model}"
