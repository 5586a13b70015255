# Optical flow between neighbouring frames, estimated once for all that need it.


rule flow:
    input:
        data=data("flow"),
    output:
        store="data/flow/{estimator}/{dataset}/{split}.arrow",
    log:
        "logs/flow-{estimator}-{dataset}-{split}.log",
    benchmark:
        "logs/benchmarks/flow-{estimator}-{dataset}-{split}.tsv"
    threads: 2
    resources:
        gpu=gpus("flow"),
        mem_mb=2000,
        runtime=1440,
    params:
        made_of=made_of("flow"),
    shell:
        "python -m pipeline.flow --estimator {wildcards.estimator} --dataset {wildcards.dataset} --split {wildcards.split}"


rule flow_shard:
    input:
        data=data("flow_shard"),
    output:
        store=temp(
            "data/shards/flow/{estimator}/{dataset}/{split}/{shards}/{shard}.arrow"
        ),
    log:
        "logs/flow-{estimator}-{dataset}-{split}-{shard}_{shards}.log",
    benchmark:
        "logs/benchmarks/flow_shard-{estimator}-{dataset}-{split}-{shards}-{shard}.tsv"
    threads: 2
    resources:
        gpu=gpus("flow_shard"),
        mem_mb=2000,
        runtime=1440,
    params:
        made_of=made_of("flow_shard"),
    shell:
        "python -m pipeline.flow --estimator {wildcards.estimator} --dataset {wildcards.dataset} --split {wildcards.split} --shard {wildcards.shard}/{wildcards.shards}"
