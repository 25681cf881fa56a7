"""The bases in which a denoiser shrinks: eigenvectors of its Jacobian at a noisy image, and sums over its spectrum.

Every function takes any denoiser `y [B, H, W, C] -> x_hat`, with any number of channels; see `gahb.denoisers` for
scores and for code outside JAX. J = df/dy at one image; lambda_k and e_k are the eigenpairs of S = (J + J^T) / 2
(Kadkhodaie et al., ICLR 2024, section 3).
"""

from gahb.eigenbasis.linear import (
    Eigenbasis,
    Linearisation,
    Shrinkage,
    SingularBasis,
    coefficients,
    count_above,
    homogeneity,
    jacobian,
    jvp,
    linearise,
    pictures,
    principal_angles,
    shrinkage,
    singular_basis,
    symmetric,
    symmetric_basis,
    truncate,
    vjp,
)
from gahb.eigenbasis.topk import top_k, top_singular
from gahb.eigenbasis.traces import (
    EffectiveDimension,
    Estimate,
    asymmetry,
    effective_dimension,
    implied_sigma,
    sure,
    trace,
)

__all__ = [
    "EffectiveDimension",
    "Eigenbasis",
    "Estimate",
    "Linearisation",
    "Shrinkage",
    "SingularBasis",
    "asymmetry",
    "coefficients",
    "count_above",
    "effective_dimension",
    "homogeneity",
    "implied_sigma",
    "jacobian",
    "jvp",
    "linearise",
    "pictures",
    "principal_angles",
    "shrinkage",
    "singular_basis",
    "sure",
    "symmetric",
    "symmetric_basis",
    "top_k",
    "top_singular",
    "trace",
    "truncate",
    "vjp",
]
