r"""LSUN Church, 256x256: as LSUN Bedroom, with fewer steps.

Source:   DDIM Table 3; DDPM appendix B. 113,673,219 parameters.
Data:     python -m experiments.prepare --name=lsun/church_outdoor   (once; needs the extra ddim_jax[prepare])
Command:  python -m experiments.train --config=configs/lsun_church.py --workdir=runs/lsun_church
Sample:   python -m experiments.sample --workdir=runs/lsun_church --steps=50 --spacing=leading --num_images=50000 \
              --modes=npz --batch_size=32
Cost:     1,200,000 steps of 64 images, streamed, at 3 x 493 GFLOP an image: 1.1e20 FLOP.
Expect:   FID 19.45 / 12.47 / 10.84 / 10.58 at S = 10 / 20 / 50 / 100 and eta = 0 (the paper's; not yet reproduced here).
"""

from configs import lsun_bedroom


def get_config():
    config = lsun_bedroom.get_config()
    config.data.update(name="lsun/church_outdoor")
    config.training.update(steps=1_200_000)
    return config
