"""A model that the host evaluates on two devices at once, as MultiGPU CFG Split does, where there is one processor."""

import threading

import comfy.multigpu
import torch
from comfy.patcher_extension import WrappersMP

TOGETHER = 60  # seconds in which both devices must have come into the network


class DeviceRecord:
    """What the two devices evaluated since the last clear()."""

    def clear(self):
        self.batches = []  # of each forward: the device's number, its images and conditions, and their names
        self.meeting = None  # of the devices in the network, where the test asks for it


DEVICES = DeviceRecord()
DEVICES.clear()


def record(executor, x, t, c_concat, c_crossattn, control, transformer_options, **kwargs):
    """APPLY_MODEL wrapper; where a meeting is asked for, it waits until the other device is here, too."""
    device = transformer_options.get("multigpu_thread_device")
    if "saddle_free_check" not in transformer_options:
        number = None if device is None else device.index or 0
        DEVICES.batches.append((float(t[0]), number, len(x), tuple(transformer_options["cond_or_uncond"])))
        if DEVICES.meeting is not None:
            DEVICES.meeting.wait(TOGETHER)
    return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)


class TestTwoDevices:
    """The model with a copy of it on another device, as the host's node makes them; both are this processor.

    meet: whether every evaluation must have both devices in the network at one moment.
    """

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "meet": ("BOOLEAN", {"default": False})}}

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "split"
    CATEGORY = "tests"

    def split(self, model, meet):
        DEVICES.meeting = threading.Barrier(2) if meet else None
        model = model.clone()
        model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "test_two_devices", record)
        other = model.deepclone_multigpu(new_load_device=torch.device("cpu", 1))
        other.is_multigpu_base_clone = True
        model.set_additional_models("multigpu", [other])
        model.match_multigpu_clones()
        comfy.multigpu.GPUOptionsGroup().register(model)
        return (model,)


DEVICE_NODES = (TestTwoDevices,)
