"""The demo's network, told which digit to draw: the weights that ship, trained on with labels, a tenth of them withheld.

Source:   classifier-free guidance, arXiv 2207.12598; the network and data of configs/demo.py.
Data:     4,500 MNIST digits, which pip brings (the extra ddim_jax[demo]).
Command:  python -m experiments.train --config=configs/demo_conditional.py --workdir=runs/conditional
Sample:   python -m experiments.sample --workdir=runs/conditional --guidance=2 --num_images=100
Cost:     800 steps of 64 images, at 3 x 0.35 GFLOP an image.
Expect:   PLACEHOLDER
"""

from configs import demo


def get_config():
    config = demo.get_config()
    config.model.update(num_classes=10)
    config.training.update(initial_weights="ddim_jax/pretrained/digits.safetensors")
    config.training.update(steps=800, learning_rate=4e-4, warmup_steps=100, ema_decay=0.99, label_dropout=0.1)
    config.training.update(sample_every=400, checkpoint_every=200)
    config.sampling.update(count=100)
    return config
