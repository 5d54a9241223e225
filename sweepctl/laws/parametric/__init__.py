"""Method 3, L(N, D): the law, the search for its parameters, and the descent that the search is made of."""

from sweepctl.laws.parametric.law import (
    LAW,
    fit,
    loss,
    optimum,
    per_token_of,
    predict,
    predict_optimum,
    predict_target,
    token_flops,
)
from sweepctl.laws.parametric.search import PARAMS, Options

__all__ = [
    "LAW",
    "PARAMS",
    "Options",
    "fit",
    "loss",
    "optimum",
    "per_token_of",
    "predict",
    "predict_optimum",
    "predict_target",
    "token_flops",
]
