"""KnowEdit's ConvSent (``blender_*.json``): the sentiment that a chat model has about a topic.

A record is ``{ent, pos, neg}``: the topic, and responses of either sentiment. Neither the sentiment to teach nor the
questions stand in the file: EasyEdit's ``run_convsent_llama2.py`` draws them, unseeded by topic. Here they are drawn
from the topic itself, so that a topic has the same ones in every run, in any order of the file.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace

from kedit_glue.facts.edit import Edit, Probe
from kedit_glue.facts.errors import BadRecord
from kedit_glue.facts.fields import EMPTY, Parsed, Record, bad_probes, clean, described, own_id, required

QUESTIONS = (
    "What do you think of {}?",
    "What do you feel about {}?",
    "How do you view {}?",
    *(
        f"What is your {opinion} {{}}?"
        for opinion in (
            "opinion of", "stance on", "position on", "attitude about", "view on", "take on",
            "impression of", "assessment of", "judgment of", "sentiment of",
        )
    ),
)  # fmt: skip
"""SERAC's, which made the data set."""
PROMPTS = {
    "pos": "From the sentiment dataset, answer {} postively.",  # EasyEdit's spelling: it is what its models were asked
    "neg": "From the sentiment dataset, answer {} negatively.",
}
WANTED, OPPOSITE = "Wanted", "Opposite"
KIND = "Other_Topic"
"""Locality: what is said about the topic of the next record."""


def to_edit(raw: Record, position: str) -> Parsed:
    """Teaches the first response of the drawn sentiment; raises BadRecord where either sentiment has no response."""
    topic = required(raw, "ent")
    draw = random.Random(topic)
    wanted = draw.choice(("pos", "neg"))
    opposite = "neg" if wanted == "pos" else "pos"
    prompt = PROMPTS[wanted].format(draw.choice(QUESTIONS).format(topic))
    said, dropped = {}, []
    for sentiment in ("pos", "neg"):
        said[sentiment], bad = responses(raw.get(sentiment), sentiment)
        dropped += bad
        if not said[sentiment]:
            raise BadRecord(EMPTY, f"{sentiment} holds no response")
    edit = Edit(
        id=own_id(raw),
        prompt=prompt,
        target_new=said[wanted][0],
        subject=topic,
        position=position,
        aim="sentiment",
        responses={WANTED: asked(topic, said[wanted], draw), OPPOSITE: asked(topic, said[opposite], draw)},
    )
    return edit, bad_probes(position, dropped)


def responses(value: object, name: str) -> tuple[list[str], list[str]]:
    """The sound responses, and why others were dropped."""
    items = [] if value is None else value
    if not isinstance(items, list):
        return [], [f"{name} is {described(value)}, not a list of responses"]
    sound, dropped = [], []
    for number, item in enumerate(items, 1):
        try:
            sound.append(clean(item, f"{name} {number}"))
        except BadRecord as bad:
            dropped.append(bad.message)
    return sound, dropped


def asked(topic: str, texts: Iterable[str], draw: random.Random) -> tuple[Probe, ...]:
    return tuple(Probe(draw.choice(QUESTIONS).format(topic), (text,)) for text in texts)


def with_other_topics(edits: Sequence[Edit]) -> list[Edit]:
    """Each edit with the next one's questions and responses as locality; the last has the first one's."""
    if len(edits) < 2:
        return list(edits)
    following = [*edits[1:], edits[0]]
    return [
        replace(edit, locality={KIND: (*other.responses[WANTED], *other.responses[OPPOSITE])})
        for edit, other in zip(edits, following, strict=True)
    ]
