"""How scores and published numbers become a table, which the stage `table` writes."""
