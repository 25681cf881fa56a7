"""The bases in which a denoiser shrinks: eigenvectors of its Jacobian at a noisy image, and what they say about it.

Any function `y [B, H, W, C] -> x_hat` will do, with any number of channels. J = df/dy at one image; lambda_k and e_k
are the eigenpairs of S = (J + J^T) / 2 (Kadkhodaie et al., ICLR 2024, section 3).
"""

from gahb.eigenbasis.dense import Eigenbasis, SingularBasis, jacobian, singular_basis, symmetric_basis
from gahb.eigenbasis.expansion import (
    Shrinkage,
    coefficients,
    count_above,
    pictures,
    principal_angles,
    shrinkage,
    truncate,
)
from gahb.eigenbasis.linear import Linearisation, homogeneity, linearise, pull, push, symmetric
from gahb.eigenbasis.topk import top_k, top_singular
from gahb.eigenbasis.traces import EffectiveDimension, Estimate, asymmetry, effective_dimension, sure, trace

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
    "jacobian",
    "linearise",
    "pictures",
    "principal_angles",
    "pull",
    "push",
    "shrinkage",
    "singular_basis",
    "sure",
    "symmetric",
    "symmetric_basis",
    "top_k",
    "top_singular",
    "trace",
    "truncate",
]
