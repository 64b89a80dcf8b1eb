r"""LSUN Bedroom, 256x256: the paper's, with network and training of Ho et al. (arXiv 2006.11239).

Training computes in bfloat16; docs/differences.md lists this and all else that differs from their code.

Source:   DDIM Table 3; DDPM appendix B. 113,673,219 parameters.
Data:     python -m experiments.prepare --name=lsun/bedroom   (once; needs the extra ddim_jax[prepare])
Command:  python -m experiments.train --config=configs/lsun_bedroom.py --workdir=runs/lsun_bedroom
Sample:   python -m experiments.sample --workdir=runs/lsun_bedroom --steps=50 --spacing=leading --num_images=50000 \
              --modes=npz --batch_size=32
Cost:     2,400,000 steps of 64 images, streamed, at 3 x 493 GFLOP an image: 2.3e20 FLOP.
Expect:   FID 16.95 / 8.89 / 6.75 / 6.62 at S = 10 / 20 / 50 / 100 and eta = 0 (the paper's; not yet reproduced here).
"""

from configs import cifar10


def get_config():
    config = cifar10.get_config()
    config.data.update(name="lsun/bedroom", image_size=(256, 256), crop="center")
    config.model.update(multipliers=(1, 1, 2, 2, 4, 4), dropout=0.0)
    config.training.update(steps=2_400_000, batch_size=64, learning_rate=2e-5)
    config.sampling.update(spacing="leading", count=16)
    return config
