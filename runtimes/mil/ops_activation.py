"""Activations."""

from __future__ import annotations

import math

import numpy as np

from runtimes.mil.ops_elementwise import erf
from runtimes.mil.program import Array
from runtimes.mil.table import operation


@operation
def clamped_relu(x: Array, alpha: Array, beta: Array) -> Array:
    """iOS15.activation.clamped_relu: min(x, beta) where x >= 0, else min(alpha x, beta)."""
    return np.minimum(np.where(x >= 0, x, alpha * x), beta)


@operation
def elu(x: Array, alpha: Array) -> Array:
    """iOS15.activation.elu: x where x > 0, else alpha (exp(x) - 1)."""
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


@operation
def gelu(x: Array, mode: str = "EXACT") -> Array:
    """iOS15.activation.gelu: x times the normal distribution function, or one of its two approximations."""
    if mode == "TANH_APPROXIMATION":
        inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * (x * x * x))
        return np.float32(0.5) * x * (1 + np.tanh(inner))
    if mode == "SIGMOID_APPROXIMATION":
        return x * sigmoid(np.float32(1.702) * x)
    if mode == "EXACT":
        return np.float32(0.5) * x * (1 + erf(x * np.float32(math.sqrt(0.5))))
    raise ValueError(f"gelu has no mode {mode!r}")


@operation
def leaky_relu(x: Array, alpha: Array) -> Array:
    """iOS15.activation.leaky_relu"""
    return np.where(x >= 0, x, alpha * x)


@operation
def linear_activation(x: Array, alpha: Array, beta: Array) -> Array:
    """iOS15.activation.linear_activation: alpha x + beta."""
    return alpha * x + beta


@operation
def prelu(x: Array, alpha: Array) -> Array:
    """iOS15.activation.prelu: leaky, with a slope for each channel (axis 1)."""
    return np.where(x >= 0, x, _along_channels(alpha, x) * x)


@operation
def relu(x: Array) -> Array:
    """iOS15.activation.relu"""
    return np.maximum(x, 0)


@operation
def relu6(x: Array) -> Array:
    """iOS15.activation.relu6"""
    return np.minimum(np.maximum(x, 0), 6)


@operation
def scaled_tanh(x: Array, alpha: Array, beta: Array) -> Array:
    """iOS15.activation.scaled_tanh: alpha tanh(beta x)."""
    return alpha * np.tanh(beta * x)


@operation
def sigmoid(x: Array) -> Array:
    """iOS15.activation.sigmoid"""
    small = np.exp(-np.abs(x))  # of the negative magnitude: the other overflows
    return np.where(x >= 0, 1, small) / (1 + small)


@operation
def sigmoid_hard(x: Array, alpha: Array, beta: Array) -> Array:
    """iOS15.activation.sigmoid_hard: alpha x + beta, into 0..1."""
    return np.minimum(np.maximum(alpha * x + beta, 0), 1)


@operation
def silu(x: Array) -> Array:
    """iOS15.activation.silu: x sigmoid(x)."""
    return x * sigmoid(x)


@operation
def softplus(x: Array) -> Array:
    """iOS15.activation.softplus: log(1 + exp(x))."""
    return np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0)


@operation
def softplus_parametric(x: Array, alpha: Array, beta: Array) -> Array:
    """iOS15.activation.softplus_parametric: alpha log(1 + exp(beta x)), each for a channel (axis 1)."""
    return _along_channels(alpha, x) * softplus(_along_channels(beta, x) * x)


@operation
def softmax(x: Array, axis: Array | int = -1) -> Array:
    """iOS15.activation.softmax: rounded once, at its end."""
    raised = np.exp(x - np.max(x, axis=int(axis), keepdims=True))
    raised /= np.sum(raised, axis=int(axis), keepdims=True)
    return raised


@operation
def softsign(x: Array) -> Array:
    """iOS15.activation.softsign"""
    return x / (1 + np.abs(x))


@operation
def thresholded_relu(x: Array, alpha: Array) -> Array:
    """iOS15.activation.thresholded_relu: x where x >= alpha, else 0."""
    return np.where(x >= alpha, x, 0)


def _along_channels(parameter: Array, x: Array) -> Array:
    """(C,) -> (1, C, 1, …) of x's rank."""
    return parameter.reshape([-1 if axis == 1 else 1 for axis in range(x.ndim)])
