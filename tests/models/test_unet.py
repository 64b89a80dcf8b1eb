"""The U-Net against closed forms, naive NumPy and Flax's own layers."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import celeba, cifar10, lsun_bedroom, lsun_church
from ddim_jax import configuration
from ddim_jax.models.unet import Attention, GroupNorm, ResBlock, UNet, conv, fold, time_embedding, unfold

KEY = jax.random.key(0)


def small(**changes):
    return UNet(**{"channels": 32, "multipliers": (1, 2), "num_blocks": 1, "attention_sides": (4,)} | changes)


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


def test_group_norm_is_flax_group_norm():
    x = jax.random.normal(KEY, (2, 4, 4, 64)) * 3 + 1
    reference = nn.GroupNorm(32, epsilon=1e-6, use_fast_variance=False)
    (got,) = GroupNorm(jnp.float32).apply(GroupNorm(jnp.float32).init(KEY, [x]), [x])
    np.testing.assert_allclose(got, reference.apply(reference.init(KEY, x), x), rtol=1e-4, atol=1e-5)


def test_res_block_of_parts_is_that_of_the_whole():
    x, time = jax.random.normal(KEY, (2, 4, 4, 96)), jax.random.normal(KEY, (2, 128))
    block = ResBlock(32, 0.0, jnp.float32)
    params, apply = drawn(block, [x], time, train=False), compiled(block, train=False)
    parts = [x[..., :64], x[..., 64:]]
    np.testing.assert_allclose(apply(params, parts, time), apply(params, [x], time), rtol=1e-4, atol=1e-5)


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
    layer = conv(1, 3, jnp.float32, "down", stride=2)
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


@pytest.mark.parametrize("shape, patch", [((8, 8, 3), 1), ((12, 8, 1), 2)])
def test_output_has_the_shape_of_the_input_and_starts_near_zero(shape, patch):
    unet, x, step = small(patch_size=patch, dtype=jnp.bfloat16), jnp.ones((2, *shape)), jnp.array([0, 999])
    out = jax.jit(lambda: unet.apply(unet.init(KEY, x, step), x, step))()
    assert out.shape == x.shape and out.dtype == jnp.float32
    assert 0 < jnp.abs(out).max() < 1e-3  # DDPM starts the last convolution at a variance of 1e-10


def test_the_input_skip_adds_a_multiple_of_the_input_which_starts_at_one():
    unet, x, step = small(input_skip=True), jax.random.normal(KEY, (2, 4, 4, 1)), jnp.array([0, 999])
    params = drawn(unet, x, step)
    network = jax.tree.map(lambda leaf: 1e-4 * leaf, params["params"])  # the rest of it hardly says anything
    start = {"kernel": jnp.zeros((128, 1)), "bias": jnp.ones(1)}
    out = compiled(unet)({"params": {**network, "input_skip": start}}, x, step)
    np.testing.assert_allclose(out, x, atol=1e-3)
    shapes = jax.eval_shape(unet.init, KEY, x, step)["params"]["input_skip"]
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, start)


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
