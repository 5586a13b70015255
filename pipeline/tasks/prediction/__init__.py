"""Video prediction: context frames in, the following frames out."""
