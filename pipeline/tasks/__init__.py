"""How a clip becomes inputs and targets: one module a task."""


def modules(task: str, stage: str) -> list[str]:
    """Return the modules of a task's room that a stage loads, by their dotted names."""
    return [f"pipeline.tasks.{task}"]
