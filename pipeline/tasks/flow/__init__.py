"""Optical flow: two consecutive frames in, the motion from the first to the second out."""
