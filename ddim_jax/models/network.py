"""What training and sampling ask of a network, and how modules of Linen, NNX and Equinox become one.

A network is two functions. Neither the training loop nor the samplers know what stands behind them:

    init(key, example) -> params                                       any pytree of arrays
    apply(params, x [B, ...], step [B], condition, key) -> [B, ...]    steps are numbered from 0, as published networks do

A condition is what the network is told of each example besides x and the step: a dict of arrays with one row an example,
{"label": [B], "image": [B, H, W, C], ...}, empty where there is none. `key` is a random key in training, for dropout and the
like, and None otherwise.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    from flax import nnx

Condition = Mapping[str, jax.Array | np.ndarray]


class Example(NamedTuple):
    """Examples as the objective sees them; with a B of 1, what a network is initialised with."""

    x0: jax.Array  # [B, ...] clean data
    condition: Condition = {}  # of each name [B, ...]


class Network(NamedTuple):
    """A network as two functions; see the head of this file."""

    init: Callable[[jax.Array, Example], Any]
    apply: Callable[[Any, jax.Array, jax.Array, Condition, jax.Array | None], jax.Array]
    null: Mapping[str, Any] = {}  # of each condition that can be withheld: the value, or row, that stands for "not told"


def withheld(condition: Condition, null: Mapping[str, Any]) -> dict[str, jax.Array]:
    """The condition with every row replaced by its null. Raises ValueError for a condition that has none."""
    unknown = condition.keys() - null.keys()
    if unknown:
        raise ValueError(
            f"the condition {', '.join(map(repr, sorted(unknown)))} cannot be withheld: the network's `null` says for "
            f"{', '.join(map(repr, null)) or 'no condition'} alone which value stands for 'not told'"
        )
    return {name: jnp.broadcast_to(jnp.asarray(null[name], rows.dtype), rows.shape) for name, rows in condition.items()}


def from_linen(module: Any, null: Mapping[str, Any] = {}) -> Network:
    """A network from a Flax Linen module, called as module(x, step, **condition), with train=True or False if it takes that.

    Its random stream in training is "dropout". Raises ValueError for a module that keeps more than parameters.
    """
    trains = "train" in inspect.signature(type(module).__call__).parameters

    def init(key: jax.Array, example: Example) -> Any:
        mode = {"train": False} if trains else {}
        step = jnp.zeros(example.x0.shape[0], jnp.int32)
        variables = dict(module.init(key, example.x0, step, **example.condition, **mode))
        params = variables.pop("params", {})
        _refuse(variables)
        return params

    def apply(params: Any, x: jax.Array, step: jax.Array, condition: Condition, key: jax.Array | None) -> jax.Array:
        mode = {"train": key is not None} if trains else {}
        rngs = None if key is None else {"dropout": key}
        return module.apply({"params": params}, x, step, **condition, **mode, rngs=rngs)

    return Network(init, apply, null)


def from_nnx(make: "Callable[[nnx.Rngs], Any]", null: Mapping[str, Any] = {}) -> Network:
    """A network from make(rngs), which builds a Flax NNX module, called as module(x, step, **condition).

    It is in its train mode in training, else in its eval mode. Raises ValueError for a module that keeps more than parameters
    and random streams.
    """

    from flax import nnx  # here, since it takes a second to import, and only networks of this kind need it

    def init(key: jax.Array, example: Example) -> Any:
        module = make(nnx.Rngs(key))
        _refuse(nnx.to_pure_dict(nnx.state(module, nnx.Not(nnx.Any(nnx.Param, nnx.RngState)))))
        return nnx.to_pure_dict(nnx.state(module, nnx.Param))

    def apply(params: Any, x: jax.Array, step: jax.Array, condition: Condition, key: jax.Array | None) -> jax.Array:
        module = make(nnx.Rngs(0 if key is None else key))  # what it draws here is replaced, and never computed
        nnx.update(module, params)
        module.eval() if key is None else module.train()
        return module(x, step, **condition)

    return Network(init, apply, null)


def from_callable(make: Callable[[jax.Array], Any], null: Mapping[str, Any] = {}) -> Network:
    """A network from make(key), which builds a pytree that can be called, as Equinox's modules are.

    It is called for one example, module(x [...], step, **condition), with key=... if it takes that, and mapped over the batch.
    As in Equinox, its JAX arrays of floating point are the parameters, and flags named `inference` are set, to False in training
    and True else. All other leaves are kept as make(jax.random.key(0)) builds them.
    """

    def leaves(module: Any) -> tuple[dict[str, Any], Any]:
        """(its leaves by their place, its tree)."""
        named, tree = jax.tree_util.tree_flatten_with_path(module)
        return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in named}, tree

    def is_parameter(leaf: Any) -> bool:
        return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jnp.inexact)

    def init(key: jax.Array, example: Example) -> Any:
        return {name: leaf for name, leaf in leaves(make(key))[0].items() if is_parameter(leaf)}

    def apply(params: Any, x: jax.Array, step: jax.Array, condition: Condition, key: jax.Array | None) -> jax.Array:
        built, tree = leaves(make(jax.random.key(0)))  # the parameters drawn here are replaced, and never computed
        flags = {name: key is None for name in built if name.split(".")[-1] == "inference"}
        module = jax.tree.unflatten(tree, (built | flags | params).values())
        if "key" not in inspect.signature(type(module).__call__).parameters:
            return jax.vmap(lambda x, step, condition: module(x, step, **condition))(x, step, condition)
        keys = None if key is None else jax.random.split(key, x.shape[0])
        return jax.vmap(lambda x, step, condition, key: module(x, step, **condition, key=key))(x, step, condition, keys)

    return Network(init, apply, null)


def _refuse(more: Mapping[Any, Any]) -> None:
    """Raises ValueError where a module keeps anything besides parameters, which would be neither trained nor saved."""
    if more:
        raise ValueError(
            f"the module keeps {', '.join(sorted(map(str, more)))} besides its parameters, which alone are trained and saved: "
            "compute constants where the module is called, and normalise without running means"
        )
