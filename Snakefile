"""Regenerates the tables of video-synthesis papers: `snakemake --cores 8 results/kitti_metrics.csv`."""

import gc
import os
import sys

from snakemake.dag import DAG
from snakemake.scheduling.job_scheduler import JobScheduler
from snakemake.utils import min_version

min_version("9.27")
sys.path.insert(0, workflow.basedir)
from pipeline import arrays, orphans, params, plan, recipes
from pipeline.errors import RetakeError

arrays.run_own_job()
try:
    # Refuses a key that stands twice in a --configfile: Snakemake has taken the second.
    list(map(recipes.load, workflow.overwrite_configfiles))
    P = params.load(config)  # --config and --configfile stand over params.yaml
    # The stages read this; nothing of it is in a command, so the same override again reruns nothing.
    os.environ[params.VARIABLE] = str(params.hand_over(P))
except RetakeError as error:
    raise SystemExit(f"error: {error}") from None

# .venv/bin/snakemake works without activation: jobs find this Python first.
os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
# torch's temporaries of several MB are 4x slower to allocate without these (CPU).
os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(1 << 31))
os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(1 << 32))
# A graph only grows: Python's collector, which walks all of it again and again, took a fifth of a large dry run.
gc.freeze()
gc.set_threshold(100_000, 50, 50)
# At its end Snakemake removes every empty folder that a file of the graph could lie in: some of them are the user's own.
DAG.cleanup_workdir = lambda self: None
JobScheduler.exit_gracefully = orphans.stop
# Without a budget `gpu` limits nothing; --resources gpu=N or a profile gives more.
workflow.global_resources.setdefault("gpu", P.compute.devices)

# A killed run goes on by the same command; its SLURM jobs are ended first.
ORPHANS = orphans.take_over() if workflow.is_main_process else []
if workflow.is_main_process:
    plan.let_dvc_work()


onstart:
    asked(orphans.end)(ORPHANS)


# Not the names in params.yaml: Snakemake copies a constraint into every path of every job.
NAME = "[a-z][a-z0-9_]*"


wildcard_constraints:
    dataset=NAME,
    split="[a-z0-9_]+",
    model=NAME,
    estimator=NAME,
    experiment=NAME,
    weights=NAME,
    paper=NAME,
    shard="[0-9]+",
    shards="[0-9]+",


report: "workflow/report/workflow.rst"


rule all:
    default_target: True
    input:
        made=plan.targets(P),


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/flow.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/predict.smk"
include: "workflow/rules/score.smk"
include: "workflow/rules/table.smk"
