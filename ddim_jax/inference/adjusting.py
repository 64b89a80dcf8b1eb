"""The predictor that a user asks for, out of what the network says and the functions of `diffusion.guidance`."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from ddim_jax.diffusion import guidance
from ddim_jax.diffusion.process import Predict, clip_x0
from ddim_jax.diffusion.schedule import Schedule
from ddim_jax.models.network import Condition, withheld

# (condition -> predictor; the condition; what else there is for each example: a dict of arrays [B, ...]) -> predictor
Build = Callable[[Callable[[Condition], Predict], Condition, Mapping[str, jax.Array]], Predict]


def plain(predict_for: Callable[[Condition], Predict], condition: Condition, extra: Mapping[str, jax.Array]) -> Predict:
    """The predictor of the network alone."""
    return predict_for(condition)


@dataclasses.dataclass(frozen=True)
class Adjustment:
    """How a prediction is changed on its way to the sampler: guided first, then its x_0 limited, then pixels that are known."""

    weight: float = 1.0  # classifier-free guidance; 1 is the network as it is
    log_prob: Callable[[jax.Array, jax.Array, jax.Array], jax.Array] | None = None  # (x_t, t, label) -> [B]: a classifier
    log_prob_weight: float = 1.0
    clip: bool = False  # whether x_0 is kept in [-1, 1]
    percentile: float | None = None  # of dynamic thresholding

    def build(self, schedule: Schedule, null: Mapping[str, Any]) -> Build:
        """What a `Generator` makes its predictor with.

        Of what there is besides the condition, "label" [B] is what the classifier is asked for, and "known" and "mask"
        [B, H, W, C] say which pixels to keep (mask 1). `null` is the network's; see `models.network`.
        """

        def build(predict_for: Callable[[Condition], Predict], condition: Condition, extra: Mapping[str, jax.Array]) -> Predict:
            predict = predict_for(condition)
            if self.weight != 1:
                predict = guidance.classifier_free(predict, predict_for(withheld(condition, null)), self.weight)
            log_prob = self.log_prob
            if log_prob is not None:
                asked = extra["label"]
                predict = guidance.classifier(schedule, predict, lambda x, t: log_prob(x, t, asked), self.log_prob_weight)
            if self.percentile is not None:
                predict = guidance.dynamic_threshold(schedule, predict, self.percentile)
            if self.clip:
                predict = clip_x0(schedule, predict)
            if "known" in extra:
                predict = guidance.inpaint(schedule, predict, extra["known"], extra["mask"])
            return predict

        return build
