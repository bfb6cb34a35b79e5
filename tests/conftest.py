import contextlib
import functools
import gc
import itertools
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import demo_server
import demos
import pack
import page as driver
import pytest
import torch
from seeds import SEED
from short_runs import Runs

torch.set_num_threads(1)
pack.load_pack()
TESTS, ALL_OF = itertools.count(1), 100  # of tests of the host, those after which all garbage is collected


def needs_page(item):
    return bool({"tab", "address"} & set(item.fixturenames))


def pytest_collection_modifyitems(items):
    """Those that need the page come first: of processes side by side, one then needs a server and a browser for them.

    Of these, the ones that need a host, too, come last: before it the browser is closed. Each process begins with a
    part of the list of its own.
    """
    items.sort(key=lambda item: (not needs_page(item), "official_prompts" in item.fixturenames))


def pytest_terminal_summary(terminalreporter):
    """How to have the same random choices again."""
    terminalreporter.write_line(f"What tests chose at random came from SADDLE_FREE_TEST_SEED={SEED}.")


def loader_module(host):
    """The module of the demo node."""
    return sys.modules[host.node("SaddleFreeDemoModel").__module__]


@contextlib.contextmanager
def channels_last(host):
    """The networks of the demo node in the memory format that makes them a third faster on a CPU.

    In the servers that tests start they are as they are loaded.
    """
    module = loader_module(host)
    load = module.load_demo_model

    @functools.wraps(load)
    def loaded(*args, **kwargs):
        patcher = load(*args, **kwargs)
        patcher.model.diffusion_model.to(memory_format=torch.channels_last)
        return patcher

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_demo_model", loaded)
        yield


@pytest.fixture(scope="session")
def host(tmp_path_factory):
    """The real ComfyUI, started once."""
    from host import Host

    started = Host(tmp_path_factory.mktemp("comfyui"))
    gc.collect()
    gc.freeze()
    with channels_last(started):
        yield started


@pytest.fixture(scope="module")
def as_loaded(host):
    """The networks of the demo node in the memory format of users, for comparisons with them to the last bits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader_module(host), "load_demo_model", loader_module(host).load_demo_model.__wrapped__)
        yield


@pytest.fixture(scope="module", autouse=True)
def modules_apart():
    """Has all garbage collected by the first test if faults have left models, which the host looks for at each load."""
    management = sys.modules.get("comfy.model_management")
    if management is not None and any(model.is_dead() for model in management.current_loaded_models):
        gc.unfreeze()


@pytest.fixture(autouse=True)
def tests_apart(request):
    """Leaves what is alive before a test out of its garbage collections, of which the host makes several a run.

    Now and then all is looked at: what has died since it was left out stays in memory until then.
    """
    if "host" in request.fixturenames:
        if next(TESTS) % ALL_OF == 0:
            gc.unfreeze()
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="module")
def runs(host):
    """Short sampling runs, whose models stay loaded."""
    yield Runs(host)
    host.record.clear()


@pytest.fixture(scope="session")
def real_digits():
    """What metrics of digits compare with: the classifier's features of 2,000 real ones, which take a while."""
    return demos.Digits.real(demos.Digits.load_classifier(), most=2000)


@pytest.fixture(scope="session")
def output(tmp_path_factory):
    """Where servers that this process starts save pictures: processes side by side would number theirs alike."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_server, "OUTPUT", tmp_path_factory.mktemp("output"))
        yield demo_server.OUTPUT


@pytest.fixture(scope="session")
def address(output):
    """The address of a ComfyUI with only this pack, for the tests of all files: what one has run is cached."""
    seen = torch.cuda.is_available() or torch.backends.mps.is_available()
    with pytest.MonkeyPatch.context() as patch:  # a Python that looks for a GPU takes seconds
        patch.setattr(demo_server, "device_options", lambda python: [] if seen else ["--cpu"])
        with driver.served(driver.load_quickstart()) as address:
            yield address


@pytest.fixture
def new_outputs(output):
    """Removes what a test has saved."""
    before = set(output.iterdir())
    yield
    for path in set(output.iterdir()) - before:
        path.unlink()


class Browser:
    """A headless browser that is kept for the tests of all files: its first page takes seconds."""

    def __init__(self):
        self.executable = None
        self._open = contextlib.ExitStack()
        self._tab = None

    def tab(self):
        """Its only tab."""
        if self._tab is None:
            self._tab = self._open.enter_context(driver.opened(self.executable))
        return self._tab

    def close(self):
        """Ends it, and the event loop that drives it."""
        self._tab = None
        self._open.close()


BROWSER = Browser()


def pytest_runtest_setup(item):
    """The event loop of the browser cannot share a thread with the host's."""
    if "host" in item.fixturenames or not needs_page(item):
        BROWSER.close()


def pytest_sessionfinish():
    BROWSER.close()


@pytest.fixture(scope="session")
def browser():
    """The browser of the tests of all files; skips where there is none, but not in CI."""
    quickstart = driver.load_quickstart()
    BROWSER.executable = quickstart.find_browser()
    if BROWSER.executable is None:
        reason = f"the page is not tested: no {', '.join(quickstart.BROWSERS)} on the PATH"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    return BROWSER


@pytest.fixture
def tab(browser):
    """A tab of a headless browser, as the test before left it."""
    return browser.tab()


@pytest.fixture
def scope(tab, address):
    """A page with nothing but a Curvature Scope; its id."""
    driver.keep_open(tab, address)
    return driver.add_scope(tab)


@pytest.fixture
def lone_scope(tab, address):
    """As `scope`, in a workflow of its own: for tests that open workflows or subgraphs."""
    driver.new_workflow(tab, address)
    yield driver.add_scope(tab)
    driver.new_workflow(tab, address)


@pytest.fixture
def kept_settings(tab):
    """Sets settings of the page, and sets them back."""
    before = {}

    def change(name, value):
        before.setdefault(name, tab.evaluate("(name) => app.extensionManager.setting.get(name)", name))
        driver.set_setting(tab, name, value)

    yield change
    for name, value in before.items():
        driver.set_setting(tab, name, value)
