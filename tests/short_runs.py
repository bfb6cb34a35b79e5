"""Short sampling runs of a few milliseconds, with faults in them, for tests that need hundreds."""

import gc
import itertools
from dataclasses import dataclass, field

from graphs import Graph, guided, output, sample, steered
from host import failure
from pack import ROOT
from runs import two_models

GUIDED = ("saddle-free", "auto", "shared", "both", "both shared")
LATENTS = {"demo": (3, 8, 8), "sd3": (16, 4, 4), "flux": (16, 4, 4), "wan": (16, 1, 4, 4)}
UNDECIDED = {"demo": 1.2, "sd3": 10.0, "flux": 10.0, "wan": 10.0}  # enough for guidance to act on every image
OF_A_RUN = {"SaddleFreeRun", "AutoGuidanceRun", "WeakModel", "RawPredictions", "SaddleFree", "Run", "LiveTrace"}
NONE = {"kind": "none", "place": "model", "at": "", "images": ""}


@dataclass(frozen=True)
class Short:
    """A run: the models, the guidance ("shared": of a weak model that shares the main one's weights), and its size."""

    family: str = "demo"
    kind: str = "both"
    batch: int = 1
    cfg: float = 1.0
    steps: int = 3
    sampler: str = "euler"
    knobs: dict = field(default_factory=dict, hash=False)  # of Saddle-Free Guidance
    auto_knobs: dict = field(default_factory=dict, hash=False)
    shape: tuple | None = None  # of one image's latent
    dtype: str = "default"  # in which the models compute
    sigma_max: float | None = None  # of a noise schedule without limits
    images: tuple | None = None  # first and number of those of the batch that are sampled, None for all

    def prompt(self, host, name="run", faults=None):
        """The graph, with a TestFault on the main model ("main"), on the weak ("weak"), and after guidance ("after").

        name: another name is another graph, whatever a cache holds. faults: place in the graph -> inputs of TestFault.
        """
        graph, faults = Graph(), faults or {}

        def fault(model, where):
            chosen = NONE | faults.get(where, {})
            return graph.add("TestFault", model=model, label=f"{where} {name}", **chosen)

        model, weak, positive, negative, _ = two_models(self.family, host)(graph)
        model, weak = self._prepared(graph, model), self._prepared(graph, weak)
        model = fault(model, "main")
        changed = saddle_free = model
        if self.kind in ("saddle-free", "both", "both shared"):
            changed = saddle_free = guided(graph, changed, **{"scale": 2.0} | self.knobs)
        if self.kind in ("auto", "both"):
            changed = steered(graph, changed, fault(weak, "weak"), **self.auto_knobs)
        elif self.kind in ("shared", "both shared"):
            weaker = graph.add("WeakenModel", model=model, method="more noise", strength=0.2)
            changed = steered(graph, changed, fault(weaker, "weak"), **self.auto_knobs)
        changed = graph.add("TestKeep", model=fault(changed, "after"), label="guided")
        shape = ",".join(map(str, (self.batch, *(self.shape or LATENTS[self.family]))))
        latent = graph.add("TestLatentOfShape", shape=shape)
        if self.images is not None:
            latent = graph.add("LatentFromBatch", samples=latent, batch_index=self.images[0], length=self.images[1])
        samples = sample(
            graph, "KSampler", changed, positive, negative, latent, cfg=self.cfg, steps=self.steps,
            sampler=self.sampler, scheduler="karras",
        )
        graph.add("TestCapture", samples=samples, label="run")
        if saddle_free is not model:
            graph.add("TestCaptureTrace", trace=output(saddle_free, 1), latent=samples, label="run")
        return graph.prompt

    def _prepared(self, graph, model):
        if self.dtype != "default":
            model = graph.add("ModelComputeDtype", model=model, dtype=self.dtype)
        if self.sigma_max is not None:
            model = graph.add(
                "ModelSamplingContinuousEDM", model=model, sampling="edm", sigma_max=self.sigma_max, sigma_min=0.002
            )
        return graph.add("TestUndecided", model=model, amount=UNDECIDED[self.family])


class Runs:
    """Runs short prompts through executors that keep the models of each family loaded.

    together: through one executor instead, which drops a family's models for those of the next.
    """

    def __init__(self, host, together=False):
        self.host = host
        self.together = together
        self.faults = host.record.faults
        self.executors = {}
        self.names = itertools.count()

    def attempt(self, short, faults=None):
        """The executor of a run that may fail; its TestFaults have new labels, so nothing but the loaders is cached."""
        key = None if self.together else short.family
        if key not in self.executors:
            self.executors[key] = self.host.executor(cached=True)
        self.name = str(next(self.names))
        return self.host.run(short.prompt(self.host, self.name, faults), self.executors[key])

    def latent(self, short, faults=None):
        """The latent of a run that must succeed."""
        executor = self.attempt(short, faults)
        assert executor.success, failure(executor)
        return self.host.record.latents["run"]

    def start_anew(self):
        """Forgets what is cached and takes all models out of memory."""
        self.executors.clear()
        self.host.record.clear()
        self.host.unload()

    def phases(self, where):
        """What each pass of the model of the last run was for: "base" or "extra"."""
        return self.faults.phases[f"{where} {self.name}"]

    def struck(self):
        """How many faults happened in the last run."""
        return sum(self.faults.struck.values())


def one(text, place="model", at="1", where="main", images=""):
    """The faults of a prompt that has one."""
    return {where: {"kind": text, "place": place, "at": str(at), "images": images}}


def left_behind():
    """Names of the objects of sampling runs that are still alive."""
    gc.collect()
    package = str(ROOT).replace(".", "_x_")
    kinds = (type(thing) for thing in gc.get_objects())
    return sorted(kind.__name__ for kind in kinds if kind.__name__ in OF_A_RUN and kind.__module__.startswith(package))
