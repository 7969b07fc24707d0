"""The equations of penalised Cox regression.

``l`` is the log partial likelihood, ``d`` the number of events, ``beta`` the coefficients, ``eta`` the log risk. The formulas are
standard; they were not looked up in the papers, whose numbers are therefore not given.
"""

from jaxtyping import Bool, Float
from torch import Tensor

from expressor.core.equations import equation
from expressor.nn.cox import cox_loss

_TEXTBOOK = "standard formula, written from general knowledge and checked by the tests named here"


@equation(
    "penalised_cox", "P1",
    meaning="log partial likelihood, ties as Efron does",
    latex=r"l(\eta) = \sum_t \Big( \sum_{i \in D_t} \eta_i - \sum_{k=0}^{d_t - 1} \log \big( \sum_{j \in R_t} e^{\eta_j} "
    r"- \tfrac{k}{d_t} \sum_{j \in D_t} e^{\eta_j} \big) \Big)",
    fidelity="inferred", source="Cox 1972 and Efron 1977; " + _TEXTBOOK,
)  # fmt: skip
def log_partial_likelihood(
    eta: Float[Tensor, " patient"], time: Float[Tensor, " patient"], event: Bool[Tensor, " patient"]
) -> Float[Tensor, ""]:
    """Return l; D_t are the patients with an event at t, R_t those at risk then."""
    return -cox_loss(eta, time, event, mean=False)


@equation(
    "penalised_cox", "P2",
    meaning="the objective: loss per event and the penalty",
    latex=r"-\tfrac{1}{d} l(X\beta) + \alpha \big( \rho \lVert\beta\rVert_1 + \tfrac{1-\rho}{2} \lVert\beta\rVert_2^2 \big)",
    fidelity="inferred", source="Simon et al. 2011, but for the factor: they divide by patients; " + _TEXTBOOK,
)  # fmt: skip
def objective(loss: Float[Tensor, ""], beta: Float[Tensor, " dim"], alpha: float, rho: float) -> Float[Tensor, ""]:
    """Return the objective from the loss -l/d, the strength alpha and the share rho of the lasso (0 is ridge)."""
    return loss + alpha * (rho * beta.abs().sum() + (1 - rho) / 2 * beta.square().sum())


@equation(
    "penalised_cox", "P3",
    meaning="the smallest penalty that keeps every coefficient at 0",
    latex=r"\alpha_{\max} = \tfrac{1}{\rho} \max_j \lvert \tfrac{1}{d} \partial_j l(0) \rvert",
    fidelity="inferred", source="condition of Karush, Kuhn and Tucker at 0; " + _TEXTBOOK,
)  # fmt: skip
def largest_alpha(gradient: Float[Tensor, " dim"], rho: float) -> Float[Tensor, ""]:
    """Return alpha_max from the gradient of -l/d at 0."""
    return gradient.abs().max() / rho


@equation(
    "penalised_cox", "P4",
    meaning="one proximal step: down the gradient, then towards 0",
    latex=r"\beta' = \frac{S\big(\beta - s \nabla, \; s \alpha \rho\big)}{1 + s \alpha (1 - \rho)}, "
    r"\qquad S(x, c) = \mathrm{sign}(x) (\lvert x \rvert - c)_+",
    fidelity="inferred", source="proximal map of the elastic net; the paper descends by coordinates; " + _TEXTBOOK,
)  # fmt: skip
def proximal_step(
    beta: Float[Tensor, " dim"], gradient: Float[Tensor, " dim"], step: float, alpha: float, rho: float
) -> Float[Tensor, " dim"]:
    """Return the coefficients after a step of length s along the gradient of -l/d."""
    moved = beta - step * gradient
    return moved.sign() * (moved.abs() - step * alpha * rho).clamp(min=0.0) / (1 + step * alpha * (1 - rho))


@equation(
    "penalised_cox", "P5",
    meaning="how the penalty is chosen: what held-out patients add to the partial likelihood of all",
    latex=r"\mathrm{CV}(\alpha) = \sum_k \big( l(\hat\beta_{-k}) - l_{-k}(\hat\beta_{-k}) \big)",
    fidelity="inferred", source="Verweij and van Houwelingen 1993; " + _TEXTBOOK,
)  # fmt: skip
def cross_validated_likelihood(l_all: Float[Tensor, " fold"], l_kept: Float[Tensor, " fold"]) -> Float[Tensor, ""]:
    """Return CV from l of all patients and of those kept, both at the coefficients fitted without a fold."""
    return (l_all - l_kept).sum()


@equation(
    "penalised_cox", "P6",
    meaning="log hazard ratios of genes from those of principal components",
    latex=r"\beta_g = \sum_c V_{gc} \gamma_c, \qquad \eta = Z \beta = (Z V) \gamma",
    fidelity="inferred", source="principal component regression; " + _TEXTBOOK,
)  # fmt: skip
def gene_coefficients(V: Float[Tensor, "gene dim"], gamma: Float[Tensor, " dim"]) -> Float[Tensor, " gene"]:
    """Return the log hazard ratio of a standard deviation of each gene."""
    return V @ gamma


@equation(
    "penalised_cox", "P7",
    meaning="survival of a patient; the hazard and the slope are those of out-of-fold risks",
    latex=r"S(t) = \exp\big( -H_0(t) \, e^{c \, \eta} \big)",
    fidelity="inferred", source="Breslow 1974 for H; the slope c is ours: Cox regression on out-of-fold log risks",
)  # fmt: skip
def survival(H_0: Float[Tensor, " time"], eta: Float[Tensor, " patient"], c: float) -> Float[Tensor, "patient time"]:
    """Return the probability of no event up to each time, from the cumulative baseline hazard there."""
    return (-H_0 * (c * eta).exp()[:, None]).exp()
