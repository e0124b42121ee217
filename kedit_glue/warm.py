"""Importing this module imports every tool: the fork server does it once for all stages."""

import gc

from kedit_glue.tools import llamafactory, lm_eval, mergekit, scorer

for _tool in (llamafactory, mergekit, scorer, lm_eval):
    try:
        _tool.preload()
    except Exception as error:
        # the fork server passes over ImportError only (multiprocessing/forkserver.py, main); the
        # stage that needs the tool imports it again and fails with the full story in its own log
        raise ImportError(f"{_tool.__name__}: {error}") from error


def _look_up_models() -> None:
    """Each stage's first ``AutoModel…`` or ``AutoProcessor`` imports every model's configuration, about a second
    (transformers 5.6.0, models/auto/auto_factory.py:610, ``keys``)."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PROCESSOR_MAPPING, TOKENIZER_MAPPING

    for mapping in (MODEL_FOR_CAUSAL_LM_MAPPING, PROCESSOR_MAPPING, TOKENIZER_MAPPING):
        mapping.keys()


_look_up_models()
gc.collect()
gc.freeze()  # a stage that collects garbage (accelerate does) need not look at, nor copy, what was imported
