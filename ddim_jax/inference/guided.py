"""The predictor that a user asks for, out of what the network says and the functions of `diffusion.guidance`."""

from typing import Callable

import jax

from ddim_jax.diffusion import guidance
from ddim_jax.diffusion.process import Predict, clip_x0
from ddim_jax.diffusion.schedule import Schedule
from ddim_jax.inference.generate import PredictFor


def guided(
    schedule: Schedule,
    *,
    weight: float = 1.0,
    log_prob: Callable[[jax.Array, jax.Array, jax.Array], jax.Array] | None = None,
    log_prob_weight: float = 1.0,
    clip: bool = False,
    percentile: float | None = None,
) -> Callable[[PredictFor, dict], Predict]:
    """What `Generator` builds its predictor with: guidance first, then limits on x_0, then what is known of it.

    `weight` is that of classifier-free guidance, log_prob (x_t, t, label) -> [B] a classifier of noisy images with its own;
    `clip` keeps x_0 in [-1, 1], `percentile` is that of dynamic thresholding. Of what is given with the images, "label" [B]
    says their classes, "known" and "mask" [B, H, W, C] which pixels to keep (mask 1).
    """

    def build(predict_for: PredictFor, given: dict) -> Predict:
        predict = predict_for(given.get("label"))
        if weight != 1:
            predict = guidance.classifier_free(predict, predict_for(None), weight)
        if log_prob is not None:
            predict = guidance.classifier(schedule, predict, lambda x, t: log_prob(x, t, given["label"]), log_prob_weight)
        if percentile is not None:
            predict = guidance.dynamic_threshold(schedule, predict, percentile)
        if clip:
            predict = clip_x0(schedule, predict)
        if "known" in given:
            predict = guidance.inpaint(schedule, predict, given["known"], given["mask"])
        return predict

    return build
