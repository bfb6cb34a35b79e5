"""Fetches and draws the pictures that the emoji model learns.

    python quickstart.py --run benchmarks/emoji_data.py

takes ten packages from the npm registry with npm, each checked against its sha512, draws them at 64x64 pixels and
writes one file into the cache, which the training and the measurements find there. Needs npm, and the Python package
resvg_py for SVG, which it tells how to get.
"""

import argparse
import base64
import functools
import hashlib
import io
import json
import re
import shutil
import subprocess
import tarfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from emoji import DATA
from emoji_names import KINDS, names, squashed
from PIL import Image
from tqdm import tqdm

RENDERER = "resvg_py==0.5.0"
STYLES = ("noto", "blob", "fluent3d", "fluent", "fluentflat", "twemoji", "emojitwo", "fxemoji")
DRAWN, LONGEST, SIDE = 320, 58, 64  # pixels: the width that SVG is drawn at, the longest side of a subject, a picture
LEAST_DRAWN = 200  # pixels that are not transparent, or it is no picture
HELD_OUT = 0.1  # of the names of each kind


@dataclass(frozen=True)
class Package:
    """A package of the npm registry, and what its archive must be."""

    name: str
    version: str
    sha512: str

    @property
    def archive(self):
        """The file that npm writes."""
        return f"{self.name.strip('@').replace('/', '-')}-{self.version}.tgz"


PACKAGES = {  # what of -> npm package, version, sha512 of the archive
    "noto": Package(
        "@iconify-json/noto", "1.2.9",
        "DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
    ),
    "blob": Package(
        "@iconify-json/noto-v1", "1.2.5",
        "/DsVMius69Q0fRS53z7QK1TROSuar606jiIx+laXtdsYGMXpf6LtHBx6CGfoo3UHHb/XpBsw+1L1x3eyPqMuVA==",
    ),
    "fluent3d": Package(
        "@lobehub/fluent-emoji-3d", "1.1.0",
        "Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
    ),
    "fluent": Package(
        "@iconify-json/fluent-emoji", "1.2.7",
        "D8G6bKAyIsyxP1rzZtIWr/gg/fO4Rg1+DyCWlfqKK4h8W+4Em/Y0P6QYgJUQTlUcagzJvSyg+9OBv4hz4Hc/QA==",
    ),
    "fluentflat": Package(
        "@iconify-json/fluent-emoji-flat", "1.2.6",
        "RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
    ),
    "twemoji": Package(
        "@iconify-json/twemoji", "1.2.5",
        "uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
    ),
    "emojitwo": Package(
        "@iconify-json/emojione", "1.2.3",
        "T9+T3HIbJNLKKsmxYKlaYhvnHYkz/HNYTV7SHCXVZPfeUi4FqskY70YeN8yYAZT8cCv7w5vJxS4Q1m8zb9CMMg==",
    ),
    "fxemoji": Package(
        "@iconify-json/fxemoji", "1.2.2",
        "UAasRaxzFUKfIGSmLwnoarsssA4LX0VLLuEmplIqM6ZNQqIQRtav8tZ4H1neTlBreXuMQyAifr5jP4kn78DpiQ==",
    ),
    "datasource": Package(
        "emoji-datasource", "16.0.0",
        "/qHKqK5Nr3+8zhgO6kHmF43Fm5C8HNn0AaFRIpgw8HF3+uF0Vfc8jgLI1ZQS5ba1vBzksS8NBCjHejwLb2D/Sg==",
    ),
    "unicode": Package(
        "unicode-emoji-json", "0.9.0",
        "HdrQW/7SdbXUsTd8uTATv7LvQJkCSgbAgRCDCtOhQ6xn3EAx+xZHQtRniOXWJK3ywIqPegkNhP4U4EbuFsiQng==",
    ),
}


# --- Fetching --------------------------------------------------------------------------------------------------------


def fetch(folder):
    """Puts the archives of all packages that are not in the folder there."""
    folder.mkdir(parents=True, exist_ok=True)
    for package in tqdm(PACKAGES.values(), desc="fetching", unit="package"):
        path = folder / package.archive
        if not path.exists():
            npm = shutil.which("npm")
            if npm is None:
                raise SystemExit("npm is not on the PATH, and the emoji come from its registry; install Node.js.")
            command = [npm, "pack", f"{package.name}@{package.version}", "--silent", "--pack-destination", str(folder)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        check(path, package)


def check(path, package):
    """Raises SystemExit, and removes the file, where an archive is not the one that is meant."""
    found = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    if found != package.sha512:
        path.unlink()
        raise SystemExit(
            f"{path.name} has the sha512 {found}, and {package.name} {package.version} must have {package.sha512}; it is "
            "removed, so try again."
        )


class Archives:
    """The files in the packages' archives."""

    def __init__(self, folder):
        self.folder = folder

    @functools.lru_cache(None)  # noqa: B019
    def opened(self, what):
        """The archive of a package, left open."""
        return tarfile.open(self.folder / PACKAGES[what].archive)

    def read(self, what, name):
        """The bytes of a file in a package."""
        return self.opened(what).extractfile(f"package/{name}").read()

    def icons(self, what):
        """Name -> SVG of an icon set, aliases that change nothing included."""
        icon_set = json.loads(self.read(what, "icons.json"))
        sizes = icon_set.get("width", 16), icon_set.get("height", 16)
        found = {name: svg(icon, *sizes) for name, icon in icon_set["icons"].items()}
        for name, alias in icon_set.get("aliases", {}).items():
            if alias["parent"] in found and set(alias) == {"parent"}:
                found.setdefault(name, found[alias["parent"]])
        return found


def svg(icon, width, height):
    """An icon of an icon set as a file; width, height: what it has where it names none."""
    width, height = icon.get("width", width), icon.get("height", height)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="'
        f'{icon.get("left", 0)} {icon.get("top", 0)} {width} {height}" width="{width}" height="{height}">{icon["body"]}</svg>'
    )


def sources(archives, listed):
    """(style, index of the name, picture as SVG or as the bytes of a file) of all that the packages have."""
    sets = {style: archives.icons(style) for style in STYLES if style != "fluent3d"}
    sets["fxemoji"] = {squashed(name): icon for name, icon in sets["fxemoji"].items()}
    files = {re.split(r"[/.]", name)[-2]: name for name in archives.opened("fluent3d").getnames() if name.endswith(".webp")}
    for index, entry in enumerate(listed):
        for style in STYLES:
            if style == "fluent3d":
                file = files.get(entry["code"]) or files.get(entry["plain code"])
                picture = file and archives.read(style, file.removeprefix("package/"))
            else:
                spelled = map(squashed, entry["spellings"]) if style == "fxemoji" else entry["spellings"]
                picture = next((sets[style][name] for name in spelled if name in sets[style]), None)
            if picture:
                yield style, index, picture


# --- Drawing ---------------------------------------------------------------------------------------------------------


def drawn(picture):
    """A picture [64, 64, 4] uint8 with alpha of an SVG or of the bytes of a file, or None where there is nothing to see."""
    if isinstance(picture, str):
        import resvg_py

        try:
            picture = bytes(resvg_py.svg_to_bytes(svg_string=picture, width=DRAWN, skip_system_fonts=True))
        except ValueError:
            return None
    return fitted(np.asarray(Image.open(io.BytesIO(picture)).convert("RGBA"), np.float32) / 255)


def fitted(rgba):
    """What is drawn of a picture [height, width, 4] in [0, 1], its longest side 58 of 64 pixels, centred; or None."""
    rows, columns = np.where(rgba[..., 3] > 0.06)
    if len(rows) < LEAST_DRAWN:
        return None
    top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    scale = max(bottom - top, right - left) / LONGEST
    side, pad = scale * SIDE, int(scale * SIDE) + 2
    premultiplied = np.concatenate([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], -1)
    premultiplied = np.pad(premultiplied, ((pad, pad), (pad, pad), (0, 0)))
    x, y = (left + right) / 2 - side / 2 + pad, (top + bottom) / 2 - side / 2 + pad
    how = Image.BOX if scale > 3 else Image.HAMMING
    channels = [
        np.asarray(Image.fromarray(premultiplied[..., i]).resize((SIDE, SIDE), how, box=(x, y, x + side, y + side)))
        for i in range(4)
    ]
    premultiplied = np.clip(np.stack(channels, -1), 0, 1)
    alpha = premultiplied[..., 3:]
    rgb = np.where(alpha > 1e-3, premultiplied[..., :3] / np.maximum(alpha, 1e-3), 0)
    return (np.concatenate([np.clip(rgb, 0, 1), alpha], -1) * 255 + 0.5).astype(np.uint8)


def without_repeats(pictures):
    """The places of pictures whose style has none like it before; pictures: (style, index, [64, 64, 4])."""
    seen, kept = set(), []
    for place, (style, _, picture) in enumerate(pictures):
        look = style, hashlib.sha1((picture // 16).tobytes()).digest()
        if look not in seen:
            kept.append(place)
        seen.add(look)
    return kept


# --- The file --------------------------------------------------------------------------------------------------------


def held_out(kinds):
    """Which names, a bool each, are kept from training: a tenth of each kind, drawn at random; kinds: of each name."""
    random, held = np.random.default_rng(5), np.zeros(len(kinds), bool)
    for kind in range(len(KINDS)):
        of_kind = [index for index, other in enumerate(kinds) if other == kind]
        held[random.choice(of_kind, max(1, round(len(of_kind) * HELD_OUT)), replace=False)] = True
    return held


def data(pictures, listed):
    """The arrays of the file: pictures [N, 4, 64, 64] uint8, and name, kind, style and held of each."""
    used = sorted({index for _, index, _ in pictures})
    kinds = [list(KINDS).index(listed[index]["kind"]) for index in used]
    name = np.array([used.index(index) for _, index, _ in pictures], np.int16)
    return {
        "rgba": np.stack([picture for *_, picture in pictures]).transpose(0, 3, 1, 2),
        "name": name, "kind": np.array(kinds, np.int16)[name], "held": held_out(kinds)[name],
        "style": np.array([STYLES.index(style) for style, *_ in pictures], np.int16),
        "names": np.array([listed[index]["name"] for index in used]),
        "kinds": np.array(list(KINDS)), "styles": np.array(STYLES),
    }


def prepare(output, folder):
    """Fetches into a folder, draws, and writes the file."""
    try:
        import resvg_py  # noqa: F401
    except ImportError:
        raise SystemExit(f"resvg_py is not installed, which draws SVG; run: pip install {RENDERER}") from None
    fetch(folder)
    archives = Archives(folder)
    listed = names(archives.read("datasource", "emoji.json"), archives.read("unicode", "data-by-emoji.json"))
    found = list(sources(archives, listed))
    pictures = [(style, index, drawn(picture)) for style, index, picture in tqdm(found, desc="drawing", unit="picture")]
    pictures = [entry for entry in pictures if entry[2] is not None]
    pictures = [pictures[place] for place in without_repeats(pictures)]
    arrays = data(pictures, listed)
    partial = output.with_suffix(".partial.npz")
    np.savez_compressed(partial, **arrays)
    partial.replace(output)
    counts = ", ".join(f"{count} {style}" for style, count in Counter(style for style, *_ in pictures).items())
    print(f"Written: {output}: {len(pictures)} pictures of {len(arrays['names'])} names, {arrays['held'].sum()} of them held out; {counts}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=DATA)
    parser.add_argument("--packages", type=Path, help="where the packages are kept (default: beside the output)")
    arguments = parser.parse_args()
    prepare(arguments.output, arguments.packages or arguments.output.parent / "emoji-packages")


if __name__ == "__main__":
    main()
