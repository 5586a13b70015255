"""How the predictions of each task become values, which the stage `score` writes."""
