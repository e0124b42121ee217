"""Searching a merge: what a candidate's numbers mean (``genome``, ``paths``), what it is worth (``fitness``)."""
