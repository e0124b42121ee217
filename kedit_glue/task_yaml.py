"""lm-eval's task YAML for items of a shape: prompts and metrics of lm-eval's own task of that name.

Each task says which file of lm-eval (0.4.13, ``lm_eval/tasks``) it follows, and where it departs from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

FEW_SHOT = {"mmlu_pro": 5}
"""Examples in front of each item where the user does not say; 0 for the others, as in lm-eval."""
MAX_TOKENS = {"mmlu_pro": 2048, "generate": 32}
"""Most tokens that a task generates for one item, where it generates."""
TEST, EXAMPLES = "test", "examples"
"""The splits: what is scored, and what few-shot examples are taken from."""

ACC = {"metric": "acc", "aggregation": "mean", "higher_is_better": True}
EXACT_MATCH = {
    "metric": "exact_match",
    "aggregation": "mean",
    "higher_is_better": True,
    "ignore_case": True,
    "ignore_punctuation": True,
}
MULTIPLE_CHOICE = {"output_type": "multiple_choice"}

FOUR = "\n".join(f"{letter}. {{{{choices[{number}]}}}}" for number, letter in enumerate("ABCD"))
OPTIONS = "{%% for option in options %%}{{letters[loop.index0]}}. {{%s}}\n{%% endfor %%}"
STEP_BY_STEP = (
    'Think step by step and then finish your answer with "the answer is (X)" where X is the correct letter choice.\n'
)
HEAD = "The following are multiple choice questions (with answers)"


class _Plain(yaml.SafeDumper):
    """Text with line breaks in double quotes, on one line."""


def _text(dumper: yaml.SafeDumper, data: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", data, style='"' if "\n" in data else None)


_Plain.add_representer(str, _text)


@dataclass(frozen=True)
class Task:
    """One lm-eval task: its name, its keys, and in words what it follows and what it does otherwise."""

    name: str
    keys: Mapping[str, Any]
    notes: Sequence[str]

    @property
    def text(self) -> str:
        """The YAML file."""
        body = yaml.dump(dict(self.keys), Dumper=_Plain, sort_keys=False, allow_unicode=True, width=1000)
        return "".join(f"# {note}\n" for note in self.notes) + body


def tasks_of(
    shape: str, name: str, columns: Mapping[str, bool], few_shot: int, max_tokens: int | None, source: str
) -> list[Task]:
    """The tasks for one file of items; MMLU-Pro has two, the other ``NAME_loglikelihood``.

    ``columns``: of ``category`` and ``subject``, whether every item has one; ``few_shot``: examples in front of each
    item, from the split EXAMPLES; ``max_tokens`` None: MAX_TOKENS; ``source``: said in the first line.
    """
    forms = [(name, *FORMS[shape])]
    if shape == "mmlu_pro":
        forms.append((f"{name}_loglikelihood", *MMLU_PRO_LOGLIKELIHOOD))
    return [_task(shape, form, columns, few_shot, max_tokens, (name, source)) for form in forms]


def _task(
    shape: str,
    form: tuple[str, Mapping[str, Any], str],
    columns: Mapping[str, bool],
    few_shot: int,
    max_tokens: int | None,
    named: tuple[str, str],
) -> Task:
    (name, keys, follows), (file, source) = form, named
    files = {TEST: f"{file}.jsonl"}
    made: dict[str, Any] = {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": files}}
    made["test_split"] = TEST
    made["output_type"] = keys["output_type"]
    if about := _description(keys, columns):
        made["description"] = about
    made |= {key: value for key, value in keys.items() if key not in ("examples", "description")}
    if made["output_type"] == "generate_until":
        limit = max_tokens or MAX_TOKENS[shape]
        made["generation_kwargs"] = {**keys["generation_kwargs"], "max_gen_toks": limit}
    made["num_fewshot"] = few_shot
    if few_shot:
        files[EXAMPLES] = f"{file}.examples.jsonl"
        made["fewshot_split"] = EXAMPLES
        made["fewshot_config"] = {"sampler": "first_n", **keys.get("examples", {})}
    made["metric_list"] = made.pop("metric_list", [ACC])
    made["metadata"] = {"version": 1.0}
    return Task(name, made, [f"{source}; written by python -m kedit_glue.tasks, yours to edit.", follows])


def _description(keys: Mapping[str, Any], columns: Mapping[str, bool]) -> str:
    """What stands in front of all: with the item's subject where all items have one."""
    known, unknown = keys.get("description", ("", ""))
    column = "category" if "category" in known else "subject"
    return str(known if columns.get(column) else unknown)


# -- forms: keys of the YAML, and what they follow ------------------------------------------------

MMLU_PRO: Mapping[str, Any] = {
    "output_type": "generate_until",
    "description": (f"{HEAD} about {{{{category}}}}. {STEP_BY_STEP}", f"{HEAD}. {STEP_BY_STEP}"),
    "doc_to_text": "Question:\n{{question}}\nOptions:\n"
    + OPTIONS % "option.strip()"
    + "Answer: Let's think step by step.",
    "doc_to_target": "answer",
    "examples": {"doc_to_target": "{{reasoning}}"},
    "generation_kwargs": {"until": ["Question:"], "do_sample": False, "temperature": 0.0},
    "filter_list": [
        {
            "name": "custom-extract",
            "filter": [
                {"function": "regex", "regex_pattern": r"answer is \(?([ABCDEFGHIJ])\)?"},
                {"function": "take_first"},
            ],
        }
    ],
    "metric_list": [EXACT_MATCH],
}
MMLU_PRO_LOGLIKELIHOOD = (
    {
        **MULTIPLE_CHOICE,
        "doc_to_text": "{{question}}\n" + OPTIONS % "option" + "Answer:",
        "doc_to_choice": "letters",
        "doc_to_target": "answer_index",
    },
    "Follows leaderboard/mmlu_pro/mmlu_pro.yaml: which letter is the likeliest; nothing is generated.",
)

FORMS: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "mmlu_pro": (
        MMLU_PRO,
        "Follows mmlu_pro/_default_template_yaml, but for the examples: the same for all categories, and 'The answer "
        "is (X).' where the file has no cot_content.",
    ),
    "mmlu": (
        {
            **MULTIPLE_CHOICE,
            "description": (f"{HEAD} about {{{{subject}}}}.\n\n", f"{HEAD}.\n\n"),
            "doc_to_text": "{{question.strip()}}\n" + FOUR + "\nAnswer:",
            "doc_to_choice": list("ABCD"),
            "doc_to_target": "answer",
        },
        "Follows mmlu/default/_default_template_yaml.",
    ),
    "rte": (
        {
            **MULTIPLE_CHOICE,
            "doc_to_text": "{{premise}}\nQuestion: {{hypothesis}} True or False?\nAnswer:",
            "doc_to_choice": ["True", "False"],
            "doc_to_target": "label",
        },
        "Follows super_glue/rte/default.yaml (sglue_rte).",
    ),
    "cb": (
        {
            **MULTIPLE_CHOICE,
            "doc_to_text": "{{premise}}\nQuestion: {{hypothesis}}. True, False, or Neither?\nAnswer:",
            "doc_to_choice": ["True", "False", "Neither"],
            "doc_to_target": "label",
        },
        "Follows super_glue/cb/default.yaml, without its F1.",
    ),
    "copa": (
        {
            **MULTIPLE_CHOICE,
            "doc_to_text": "{{premise.strip()[:-1]}} {{'because' if question == 'cause' else 'therefore'}}",
            "doc_to_choice": "choices",
            "doc_to_target": "label",
        },
        "Follows super_glue/copa/default.yaml and utils.py, the two blanks in front of each choice included.",
    ),
    "boolq": (
        {
            **MULTIPLE_CHOICE,
            "doc_to_text": "{{passage}}\nQuestion: {{question}}?\nAnswer:",
            "doc_to_choice": ["no", "yes"],
            "doc_to_target": "label",
        },
        "Follows super_glue/boolq/default.yaml.",
    ),
    "wic": (
        {
            **MULTIPLE_CHOICE,
            "doc_to_text": "Sentence 1: {{sentence1}}\nSentence 2: {{sentence2}}\nQuestion: Is the word '{{phrase}}' "
            "used in the same way in the two sentences above?\nAnswer:",
            "doc_to_choice": ["no", "yes"],
            "doc_to_target": "label",
        },
        "Follows super_glue/wic/default.yaml.",
    ),
    "wsc": (
        {
            **MULTIPLE_CHOICE,
            "doc_to_text": 'Passage: {{passage}}\nQuestion: In the passage above, does the pronoun "*{{pronoun}}*" '
            'refer to "*{{noun}}*"?\nAnswer:',
            "doc_to_choice": ["no", "yes"],
            "doc_to_target": "label",
        },
        "Follows super_glue/wsc/default.yaml and preprocess_wsc.py.",
    ),
    "multirc": (
        {
            **MULTIPLE_CHOICE,
            "doc_to_text": "{{paragraph}}\nQuestion: {{question}}\nAnswer:",
            "doc_to_choice": "choices",
            "doc_to_target": "label",
        },
        "Follows super_glue/multirc/default.yaml, but for its yes and no, which are the wrong way round there.",
    ),
    "record": (
        {
            **MULTIPLE_CHOICE,
            "doc_to_text": "passage",
            "doc_to_choice": "choices",
            "doc_to_target": "label",
            "examples": {"doc_to_target": "{{choices[label[0]]}}"},
        },
        "Follows super_glue/record/default.yaml and util.py; acc is its em, its f1 is left out.",
    ),
    "choices": (
        {
            "output_type": "multiple_choice",
            "doc_to_text": "query",
            "doc_to_choice": "choices",
            "doc_to_target": "label",
            "metric_list": [ACC, {**ACC, "metric": "acc_norm"}],
        },
        "The likeliest choice behind the query and a blank; acc_norm: by likelihood per character.",
    ),
    "generate": (
        {
            "output_type": "generate_until",
            "doc_to_text": "prompt",
            "doc_to_target": "answers",
            "generation_kwargs": {"until": ["\n"], "do_sample": False, "temperature": 0.0},
            "filter_list": [
                {
                    "name": "remove_whitespace",
                    "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}],
                }
            ],
            "metric_list": [EXACT_MATCH],
        },
        "After triviaqa/default.yaml: the generated line is one of the answers, but for case and punctuation.",
    ),
    "text": (
        {
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "text",
            "metric_list": [
                {"metric": "word_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False}
            ],
        },
        "After wikitext/wikitext.yaml: perplexity per word, each text from its beginning.",
    ),
}
