"""CIFAR-10, 32x32: the paper's (section 5 and appendix D.1), with network and training of Ho et al. (arXiv 2006.11239).

Training computes in bfloat16, theirs in float32; docs/differences.md lists this and all else that differs from their code.

Source:   DDIM Table 1; DDPM appendix B. 35,746,307 parameters.
Data:     python -m experiments.prepare --name=cifar10   (once; needs the extra ddim_jax[prepare])
Command:  python -m experiments.train --config=configs/cifar10.py --workdir=runs/cifar10
Sample:   python -m experiments.sample --workdir=runs/cifar10 --steps=50 --spacing=quadratic --num_images=50000 --modes=npz
Cost:     800,000 steps of 128 images, at 3 x 11.7 GFLOP an image: 3.6e18 FLOP.
Expect:   FID 13.36 / 6.84 / 4.67 / 4.16 at S = 10 / 20 / 50 / 100 and eta = 0 (the paper's; not yet reproduced here).
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.data = ml_collections.ConfigDict(
        dict(
            name="cifar10",  # a TFDS name, "folder" or "mnist_5k"
            split="train",
            directory=ml_collections.config_dict.placeholder(str),  # TFDS's data_dir, or the folder of images
            image_size=(32, 32),  # height, width; one number is a square
            channels=3,
            crop="none",  # "none", "center" or "celeba"
            flip=True,
            memory_limit_mb=4096,  # data sets up to this size live on the device, larger ones are streamed
            corrupt="stop",  # what a damaged image does: "stop", by its name, or "skip": the next stands in, for 1% at most
            degrade="",  # "half_size" or "grey": the network is told the image so degraded, and learns to undo it
            held_out_split="test",  # of the loss on held-out images
        )
    )
    config.model = ml_collections.ConfigDict(
        dict(
            channels=128,
            multipliers=(1, 2, 2, 2),
            num_blocks=2,
            attention_sides=(16,),
            dropout=0.1,
            patch_size=1,
            input_skip=False,
            num_classes=0,  # of a network that is told the class of each image; 0: it is not
        )
    )
    config.diffusion = ml_collections.ConfigDict(
        dict(
            schedule="linear",
            num_steps=1000,
            beta_start=1e-4,
            beta_end=2e-2,
            zero_terminal_snr=False,  # moved to end in pure noise; for prediction = "x0" or "v"
            prediction="eps",  # what the network predicts: "eps", "x0" or "v"
            categories=0,  # K: values in K bins and the discrete noise of appendix A, for prediction = "x0"; 0: Gaussian noise
        )
    )
    config.training = ml_collections.ConfigDict(
        dict(
            seed=0,
            steps=800_000,
            batch_size=128,
            learning_rate=2e-4,
            warmup_steps=5000,  # 0: none
            learning_rate_decay="none",  # after it; or "cosine", down to 0 at the last step
            grad_clip=1.0,  # largest norm of all gradients together; 0: any
            nonfinite="stop",  # what a step does whose loss or gradient is not finite: "stop", or "skip" and count it
            ema_decay=0.9999,
            min_snr_gamma=0.0,  # above 0: Min-SNR weights (arXiv 2303.09556)
            condition_dropout=0.1,  # how often the class or the degraded image is withheld, for guidance
            initial_weights=ml_collections.config_dict.placeholder(str),  # a weights file or a run's folder; else random ones
            dtype="bfloat16",  # that layers compute in; parameters, their average, loss and tables are float32
            remat=False,  # whether activations are computed again on the way back, to save memory
            accumulate=1,  # parts of a device's share of a batch, taken one after the other, to save memory
            mapping="pmap",  # what spreads a step over the devices: "pmap", or "shard_map" under jit; the numbers are the same
            steps_per_call=20,
            log_every=100,
            sample_every=5000,
            held_out_every=0,  # the loss on held-out images; 0: never
            distance_every=0,  # the distance of samples from training images, by which the best weights are kept; 0: never
            distance_samples=2000,  # that it is of
            checkpoint_every=5000,
            keep_every=0,  # the checkpoints that are kept besides the newest two: those whose step this divides; 0: none
        )
    )
    config.sampling = ml_collections.ConfigDict(  # of the grids of training, and the defaults of experiments.sample
        dict(steps=50, spacing="quadratic", eta=0.0, clip=False, count=64, dtype="float32")
    )
    return config
