"""A real ComfyUI in this process: its own folders, its own server object, its executor."""

import asyncio
import sys

import pack

TESTS = pack.ROOT / "tests"


class Host:
    """Runs prompts through the host's executor; results and events are what the test nodes recorded."""

    def __init__(self, base):
        self.models = base / "models"
        self.output = base / "output"
        pack.enter_host("--cpu", "--disable-api-nodes", "--base-directory", str(base))
        import execution
        import server

        import nodes

        self.execution, self.nodes = execution, nodes
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.server = server.PromptServer(self.loop)
        self.loop.run_until_complete(nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))
        for folder in (pack.ROOT, TESTS / "host_nodes"):
            assert self.loop.run_until_complete(nodes.load_custom_node(str(folder))), f"{folder} did not load"
        self.record = sys.modules[str(TESTS / "host_nodes").replace(".", "_x_")].RECORD

    def validate(self, prompt):
        """The host's own check of a prompt: (valid, error, outputs, errors by node)."""
        return self.loop.run_until_complete(self.execution.validate_prompt("test", prompt, None))

    def executor(self, cached=False):
        """An executor of its own, with the host's classic cache or none."""
        kind = self.execution.CacheType.CLASSIC if cached else self.execution.CacheType.NONE
        return self.execution.PromptExecutor(
            self.server, cache_type=kind, cache_args={"lru": 0, "ram": 0, "ram_inactive": 0}
        )

    def run(self, prompt, executor=None):
        """Executes a prompt, by default with nothing cached and no model loaded, as on a host just started.

        The executor's success and status_messages tell more.
        """
        valid, error, outputs, node_errors = self.validate(prompt)
        assert valid, (error, node_errors)
        self.record.clear()
        if executor is None:
            self.unload()
            executor = self.executor()
        self.loop.run_until_complete(executor.execute_async(prompt, "test", {}, outputs))
        return executor

    @staticmethod
    def unload():
        """Takes every model out of the host's memory."""
        import comfy.model_management

        comfy.model_management.unload_all_models()

    def latents(self, prompt):
        """Executes a prompt that must succeed; returns what its capture nodes saw, by label."""
        executor = self.run(prompt)
        assert executor.success, failure(executor)
        return dict(self.record.latents)

    def node(self, name):
        """A registered node class."""
        return self.nodes.NODE_CLASS_MAPPINGS[name]


def failure(executor):
    """What the executor reported on failing: the message's data with node_type and exception_message."""
    return next(data for _, data in executor.status_messages if "node_type" in data)
