"""FeatureModule: an SAE or a transcoder as plain tensors, whatever it was opened from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from visit_tl.arguments.checked import checked
from visit_tl.arguments.kinds import Taken
from visit_tl.arguments.vocabulary import TENSOR
from visit_tl.arguments.words import short
from visit_tl.errors import InputError
from visit_tl.features.encoders import Encoder
from visit_tl.features.fit import misfits
from visit_tl.features.input_norm import normalised

Norm = Literal["none", "layer_norm", "constant_norm_rescale"]
View = Annotated[
    Any, Taken("a ModelView", "vt.ModelView(model)", classes=("visit_tl.model.view:ModelView",))
]


@dataclass(frozen=True, eq=False)
class FeatureRun:
    """What a feature module makes of some inputs, as terms that sum to its reconstruction.

    `reconstruction = features @ W_dec * scale + offset`, and `+ skip` where there is a skip
    connection. Leading axes are those of the input.

    Attributes:
        features: Features of each input.
        reconstruction: What the module puts in the place of the activations at `hook_out`.
        scale: What each row of the decoder is multiplied by; 1 unless the input is normalised.
        offset: What is added when no feature is active: `b_dec`, scaled, and the mean of the input
            where it is normalised.
        skip: What the skip connection adds; None where there is none.
    """

    features: Float[Tensor, "*batch feature"]
    reconstruction: Float[Tensor, "*batch d_out"]
    scale: Float[Tensor, "*batch 1"]
    offset: Float[Tensor, "*batch d_out"]
    skip: Float[Tensor, "*batch d_out"] | None


@dataclass(frozen=True, eq=False)
class FeatureModule:
    """An SAE or a transcoder: features of the activations at one hook, and what they write.

    Attributes:
        architecture: Such as `topk` or `skip_transcoder`.
        hook: The hook of TransformerLens whose activations it reads.
        hook_out: The hook whose activations it reconstructs: `hook` for an SAE.
        layer: The block of `hook`.
        W_dec: What one unit of each feature adds to `decode`; scales that belong to features are
            folded in.
        b_dec: What `decode` gives when no feature is active.
        encoder: What makes features of prepared inputs.
        b_in: What is subtracted from the input before it is encoded; None for nothing.
        W_skip: The skip connection; None where there is none.
        norm: How each input is normalised before it is encoded.
        norm_out: Whether reconstructions are brought back to the scale of the input.
        flatten_heads: Whether it reads `hook_z` with all heads as one vector, `[head d_head]`.
        head: The one head that it reads at `hook_z`; None for all.
        model_name: The model that it was trained on; empty if unknown.
        neuronpedia_id: Its name at Neuronpedia, such as `gpt2-small/9-att-kk`; None if it has none.
        name: A short name: that of the folder or file.
        path: The file of its weights; None if it was opened from an object.
        metadata: What its configuration says of its training.
    """

    architecture: str
    hook: str
    hook_out: str
    layer: int
    W_dec: Float[Tensor, "feature d_out"] = field(repr=False)
    b_dec: Float[Tensor, " d_out"] = field(repr=False)
    encoder: Encoder = field(repr=False)
    d_in: int
    b_in: Float[Tensor, " d_in"] | None = field(default=None, repr=False)
    W_skip: Float[Tensor, "d_out d_in"] | None = field(default=None, repr=False)
    norm: Norm = "none"
    norm_out: bool = True
    flatten_heads: bool = False
    head: int | None = None
    model_name: str = ""
    neuronpedia_id: str | None = None
    name: str = ""
    path: Path | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def d_out(self) -> int:
        """Width of the reconstruction."""
        return self.W_dec.shape[1]

    @property
    def n_features(self) -> int:
        """How many features there are."""
        return self.W_dec.shape[0]

    @property
    def device(self) -> torch.device:
        """Where its tensors are, and its results."""
        return self.W_dec.device

    @property
    def dtype(self) -> torch.dtype:
        """The type in which it computes."""
        return self.W_dec.dtype

    # --- what it computes ----------------------------------------------------------------------

    @checked
    def encode(
        self, x: Annotated[Float[Tensor, "*axes"], TENSOR]
    ) -> Float[Tensor, "*batch feature"]:
        """The features of activations.

        Args:
            x: Activations at `hook`, `[..., d_in]`; with `flatten_heads` also
                `[..., head, d_head]`.

        Raises:
            InputError: they have another width.
        """
        rows, shape = self._rows(x)
        return self._encoded(normalised(rows, self.norm)[0]).reshape(*shape, self.n_features)

    @checked
    def decode(
        self,
        features: Annotated[Float[Tensor, "*batch feature"], TENSOR],
        x: Annotated[Float[Tensor, "*axes"], TENSOR] | None = None,
    ) -> Float[Tensor, "*batch d_out"]:
        """What features write, without the skip connection.

        Args:
            features: As `encode` gives them.
            x: The activations that they were encoded from; needed where the input is normalised,
                since its scale is then that of the output too.

        Raises:
            InputError: another number of features, or `x` is missing.
        """
        width = features.shape[-1] if features.ndim else 1
        if width != self.n_features or features.is_complex() or features.is_meta:
            raise InputError(
                f"{self._called} decodes [..., {self.n_features}] real numbers, got "
                f"{short(features)}"
            )
        features = features.to(self.device, self.dtype)
        flat = features.reshape(-1, self.n_features)
        written = torch.addmm(self.b_dec, flat, self.W_dec)
        written = written.reshape(*features.shape[:-1], self.d_out)
        if self.norm == "none" or not self.norm_out:
            return written
        if x is None:
            raise InputError(
                f"{self._called} normalises its input ({self.norm}), so what its features write "
                f"depends on the input: say decode(features, x), or use apply(x)"
            )
        rows, shape = self._rows(x)
        _, scale, shift = normalised(rows, self.norm)
        return written * scale.reshape(*shape, 1) + shift.reshape(*shape, 1)

    @checked
    def skip(
        self, x: Annotated[Float[Tensor, "*axes"], TENSOR]
    ) -> Float[Tensor, "*batch d_out"] | None:
        """What the skip connection adds, `x W_skip^T`; None where there is none.

        Args:
            x: As for `encode`.

        Raises:
            InputError: another width.
        """
        rows, shape = self._rows(x)
        if self.W_skip is None:
            return None
        return (rows @ self.W_skip.T).reshape(*shape, self.d_out)

    @checked
    def apply(self, x: Annotated[Float[Tensor, "*axes"], TENSOR]) -> FeatureRun:
        """Features and the reconstruction, with the terms that it is the sum of.

        Args:
            x: As for `encode`.

        Raises:
            InputError: another width.
        """
        rows, shape = self._rows(x)
        prepared, scale, shift = normalised(rows, self.norm)
        features = self._encoded(prepared)
        if not self.norm_out:
            scale, shift = torch.ones_like(scale), torch.zeros_like(shift)
        offset = self.b_dec * scale + shift
        written = (features @ self.W_dec) * scale + offset
        skip = None if self.W_skip is None else rows @ self.W_skip.T
        whole = written if skip is None else written + skip
        return FeatureRun(
            features=features.reshape(*shape, self.n_features),
            reconstruction=whole.reshape(*shape, self.d_out),
            scale=scale.reshape(*shape, 1),
            offset=offset.reshape(*shape, self.d_out),
            skip=None if skip is None else skip.reshape(*shape, self.d_out),
        )

    @checked
    def __call__(self, x: Annotated[Float[Tensor, "*axes"], TENSOR]) -> Float[Tensor, "*out"]:
        """The whole module: what it puts in the place of the activations at `hook_out`.

        Args:
            x: As for `encode`. With heads on an axis of their own, so has the result.

        Raises:
            InputError: another width.
        """
        whole = self.apply(x).reconstruction
        return whole.reshape(x.shape) if self._by_head(x) else whole

    # --- what it fits --------------------------------------------------------------------------

    @checked
    def fits(self, view: View) -> bool:
        """Whether it belongs to a model; `require_fit` says why not.

        Args:
            view: The model, opened as a `ModelView`.
        """
        return not misfits(self, view)

    @checked
    def require_fit(self, view: View) -> None:
        """Require that it belongs to a model: its hooks are there, with its widths and its name.

        Args:
            view: The model, opened as a `ModelView`.

        Raises:
            InputError: it does not; all reasons are named.
        """
        if found := misfits(self, view):
            raise InputError(f"{self._called} does not fit {view.name}: {'; '.join(found)}")

    def __str__(self) -> str:
        where = self.hook if self.hook == self.hook_out else f"{self.hook} -> {self.hook_out}"
        of = f" of {self.model_name}" if self.model_name else ""
        name = self.name or "features"
        return f"{name}: {self.architecture}, {self.n_features} features at {where}{of}"

    # --- parts ---------------------------------------------------------------------------------

    @property
    def _called(self) -> str:
        return f"the {self.architecture} {self.name or 'module'} at {self.hook}"

    def _by_head(self, x: Tensor) -> bool:
        wide = self.flatten_heads and x.ndim >= 2 and x.shape[-1] != self.d_in
        return wide and x.shape[-2] * x.shape[-1] == self.d_in

    def _rows(self, x: Tensor) -> tuple[Float[Tensor, "row d_in"], tuple[int, ...]]:
        """The inputs as rows of a matrix, and their leading axes."""
        by_head = self._by_head(x)
        if not by_head and (not x.ndim or x.shape[-1] != self.d_in):
            shape = f"[..., {self.d_in}]" + (" or [..., head, d_head]" * self.flatten_heads)
            raise InputError(f"{self._called} reads {shape}, got {list(x.shape)}")
        if x.is_complex() or x.is_meta:
            raise InputError(f"{self._called} reads real numbers, got {short(x)}")
        leading = tuple(x.shape[: -2 if by_head else -1])
        return x.detach().to(self.device, self.dtype).reshape(-1, self.d_in), leading

    def _encoded(self, prepared: Float[Tensor, "row d_in"]) -> Float[Tensor, "row feature"]:
        return self.encoder(prepared if self.b_in is None else prepared - self.b_in)
