"""What passes between stages: Arrow files of frames and of optical flow."""
