"""``report.html`` and figures for papers, from records alone: no model is asked, no tool is imported.

``figure.py`` says what a figure is; ``of_run.py``, ``of_grid.py``, ``of_cost.py`` and ``along.py`` make them of
results, ``ranking.py`` says which cell is best, ``labels.py`` where points' names
stand; ``interactive.py`` (plotly) and ``paper.py`` (matplotlib) draw them;
``facts.py`` has the rows of the browser of facts; ``run_page.py`` and ``grid_page.py`` put a page together,
``html.py`` and ``latex.py`` write it down; ``write.py`` reads and writes files.
"""

from kedit_glue.page.write import write_run, write_study

__all__ = ["write_run", "write_study"]
