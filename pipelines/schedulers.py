"""What a scheduler of diffusers says of a network: the noise in its input, and what it predicts."""

import math

from torch import Tensor


def coordinates(scheduler, timestep: Tensor) -> tuple[float, float]:
    """alpha and std of the network's input at a timestep of the loop: input = alpha * x0 + std * noise.

    Also where the sampler's own latents are in other units: they are scaled before the network sees them.
    Raises ValueError for a scheduler that tells neither sigmas nor alphas_cumprod, or does not know the timestep.
    """
    if not (scheduler.timesteps == timestep.to(scheduler.timesteps.device)).any():
        raise ValueError(
            f"{type(scheduler).__name__} has no timestep {float(timestep):g}; give SaddleFreeGuidance the scheduler "
            "that the pipeline samples with: scheduler=pipe.scheduler."
        )
    if is_flow(scheduler):
        sigma = _sigma(scheduler, timestep)
        return 1 - sigma, sigma
    if hasattr(scheduler, "mid_point_sigma") or not hasattr(scheduler, "alphas_cumprod"):
        raise ValueError(
            f"SaddleFreeGuidance cannot tell the noise level from {type(scheduler).__name__}; use one of a flow model, "
            "such as FlowMatchEulerDiscreteScheduler, or one with alphas_cumprod, such as EulerDiscreteScheduler."
        )
    if getattr(scheduler, "sigmas", None) is None:
        kept = float(scheduler.alphas_cumprod[int(timestep)])
        return math.sqrt(kept), math.sqrt(1 - kept)
    sigma = _sigma(scheduler, timestep)
    length = math.hypot(1, sigma)
    return 1 / length, sigma / length


def is_flow(scheduler) -> bool:
    """Whether alpha is 1 - sigma, as in rectified flow."""
    named = any(base.__name__.startswith("FlowMatch") for base in type(scheduler).__mro__)
    return named or bool(scheduler.config.get("use_flow_sigmas"))


def prediction(scheduler) -> str:
    """What the network predicts: epsilon, v_prediction, sample or flow_prediction.

    Raises ValueError for anything else.
    """
    kind = scheduler.config.get("prediction_type", "flow_prediction" if is_flow(scheduler) else "epsilon")
    if kind not in ("epsilon", "v_prediction", "sample", "flow_prediction") or scheduler.config.get("invert_sigmas"):
        raise ValueError(
            f"SaddleFreeGuidance cannot read what a network predicts for {type(scheduler).__name__} with {kind!r}; "
            "it can read epsilon, v_prediction, sample and flow_prediction without invert_sigmas."
        )
    return kind


def denoised(kind: str, x: Tensor, answer: Tensor, alpha: float, std: float) -> Tensor:
    """The denoised prediction at x [B, ...] from the network's answer there."""
    if kind == "epsilon":
        return (x - std * answer) / alpha
    if kind == "v_prediction":
        return alpha * x - std * answer
    return answer if kind == "sample" else x - std * answer


def as_answer(kind: str, correction: Tensor, alpha: float, std: float) -> Tensor:
    """By how much the network's answer must change for the denoised prediction to change by `correction`."""
    if kind == "sample":
        return correction
    return correction * (-alpha / std if kind == "epsilon" else -1 / std)


def _sigma(scheduler, timestep: Tensor) -> float:
    """The scheduler's sigma at this call; its place is found as its own step() finds it."""
    index = scheduler.step_index
    if index is None:
        index = scheduler.begin_index
    if index is None:
        index = scheduler.index_for_timestep(timestep)
    between = hasattr(scheduler, "sigmas_interpol") and not scheduler.state_in_first_order
    return float((scheduler.sigmas_interpol if between else scheduler.sigmas)[index])
