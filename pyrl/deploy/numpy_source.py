"""A traced torch program as one Python file that needs NumPy and nothing else.

The graph is straight-line code of some forty operators (torch's core ATen set), so each node becomes one line. What depends on
constants only is computed here, once.
"""

from __future__ import annotations

import base64
import io
import operator
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node

from pyrl.errors import NetworkError

# Operators by their names in torch, with the names of their arguments there.
_EXPRESSIONS = {
    "abs": "np.abs({self})",
    "add": "{self} + {other}",
    "addmm": "{mat1} @ {mat2} + {self}",
    "alias": "{self}",
    "amax": "np.max({self}, {dim}, keepdims={keepdim})",
    "amin": "np.min({self}, {dim}, keepdims={keepdim})",
    "any": "np.any({self}, {dim}, keepdims={keepdim})",
    "argmax": "np.argmax({self}, {dim}, keepdims={keepdim})",
    "bitwise_and": "{self} & {other}",
    "bitwise_or": "{self} | {other}",
    "bmm": "{self} @ {mat2}",
    "cat": "np.concatenate({tensors}, {dim})",
    "clamp": "np.clip({self}, {min}, {max})",
    "clone": "{self}",
    "convolution": "_conv2d({input}, {weight}, {bias}, {stride}, {padding}, {dilation}, {groups})",
    "cos": "np.cos({self})",
    "detach": "{self}",
    "div": "{self} / {other}",
    "elu": "_elu({self}, {alpha}, {scale}, {input_scale})",
    "embedding": "{weight}[{indices}]",
    "eq": "{self} == {other}",
    "erf": "_erf({self})",
    "exp": "np.exp({self})",
    "expand": "np.broadcast_to({self}, _size({self}, {size}))",
    "full_like": "np.full_like({self}, {fill_value})",
    "ge": "{self} >= {other}",
    "gelu": "_gelu({self}, {approximate})",
    "gt": "{self} > {other}",
    "hardtanh": "np.clip({self}, {min_val}, {max_val})",
    "le": "{self} <= {other}",
    "leaky_relu": "np.where({self} > 0, {self}, {self} * {negative_slope})",
    "log": "np.log({self})",
    "log1p": "np.log1p({self})",
    "logical_and": "np.logical_and({self}, {other})",
    "logical_not": "np.logical_not({self})",
    "lt": "{self} < {other}",
    "max_pool2d_with_indices": "(_max_pool2d({self}, {kernel_size}, {stride}, {padding}, {dilation}, {ceil_mode}), None)",
    "maximum": "np.maximum({self}, {other})",
    "mean": "np.mean({self}, {dim}, keepdims={keepdim})",
    "minimum": "np.minimum({self}, {other})",
    "mm": "{self} @ {mat2}",
    "mul": "{self} * {other}",
    "native_layer_norm": "(_layer_norm({input}, {normalized_shape}, {weight}, {bias}, {eps}), None, None)",
    "ne": "{self} != {other}",
    "neg": "-{self}",
    "permute": "np.transpose({self}, {dims})",
    "pow": "{self} ** {exponent}",
    "reciprocal": "1.0 / {self}",
    "relu": "np.maximum({self}, 0)",
    "round": "np.rint({self})",
    "rsqrt": "1.0 / np.sqrt({self})",
    "select": "np.take({self}, {index}, {dim})",
    "sigmoid": "_sigmoid({self})",
    "sin": "np.sin({self})",
    "slice": "{self}[_along({dim}, {start}, {end}, {step})]",
    "softplus": "np.logaddexp(0, {self} * {beta}).astype({self}.dtype) / {beta}",
    "split_with_sizes": "np.split({self}, np.cumsum({split_sizes})[:-1], {dim})",
    "sqrt": "np.sqrt({self})",
    "squeeze": "np.squeeze({self}, {dim})",
    "sub": "{self} - {other}",
    "sum": "np.sum({self}, {dim}, keepdims={keepdim})",
    "sym_size": "{self}.shape[{dim}]",
    "tanh": "np.tanh({self})",
    "unsqueeze": "np.expand_dims({self}, {dim})",
    "view": "np.reshape({self}, {size})",
    "where": "np.where({condition}, {self}, {other})",
    "_log_softmax": "_log_softmax({self}, {dim})",
    "_native_batch_norm_legit_no_training": "(_batch_norm({input}, {weight}, {bias}, {running_mean}, {running_var}, {eps}), None, None)",
    "_softmax": "np.exp(_log_softmax({self}, {dim}))",
    "_to_copy": "{self}.astype({dtype})",
}

# What the expressions call, written into a file that needs it.
_HELPERS = {
    "_along": '''
def _along(axis, start, end, step):
    return (slice(None),) * axis + (slice(start, end, step),)
''',
    "_size": '''
def _size(x, size):
    own = (1,) * (len(size) - x.ndim) + x.shape
    return [n if s == -1 else s for s, n in zip(size, own)]
''',
    "_windows": '''
def _windows(x, kernel, stride, dilation):
    """[B, C, H, W] -> views [B, C, H', W', *kernel]."""
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation)]
    x = np.lib.stride_tricks.sliding_window_view(x, reach, axis=(2, 3))
    return x[:, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]
''',
    "_conv2d": '''
def _conv2d(x, weight, bias, stride, padding, dilation, groups):
    x = np.pad(x, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
    x = _windows(x, weight.shape[2:], stride, dilation)
    rows = []
    for x, own in zip(np.split(x, groups, 1), np.split(weight, groups, 0)):
        batch, channels, height, width = x.shape[:4]
        columns = x.transpose(0, 2, 3, 1, 4, 5).reshape(batch * height * width, -1)
        rows.append((columns @ own.reshape(len(own), -1).T).reshape(batch, height, width, -1).transpose(0, 3, 1, 2))
    out = np.concatenate(rows, 1)
    return out if bias is None else out + bias[:, None, None]
''',
    "_max_pool2d": '''
def _max_pool2d(x, kernel, stride, padding, dilation, ceil_mode):
    edge = ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2)
    x = np.pad(x, edge, constant_values=-np.inf)
    return _windows(x, kernel, stride or kernel, dilation).max((4, 5))
''',
    "_sigmoid": '''
def _sigmoid(x):
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, small) / (1 + small)
''',
    "_elu": '''
def _elu(x, alpha, scale, input_scale):
    return scale * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0) * input_scale))
''',
    "_erf": '''
def _erf(x):
    from math import erf
    return np.vectorize(erf, otypes=[x.dtype])(x)
''',
    "_gelu": '''
def _gelu(x, approximate):
    if approximate == "tanh":
        return 0.5 * x * (1 + np.tanh(0.7978845608028654 * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + _erf(x * 0.7071067811865476))
''',
    "_log_softmax": '''
def _log_softmax(x, axis):
    x = x - x.max(axis, keepdims=True)
    return x - np.log(np.exp(x).sum(axis, keepdims=True))
''',
    "_layer_norm": '''
def _layer_norm(x, shape, weight, bias, epsilon):
    axes = tuple(range(-len(shape), 0))
    x = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + epsilon)
    x = x if weight is None else x * weight
    return x if bias is None else x + bias
''',
    "_batch_norm": '''
def _batch_norm(x, weight, bias, mean, variance, epsilon):
    at = (slice(None),) + (None,) * (x.ndim - 2)
    x = (x - mean[at]) / np.sqrt(variance[at] + epsilon)
    x = x if weight is None else x * weight[at]
    return x if bias is None else x + bias[at]
''',
}  # fmt: skip

_DEFAULTS = {"dim": "None", "keepdim": "False", "min": "None", "max": "None"}


def numpy_function(program: ExportedProgram, name: str) -> tuple[str, str]:
    """(source, data): the source of a function ``name`` of the program's inputs and of what it calls, and the constants that it
    looks up in ``_constants``: an .npz in base 64.

    NetworkError names an operator that has no NumPy form here.
    """
    program = program.run_decompositions()
    constants = _constants_of(program)
    inputs = [_name(node) for node in program.graph.nodes if node.op == "placeholder" and node.name not in constants]
    output = program.graph.output_node()
    needed, lines = _upstream(output), []
    used: dict[str, Any] = {}
    for node in program.graph.nodes:
        if node.op == "call_function" and node in needed:
            known = _known(node, constants)
            if known is None:
                lines.append(f"    {_name(node)} = {_expression(node, constants, used)}")
            else:
                constants[node.name] = known
    (result,) = (_source(x, constants, used) for x in output.args[0])
    body = "\n".join([*lines, f"    return {result}"])
    helpers = "".join(_HELPERS[helper] + "\n" for helper in _needed(body))
    data = io.BytesIO()
    np.savez_compressed(data, **used)
    source = f"{helpers}\ndef {name}({', '.join(inputs)}):\n{body}\n"
    return source.lstrip("\n"), base64.encodebytes(data.getvalue()).decode()


def _name(node: Node) -> str:
    """Of a variable: helpers begin with an underscore, variables do not."""
    return node.name.lstrip("_")


def _upstream(node: Node) -> set[Node]:
    """All nodes that ``node`` is computed from. Checks of the arguments, which torch writes into its graphs, are not among them."""
    found, waiting = set(), [node]
    while waiting:
        new = [given for given in waiting.pop().all_input_nodes if given not in found]
        found.update(new)
        waiting += new
    return found


def _constants_of(program: ExportedProgram) -> dict[str, Any]:
    """Parameters, buffers and other tensors by the names of their nodes."""
    signature = program.graph_signature
    named = {**signature.inputs_to_parameters, **signature.inputs_to_buffers, **signature.inputs_to_lifted_tensor_constants}
    kept = {**program.state_dict, **program.constants}
    return {node: kept[key].detach().cpu() for node, key in named.items()}


def _known(node: Node, constants: Mapping[str, Any]) -> Any:
    """What ``node`` comes to where all that it takes is constant; None where it is not."""
    if any(given.name not in constants for given in node.all_input_nodes):
        return None
    arguments = torch.fx.node.map_arg((node.args, node.kwargs), lambda given: constants[given.name])
    target: Any = node.target
    value = target(*arguments[0], **{key: x for key, x in arguments[1].items() if key not in ("device", "pin_memory", "layout")})
    return value.contiguous() if isinstance(value, Tensor) else value


def _expression(node: Node, constants: Mapping[str, Any], used: dict[str, Any]) -> str:
    target: Any = node.target
    if target is operator.getitem:
        return f"{_source(node.args[0], constants, used)}[{node.args[1]}]"
    if isinstance(target, torch._ops.OpOverload) and target.namespace == "aten":
        name = target._schema.name.removeprefix("aten::")
        if name in _EXPRESSIONS:
            arguments = {**_DEFAULTS, **_arguments(node, constants, used)}
            return _EXPRESSIONS[name].format_map(arguments)
    elif getattr(target, "__module__", "") == "_operator":  # arithmetic of sizes
        values = [_source(x, constants, used) for x in node.args]
        return f"{values[0]} {_SIZES[target]} {values[1]}"
    raise NetworkError(f"export: the numpy form does not know the operator {target}; onnx and torchscript take every network")


_SIZES = {operator.mul: "*", operator.add: "+", operator.sub: "-", operator.floordiv: "//"}


def _arguments(node: Node, constants: Mapping[str, Any], used: dict[str, Any]) -> dict[str, str]:
    """The arguments of an operator by their names in torch, as Python source."""
    schema = node.target._schema  # type: ignore[union-attr]
    if node.kwargs.get("alpha", 1) != 1 or (node.kwargs.get("beta", 1) != 1 and schema.name == "aten::addmm"):
        raise NetworkError(f"export: the numpy form does not know {schema.name} with factors ({dict(node.kwargs)})")
    found = {a.name: _source(a.default_value, constants, used) for a in schema.arguments if a.has_default_value()}
    found |= {a.name: _source(value, constants, used) for a, value in zip(schema.arguments, node.args)}
    return found | {key: _source(value, constants, used) for key, value in node.kwargs.items()}


def _source(value: Any, constants: Mapping[str, Any], used: dict[str, Any]) -> str:
    """An argument as Python source; a constant is noted in ``used``."""
    if isinstance(value, Node):
        if value.name not in constants:
            return _name(value)
        constant = constants[value.name]
        used[value.name] = constant.numpy()
        return f'_constants["{value.name}"]'
    if isinstance(value, Tensor):
        return repr(value.item())
    if isinstance(value, list | tuple):
        return "(" + "".join(_source(x, constants, used) + ", " for x in value) + ")"
    if isinstance(value, torch.dtype):
        return f'"{str(value).removeprefix("torch.")}"'
    if isinstance(value, float) and value in (float("inf"), -float("inf")):
        return f'float("{value}")'
    return repr(value)


def _names(text: str) -> set[str]:
    return set("".join(c if c.isidentifier() or c.isdigit() else " " for c in text).split())


def _needed(body: str) -> list[str]:
    """The helpers that ``body`` calls, directly or not, in the order of the table."""
    waiting = [body]
    names: set[str] = set()
    while waiting:
        for name in _names(waiting.pop()) & _HELPERS.keys() - names:
            names.add(name)
            waiting.append(_HELPERS[name])
    return [name for name in _HELPERS if name in names]
