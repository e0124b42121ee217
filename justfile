# short names for what is done often; `just` lists them
default:
    @just --list

# set up and run the demo
demo:
    uv run python -m kedit_glue.run recipes/smollm2_seq.yaml

# everything that a change has to pass
ci:
    bash .ci/run

# unit tests, in seconds
unit:
    uv run pytest tests/unit

# our own time per batch in the demo run
overhead:
    uv run python benchmarks/overhead.py runs/smollm2_seq
