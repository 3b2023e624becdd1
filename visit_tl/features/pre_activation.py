"""The pre-activation of one feature as a linear function of the encoder's input."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from visit_tl.errors import InputError
from visit_tl.features.encoders import GatedEncoder, LinearEncoder
from visit_tl.features.feature_module import FeatureModule
from visit_tl.features.input_norm import normalised


def linear_reader(
    module: FeatureModule, x: Float[Tensor, " d_in"], feature: int
) -> tuple[Float[Tensor, " d_in"], float]:
    """A vector and a number: the pre-activation of a feature at `x` is `vector . x + number`.

    Where the input is normalised, its scale is fixed at that of `x`; the mean that is taken off is
    linear. Of a gated encoder it is the pre-activation of the magnitude.

    Args:
        module: The module.
        x: The encoder's input.
        feature: Index of the feature.

    Raises:
        InputError: there is no such feature, or the encoder has no pre-activation that is linear.
    """
    if not 0 <= feature < module.n_features:
        raise InputError(
            f"{module.name} has the features 0..{module.n_features - 1}, got {feature}"
        )
    encoder = module.encoder
    if isinstance(encoder, LinearEncoder):
        column, bias = encoder.W_enc[:, feature], encoder.b_enc[feature]
    elif isinstance(encoder, GatedEncoder):
        gain = encoder.r_mag[feature].exp()
        column, bias = encoder.W_enc[:, feature] * gain, encoder.b_mag[feature]
    else:
        raise InputError(
            f"{module.name} ({module.architecture}) chooses its features one after the other, so a "
            f"feature has no pre-activation that is a sum over the parts of the input"
        )
    if module.b_in is not None:
        bias = bias - module.b_in @ column
    row = x.to(column)
    if module.norm == "layer_norm":
        centred = row - row.mean()
        prepared = normalised(row[None], module.norm)[0][0]
        # (x - mean x) . w = x . (w - mean w)
        column = (column - column.mean()) * ((prepared @ centred) / (centred @ centred))
    elif module.norm != "none":
        column = column / normalised(row[None], module.norm)[1][0]
    return column, float(bias)
