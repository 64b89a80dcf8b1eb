"""Modules of three libraries as networks: one small network in each, against the same formula in NumPy.

out = W2 drop(tanh(W1 [x, step / 1000, told] + b1)) + b2, for points x [B, 2] and a condition `told` [B, 3].
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ddim_jax.models.network import Example, from_callable, from_linen, from_nnx, withheld
from ddim_jax.training.checkpoints import Checkpoints, copied
from ddim_jax.training.step import init_state, make_optimizer

WIDTH, RATE = 16, 0.5
KEY = jax.random.key(7)
X, STEP = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32), np.array([0, 3, 500, 998, 999])
TOLD = {"told": np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)}


def joined(x, step, told):
    return jnp.concatenate([x, jnp.asarray(step)[..., None] / 1000, told], axis=-1)


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x, step, told, train):
        h = nn.tanh(nn.Dense(WIDTH, name="first")(joined(x, step, told)))
        return nn.Dense(2, name="last")(nn.Dropout(RATE, deterministic=not train)(h))


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(6, WIDTH, rngs=rngs), nnx.Linear(WIDTH, 2, rngs=rngs)])
        self.drop = nnx.Dropout(RATE, rngs=rngs)

    def __call__(self, x, step, told):
        return self.layers[1](self.drop(jnp.tanh(self.layers[0](joined(x, step, told)))))


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["first", "last", "activation", "inference"], meta_fields=["rate"]
)
@dataclasses.dataclass
class TreeNet:
    """As Equinox has it: called for one example; arrays, a function and the flag `inference` are leaves alike."""

    first: tuple[jax.Array, jax.Array]
    last: tuple[jax.Array, jax.Array]
    activation: Any = jnp.tanh
    inference: bool = False
    rate: float = RATE

    @classmethod
    def make(cls, key):
        a, b = jax.random.split(key)
        return cls((jax.random.normal(a, (WIDTH, 6)) / 3, jnp.zeros(WIDTH)), (jax.random.normal(b, (2, WIDTH)) / 3, jnp.zeros(2)))

    def __call__(self, x, step, told, *, key=None):
        h = self.activation(self.first[0] @ joined(x, step, told) + self.first[1])
        if not self.inference:
            h = jnp.where(jax.random.bernoulli(key, 1 - self.rate, h.shape), h / (1 - self.rate), 0)  # without a key this raises
        return self.last[0] @ h + self.last[1]


def equinox_net():
    eqx = pytest.importorskip("equinox", reason="tried where it happens to be installed")

    class Net(eqx.Module):
        first: eqx.nn.Linear
        last: eqx.nn.Linear
        drop: eqx.nn.Dropout

        def __init__(self, key):
            a, b = jax.random.split(key)
            self.first, self.last = eqx.nn.Linear(6, WIDTH, key=a), eqx.nn.Linear(WIDTH, 2, key=b)
            self.drop = eqx.nn.Dropout(RATE)

        def __call__(self, x, step, told, *, key=None):
            return self.last(self.drop(jnp.tanh(self.first(joined(x, step, told))), key=key))

    return Net


def linen():
    params = LinenNet().init(KEY, X[:1], STEP[:1], TOLD["told"][:1], train=False)["params"]
    own = [params["first"]["kernel"], params["first"]["bias"], params["last"]["kernel"], params["last"]["bias"]]
    return from_linen(LinenNet()), ["first.bias", "first.kernel", "last.bias", "last.kernel"], own


def nnx_():
    module = NnxNet(nnx.Rngs(KEY))
    own = [np.asarray(leaf[...]) for layer in module.layers for leaf in (layer.kernel, layer.bias)]
    return from_nnx(NnxNet), ["layers.0.bias", "layers.0.kernel", "layers.1.bias", "layers.1.kernel"], own


def tree():
    module = TreeNet.make(KEY)
    own = [module.first[0].T, module.first[1], module.last[0].T, module.last[1]]
    return from_callable(TreeNet.make), ["first.0", "first.1", "last.0", "last.1"], own


def equinox():
    make = equinox_net()
    module = make(KEY)
    own = [module.first.weight.T, module.first.bias, module.last.weight.T, module.last.bias]
    return from_callable(make), ["first.bias", "first.weight", "last.bias", "last.weight"], own


@pytest.fixture(scope="module", params=[linen, nnx_, tree, equinox], ids=["linen", "nnx", "tree", "equinox"])
def made(request):
    """(network, its parameters, their names in a checkpoint, the module's own W1^T, b1, W2^T, b2)."""
    network, names, own = request.param()
    return network, network.init(KEY, Example(jnp.asarray(X[:1]), {"told": TOLD["told"][:1]})), names, own


def formula(own, x, step, told):
    w1, b1, w2, b2 = map(np.asarray, own)
    return np.tanh(np.concatenate([x, step[:, None] / 1000, told], 1) @ w1 + b1) @ w2 + b2


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)  # float32 rounding of sums of 16


def test_init_gives_the_parameters_and_nothing_else(made, tmp_path):
    """Under names that a checkpoint can bear: it gives back the same bits in the same tree."""
    network, params, names, _ = made
    state = init_state(params, make_optimizer(1e-3, 10, 1.0), seed=5)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(copied(state))
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        found, (again, _) = checkpoints.load().arrays, checkpoints.restore(jax.eval_shape(lambda: state))
    assert sorted(name.removeprefix("params.") for name in found if name.startswith("params.")) == names
    assert jax.tree.structure(again) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, again, state)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_apply_is_the_module_called_by_hand(made):
    """Eagerly and compiled, in a scan and mapped over devices: the formula with the module's own arrays."""
    network, params, _, own = made
    expected = formula(own, X, STEP, TOLD["told"])
    run = lambda x, step, condition: network.apply(params, x, step, condition, None)
    close(run(X, STEP, TOLD), expected)
    close(jax.jit(run)(X, STEP, TOLD), expected)
    close(jax.pmap(run)(X[None], STEP[None], {"told": TOLD["told"][None]})[0], expected)
    rows = jax.tree.map(lambda a: a[:, None], (X, STEP, TOLD))
    _, scanned = jax.lax.scan(lambda carry, row: (carry, run(*row)), None, rows)
    close(scanned[:, 0], expected)


def test_gradients_reach_every_parameter(made):
    """Of mean_b sum_j out_bj^2 with respect to b2: 2 mean_b out_b, by the chain rule."""
    network, params, names, own = made
    loss = lambda params: jnp.sum(network.apply(params, X, STEP, TOLD, None) ** 2) / len(X)
    gradients = jax.jit(jax.grad(loss))(params)
    of_last_bias = [leaf for leaf in jax.tree.leaves(gradients) if leaf.shape == (2,)]
    close(of_last_bias[0], 2 * formula(own, X, STEP, TOLD["told"]).mean(0))
    assert all(np.abs(leaf).max() > 1e-4 for leaf in jax.tree.leaves(gradients)) and len(jax.tree.leaves(gradients)) == 4


def test_dropout_acts_with_a_key_alone(made):
    """What is kept is divided by 1 - rate, so the mean over many examples alike is the output without dropout."""
    network, params, _, own = made
    n = 4000
    rows = jax.tree.map(lambda a: np.repeat(a[:1], n, axis=0), (X, STEP, TOLD))
    run = jax.jit(lambda key: network.apply(params, *rows, key))
    one, other = run(jax.random.key(0)), run(jax.random.key(1))
    assert not np.array_equal(one, other) and np.array_equal(one, run(jax.random.key(0)))
    assert len(np.unique(one, axis=0)) > n / 2  # of 2^16 patterns: each example has its own
    expected = formula(own, X[:1], STEP[:1], TOLD["told"][:1])[0]
    assert np.all(np.abs(one.mean(0) - expected) < 4 * one.std(0) / np.sqrt(n))  # four standard errors
    close(run(None), np.tile(expected, (n, 1)))


def test_conditions_arrive_by_their_name(made):
    network, params, _, _ = made
    with pytest.raises(TypeError, match="sound"):
        network.apply(params, X, STEP, {"sound": TOLD["told"]}, None)


def test_drawing_parameters_anew_costs_nothing(made):
    """Modules are built again inside `apply`; what they draw is replaced, and XLA computes no random bits (their xor)."""
    network, params, _, _ = made
    compiled = jax.jit(lambda *args: network.apply(*args, None)).lower(params, X, STEP, TOLD).compile().as_text()
    assert "dot(" in compiled and "xor" not in compiled


def test_without_a_key_argument_or_a_train_mode():
    """Both are for those that take them; the others are called without."""

    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Plain:
        scale: jax.Array

        def __call__(self, x, step):
            return self.scale * x + step

    class Dense(nn.Module):
        @nn.compact
        def __call__(self, x, step):
            return self.param("scale", nn.initializers.ones, ()) * x + step[:, None]

    for network in (from_callable(lambda key: Plain(jnp.ones(()))), from_linen(Dense())):
        params = network.init(KEY, Example(jnp.asarray(X[:1])))
        for key in (None, KEY):
            np.testing.assert_allclose(network.apply(params, X, STEP, {}, key), X + STEP[:, None], rtol=1e-6)


def test_constants_of_a_tree_are_not_trained():
    """Integers, and NumPy's arrays: as in Equinox, those of JAX that are of floating point are parameters."""

    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Table:
        scale: jax.Array
        table: np.ndarray
        order: jax.Array

        def __call__(self, x, step):
            return self.scale * x * jnp.asarray(self.table)[self.order]

    network = from_callable(lambda key: Table(jnp.ones(()), np.array([2.0, 3.0], np.float32), jnp.array([1, 0])))
    params = network.init(KEY, Example(jnp.asarray(X[:1])))
    assert list(params) == ["scale"]
    np.testing.assert_allclose(jax.jit(network.apply)(params, X, STEP, {}, None), X * [3, 2], rtol=1e-6)


class LinenMean(nn.Module):
    @nn.compact
    def __call__(self, x, step):
        return nn.BatchNorm(use_running_average=True)(x)


class NnxMean(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(2, rngs=rngs)

    def __call__(self, x, step):
        return self.norm(x)


@pytest.mark.parametrize("network, kept", [(from_linen(LinenMean()), "batch_stats"), (from_nnx(NnxMean), "norm")])
def test_modules_that_keep_more_than_parameters_are_refused(network, kept):
    with pytest.raises(ValueError, match=f"the module keeps {kept} besides its parameters.* without running means"):
        network.init(KEY, Example(jnp.asarray(X[:1])))


def test_what_is_withheld_is_null_in_every_row():
    condition = {"label": jnp.array([1, 2]), "image": jnp.ones((2, 4, 4, 1)), "vector": jnp.ones((2, 3))}
    found = withheld(condition, {"label": 10, "image": 0.0, "vector": np.array([1.0, 2.0, 3.0])})
    np.testing.assert_array_equal(found["label"], [10, 10])
    np.testing.assert_array_equal(found["image"], np.zeros((2, 4, 4, 1)))
    np.testing.assert_array_equal(found["vector"], [[1, 2, 3]] * 2)
    assert jax.tree.map(jnp.result_type, found) == jax.tree.map(jnp.result_type, condition)
    with pytest.raises(ValueError, match="'image', 'vector' cannot be withheld: the network's `null` says for 'label' alone"):
        withheld(condition, {"label": 10})
