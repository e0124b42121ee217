"""EMMET's closed form on the keys and values of EasyEdit's MEMIT, whose package lacks it.

Gupta, Sajnani, Anumanchipalli: A Unified Framework for Model Editing, arXiv 2403.14236: of all changes that give the
facts their values, the one that moves general text least, W = W0 + (V_E - W0 K_E)(K_Eᵀ C0⁻¹ K_E)⁻¹ K_Eᵀ C0⁻¹. One fact
gives ROME's update.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

DEPENDENT = 1e-10
"""Smallest over largest eigenvalue of K_Eᵀ C0⁻¹ K_E at which float32 keys are no longer told apart."""


def closed_form(keys: Any, residuals: Any, moment: Any, ridge: float = 0.0, names: Sequence[str] = ()) -> Any:
    """The matrix to add to W0 [outputs, inputs], in float64.

    ``keys`` K_E [inputs, facts], ``residuals`` V_E - W0 K_E [outputs, facts], ``moment`` C0 [inputs, inputs], symmetric
    and positive definite; ``ridge`` is added to the diagonal of K_Eᵀ C0⁻¹ K_E, where keys are nearly the same;
    ``names`` are the facts', for messages. Raises torch.linalg.LinAlgError for a singular C0, ValueError for keys that
    depend on each other.
    """
    import torch

    keys, residuals, moment = keys.double(), residuals.double(), moment.double()
    weighed = torch.linalg.solve(moment, keys)  # C0⁻¹ K_E
    inner = keys.T @ weighed + ridge * torch.eye(keys.shape[1], dtype=torch.float64, device=keys.device)
    values = torch.linalg.eigvalsh(inner)
    if values[0] <= DEPENDENT * values[-1]:
        raise ValueError(
            f"no change gives every fact its value: {_nearest(inner, names)} have the same key, as where two prompts "
            "are alike up to their subject; set methods.emmet.emmet_lambda (0.1), or edit them in two batches"
        )
    return residuals @ torch.linalg.solve(inner, weighed.T)


def _nearest(inner: Any, names: Sequence[str]) -> str:
    """The two facts whose keys are nearest to each other, by the cosine that ``inner`` [facts, facts] gives."""
    lengths = inner.diagonal().sqrt()
    cosines = (inner / lengths / lengths[:, None]).fill_diagonal_(-1.0)
    one, other = sorted(divmod(int(cosines.argmax()), len(cosines)))
    return f"{names[one]} and {names[other]}" if names else f"facts {one + 1} and {other + 1}"


def edit(
    model: Any,
    tokenizer: Any,
    requests: Sequence[Mapping[str, Any]],
    hparams: Any,
    memit: Any,
    moments: Mapping[str, Any],
) -> Any:
    """``model`` with all facts of the batch written at once into each of ``hparams.layers``, the residual shared out.

    ``memit``: the module ``easyeditor.models.memit.memit_main``; ``moments``: a module's name -> C0.
    """
    import torch

    requests = [{**request, "target_new": f" {request['target_new']}"} for request in requests]
    templates = memit.get_context_templates(model, tokenizer)
    last = hparams.layers[-1]
    values = [memit.compute_z(model, tokenizer, request, hparams, last, templates) for request in requests]
    wanted = torch.stack(values, dim=1)
    for position, layer in enumerate(hparams.layers):
        keys = memit.compute_ks(model, tokenizer, requests, hparams, layer, templates).T
        now = memit.get_module_input_output_at_words(
            model,
            tokenizer,
            last,
            context_templates=[request["prompt"] for request in requests],
            words=[request["subject"] for request in requests],
            module_template=hparams.layer_module_tmp,
            fact_token_strategy=hparams.fact_token,
            track="out",
        ).T
        name = hparams.rewrite_module_tmp.format(layer)
        moment = hparams.mom2_update_weight * moments[name].double()
        moment += hparams.update_norm_lambda * torch.eye(len(moment), dtype=torch.float64, device=moment.device)
        share = (wanted - now) / (len(hparams.layers) - position)
        change = closed_form(keys, share, moment, hparams.emmet_lambda, [request["id"] for request in requests])
        weight = model.get_parameter(f"{name}.weight")
        with torch.no_grad():
            weight += memit.upd_matrix_match_shape(change, weight.shape).to(weight.dtype)
    return model
