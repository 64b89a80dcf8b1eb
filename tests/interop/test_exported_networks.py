"""A converted network as ONNX beside the original in PyTorch: two conversions, and none of the two programs is ours."""

import numpy as np
import pytest
import torch

from ddim_jax import configuration, interop
from ddim_jax.interop import to_onnx
from tests.interop import published

ort = pytest.importorskip("onnxruntime", reason="needs the extra export")
pytest.importorskip("onnx", reason="needs the extra export")


def test_diffusers_network_in_onnxruntime(unet, tmp_path):
    unet.save_pretrained(tmp_path / "theirs")
    found = interop.read(tmp_path / "theirs")
    to_onnx.save(tmp_path / "out", configuration.make_model(found.config, found.params, "float32"), "eps", "theirs")
    session = ort.InferenceSession(tmp_path / "out" / "network.onnx")
    x, step = published.inputs(published.TWICE, batch=3)
    with torch.no_grad():
        expected = unet(torch.tensor(x), torch.tensor(step)).sample.numpy()
    (got,) = session.run(None, {"x": x.transpose(0, 2, 3, 1), "step": step.astype(np.int32)})
    np.testing.assert_allclose(got.transpose(0, 3, 1, 2), expected, rtol=0, atol=2e-5)
