"""What the book serves beside its own pages: MathJax, its font, the manager of Jupyter's widgets, and what runs models.

They are fetched once, by `npm pack` at exact versions whose digests are below, and never committed. What is kept lies
in `book/_vendor`, a folder that Sphinx copies into the site, so that a reader's browser asks no other host for
anything.
"""

import base64
import fnmatch
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True)
class Package:
    """A package of npm, and what the site takes of it."""

    name: str
    version: str
    sha512: str  # base64, as npm writes the integrity of a tarball
    keep: tuple[str, ...]  # files, or folders that end in "/", inside the package
    into: str  # folder in the site's static files
    drop: str = ""  # a leading folder that the site's paths leave out

    @property
    def tarball(self) -> str:
        """The file name that `npm pack` gives it."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


PACKAGES = (
    Package(
        "mathjax", "4.1.3", "BN/8Pkgn7G1pIDYJqd9md+JHsE/jydSYbyOZnSdSA0WziuVO8mRxdYiWFumkVVly/8U+hm9DpIIoWuvySverzw==",
        ("LICENSE", "tex-chtml.js", "a11y/", "input/tex/", "output/", "ui/", "sre/speech-worker.js",
         "sre/mathmaps/base.json", "sre/mathmaps/en.json", "sre/mathmaps/nemeth.json"),
        "vendor/mathjax",
    ),
    Package(
        "@mathjax/mathjax-newcm-font", "4.1.3",
        "gzAB3dFHilHX1l5x2xUqRL+1jDQt3Fyza1DkEMVXWC4E8SvsGdlgEza47HYi2WhVcgfkvf4zgUGzuhbq3Pjlew==",
        ("chtml.js", "chtml/"), "vendor/mathjax/fonts/mathjax-newcm-font",
    ),
    Package(
        "@jupyter-widgets/html-manager", "1.0.15",
        "5thBIV6ymNgmPVOHvzx+gGy8ZSKmSazhtGw4/c4xJDVzRhG9PTeQsRjF3FUTopvFi//SABeNz1yp47bCrJ3CQA==",
        ("dist/embed.js", "dist/embed.js.LICENSE.txt", "dist/*.woff2"), "vendor/html-manager", "dist/",
    ),
    Package(  # the plain build with one WebAssembly file: no WebGPU, and one thread will do
        "onnxruntime-web", "1.30.0",
        "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
        ("dist/ort.wasm.bundle.min.mjs", "dist/ort-wasm-simd-threaded.wasm"), "vendor/onnxruntime", "dist/",
    ),
    Package(  # the deck (lrt.book.deck); its look is ours, so no theme
        "reveal.js", "5.2.1",
        "r7//6mIM5p34hFiDMvYfXgyjXqGRta+/psd9YtytsgRlrpRzFv4RbH76TXd2qD+7ZPZEbpBDhdRhJaFgfQ7zNQ==",
        ("LICENSE", "dist/reveal.css", "dist/reveal.js", "plugin/notes/notes.js"), "vendor/reveal",
    ),
)
# Places where a vendored file would ask another host: a font that only Jupyter's own cells use, and the store of
# widgets that are not in the bundle, of which the course has none.
REPLACED = {
    "vendor/html-manager/embed.js": {
        "https://fonts.googleapis.com/css?family=Roboto+Mono": "data:text/css,",
        "https://cdn.jsdelivr.net/npm/": "vendor/not-served/",
    },
    "vendor/mathjax/tex-chtml.js": {"https://cdn.jsdelivr.net": "vendor/not-served"},
}
STAMP = "vendor/versions.txt"


def ensure(vendor: str | Path, tarballs: str | Path, packages: Sequence[Package] = PACKAGES,
           replaced: Mapping[str, Mapping[str, str]] = REPLACED) -> bool:
    """Have all packages in the folder `vendor`; True if they had to be unpacked. Tarballs in the folder `tarballs`
    are used before the network is asked. ValueError says what to do where neither has them, or a digest is wrong."""
    vendor, tarballs = Path(vendor), Path(tarballs)
    stamp = "\n".join([*map(str, packages), f"{sorted(replaced.items())}", ""])
    if (vendor / STAMP).is_file() and (vendor / STAMP).read_text(encoding="utf-8") == stamp:
        return False
    draft = vendor.with_name(f"{vendor.name}.part")
    shutil.rmtree(draft, ignore_errors=True)
    with tempfile.TemporaryDirectory() as fetched:
        for package in packages:
            found = tarballs / package.tarball
            unpack(package, found if found.is_file() else fetch(package, Path(fetched), tarballs), draft)
    for name, texts in replaced.items():
        _replace(draft / name, texts)
    (draft / STAMP).write_text(stamp, encoding="utf-8")
    shutil.rmtree(vendor, ignore_errors=True)
    os.replace(draft, vendor)
    return True


def fetch(package: Package, into: Path, tarballs: Path) -> Path:
    """The package's tarball, by `npm pack`. ValueError says what to do where that fails."""
    asked = f"{package.name}@{package.version}"
    advice = (f"the book needs {asked} once, and could not fetch it ({{}}). Run `make book` where npm and a network "
              f"are, or put the file {package.tarball} (`npm pack {asked}`) into {tarballs}")
    npm = shutil.which("npm")
    if npm is None:
        raise ValueError(advice.format("npm is not installed"))
    command = [npm, "pack", asked, "--pack-destination", str(into), "--silent", "--ignore-scripts"]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=300, cwd=into)
    except subprocess.SubprocessError as error:
        reason = "npm took too long" if isinstance(error, subprocess.TimeoutExpired) else "npm could not get it"
        raise ValueError(advice.format(reason)) from None
    return into / package.tarball


def unpack(package: Package, tarball: Path, root: Path) -> list[Path]:
    """Write what the site takes of a tarball below `root`; returns the files. ValueError for a wrong digest, or a file
    that is not there."""
    digest = base64.b64encode(hashlib.sha512(tarball.read_bytes()).digest()).decode()
    if digest != package.sha512:
        raise ValueError(f"{tarball}: not {package.name} {package.version}; remove the file and run `make book` again")
    written, used = [], set()
    with tarfile.open(tarball) as archive:
        for member in archive:
            name = PurePosixPath(member.name)
            inside = "/".join(name.parts[1:])  # the first part is "package"
            wanted = [pattern for pattern in package.keep if _fits(inside, pattern)]
            if not wanted or not member.isfile() or ".." in name.parts or inside.endswith(".map"):
                continue
            target = root / package.into / inside.removeprefix(package.drop)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.extractfile(member).read())
            written.append(target)
            used.update(wanted)
    if missing := [pattern for pattern in package.keep if pattern not in used]:
        raise ValueError(f"{tarball}: has no {missing[0]}")
    return written


def _fits(inside: str, pattern: str) -> bool:
    return inside.startswith(pattern) if pattern.endswith("/") else fnmatch.fnmatchcase(inside, pattern)


def _replace(path: Path, texts: Mapping[str, str]) -> None:
    text = path.read_text(encoding="utf-8")
    for old, new in texts.items():
        if old not in text:
            raise ValueError(f"{path}: {old} is not there: another version? Look where it now asks other hosts")
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")
