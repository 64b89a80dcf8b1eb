"""Fashion-MNIST, 28x28 and grey: clothes and shoes on a laptop's processor, told by class.

Source:   the network and training of configs/demo.py; Xiao et al. (arXiv 1708.07747) for the images. 2,799,813 parameters.
Data:     python -m experiments.prepare --name=fashion_mnist   (once; needs the extra ddim_jax[prepare])
Command:  python -m experiments.train --config=configs/fashion_mnist.py --workdir=runs/fashion
Sample:   python -m experiments.sample --workdir=runs/fashion --steps=50 --num_images=100
          without training: --checkpoint=ddim_jax/pretrained/fashion_mnist.safetensors --output=clothes
Cost:     6,000 steps of 64 images, at 3 x 0.35 GFLOP an image.
Expect:   held-out loss .0196, begun with the digits' weights (--config.training.initial_weights); the weights ship, and
          ddim_jax/pretrained/README.md says how they were judged.
"""

from configs import demo


def get_config():
    config = demo.get_config()
    config.data.update(name="fashion_mnist")
    config.training.update(held_out_every=1000)
    return config
