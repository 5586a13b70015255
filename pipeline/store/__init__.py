"""The Arrow files that pass between stages, and atomic writing."""
