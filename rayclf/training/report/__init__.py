"""The report of a run: one page of tables and charts, drawn from the run folder."""
