"""Cells of a CSV as spreadsheets take them. Pure."""

from __future__ import annotations

Cell = str | float | int | None
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A text that begins so is a formula to spreadsheets."""


def safe(cell: Cell) -> Cell:
    """As a CSV's cell: no text is a formula; numbers stay numbers."""
    if cell is None:
        return ""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell
