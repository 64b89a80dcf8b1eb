"""diffusers in PyTorch at its fastest honest setting, for `experiments.benchmark`."""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import torch

Call = Callable[[], Any]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
diffusers.utils.logging.set_verbosity_error()  # it warns of `to`, which keeps nothing of this network back
MODES = ("eager", "compiled") + (("CUDA graphs",) if DEVICE == "cuda" else ())


def sampler(name: str, x: np.ndarray, steps: int) -> dict[str, Call]:
    """The scheduler's steps alone, as a pipeline takes them; the network halves x [B, H, W, C]."""
    kind = diffusers.UniPCMultistepScheduler if name == "unipc" else diffusers.DDIMScheduler
    scheduler = kind(
        beta_start=1e-4, beta_end=0.02, beta_schedule="linear", **({} if name == "unipc" else {"clip_sample": False})
    )
    eta = {"eta": 1.0} if name.endswith("eta=1") else {}
    start = _first(x, torch.float32)

    @torch.inference_mode()
    def run():
        scheduler.set_timesteps(steps)
        latents = start
        for t in scheduler.timesteps:
            latents = scheduler.step(0.5 * latents, t, latents, **eta).prev_sample
        _finish()

    return {"diffusers": run}


def sampling(folder: pathlib.Path, x: np.ndarray, steps: int, dtype: str, expected: np.ndarray) -> dict[str, Call]:
    """`steps` of DDIM from latents x [B, H, W, C], by each mode. Raises ValueError unless they end where ours ended."""
    start = _first(x, getattr(torch, dtype))
    calls: dict[str, Call] = {}
    for mode in MODES:
        unet = _network(folder).to(start.dtype).eval()
        calls[f"diffusers {mode}"] = functools.partial(_sample, _compiled(unet, mode), start, steps)
    found = np.moveaxis(_sample(_network(folder).eval(), _first(x, torch.float32), steps).float().cpu().numpy(), 1, -1)
    error = np.abs(found - expected).max() / np.abs(expected).max()
    if error > (1e-3 if dtype == "float32" else 0.1):
        raise ValueError(f"ours and diffusers' samples differ by {error:.2g} of the largest: they do not compute the same")
    return calls


@torch.inference_mode()
def _sample(unet: Callable, latents: torch.Tensor, steps: int) -> torch.Tensor:
    scheduler = diffusers.DDIMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear", clip_sample=False)
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        latents = scheduler.step(unet(latents, t).sample, t, latents).prev_sample
    _finish()
    return latents


def training(folder: pathlib.Path, images: np.ndarray, steps: int, dtype: str, config: Any) -> dict[str, Call]:
    """`steps` of the optimizer on images uint8 [B, H, W, C], by each mode: noise, loss, gradient, clipping, Adam, the average."""
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, device=DEVICE), 0)
    x0 = _first(images.astype(np.float32) / 127.5 - 1, torch.float32)

    def of(mode: str) -> Call:
        unet = _network(folder).train()
        network, params = _compiled(unet, mode), list(unet.parameters())
        averages = [each.detach().clone() for each in params]
        adam = torch.optim.Adam(params, config.training.learning_rate, fused=True)

        def run():
            for _ in range(steps):
                t = torch.randint(1000, (len(x0),), device=DEVICE)
                eps, a = torch.randn_like(x0), alpha_bar[t].reshape(-1, 1, 1, 1)
                with torch.autocast(DEVICE, torch.bfloat16, enabled=dtype == "bfloat16"):
                    predicted = network(a.sqrt() * x0 + (1 - a).sqrt() * eps, t).sample
                loss = ((predicted.float() - eps) ** 2).mean()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(params, config.training.grad_clip or torch.inf)
                adam.step()
                adam.zero_grad()
                torch._foreach_lerp_(averages, params, 1 - config.training.ema_decay)
            _finish()

        return run

    return {f"diffusers {mode}": of(mode) for mode in MODES}


def _network(folder: pathlib.Path) -> torch.nn.Module:
    unet = diffusers.UNet2DModel.from_pretrained(folder / "unet", low_cpu_mem_usage=False)
    return unet.to(DEVICE).to(memory_format=torch.channels_last)


def _compiled(network: torch.nn.Module, mode: str) -> Callable:
    if mode == "eager":
        return network
    return torch.compile(network, mode="reduce-overhead" if mode == "CUDA graphs" else "default")


def _first(x: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    """[B, H, W, C] as PyTorch lays images out, channels last in memory."""
    return torch.from_numpy(np.moveaxis(x, -1, 1).copy()).to(DEVICE, dtype).contiguous(memory_format=torch.channels_last)


def _finish() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()
