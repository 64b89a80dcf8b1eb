import pytest

diffusers = pytest.importorskip("diffusers", reason="compares with PyTorch and diffusers: make peers-test")

from tests.interop import published


@pytest.fixture(scope="module")
def original():
    """The paper's network, at its smallest with attention, with random weights."""
    return published.perturb(published.Original(**published.TWICE))


@pytest.fixture(scope="module")
def unet():
    """The same of diffusers."""
    return published.perturb(diffusers.UNet2DModel(**published.diffusers_config(published.TWICE)))
