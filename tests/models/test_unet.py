"""The U-Net against closed forms, naive NumPy and Flax's own layers."""

import functools

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from configs import celeba, cifar10, lsun_bedroom, lsun_church
from ddim_jax import configuration
from ddim_jax.models.network import withheld
from ddim_jax.models.unet import Attention, Conv, GroupNorm, ResBlock, Shortcut, UNet, fold, time_embedding, unfold

KEY = jax.random.key(0)


def small(**changes):
    return UNet(**{"channels": 32, "multipliers": (1, 2), "num_blocks": 1, "attention_sides": (4,)} | changes)


def smallest(**changes):
    """One level, without blocks of its own: the two in the middle with attention, and one on the way up.

    It has 64 channels: groups of one channel would take away what time and conditions add to it.
    """
    return small(**{"multipliers": (2,), "num_blocks": 0} | changes)


def drawn(module, *args, **options):
    """Parameters away from the initialisation, where the last layers are nearly 0, without compiling one."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(functools.partial(module.init, **options), KEY, *args)
    return jax.tree.map(lambda leaf: (0.1 * rng.normal(size=leaf.shape)).astype(leaf.dtype), shapes)


def compiled(module, **options):
    return jax.jit(functools.partial(module.apply, **options))


@pytest.mark.parametrize(
    "config, parameters",
    # Published checkpoints of Ho et al. and of the paper; 35.7M and 114M also stand in DDPM's appendix B.
    [(cifar10, 35_746_307), (celeba, 78_700_803), (lsun_bedroom, 113_673_219), (lsun_church, 113_673_219)],
)
def test_parameter_counts_of_the_paper(config, parameters):
    shapes = jax.tree.leaves(configuration.parameter_shapes(config.get_config()))
    assert sum(leaf.size for leaf in shapes) == parameters
    assert all(leaf.dtype == jnp.float32 for leaf in shapes)  # also where the network computes in bfloat16


@pytest.mark.parametrize("offset", [0.0, 1e4])  # where mean >> std, a variance from two moments would be lost
def test_group_norm_of_parts_is_that_of_the_whole(offset):
    # 32 groups of 3 channels over parts of 64 and 32: the 22nd group spans both.
    rng = np.random.default_rng(0)
    whole = (offset + rng.normal(size=(2, 4, 4, 96))).astype(np.float32)
    scale, bias = rng.normal(size=(2, 96)).astype(np.float32)
    got = GroupNorm(jnp.float32).apply({"params": {"scale": scale, "bias": bias}}, [whole[..., :64], whole[..., 64:]])
    x = whole.astype(np.float64).reshape(2, 16, 32, 3)
    expected = (x - x.mean((1, 3), keepdims=True)) / np.sqrt(x.var((1, 3), keepdims=True) + 1e-6)
    expected = expected.reshape(whole.shape) * scale + bias
    # float32 holds 1e4 to a step of 1e-3, a few of which the mean is off by; at 0, rounding alone.
    np.testing.assert_allclose(np.concatenate(got, -1), expected, atol=1e-5 if offset == 0 else 5e-3)


@pytest.mark.parametrize("ratio", [0, 10, 100])  # of mean to std
@pytest.mark.parametrize("side", [4, 64])
def test_group_norm_of_bfloat16_is_as_good_as_its_numbers(ratio, side):
    """It takes another way, by the difference of two moments; the oracle is float64, given the same rounded numbers."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(ratio + rng.normal(size=(2, side, side, 96)), jnp.bfloat16)
    params = {"params": {"scale": jnp.ones(96), "bias": jnp.zeros(96)}}
    got = compiled(GroupNorm(jnp.bfloat16))(params, [x[..., :64], x[..., 64:]])
    exact = np.asarray(x, np.float64).reshape(2, -1, 32, 3)
    exact = (exact - exact.mean((1, 3), keepdims=True)) / np.sqrt(exact.var((1, 3), keepdims=True) + 1e-6)
    # What is given back has 8 bits, so is off by up to 2**-9 of itself; as much again for all the rest.
    np.testing.assert_allclose(np.concatenate(got, -1).astype(float), exact.reshape(x.shape), rtol=2**-8, atol=2**-8)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_group_norm_of_a_sum_that_is_not_written(dtype):
    """Numbers of std 1 with a shift of each channel, in float64: shifts of std 100 are most of the variance of a group.

    The 22nd group spans both parts. In float32 rounding alone, a few times 2^-24 of 100 std; in bfloat16 that of what is given.
    """
    rng = np.random.default_rng(0)
    x, shift = jnp.asarray(rng.normal(size=(2, 8, 8, 96)), dtype), jnp.asarray(100 * rng.normal(size=(2, 96)), dtype)
    params = {"params": {"scale": jnp.ones(96), "bias": jnp.zeros(96)}}
    got = compiled(GroupNorm(dtype))(params, [x[..., :64], x[..., 64:]], shift)
    exact = (np.asarray(x, np.float64) + np.asarray(shift, np.float64)[:, None, None]).reshape(2, -1, 32, 3)
    exact = (exact - exact.mean((1, 3), keepdims=True)) / np.sqrt(exact.var((1, 3), keepdims=True) + 1e-6)
    bound = 1e-5 if dtype == jnp.float32 else 2**-8
    np.testing.assert_allclose(np.concatenate(got, -1).astype(float), exact.reshape(x.shape), rtol=bound, atol=bound)


@pytest.mark.parametrize("parts", [(64,), (64, 32)])
def test_a_shortcut_is_a_product_of_the_whole(parts):
    rng = np.random.default_rng(0)
    whole = jnp.asarray(rng.normal(size=(2, 4, 4, sum(parts))), jnp.float32)
    params = {"params": {"kernel": jnp.asarray(rng.normal(size=(sum(parts), 8)), jnp.float32), "bias": jnp.arange(8.0)}}
    product, bias = Shortcut(8, jnp.float32).apply(params, jnp.split(whole, np.cumsum(parts)[:-1], axis=-1))
    np.testing.assert_allclose(product + bias, nn.Dense(8, precision="highest").apply(params, whole), rtol=1e-5, atol=1e-5)


def test_group_norm_of_bfloat16_without_variance():
    x = jnp.full((1, 8, 8, 64), 100.7, jnp.bfloat16)
    params = {"params": {"scale": jnp.ones(64), "bias": jnp.full(64, 0.5)}}

    def normalised(x):
        return GroupNorm(jnp.bfloat16).apply(params, [x])[0]

    np.testing.assert_array_equal(normalised(x), 0.5)
    assert np.all(np.isfinite(jax.grad(lambda x: normalised(x).astype(jnp.float32).sum())(x)))


def test_the_gradient_of_group_norm_of_bfloat16():
    """Against that of float32, another formula, at the same numbers and with the same weights of the outputs."""
    rng = np.random.default_rng(1)
    x = jnp.asarray(3 + rng.normal(size=(2, 8, 8, 64)), jnp.bfloat16)
    params = {"params": {"scale": jnp.asarray(rng.normal(size=64), jnp.float32), "bias": jnp.zeros(64)}}
    weight = rng.normal(size=x.shape).astype(np.float32)

    def loss(params, x):
        return jnp.sum(GroupNorm(jnp.float32).apply(params, [x])[0] * weight)

    got, expected = (jax.jit(jax.grad(loss, (0, 1)))(params, each) for each in (x, x.astype(jnp.float32)))
    largest = np.abs(expected[1]).max()
    np.testing.assert_allclose(np.asarray(got[1], np.float32), expected[1], atol=2**-8 * largest)  # it is given in bfloat16
    for ours, theirs in zip(jax.tree.leaves(got[0]), jax.tree.leaves(expected[0])):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)


def test_group_norm_is_flax_group_norm():
    x = jax.random.normal(KEY, (2, 4, 4, 64)) * 3 + 1
    reference = nn.GroupNorm(32, epsilon=1e-6, use_fast_variance=False)
    (got,) = GroupNorm(jnp.float32).apply(GroupNorm(jnp.float32).init(KEY, [x]), [x])
    np.testing.assert_allclose(got, reference.apply(reference.init(KEY, x), x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("features, widths", [(96, [96]), (32, [96]), (32, [64, 32])])
def test_a_res_block_is_made_of_the_layers_of_flax(features, widths):
    """They are given the whole tensor, ours its parts: with 3 channels a group, one group has channels of both."""
    x, time = jax.random.normal(KEY, (2, 4, 4, 96)), jax.random.normal(KEY, (2, 128))
    block, parts = ResBlock(features, 0.0, jnp.float32), jnp.split(x, np.cumsum(widths)[:-1], axis=-1)
    params = drawn(block, parts, time, train=False)
    norm, conv = nn.GroupNorm(32, epsilon=1e-6), nn.Conv(features, (3, 3), precision="highest")
    dense = nn.Dense(features, precision="highest")

    def layer(module, name, value):
        return module.apply({"params": params["params"][name]}, value)

    h = layer(conv, "conv1", nn.swish(layer(norm, "norm1", x))) + layer(dense, "time", nn.swish(time))[:, None, None]
    h = layer(conv, "conv2", nn.swish(layer(norm, "norm2", h)))
    expected = h + (x if features == 96 else layer(dense, "shortcut", x))
    np.testing.assert_allclose(compiled(block, train=False)(params, parts, time), expected, rtol=1e-4, atol=1e-5)


def test_time_embedding_is_that_of_the_published_networks():
    # Ho et al.: sines before cosines, 64 frequencies from 1 down to exactly 1e-4, steps from 0.
    got = time_embedding(jnp.array([0, 999]), 128)
    frequency = 10000.0 ** (-np.arange(64) / 63)
    expected = np.concatenate([np.sin(999 * frequency), np.cos(999 * frequency)])
    np.testing.assert_allclose(got[0], [0.0] * 64 + [1.0] * 64)
    np.testing.assert_allclose(got[1], expected, atol=1e-4)  # float32 angles up to 999 are good to 6e-5


def test_downsampling_pads_below_and_on_the_right():
    # With a kernel that picks its top left corner, output (i, j) is input (2i, 2j); padding above would shift it.
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    kernel = jnp.zeros((3, 3, 1, 1)).at[0, 0].set(1)
    layer = Conv(1, jnp.float32, stride=2)
    got = layer.apply({"params": {"kernel": kernel, "bias": jnp.zeros(1)}}, x)
    np.testing.assert_array_equal(got[0, :, :, 0], [[0, 2], [8, 10]])


def test_attention_is_a_softmax_over_positions():
    x = np.asarray(jax.random.normal(KEY, (2, 3, 3, 32)))
    layer = Attention(jnp.float32)
    params = drawn(layer, x)
    p = params["params"]
    h = np.asarray(GroupNorm(jnp.float32).apply({"params": p["norm"]}, [x])[0]).reshape(2, 9, 32)
    q, k, v = (h @ p[name]["kernel"] + p[name]["bias"] for name in "qkv")
    weights = np.exp(q @ k.swapaxes(1, 2) / np.sqrt(32))
    expected = (weights / weights.sum(-1, keepdims=True)) @ v @ p["out"]["kernel"] + p["out"]["bias"]
    np.testing.assert_allclose(compiled(layer)(params, x), x + expected.reshape(x.shape), rtol=1e-4, atol=1e-4)


def test_patches_fold_and_unfold():
    x = jnp.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    folded = fold(x, 2)
    assert folded.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(folded[1, 1, 2].reshape(2, 2, 3), x[1, 2:4, 4:6])
    np.testing.assert_array_equal(unfold(folded, 2), x)


@pytest.mark.slow
@pytest.mark.parametrize("shape, patch", [((8, 8, 3), 1), ((12, 8, 1), 2)])
def test_output_has_the_shape_of_the_input_and_starts_near_zero(shape, patch):
    unet, x, step = small(patch_size=patch, dtype=jnp.bfloat16), jnp.ones((2, *shape)), jnp.array([0, 999])
    out = jax.jit(lambda: unet.apply(unet.init(KEY, x, step), x, step))()
    assert out.shape == x.shape and out.dtype == jnp.float32
    assert 0 < jnp.abs(out).max() < 1e-3  # DDPM starts the last convolution at a variance of 1e-10


@pytest.mark.slow
def test_the_input_skip_adds_a_multiple_of_the_input_which_starts_at_one():
    unet, x, step = small(input_skip=True), jax.random.normal(KEY, (2, 4, 4, 1)), jnp.array([0, 999])
    params = drawn(unet, x, step)
    network = jax.tree.map(lambda leaf: 1e-4 * leaf, params["params"])  # the rest of it hardly says anything
    start = {"kernel": jnp.zeros((128, 1)), "bias": jnp.ones(1)}
    out = compiled(unet)({"params": {**network, "input_skip": start}}, x, step)
    np.testing.assert_allclose(out, x, atol=1e-3)
    shapes = jax.eval_shape(unet.init, KEY, x, step)["params"]["input_skip"]
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, start)


@pytest.mark.slow
def test_dropout_acts_in_training_alone_and_time_matters():
    unet, x = small(dropout=0.5), jax.random.normal(KEY, (2, 8, 8, 1))
    step = jnp.array([3, 3])
    params, apply = drawn(unet, x, step), compiled(unet)
    still = [apply(params, x, step, rngs={"dropout": jax.random.key(i)}) for i in (0, 1)]
    train = compiled(unet, train=True)
    moving = [train(params, x, step, rngs={"dropout": jax.random.key(i)}) for i in (0, 1)]
    np.testing.assert_array_equal(*still)
    assert jnp.abs(moving[0] - moving[1]).max() > 1e-3
    assert jnp.abs(apply(params, x, step + 500) - still[0]).max() > 1e-3


def test_examples_do_not_see_each_other():
    unet, x, step = small(), jax.random.normal(KEY, (3, 8, 8, 1)), jnp.array([1, 50, 900])
    params, apply = drawn(unet, x, step), compiled(unet)
    together = apply(params, x, step)
    other = apply(params, x.at[0].set(7.0).at[2].set(-7.0), step.at[0].set(0))
    np.testing.assert_array_equal(together[1], other[1])
    assert jnp.abs(together[0] - other[0]).max() > 1e-3


@pytest.mark.parametrize(
    "option",
    [dict(multipliers=()), dict(multipliers=(1.5,)), dict(num_blocks=-1), dict(patch_size=0), dict(attention_sides=(0,))],
)
def test_sizes_that_are_none(option):
    (name,) = option
    with pytest.raises(ValueError, match=f"the U-Net's {name} is .*; expected (a whole number from 0|whole numbers above 0)"):
        UNet(**option).check((16, 16, 3))


@pytest.mark.parametrize(
    "unet, shape, message",
    [
        (small(), (9, 8, 3), "divisible by 2"),
        (small(patch_size=4), (12, 12, 3), "divisible by 8"),
        (small(), (8, 8), "as \\(height, width, channels\\)"),
        (small(channels=48), (8, 8, 3), "multiple of 32"),
    ],
)
def test_images_and_channels_that_do_not_fit(unet, shape, message):
    with pytest.raises(ValueError, match=message):
        unet.check(shape)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_any_number_of_channels(channels):
    unet, x, step = small(), jnp.ones((2, 8, 4, channels)), jnp.array([0, 999])
    params = jax.eval_shape(unet.init, KEY, x, step)
    assert jax.eval_shape(unet.apply, params, x, step) == jax.ShapeDtypeStruct(x.shape, jnp.float32)


@pytest.mark.parametrize(
    "shape, sides, attending",
    [
        ((8, 4), (8,), set()),  # the width is none of them
        ((8, 4), (8, 4), {"down_0_block_0", "up_0_block_0", "up_0_block_1"}),  # and 4 x 2 has a side of 2
        ((8, 4), (2, 4), {"down_1_block_0", "up_1_block_0", "up_1_block_1"}),
        ((4, 4), (4,), {"down_0_block_0", "up_0_block_0", "up_0_block_1"}),
    ],
)
def test_attention_goes_by_height_and_width(shape, sides, attending):
    """Two levels: the whole image and half of it. The middle block attends at any size."""
    unet, x = small(attention_sides=sides), jnp.ones((1, *shape, 1))
    names = jax.eval_shape(unet.init, KEY, x, jnp.zeros(1, int))["params"]
    found = {name.removesuffix("_attention") for name in names if name.endswith("_attention")}
    assert found == attending | {"middle_block_0"}


@pytest.mark.slow
def test_remat_has_the_parameters_and_the_gradients_of_the_network_without():
    """With dropout: what is computed again on the way back draws what it drew before."""
    x, step = jax.random.normal(KEY, (2, 4, 4, 1)), jnp.array([3, 700])
    plain, again = smallest(dropout=0.5), smallest(dropout=0.5, remat=True)
    params = drawn(plain, x, step)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, jax.eval_shape(again.init, KEY, x, step))

    def loss(unet, params):
        return jnp.mean(unet.apply(params, x, step, train=True, rngs={"dropout": jax.random.key(1)}) ** 2)

    assert "remat" in str(jax.make_jaxpr(functools.partial(loss, again))(params))
    expected, found = (jax.jit(jax.grad(functools.partial(loss, unet)))(params) for unet in (plain, again))
    largest = max(jnp.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    # Rounding alone, of sums that are fused otherwise; some gradients are 0 in exact arithmetic, so it is of the largest.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * largest), found, expected)


CONDITIONS = dict(num_classes=3, image_channels=2, vector_features=5)


class TestConditions:
    """A network that is told a label of three, an image of two channels and a vector of five numbers."""

    X, STEP = np.asarray(jax.random.normal(KEY, (2, 8, 4, 1))), jnp.array([3, 900])
    TOLD = {
        "label": jnp.array([0, 2]),
        "image": jax.random.normal(jax.random.key(1), (2, 8, 4, 2)),
        "vector": jax.random.normal(jax.random.key(2), (2, 5)),
    }

    @functools.cached_property
    def apply(self):
        """condition -> output."""
        unet = smallest(**CONDITIONS)
        params, run = drawn(unet, self.X, self.STEP, **self.TOLD), compiled(unet)
        return lambda condition: run(params, self.X, self.STEP, **condition)

    def test_parameters(self):
        """Those of the network without conditions, a wider first kernel, a row for each class and for none, and no bias."""
        told, plain = (
            jax.tree_util.tree_leaves_with_path(jax.eval_shape(made.init, KEY, self.X, self.STEP)["params"])
            for made in (smallest(**CONDITIONS), smallest())
        )
        told, plain = ({jax.tree_util.keystr(k, simple=True, separator="."): v.shape for k, v in each} for each in (told, plain))
        more = {"label.embedding": (4, 128), "vector.kernel": (5, 128), "conv_in.kernel": (3, 3, 3, 32)}
        assert plain["conv_in.kernel"] == (3, 3, 1, 32)
        assert told == plain | more

    @pytest.mark.slow
    def test_null_rows_are_the_network_that_was_not_told(self):
        unet, apply = smallest(**CONDITIONS), self.apply
        assert unet.null == {"label": 3, "image": 0.0, "vector": 0.0}
        expected, null = apply({}), withheld(self.TOLD, unet.null)
        for name in self.TOLD:
            others = {other: rows for other, rows in self.TOLD.items() if other != name}
            without = apply(others)
            np.testing.assert_allclose(apply(others | {name: null[name]}), without, rtol=1e-5, atol=1e-6)
            assert jnp.abs(apply(self.TOLD) - without).max() > 1e-3  # and it listens
            # One row withheld: that one changes, and the other does not.
            half = apply(self.TOLD | {name: self.TOLD[name].at[1].set(unet.null[name])})
            np.testing.assert_array_equal(half[0], apply(self.TOLD)[0])
            np.testing.assert_allclose(half[1], without[1], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(apply(null), expected, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize(
        "changes, condition, message",
        [
            ({"num_classes": 0}, {"label": jnp.array([0, 1])}, "given the condition 'label', but not made for it; set its num_c"),
            ({"image_channels": 0}, {"image": jnp.ones((2, 8, 4, 2))}, "'image', but not made for it; set its image_channels"),
            ({"vector_features": 0}, {"vector": jnp.ones((2, 5))}, "'vector', but not made for it; set its vector_features"),
            ({}, {"label": jnp.ones((2, 1), int)}, r"'label' has shape \(2, 1\); expected \(2,\) for x \(2, 8, 4, 1\)"),
            ({}, {"image": jnp.ones((2, 4, 8, 2))}, r"'image' has shape \(2, 4, 8, 2\); expected \(2, 8, 4, 2\)"),
            ({}, {"image": jnp.ones((2, 8, 4, 1))}, r"'image' has shape \(2, 8, 4, 1\); expected \(2, 8, 4, 2\)"),
            ({}, {"vector": jnp.ones((1, 5))}, r"'vector' has shape \(1, 5\); expected \(2, 5\)"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, changes, condition, message):
        unet = smallest(**CONDITIONS | changes)
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(unet.init, KEY, self.X, self.STEP, **condition)

    def test_a_condition_of_another_name_is_refused(self):
        with pytest.raises(TypeError, match="sound"):
            jax.eval_shape(smallest(**CONDITIONS).init, KEY, self.X, self.STEP, sound=jnp.ones(2))


@pytest.mark.slow
def test_export_with_a_symbolic_batch():
    """One program for any batch, lowered for three kinds of device; here it runs on the CPU, as the network itself does."""
    unet = smallest(num_classes=3, image_channels=1, patch_size=2, input_skip=True)
    (batch,) = jax.export.symbolic_shape("batch")
    shapes = [jax.ShapeDtypeStruct((batch, *rest), dtype) for rest, dtype in (
        ((8, 8, 1), jnp.float32), ((), jnp.int32), ((), jnp.int32), ((8, 8, 1), jnp.float32)
    )]  # fmt: skip
    one = [jnp.ones((1, *shape.shape[1:]), shape.dtype) for shape in shapes]
    params = drawn(unet, *one)
    exported = jax.export.export(jax.jit(unet.apply), platforms=("cpu", "cuda", "tpu"))(params, *shapes)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    for size in (1, 3):
        rows = [jnp.tile(row, (size,) + (1,) * (row.ndim - 1)) for row in one]
        np.testing.assert_allclose(exported.call(params, *rows), compiled(unet)(params, *rows), rtol=1e-4, atol=1e-5)
