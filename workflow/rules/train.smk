# Training, or the import of published weights: one checkpoint a model and dataset.


rule train:
    input:
        data=data("train"),
    output:
        checkpoint="data/checkpoints/{model}/{dataset}.pt",
    log:
        "logs/train-{model}-{dataset}.log",
    benchmark:
        "logs/benchmarks/train-{model}-{dataset}.tsv"
    threads: P.compute.threads
    resources:
        **plan.spread(P),
        gpu=gpus("train"),
        mem_mb=8000 * P.compute.devices // P.compute.nodes,
        runtime=2880,
    params:
        made_of=made_of("train"),
    shell:
        "python -m pipeline.train --model {wildcards.model} --dataset {wildcards.dataset}"
