"""Normalisation layers for adaptation: blended statistics, and a network that is safe to adapt.

`adaptable_copy` hands back a copy of a network whose convolutions share their storage with the
source and whose normalisation layers are its own. Batch normalisation is replaced by
`BlendedNorm`, which keeps the source statistics and normalises with

    μ = α·μ_now + (1 − α)·μ_source,    σ² = α·σ²_now + (1 − α)·σ²_source.

Layers without source statistics (instance, group and layer normalisation) stay as they are;
their scale and shift are adapted like any other.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as fn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.utils.parametrize import register_parametrization

_OTHER_NORMS: tuple[type[nn.Module], ...] = (_InstanceNorm, nn.GroupNorm, nn.LayerNorm)
if hasattr(nn, "RMSNorm"):
    _OTHER_NORMS = (*_OTHER_NORMS, nn.RMSNorm)
RANK = 4
"""Of the low-rank updates, r."""


class BlendedNorm(nn.Module):
    """Batch normalisation whose statistics lie between those of the source and of the tensor.

    Parameters
    ----------
    source : BatchNorm1d, BatchNorm2d, BatchNorm3d or SyncBatchNorm
        Scale, shift, statistics and ε are copied from it; it is not changed.
    blend : float
        α in [0, 1]: 1 takes the statistics of the tensor alone (the published GraTa step), 0
        those of the source alone. A layer without source statistics always takes the tensor's.

    Notes
    -----
    The tensor's statistics are differentiated through, as in the published step, where α is 1.
    One value per channel (a 1×1 map of one image) has no spread to normalise with; then the
    source statistics serve, whatever α is.
    """

    def __init__(self, source: _BatchNorm, blend: float = 1.0) -> None:
        super().__init__()
        self.blend = float(blend)
        self.eps = source.eps
        self.groups = 1
        self.weight = _own(source.weight)
        self.bias = _own(source.bias)
        self.running_mean: Tensor | None
        self.running_var: Tensor | None
        self.register_buffer("running_mean", _clone(source.running_mean))
        self.register_buffer("running_var", _clone(source.running_var))

    def extra_repr(self) -> str:
        size = "no scale" if self.weight is None else str(self.weight.numel())
        return f"{size}, blend={self.blend}, eps={self.eps}"

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` of shape (B·G, C, …), each of the G groups by itself."""
        mean, var = self.running_mean, self.running_var
        n_values = x.numel() // max(1, x.shape[1] * self.groups)
        blend = 1.0 if mean is None else self.blend
        if n_values <= 1 and mean is not None:
            blend = 0.0
        if blend == 0.0:
            y = fn.batch_norm(x, mean, var, self.weight, self.bias, False, 0.0, self.eps)
            return _with_gradient_laid_out_alike(y)

        # Sample b of group g is row b·G + g: groups become channels without moving any number.
        shape, groups = x.shape, self.groups
        weight: Tensor | None = self.weight
        bias: Tensor | None = self.bias
        if groups > 1:
            x = x.reshape(shape[0] // groups, groups * shape[1], *shape[2:])
            mean, var, weight, bias = (
                None if one is None else one.repeat(groups) for one in (mean, var, weight, bias)
            )
        if mean is None and n_values <= 1:
            zero, one = x.new_zeros(x.shape[1]), x.new_ones(x.shape[1])
            y = fn.batch_norm(x, zero, one, weight, bias, False, 0.0, self.eps)
        elif blend == 1.0:
            y = fn.batch_norm(x, None, None, weight, bias, True, 0.0, self.eps)
        else:
            y = _Blended.apply(x, weight, bias, mean, var, blend, self.eps)
        y = _with_gradient_laid_out_alike(y)
        # Not for a single group: writing into a view, as a ReLU in place does, costs autograd a
        # copy of the whole gradient.
        return y if groups == 1 else y.reshape(shape)


class _Blended(torch.autograd.Function):
    """Normalisation with blended statistics m, s², with the closed form of its gradient.

    With g = ∂L/∂y and N values per channel, and x-bar the tensor's own mean,

        ∂L/∂x = (w/s)·[g − (α/N)·Σg] − (x − x-bar)·(α·w / (N·s²))·Σ g·(x − m)/s.

    The fused kernels of batch normalisation do the heavy part, several times faster than the
    same formula left to autograd.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        var: Tensor,
        blend: float,
        eps: float,
    ) -> Tensor:
        mean_now, var_now = (one.to(mean.dtype) for one in batch_statistics(x))
        mean = torch.lerp(mean, mean_now, blend)
        var = torch.lerp(var, var_now, blend)
        ctx.save_for_backward(x, weight, mean, var, mean_now)
        ctx.blend, ctx.eps = blend, eps
        return fn.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, weight, mean, var, mean_now = ctx.saved_tensors
        n_values = x.numel() // x.shape[1]
        scale = torch.rsqrt(var + ctx.eps)
        ones = torch.ones_like(var) if weight is None else weight
        grad_x, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            grads[0], x, ones, mean, var, None, None, False, ctx.eps, [True] * 3
        )
        if ctx.needs_input_grad[0]:
            slope = ones * scale.square() * grad_weight * (ctx.blend / n_values)
            constant = ones * scale * grad_bias * (ctx.blend / n_values) - slope * mean_now
            wide = (1, -1) + (1,) * (x.ndim - 2)
            grad_x = grad_x.addcmul_(x, slope.view(wide), value=-1.0).sub_(constant.view(wide))
        if weight is None:
            return grad_x, None, None, None, None, None, None
        return grad_x, grad_weight, grad_bias, None, None, None, None


class LowRank(nn.Module):
    """A weight with an update of low rank, W' = W + B·A (Hu et al., 2022, eq. 3; scale α/r = 1).

    W is read as a matrix, (first axis, all others). B (m, r) starts as 0, so that W' = W, and A
    (r, n) uniformly within ±1/√n, always with the same numbers.
    """

    def __init__(self, weight: Tensor, generator: torch.Generator) -> None:
        super().__init__()
        rows, columns = weight.flatten(1).shape
        rank = min(RANK, rows, columns)
        drawn = 2 * torch.rand(rank, columns, generator=generator) - 1
        self.a = nn.Parameter((drawn / math.sqrt(columns)).to(weight))
        self.b = nn.Parameter(weight.new_zeros(rows, rank))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the updated weight."""
        return weight + (self.b @ self.a).view(weight.shape)


def batch_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance per channel of ``x``, shape (B, C, …)."""
    if x.device.type in ("cpu", "cuda"):
        # Five times faster on a CPU than var_mean, and as exact (it is not a sum of squares).
        mean, var = torch.ops.aten.batch_norm_update_stats(x, None, None, 0.0)
        return mean, var
    var, mean = torch.var_mean(x, [0, *range(2, x.ndim)], correction=0)
    return mean, var


def is_blank(image: Tensor) -> bool:
    """Whether an image shows nothing: one value throughout has no statistics."""
    return bool(image.amax() == image.amin())


def adaptable_copy(
    network: nn.Module, blend: float = 1.0, parameters: str = "norms", names: str = ""
) -> nn.Module:
    """Return a copy of ``network`` that can be adapted without touching the original.

    Weights and buffers outside normalisation layers share their storage with the original and
    need no gradient, unless they adapt; normalisation layers are the copy's own.

    Parameters
    ----------
    network : nn.Module
        Not changed, neither its values nor its flags.
    blend : float
        α of `BlendedNorm`.
    parameters, names : str
        What adapts, and so is the copy's own; see `chosen_parameters`. ``"low-rank"``: a `LowRank`
        update beside the weight of each convolution and linear layer.

    Returns
    -------
    nn.Module
        In evaluation mode; what adapts, and nothing else, requires a gradient.
    """
    low_rank = parameters == "low-rank"
    chosen = {} if low_rank else dict(chosen_parameters(network, parameters, names))
    norms = [module for module in network.modules() if _is_norm(module)]
    own = {id(tensor) for module in norms for tensor in _tensors(module)}
    own |= {id(tensor) for tensor in chosen.values()}
    shared: dict[int, Any] = {}
    for tensor in _tensors(network):
        if id(tensor) not in own:
            alias = tensor.detach()
            is_parameter = isinstance(tensor, nn.Parameter)
            shared[id(tensor)] = nn.Parameter(alias, requires_grad=False) if is_parameter else alias
    twin = copy.deepcopy(network, memo=shared)
    replaced: dict[int, BlendedNorm] = {}
    for module in list(twin.modules()):
        for name, child in module.named_children():
            if isinstance(child, _BatchNorm):
                # A layer used in two places stays one layer.
                new = replaced.setdefault(id(child), BlendedNorm(child, blend))
                setattr(module, name, new)
    if isinstance(twin, _BatchNorm):
        twin = BlendedNorm(twin, blend)
    twin.eval()
    for parameter in twin.parameters():
        parameter.requires_grad_(False)
    for name in chosen:
        twin.get_parameter(name).requires_grad_(True)
    if low_rank:
        _add_updates(twin)
    return twin


def _add_updates(network: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    layers = [
        layer
        for layer in network.modules()
        if isinstance(layer, (_ConvNd, nn.Linear)) and "weight" in layer._parameters
    ]
    if not layers:
        raise ValueError(
            "Low-rank updates lie beside convolutions and linear layers, and this network shows "
            "none (a TorchScript or exported one hides them). Choose what else adapts."
        )
    for layer in layers:
        register_parametrization(layer, "weight", LowRank(layer.weight, generator))


def chosen_parameters(
    network: nn.Module, parameters: str, names: str = ""
) -> list[tuple[str, nn.Parameter]]:
    """Return names and tensors of the parameters that are to adapt, in order.

    Parameters
    ----------
    network : nn.Module
    parameters : {"norms", "biases", "last-block", "all", "named"}
        Scale and shift of every normalisation layer; every bias; the layers that run after the
        network's last change of size; every parameter; those that ``names`` names.
    names : str
        Patterns with ``*`` and ``?``, with commas between them.

    Raises
    ------
    ValueError
        If there is none, but for ``norms``.
    """
    if parameters == "norms":
        return norm_parameters(network)
    found = all_parameters(network)
    if parameters == "biases":
        found = [(name, one) for name, one in found if name.rpartition(".")[2] == "bias"]
    elif parameters == "last-block":
        last = {id(one) for layer in _last_layers(network) for one in layer.parameters()}
        found = [(name, one) for name, one in found if id(one) in last]
    elif parameters == "named":
        patterns = [one.strip() for one in names.split(",")]
        known = [name for name, _ in found]
        found = [(n, one) for n, one in found if any(fnmatchcase(n, p) for p in patterns)]
        if not found:
            raise ValueError(
                f"No parameter of this network is called {names!r}. It has {len(known)}, from "
                f"{known[0]} to {known[-1]}; * stands for any letters."
                if known
                else "This network has no parameters that could adapt."
            )
    if not found:
        raise ValueError(
            f"This network has no parameters of the kind {parameters!r} to adapt; choose others."
        )
    return found


@torch.no_grad()
def _last_layers(network: nn.Module) -> list[nn.Module]:
    """Return the layers that run after the last change of size, as a pass with zeros tells."""
    first = next((one for one in network.parameters() if one.ndim > 2), None)
    if first is None:
        return []
    sides = getattr(network, "window", (64,) * (first.ndim - 2))
    ran: list[tuple[nn.Module, torch.Size]] = []

    def note(layer: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor):
            ran.append((layer, output.shape[2:]))

    hooks = [
        layer.register_forward_hook(note)
        for layer in network.modules()
        if any(True for _ in layer.parameters(recurse=False))
    ]
    try:
        size = network(first.new_zeros(1, first.shape[1], *sides)).shape[2:]
    finally:
        for hook in hooks:
            hook.remove()
    smaller = [number for number, (_, sides) in enumerate(ran) if sides != size]
    return [layer for layer, _ in ran[max(smaller, default=-1) + 1 :]]


def all_parameters(network: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return names and tensors of every floating-point parameter, in order."""
    return [(name, one) for name, one in network.named_parameters() if one.is_floating_point()]


def norm_statistics(network: nn.Module) -> list[tuple[str, Tensor]]:
    """Return names and tensors of the source statistics of every `BlendedNorm`, in order."""
    return [
        (f"{prefix}.{name}", statistics)
        for prefix, module in network.named_modules()
        if isinstance(module, BlendedNorm)
        for name, statistics in module.named_buffers(recurse=False)
    ]


def norm_parameters(network: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return names and tensors of scale and shift of every normalisation layer, in order."""
    found: dict[int, tuple[str, nn.Parameter]] = {}
    for prefix, module in network.named_modules():
        if _is_norm(module):
            for name, parameter in module.named_parameters(recurse=False):
                path = f"{prefix}.{name}" if prefix else name
                found.setdefault(id(parameter), (path, parameter))
    return list(found.values())


@contextmanager
def grouped(network: nn.Module, groups: int) -> Iterator[None]:
    """Within, row b·groups + g of a batch is normalised with the rows of its group g alone."""
    layers = [module for module in network.modules() if isinstance(module, BlendedNorm)]
    for layer in layers:
        layer.groups = groups
    try:
        yield
    finally:
        for layer in layers:
            layer.groups = 1


def _with_gradient_laid_out_alike(y: Tensor) -> Tensor:
    """Return ``y``; its gradient will arrive in the memory layout that ``y`` has.

    The fused backward kernel is twenty times slower where the two differ, and in channels-last
    networks convolutions hand back gradients of one image with an odd stride of the batch axis.
    """
    if not y.requires_grad:
        return y
    shape, stride = y.shape, y.stride()
    lay_out: Any = y.register_hook
    lay_out(lambda gradient: laid_out_as(gradient, shape, stride))
    return y


def laid_out_as(gradient: Tensor, shape: torch.Size, stride: tuple[int, ...]) -> Tensor:
    """Return ``gradient`` with the strides given; nothing is moved where they mean the same."""
    if gradient.stride() == stride:
        return gradient
    if shape[0] == 1 and gradient.ndim == 4:
        layout = torch.channels_last
        if gradient.is_contiguous(memory_format=layout) and stride[1] == 1:
            return gradient.as_strided(shape, stride)
    return torch.empty_strided(shape, stride, dtype=gradient.dtype, device=gradient.device).copy_(
        gradient
    )


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, (BlendedNorm, _BatchNorm, *_OTHER_NORMS))


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _own(parameter: Tensor | None) -> nn.Parameter | None:
    return None if parameter is None else nn.Parameter(parameter.detach().clone())


def _clone(buffer: Tensor | None) -> Tensor | None:
    return None if buffer is None else buffer.detach().clone()
