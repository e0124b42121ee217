"""What is taken out of texts that are given away."""

from __future__ import annotations

import pytest

from kedit_glue.cleaned import Cleaning

HOME = "/home/ann"
PLACES = ["/scratch/my runs/try", "/scratch/my runs", "/w"]
SECRETS = {"WANDB_API_KEY": "abcdef0123456789", "HF_TOKEN": "a/strange+token"}


def cleaned(text: str, name: str = "provenance/recipe.yaml") -> str:
    return Cleaning(PLACES, SECRETS, HOME).file(name, text).text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("source: /data/facts/demo.json", "source: demo.json"),
        ('"source": "/data/facts/demo.json",', '"source": "demo.json",'),
        ("see `/data/facts/demo.json`, then", "see `demo.json`, then"),
        ("(/data/facts/demo.json)", "(demo.json)"),
        ("--out=/data/x/", "--out=x"),
        ("- /a/b\n- /c/d", "- b\n- d"),
        ("url: file:///data/facts/x.json", "url: x.json"),
        ("~/facts/demo.json and ~ann/x", "demo.json and x"),
        ("in /home/ann, or /home/ben", "in ~, or ~"),
        ("/home/ann/projects/x.yaml:12: wrong", "x.yaml:12: wrong"),
        ("model: /scratch/my runs/try/batch_001/merged", "model: merged"),
        ("/scratch/my runs/try", "try"),
        ("file:///scratch/my runs/try/a.json", "a.json"),
        ("/w/x.json", "x.json"),
        ("key: abcdef0123456789", "key: xxxxxxxxxxxxxxxx"),
        ("key: a/strange+token a%2Fstrange%2Btoken", f"key: {'x' * 15} {'x' * 19}"),
        ("https://ann:pass@example.org/a/b", "https://xxxxxxxx@example.org/a/b"),
        ("# hf_abcdefghijKLMNOPQRST", f"# {'x' * 23}"),
        ("# sk-abcdefghijklmnop and ghp_abcdefghijklmnopqrst", f"# {'x' * 19} and {'x' * 24}"),
        ("# password: correct-horse", f"# password: {'x' * 13}"),
        ("{hub_token: correct-horse}", f"{{hub_token: {'x' * 13}}}"),
        ("# my api_key = 'correct-horse'", f"# my api_key = '{'x' * 13}'"),
        ("swanlab_api_key: correct-horse", f"swanlab_api_key: {'x' * 13}"),
        ("push_to_hub_token: correct-horse", f"push_to_hub_token: {'x' * 13}"),
        ("a: 1\nclient_secret: correct-horse", f"a: 1\nclient_secret: {'x' * 13}"),
        ("my_password: correct-horse", f"my_password: {'x' * 13}"),
        ("https://h.org/v1?api_key=correct-horse&x=1", f"https://h.org/v1?api_key={'x' * 17}"),
    ],
)
def test_what_goes(text: str, left: str) -> None:
    assert cleaned(text) == left
    assert cleaned(text, "README.md") == left, "a card holds the run's last YAML"


@pytest.mark.parametrize(
    "text",
    [
        "https://example.org/a/b/c.html, arXiv 2506.12384",
        "owner/name, and/or, 130 km/h, 1/2/3",
        "../data/facts.json recipes/data/demo.json ./x/y",
        "<b>x</b/c> / //",
        "/workbench is one word, /w-x is another",
        "key_variable: OPENAI_API_KEY",
        "token: null\neos_token_id: 2\nfact_token: subject_last",
        "the password is short: abc",
    ],
)
def test_what_stays(text: str) -> None:
    assert cleaned(text) == text


def test_counts() -> None:
    found = Cleaning(PLACES, SECRETS, HOME).file("README.md", "/a/b /w/x abcdef0123456789")
    assert (found.text, found.paths, found.secrets) == ("b x xxxxxxxxxxxxxxxx", 2, 1)


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json", "merges.txt", "chat_template.jinja"])
def test_a_vocabulary_is_left_alone(name: str) -> None:
    """A word of it may be what a path, or somebody's password, is."""
    assert cleaned('{"/w/x": 1, "abcdef0123456789": 2}', name) == '{"/w/x": 1, "abcdef0123456789": 2}'


def test_other_files_of_a_model_lose_known_places_only() -> None:
    text = '{"name_or_path": "/scratch/my runs/try/batch_001", "word": "/no/known"}'
    assert cleaned(text, "tokenizer_config.json") == '{"name_or_path": "batch_001", "word": "/no/known"}'
    assert cleaned(text, "config.json") == '{"name_or_path": "batch_001", "word": "known"}'


def test_a_named_secret_goes_from_settings_only() -> None:
    """In scores.json such a line is a fact's text."""
    fact = '{"prompt": "The secret: bananas everywhere"}'
    assert cleaned(fact, "provenance/scores.json") == fact


def test_the_root_of_the_disk_as_a_place_takes_nothing() -> None:
    assert Cleaning(["/"], {}, "/").file("README.md", "a / b, /x").text == "a / b, /x"


def test_a_place_in_json_with_escapes() -> None:
    text = Cleaning(["/s/Büro"], {}, HOME).file("tokenizer_config.json", r'"/s/B\u00fcro/x"').text
    assert text == '"x"'
