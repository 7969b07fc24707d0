"""The equations of CoxNMF, in the symbols of the paper.

``X`` (gene, patient) is expression, ``W`` (gene, factor) and ``H`` (factor, patient) are its non-negative factors, ``beta`` the
coefficients of a Cox model on the columns of ``H``, ``alpha`` its weight. ``C`` marks what was read in the authors' code (github
huangzhii/CoxNMF, CoxNMF/_nmf.py), ``I`` what is ours. The paper's own numbers were not read.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from expressor.core.equations import equation
from expressor.nn.cox import cox_loss, expected_events

EPS = 1.1920929e-07  # as in the authors' code: that of float32
_CODE = "CoxNMF/_nmf.py, function CoxNMF"


@equation(
    "coxnmf", "C1",
    meaning="the objective: squared error of the factorisation less the weighted log partial likelihood",
    latex=r"\min_{W, H \geq 0,\, \beta} \tfrac{1}{2} \lVert X - W H \rVert_F^2 - \alpha \, l(\beta^\top H)",
    fidelity="code", source="what the updates of " + _CODE + ", descend; the abstract names both terms",
)  # fmt: skip
def objective(
    X: Float[Tensor, "gene patient"], W: Float[Tensor, "gene factor"], H: Float[Tensor, "factor patient"],
    beta: Float[Tensor, " factor"], time: Float[Tensor, " patient"], event: Bool[Tensor, " patient"], alpha: float,
) -> Float[Tensor, ""]:  # fmt: skip
    """Return the objective, with the log partial likelihood l summed over events (ties as Breslow)."""
    return 0.5 * (X - W @ H).square().sum() + alpha * cox_loss(beta @ H, time, event, ties="breslow", mean=False)


@equation(
    "coxnmf", "C2",
    meaning="multiplicative update of the gene factors; sigma asks for orthogonal columns",
    latex=r"W \leftarrow W \circ \frac{X H^\top + \sigma W}{W H H^\top + \sigma W W^\top W}",
    fidelity="code", source="CoxNMF/_nmf.py, _multiplicative_update_w and _multiplicative_update_w_orth",
)  # fmt: skip
def update_w(
    X: Float[Tensor, "gene patient"], W: Float[Tensor, "gene factor"], H: Float[Tensor, "factor patient"],
    sigma: float = 0.0,
) -> Float[Tensor, "gene factor"]:  # fmt: skip
    """Return the next W."""
    above, below = X @ H.T, W @ (H @ H.T)
    if sigma:
        above, below = above + sigma * W, below + sigma * W @ (W.T @ W)
    return W * above / torch.where(below == 0, EPS, below)


@equation(
    "coxnmf", "C3",
    meaning="gradient of the log partial likelihood by the patient factors: coefficient times martingale residual",
    latex=r"C_{kj} = e_j \beta_k - \sum_{i:\, e_i = 1,\, t_i \leq t_j} "
    r"\frac{\beta_k \, e^{\beta^\top h_j}}{\sum_{l:\, t_l \geq t_i} e^{\beta^\top h_l}}",
    fidelity="code", source=_CODE + ", cox_fraction; here by one sort instead of a table of patient by patient",
)  # fmt: skip
def cox_gradient(
    beta: Float[Tensor, " factor"], H: Float[Tensor, "factor patient"], time: Float[Tensor, " patient"],
    event: Bool[Tensor, " patient"],
) -> Float[Tensor, "factor patient"]:  # fmt: skip
    """Return C."""
    residual = event.double() - expected_events(beta @ H, time, event, ties="breslow")
    return beta[:, None] * residual


@equation(
    "coxnmf", "C4",
    meaning="the authors' update of the patient factors: what the Cox term would make smaller is left out",
    latex=r"H \leftarrow H \circ R + \max\left(0, \tfrac{\alpha}{2} R \circ C\right), \qquad R = \frac{W^\top X}{W^\top W H}",
    fidelity="code", source=_CODE + ', update_rule "projection"',
)  # fmt: skip
def update_h_projected(
    X: Float[Tensor, "gene patient"], W: Float[Tensor, "gene factor"], H: Float[Tensor, "factor patient"],
    C: Float[Tensor, "factor patient"], alpha: float,
) -> Float[Tensor, "factor patient"]:  # fmt: skip
    """Return the next H; the objective may rise."""
    R = W.T @ X / (W.T @ W @ H).clamp(min=EPS)
    return H * R + (alpha / 2 * R * C).clamp(min=0.0)


@equation(
    "coxnmf", "C5",
    meaning="coefficients are scaled to a range of 1 after each Newton step",
    latex=r"\beta \leftarrow \beta / (\max_k \beta_k - \min_k \beta_k)",
    fidelity="code", source=_CODE + ", beta_normalization",
)  # fmt: skip
def normalise_beta(beta: Float[Tensor, " factor"]) -> Float[Tensor, " factor"]:
    """Return beta scaled; unchanged where all are equal."""
    spread = beta.max() - beta.min()
    return beta / spread if float(spread) > 0 else beta


@equation(
    "coxnmf", "I1",
    meaning="our update of the patient factors: the multiplicative one of the whole objective, from which a step is taken",
    latex=r"H \leftarrow H + s (\hat H - H), \qquad \hat H = H \circ \frac{W^\top X + \alpha C^+}{W^\top W H + \alpha C^-}",
    fidelity="inferred", source="positive and negative parts of the gradient; the step s is halved until the objective falls",
)  # fmt: skip
def update_h_target(
    X: Float[Tensor, "gene patient"], W: Float[Tensor, "gene factor"], H: Float[Tensor, "factor patient"],
    C: Float[Tensor, "factor patient"], alpha: float,
) -> Float[Tensor, "factor patient"]:  # fmt: skip
    """Return H-hat. H-hat less H points downhill: it is minus the gradient, scaled by positive numbers."""
    above = W.T @ X + alpha * C.clamp(min=0.0)
    below = W.T @ W @ H + alpha * (-C).clamp(min=0.0)
    return H * above / below.clamp(min=EPS)


@equation(
    "coxnmf", "I2",
    meaning="factors of a new patient: non-negative least squares on the gene factors, without any outcome",
    latex=r"h = \arg\min_{h \geq 0} \tfrac{1}{2} \lVert x - W h \rVert^2",
    fidelity="inferred", source="the paper has no new patients; this is its objective without the Cox term",
)  # fmt: skip
def project(X: Float[Tensor, "gene patient"], W: Float[Tensor, "gene factor"]) -> Float[Tensor, "factor patient"]:
    """Return H of new patients, exactly, by an active-set method on the small system of the factors."""
    from scipy.optimize import nnls

    # |x - W h|^2 = |R h - Q'x|^2 + constant, with W = Q R.
    Q, R = torch.linalg.qr(W)
    right, left = (Q.T @ X).numpy(), R.numpy()
    columns = [torch.from_numpy(nnls(left, right[:, j])[0]) for j in range(X.shape[1])]
    return torch.stack(columns, dim=1)
