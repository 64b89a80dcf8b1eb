"""Every line of our code in docs/coming-from-diffusers.md runs, and does what diffusers' call beside it does."""

import pathlib
import re

import diffusers
import numpy as np
import pytest
import torch

from tests.interop import published

SCHEDULER = diffusers.DDIMScheduler(clip_sample=False, beta_end=0.001)  # mild: an untrained network's images stay bounded
GUIDE = pathlib.Path(__file__).parents[2] / "docs" / "coming-from-diffusers.md"


@pytest.mark.slow
def test_the_guide(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = published.perturb(diffusers.UNet2DModel(**published.diffusers_config(published.TWICE)))
    diffusers.DDIMPipeline(module, SCHEDULER).save_pretrained("ddpm-cifar10-32")
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert len(blocks) == 6
    seen = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"{GUIDE.name}, block {number}", "exec"), seen)
        if number == 3:
            check_numbers(module, seen)
    assert diffusers.DDIMPipeline.from_pretrained("for_diffusers").unet.config.sample_size == 8


def check_numbers(module, seen):
    """The same calls on diffusers' PyTorch scheduler, whose numbers its Flax one shared."""
    SCHEDULER.set_timesteps(50)
    tensor = lambda name: torch.tensor(np.array(seen[name])).movedim(-1, 1)

    def close(ours, theirs):
        theirs = theirs.movedim(1, -1).numpy()
        np.testing.assert_allclose(seen[ours], theirs, rtol=0, atol=1e-4)

    with torch.no_grad():
        close("eps", module(tensor("x"), 500).sample)
        close("x_s", SCHEDULER.step(tensor("eps"), 500, tensor("x")).prev_sample)
        x = tensor("x")
        for t in SCHEDULER.timesteps:
            x = SCHEDULER.step(module(x, t).sample, t, x).prev_sample
        close("images", x)
        close("again", x)
    t = torch.tensor(np.array(seen["t"]))
    close("noisy", SCHEDULER.add_noise(tensor("x0"), tensor("noise"), t))
    close("v", SCHEDULER.get_velocity(tensor("x0"), tensor("noise"), t))
