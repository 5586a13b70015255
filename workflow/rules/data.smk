# Raw downloads, verified; then frames, each stored once.


rule download:
    input:
        data=data("download"),
    output:
        manifest="data/raw/{dataset}/{split}.json",
    log:
        "logs/download-{dataset}-{split}.log",
    benchmark:
        "logs/benchmarks/download-{dataset}-{split}.tsv"
    retries: 2
    resources:
        mem_mb=500,
    params:
        uses=uses("download"),
        code=code("download"),
    shell:
        "python -m pipeline.download --dataset {wildcards.dataset} --split {wildcards.split}"


rule frames:
    input:
        data=data("frames"),
    output:
        store="data/frames/{dataset}/{split}.arrow",
    log:
        "logs/frames-{dataset}-{split}.log",
    benchmark:
        "logs/benchmarks/frames-{dataset}-{split}.tsv"
    threads: 2
    resources:
        mem_mb=1000,
    params:
        uses=uses("frames"),
        code=code("frames"),
    shell:
        "python -m pipeline.frames --dataset {wildcards.dataset} --split {wildcards.split}"
