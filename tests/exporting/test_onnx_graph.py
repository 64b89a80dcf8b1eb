"""Functions of JAX as ONNX: onnxruntime, an independent implementation, gives what JAX gives, for batches of several sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime as ort
import pytest

from ddim_jax.interop import onnx_graph

SHAPE = (6, 6, 4)
KERNEL = np.random.default_rng(1).normal(size=(3, 3, 4, 8)).astype(np.float32)
TABLE = np.random.default_rng(2).normal(size=(5, 4)).astype(np.float32)


def conv(x, kernel=KERNEL, **options):
    return jax.lax.conv_general_dilated(
        x, kernel, dimension_numbers=("NHWC", "HWIO", "NHWC"), **{"window_strides": (1, 1), "padding": "SAME"} | options
    )


FUNCTIONS = {
    "elementwise": lambda x, n: jnp.tanh(x) * jnp.exp(-jnp.abs(x)) + jnp.sqrt(x * x + 1) / (2 + jnp.cos(x)) - jnp.sign(x),
    "powers": lambda x, n: x**3 + (1 + jnp.abs(x)) ** 0.7 + jax.lax.rsqrt(1 + x * x) + jnp.square(x),
    "activations": lambda x, n: jax.nn.relu(x) + jax.nn.gelu(x) + jax.nn.gelu(x, approximate=False) + jax.nn.silu(x),
    "softmax": lambda x, n: jax.nn.softmax(x, -1),
    "rounded": lambda x, n: jnp.round(3 * x) + jnp.floor(x) + jnp.ceil(x),
    "chosen": lambda x, n: jnp.where((x > 0) & ~(x >= 1) | (x == 0), jnp.clip(x, -0.5, 0.5), jnp.minimum(x, 0)),
    "compared": lambda x, n: (x != 0).astype(jnp.float32) + (x < 0.5).astype(jnp.float32) + (x <= -1).astype(jnp.float32),
    "reduced": lambda x, n: x.mean((1, 2)) + x.max((1, 2)) - x.min((1, 2)) + jnp.prod(x, (1, 2)) + x.std((1, 2)),
    "moved": lambda x, n: x.reshape(x.shape[0], 3, 2, 6, 4).swapaxes(1, 3)[..., None].squeeze(-1),
    "repeated": lambda x, n: jnp.repeat(jnp.repeat(x, 2, axis=1), 3, axis=3),
    "cut": lambda x, n: x[:, 1:5:2][:, :, ::3] + x[:, :2, 3:5, -1:] + jax.lax.slice_in_dim(x, 0, 6, 3, axis=1)[:, :, 2:4],
    "split": lambda x, n: jnp.concatenate(jnp.split(x, [1, 3], axis=-1)[::-1], -1),
    "padded": lambda x, n: jnp.pad(x, ((0, 0), (1, 2), (0, 0), (3, 0)), constant_values=2.0),
    "joined with what is broadcast": lambda x, n: jnp.concatenate([x, jnp.broadcast_to(TABLE[0], x.shape)], 1),
    "broadcast by itself": lambda x, n: jnp.broadcast_to(x[:, :1, :1], x.shape).sum((1, 2)),
    "a constant": lambda x, n: jnp.zeros((x.shape[0], 3)) + jnp.arange(3.0),
    "taken": lambda x, n: jnp.take(jnp.asarray(TABLE), n, axis=0) + jnp.asarray(TABLE)[n + 1],
    "taken along the second axis": lambda x, n: jnp.take(jnp.asarray(TABLE), n, axis=1).T,
    "matrices": lambda x, n: x @ TABLE.T,
    "batched matrices": lambda x, n: jnp.einsum("bhwc,bhvc->bhwv", x, jnp.sin(x)),
    "contracted over two axes": lambda x, n: jnp.einsum("bhwc,bhwd->bcd", x, x),
    "contracted with a constant": lambda x, n: jnp.einsum("bhwc,kc->bkhw", x, TABLE),
    "a vector": lambda x, n: x @ TABLE[0],
    "from the left": lambda x, n: jnp.einsum("kc,bc->kb", TABLE, x[:, 0, 0]).T,
    "attention": lambda x, n: jax.nn.dot_product_attention(x, x, jnp.cos(x)),
    "convolution": lambda x, n: conv(x),
    "strides": lambda x, n: conv(x, window_strides=(2, 2), padding=((0, 1), (0, 1))),
    "dilated": lambda x, n: conv(x, rhs_dilation=(2, 1), padding="VALID"),
    "groups": lambda x, n: conv(x, KERNEL[:, :, :1], feature_group_count=4),
    "in one dimension": lambda x, n: jax.lax.conv_general_dilated(
        x[:, 0], KERNEL[0], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
    ),
    "mapped": lambda x, n: jax.vmap(lambda one, i: conv(one[None])[0] * i)(x, n),
    "constant through an operation that is unknown": lambda x, n: x + jax.random.normal(jax.random.key(0), (4,)),
    "rematerialised": lambda x, n: jax.checkpoint(jnp.sin)(x),
}


def run(function, params={}, **given):
    inputs = {name: (array.shape[1:], str(array.dtype)) for name, array in given.items()}

    def named(params, **given):
        return function(*params.values(), *(given[name] for name in inputs))

    model = onnx_graph.convert(named, params, inputs, "y")
    return ort.InferenceSession(model.SerializeToString()), model


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_onnxruntime_makes_of_it(name):
    rng, function = np.random.default_rng(0), FUNCTIONS[name]
    x, n = rng.standard_normal((3, *SHAPE), np.float32), np.array([2, 0, 3], np.int32)
    session, _ = run(function, x=x, n=n)
    for count in (1, 3):
        (got,) = session.run(None, {"x": x[:count], "n": n[:count]})
        expected = np.asarray(function(jnp.asarray(x[:count]), jnp.asarray(n[:count])))
        assert got.dtype == expected.dtype
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)  # float32's, over sums of at most 144 terms


REFUSED = {
    "sort": (lambda x: jnp.sort(x, 1) + jnp.cumsum(x, 1), "does not know: cumsum, sort"),
    "scan": (lambda x: jax.lax.scan(lambda a, b: (a + b, a), x[:, 0], x.swapaxes(0, 1))[0], "does not know: scan"),
    "transposed convolution": (lambda x: conv(x, lhs_dilation=(2, 2)), "transposed convolution"),
    "the batch twice": (
        lambda x: jnp.einsum("bhwc,dhwc->bd", x, x).reshape(x.shape[0], 1, x.shape[0]),
        "the size of the batch in it twice",
    ),
    "numbers of examples": (lambda x: jnp.arange(x.shape[0]), "counts the examples"),
    "bits": (lambda x: x.astype(jnp.int32) & 3, "bits"),
    "halves": (lambda x: jax.lax.round(x), "rounds halves"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_by_name(name):
    function, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        run(function, x=np.zeros((2, *SHAPE), np.float32))


def test_parameters_are_called_by_their_place_and_put_in_order():
    params = {"conv": KERNEL}
    _, model = run(lambda kernel, x: conv(x, kernel), params, x=np.zeros((2, *SHAPE), np.float32))
    (kernel,) = [each for each in model.graph.initializer if each.name == "conv"]
    assert list(kernel.dims) == [8, 4, 3, 3]  # ONNX's order: no node turns it
    assert [node.op_type for node in model.graph.node] == ["Transpose", "Conv", "Transpose", "Identity"]
