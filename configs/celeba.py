"""CelebA, 64x64, with the paper's network and images: 128x128 pixels around the face, resized.

Training computes in bfloat16; docs/differences.md lists this and all else that differs from the paper's code.

Source:   DDIM Table 1. 78,700,803 parameters. The authors do not say how many steps they trained for; Ho et al.'s 800,000
          for CIFAR-10 stands here.
Data:     python -m experiments.prepare --name=celeb_a   (once; needs the extra ddim_jax[prepare])
Command:  python -m experiments.train --config=configs/celeba.py --workdir=runs/celeba
Sample:   python -m experiments.sample --workdir=runs/celeba --steps=50 --spacing=leading --num_images=50000 --modes=npz
Cost:     800,000 steps of 128 images, at 3 x 46.3 GFLOP an image: 1.4e19 FLOP.
Expect:   FID 17.33 / 13.73 / 9.17 / 6.53 at S = 10 / 20 / 50 / 100 and eta = 0 (the paper's; not yet reproduced here).
"""

from configs import cifar10


def get_config():
    config = cifar10.get_config()
    config.data.update(name="celeb_a", image_size=(64, 64), crop="celeba")
    config.model.update(multipliers=(1, 2, 2, 2, 4))
    config.sampling.update(spacing="leading")
    return config
