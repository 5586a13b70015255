"""Feature networks of metrics; no registry: metrics import what they need."""
