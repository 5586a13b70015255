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
        uses=uses("flow"),
        code=code("flow"),
    shell:
        "python -m pipeline.flow --estimator {wildcards.estimator} --dataset {wildcards.dataset} --split {wildcards.split}"
