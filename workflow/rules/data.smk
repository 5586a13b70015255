# Raw downloads and pretrained files, verified; then frames, each stored once.


rule download:
    input:
        data=data("download"),
    output:
        manifest="data/raw/{dataset}/{split}.json",
    log:
        "logs/download-{dataset}-{split}.log",
    benchmark:
        "logs/benchmarks/download-{dataset}-{split}.tsv"
    resources:
        mem_mb=500,
        runtime=1440,
    params:
        made_of=made_of("download"),
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
        runtime=720,
    params:
        made_of=made_of("frames"),
    shell:
        "python -m pipeline.frames --dataset {wildcards.dataset} --split {wildcards.split}"


rule frames_shard:
    input:
        data=data("frames_shard"),
    output:
        store=temp("data/shards/frames/{dataset}/{split}/{shards}/{shard}.arrow"),
    log:
        "logs/frames-{dataset}-{split}-{shard}_{shards}.log",
    benchmark:
        "logs/benchmarks/frames_shard-{dataset}-{split}-{shards}-{shard}.tsv"
    threads: 2
    resources:
        mem_mb=1000,
        runtime=720,
    params:
        made_of=made_of("frames_shard"),
    shell:
        "python -m pipeline.frames --dataset {wildcards.dataset} --split {wildcards.split} --shard {wildcards.shard}/{wildcards.shards}"


@signed
def weighed(wildcards):
    """Return no inputs; a manifest that tells of another file than lies there is made again."""
    files = data("pretrained")(wildcards)
    if plan.stale(wildcards.weights):
        workflow.dag.forcefiles.add(f"data/weights/{wildcards.weights}.json")
    return files


rule pretrained:
    input:
        data=weighed,
    output:
        manifest="data/weights/{weights}.json",
    log:
        "logs/pretrained-{weights}.log",
    benchmark:
        "logs/benchmarks/pretrained-{weights}.tsv"
    resources:
        mem_mb=500,
        runtime=240,
    params:
        made_of=made_of("pretrained"),
    shell:
        "python -m pipeline.pretrained --weights {wildcards.weights}"
