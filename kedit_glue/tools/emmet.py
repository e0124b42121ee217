"""EMMET's closed form on the keys and values of EasyEdit's MEMIT, whose package lacks it.

Gupta, Sajnani, Anumanchipalli: A Unified Framework for Model Editing, arXiv 2403.14236: of all changes that give the
facts their values, the one that moves general text least, W = W0 + (V_E - W0 K_E)(K_Eᵀ C0⁻¹ K_E)⁻¹ K_Eᵀ C0⁻¹. One fact
gives ROME's update.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def closed_form(keys: Any, residuals: Any, moment: Any, ridge: float = 0.0) -> Any:
    """The matrix to add to W0 [outputs, inputs], in float64.

    ``keys`` K_E [inputs, facts], ``residuals`` V_E - W0 K_E [outputs, facts], ``moment`` C0 [inputs, inputs], symmetric
    and positive definite; ``ridge`` is added to the diagonal of K_Eᵀ C0⁻¹ K_E, where keys are nearly the same. Raises
    torch.linalg.LinAlgError for a singular C0, or for keys that depend on each other with a ridge of 0.
    """
    import torch

    keys, residuals, moment = keys.double(), residuals.double(), moment.double()
    weighed = torch.linalg.solve(moment, keys)  # C0⁻¹ K_E
    inner = keys.T @ weighed + ridge * torch.eye(keys.shape[1], dtype=torch.float64, device=keys.device)
    return residuals @ torch.linalg.solve(inner, weighed.T)


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
        change = closed_form(keys, share, moment, hparams.emmet_lambda)
        weight = model.get_parameter(f"{name}.weight")
        with torch.no_grad():
            weight += memit.upd_matrix_match_shape(change, weight.shape).to(weight.dtype)
    return model
