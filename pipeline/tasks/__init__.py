"""How a clip becomes inputs and targets: one module a task."""
