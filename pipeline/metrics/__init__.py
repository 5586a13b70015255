"""Metrics: one module each, found by name.

A metric's `NEEDS` says what its function compares:

    frames  (prediction, target), both (T, H, W, 3) float32 RGB in [0,1]: what is scored of a frame -> (T,)
    pairs   (prediction, target, scored part, function that gives the target's motion), both (2, H, W, 3) likewise, whole
            neighbouring frames -> a number
    features  nothing: its `build` gives a `sets.Distance` of two sets -> one value a set
    samples (samples (S, T, H, W, 3) likewise of one start) -> a number
    flow    (flow, exact flow), both (T, H, W, 2) px: what a predictor reads -> (T,)
    fields  (clip, flow, exact flow, that of pixels both frames show or None) -> (value, weight) of an image
"""


class Undefined(Exception):
    """The metric has no value for these frames (say, a side too short); its text is the reason the table prints."""
