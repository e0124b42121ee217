"""Importing this module imports every tool: the fork server does it once for all stages."""

from kedit_glue.tools import easyedit, llamafactory, lm_eval, mergekit

for _tool in (llamafactory, mergekit, easyedit, lm_eval):
    try:
        _tool.preload()
    except Exception as error:
        # the fork server passes over ImportError only (multiprocessing/forkserver.py, main); the
        # stage that needs the tool imports it again and fails with the full story in its own log
        raise ImportError(f"{_tool.__name__}: {error}") from error
