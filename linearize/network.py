"""A pretrained network as a pure function of the parameters that will train."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from linearize.types import Apply, Inputs, Outputs, Params

Pullback = Callable[[Params, Inputs, Array], Params]
"""(params, inputs, cotangents) -> the gradient of Σ ⟨values, cotangents⟩ by the parameters."""

Trainable = str | Sequence[str] | Callable[[str], bool] | Params | None


@dataclass(frozen=True)
class Head:
    """The last affine layer, f(x) = Wᵀh(x) + b, by the paths of its parameters.

    Attributes:
        kernel: path of W, shape (features, outputs).
        bias: path of b, shape (outputs,), or None where the layer has none.
    """

    kernel: str
    bias: str | None


@dataclass(frozen=True)
class Network:
    """A pure network, its parameters split into trainable and frozen ones, and its head.

    Build it with `from_linen`, `from_nnx` or `from_function`.

    Attributes:
        function: (all parameters, inputs) -> outputs, shape (samples, outputs). Pure; each row
            depends on its own sample only (see `linearize.check`).
        params: the trainable parameters, in the user's own tree; frozen leaves are None.
        frozen: the frozen parameters, in the same tree; trainable leaves are None.
        head: the last affine layer, or None.
        name: what messages and records call it.
    """

    function: Apply
    params: Params
    frozen: Params
    head: Head | None
    name: str

    def apply(self, params: Params, inputs: Inputs) -> Outputs:
        """Outputs, shape (samples, outputs), at the given trainable parameters."""
        return self.function(merge(params, self.frozen), inputs)

    def features(
        self, params: Params, inputs: Inputs, directions: Float[Array, "features directions"]
    ) -> Float[Array, "samples directions"]:
        """Qᵀh(x): what the head reads, along the given directions Q of feature space.

        No layer is intercepted: f is affine in the head, so the network evaluated with blocks of Q
        as the head's kernel, and no bias, returns Qᵀh. The body is evaluated once for all blocks.

        Args:
            params: trainable parameters; the head's own entries are not read.
            inputs: samples on the leading axis.
            directions: Q.
        """
        kernel = self.head_kernel(params)
        outputs, count = kernel.shape[1], directions.shape[1]
        blocks = -(-count // outputs)
        padded = jnp.pad(directions, ((0, 0), (0, blocks * outputs - count)))
        stacked = padded.reshape(-1, blocks, outputs).swapaxes(0, 1).astype(kernel.dtype)
        full = merge(params, self.frozen)

        def block(matrix: Array) -> Array:
            return self.function(with_head(full, self._head, matrix, None), inputs)

        out = jax.vmap(block)(stacked)  # (blocks, samples, outputs)
        return out.swapaxes(0, 1).reshape(out.shape[1], -1)[:, :count]

    def features_by_body(
        self, directions: Float[Array, "features directions"]
    ) -> Callable[[Params, Inputs], Float[Array, "samples directions"]]:
        """`features` as a function of the body's parameters alone."""
        return lambda body, inputs: self.features(merge(body, self.params), inputs, directions)

    @cached_property
    def compiled(self) -> Callable[[Params, Inputs], Outputs]:
        """`apply`, compiled once a network."""
        return jax.jit(self.apply)

    @cached_property
    def features_pullback(self) -> Pullback:
        """`pullback` of all features by the body's parameters, compiled once a network."""
        return pullback(self._all_features)

    @cached_property
    def features_pushforward(self) -> Callable[[Params, Params, Inputs], Array]:
        """(body, step of the body, inputs) -> what the step does to all features, first order."""

        def push(body: Params, step: Params, inputs: Inputs) -> Array:
            features = partial(self._all_features, inputs=inputs)
            return jax.jvp(features, (body,), (step,))[1]

        return jax.jit(push)

    def _all_features(self, body: Params, inputs: Inputs) -> Float[Array, "samples features"]:
        count = self.head_kernel(self.params).shape[0]
        return self.features_by_body(jnp.eye(count))(body, inputs)

    def head_kernel(self, params: Params) -> Float[Array, "features outputs"]:
        """W, the head's kernel."""
        return _leaf(merge(params, self.frozen), self._head.kernel)

    def head_bias(self, params: Params) -> Float[Array, " outputs"] | None:
        """The head's bias b, or None where it has none."""
        bias = self._head.bias
        return None if bias is None else _leaf(merge(params, self.frozen), bias)

    def is_trainable(self, path: str) -> bool:
        """Whether the parameter at this path will be trained."""
        return path in paths(self.params)

    def body(self, params: Params) -> Params:
        """The trainable parameters without the head's: what `directions` are differentiated by."""
        head = () if self.head is None else (self.head.kernel, self.head.bias)
        return _select(params, lambda path: path not in head)

    @property
    def parameter_count(self) -> int:
        """D, the number of trainable scalars."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))

    @property
    def _head(self) -> Head:
        if self.head is None:
            msg = f"head: {self.name} was built without one; pass head='NAME' when building it"
            raise ValueError(msg)
        return self.head

    @staticmethod
    def from_function(
        function: Apply,
        params: Params,
        *,
        head: str | None = None,
        trainable: Trainable = None,
        name: str = "network",
    ) -> Network:
        """A network from any pure function.

        Args:
            function: (params, inputs) -> outputs of shape (samples, outputs).
            params: pytree of floating-point arrays.
            head: path of the subtree that holds the last affine layer: one matrix of shape
                (features, outputs) and at most one vector of shape (outputs,).
            trainable: which parameters train: None for all, a glob pattern or several over paths
                such as ``"layer3/*"``, a predicate on paths, or a tree of booleans like `params`.
            name: what messages and records call it.

        Raises:
            ValueError: nothing is trainable, a pattern matches nothing, the head is not there.
        """
        params = jax.tree.map(jnp.asarray, params)
        for path, leaf in paths(params).items():
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                msg = (
                    f"params: {path!r} is {leaf.dtype}; expected floating point (keep it as state)"
                )
                raise ValueError(msg)
        chosen = _chosen(params, trainable)
        return Network(
            function=function,
            params=_select(params, lambda path: path in chosen),
            frozen=_select(params, lambda path: path not in chosen),
            head=None if head is None else _find_head(params, head),
            name=name,
        )

    @staticmethod
    def from_linen(
        module: Any,
        variables: Any,
        *,
        head: str | None = None,
        trainable: Trainable = None,
        name: str | None = None,
        **apply_arguments: Any,
    ) -> Network:
        """A network from a Flax Linen module; see `linearize.adapters.linen`."""
        from linearize.adapters.linen import from_linen

        return from_linen(
            module, variables, head=head, trainable=trainable, name=name, **apply_arguments
        )

    @staticmethod
    def from_nnx(
        model: Any,
        *,
        head: str | None = None,
        trainable: Trainable = None,
        name: str | None = None,
    ) -> Network:
        """A network from a Flax NNX model; see `linearize.adapters.nnx`."""
        from linearize.adapters.nnx import from_nnx

        return from_nnx(model, head=head, trainable=trainable, name=name)


def pullback(function: Callable[[Params, Inputs], Array]) -> Pullback:
    """Of a function of parameters and inputs, compiled."""

    def pull(params: Params, inputs: Inputs, cotangents: Array) -> Params:
        return jax.vjp(lambda p: function(p, inputs), params)[1](cotangents)[0]

    return jax.jit(pull)


def paths(params: Params) -> dict[str, Any]:
    """The leaves of a tree by path, such as ``"stage1/conv/kernel"``; None leaves are left out."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {_path(keys): leaf for keys, leaf in leaves}


def merge(trainable: Params, frozen: Params) -> Params:
    """One tree from two complementary ones, each None where the other has a leaf."""
    return jax.tree.map(
        lambda a, b: b if a is None else a, trainable, frozen, is_leaf=lambda leaf: leaf is None
    )


def with_head(params: Params, head: Head, kernel: Array, bias: Array | None) -> Params:
    """The full tree with another head; zeros where no bias is given."""

    def replace(keys: Any, leaf: Array) -> Array:
        path = _path(keys)
        if path == head.kernel:
            return kernel
        if path == head.bias:
            return jnp.zeros_like(leaf) if bias is None else bias
        return leaf

    return jax.tree_util.tree_map_with_path(replace, params)


def _path(keys: Any) -> str:
    return jax.tree_util.keystr(keys, simple=True, separator="/")


def _select(params: Params, keep: Callable[[str], bool]) -> Params:
    return jax.tree_util.tree_map_with_path(
        lambda keys, leaf: leaf if keep(_path(keys)) else None, params
    )


def _leaf(params: Params, path: str) -> Array:
    return paths(params)[path]


def _chosen(params: Params, trainable: Trainable) -> frozenset[str]:
    known = list(paths(params))
    if trainable is None:
        return frozenset(known)
    if callable(trainable):
        chosen = {path for path in known if trainable(path)}
    elif isinstance(trainable, str) or _is_patterns(trainable):
        patterns = [trainable] if isinstance(trainable, str) else list(trainable)
        for pattern in patterns:
            if not fnmatch.filter(known, pattern):
                msg = (
                    f"trainable: pattern {pattern!r} matches no parameter; there are {_few(known)}"
                )
                raise ValueError(msg)
        chosen = {path for path in known if any(fnmatch.fnmatch(path, p) for p in patterns)}
    else:
        mask = paths(trainable)
        if mask.keys() != set(known):
            msg = "trainable: the mask's tree differs from that of params; give one boolean a leaf"
            raise ValueError(msg)
        chosen = {path for path, keep in mask.items() if bool(keep)}
    if not chosen:
        msg = f"trainable: selects none of the {len(known)} parameters; there are {_few(known)}"
        raise ValueError(msg)
    return frozenset(chosen)


def _is_patterns(trainable: Any) -> bool:
    return isinstance(trainable, (list, tuple)) and all(isinstance(p, str) for p in trainable)


def _find_head(params: Params, name: str) -> Head:
    known = paths(params)
    inside = {p: leaf for p, leaf in known.items() if f"/{p}/".find(f"/{name.strip('/')}/") >= 0}
    kernels = [p for p, leaf in inside.items() if leaf.ndim == 2]
    biases = [p for p, leaf in inside.items() if leaf.ndim == 1]
    if not inside:
        layers = sorted({p.rsplit("/", 1)[0] for p, leaf in known.items() if leaf.ndim == 2})
        msg = f"head: no parameters under {name!r}; the affine layers are {_few(layers)}"
        raise ValueError(msg)
    if len(kernels) != 1 or len(biases) > 1 or len(inside) > 2:
        msg = (
            f"head: {name!r} holds {_few(sorted(inside))}; "
            "expected one matrix (features, outputs) and at most one vector (outputs,)"
        )
        raise ValueError(msg)
    return Head(kernel=kernels[0], bias=biases[0] if biases else None)


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:8])
    return shown + (f" and {len(names) - 8} more" if len(names) > 8 else "")
