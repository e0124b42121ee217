"""What lies in the folders outside of a run that its stages read: a path stays the same when its content changes."""

from __future__ import annotations

from pathlib import Path

from kedit_glue.content import hash_of
from kedit_glue.models import PACKAGED
from kedit_glue.recipe_independent import own_code
from kedit_glue.recipe_schema import Recipe
from kedit_glue.records import fingerprint, hashed


def marks(recipe: Recipe) -> dict[str, str]:
    """Recipe's key -> hash of what its folder holds now, for those that the chosen method or the scores read."""
    serac, ice = recipe.methods.serac, recipe.methods.ice
    code = {"methods.easyedit": own_code(recipe), "score.edits.easyedit": recipe.score.edits.easyedit}
    models: dict[str, str | None] = {}
    if recipe.method == "serac":
        small = None if serac.small_name in PACKAGED else serac.small_name
        models = {"methods.serac.small_name": small, "methods.serac.cls_name": serac.cls_name}
    elif recipe.method == "ice":
        models = {"methods.ice.encoder": ice.encoder}
    found = {key: of_code(Path(folder)) for key, folder in code.items() if folder}
    return found | {key: of_model(Path(folder)) for key, folder in models.items() if folder}


def of_code(checkout: Path) -> str:
    """Of EasyEdit's Python files, committed or not: what running it leaves beside them does not count."""
    files = sorted((checkout / "easyeditor").rglob("*.py"))
    return hashed({str(file.relative_to(checkout)): hash_of(file) for file in files})


def of_model(folder: Path) -> str:
    """Of its files' names, sizes and times, as of the model that is edited."""
    return hashed(fingerprint(folder) if folder.is_dir() else {})
