"""What the parts of all tasks share, stage by stage."""
