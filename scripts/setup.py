#!/usr/bin/env python3
"""Brings what faceid needs and no Debian package holds into FACEID_HOME (default ~/.cache/faceid), and links it into the
checkout: libtorch, Postgres with pgvector, and the networks' weights. Versions are pinned and checked by sha256, a stopped
run continues, and a run that finds everything in place does nothing. The tools of the documentation come only when they are
named by --only, as the targets that need them do.

What you set is respected: LIBTORCH (your own libtorch 2.11), FACEID_WEIGHTS_DIR (your own weights), DATABASE_URL (with
`--for run`: no Postgres is fetched) and CARGO_TARGET_DIR (else build output goes to FACEID_HOME/target).
"""

from __future__ import annotations

import argparse
import fcntl
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from artefacts import LIBTORCH, LYCHEE_FOLDER, PARTS, POSTGRES, TOOLS, SetupError, faceid_home
from fetch import fetch, say

CHECKOUT = Path(__file__).resolve().parent.parent
OLDEST_RUST = (1, 92)
# With older ones libtorch's headers do not compile (c10/util/C++17.h).
OLDEST_COMPILERS = {"GCC": 9, "Clang": 9}
# C++17 with its library, and a linker.
PROBE = """
#include <optional>
#include <string_view>
static_assert(__cplusplus >= 201703L);
int main() { return std::optional<std::string_view>("faceid")->size() == 6 ? 0 : 1; }
"""
OLDEST_GLIBC = (2, 28)  # what the wheels were built for
# Fetching peaks at 1.1 GB with libtorch: the archives and what they unpack to. Building allows for a release and a test build.
DISK_NEEDED = {"libtorch": 1_300_000_000, "lychee": 500_000_000, "others": 200_000_000, "build": 5_000_000_000}  # bytes


def main() -> int:
    options = parse_arguments()
    home = faceid_home()
    try:
        check_platform()
        wanted = [name for name in (*PARTS, *TOOLS) if name in (options.only or PARTS)]
        if not options.only:
            check_build_tools()
            wanted = [name for name in wanted if name not in skipped_parts(home, options.purpose)]
        fetch_missing(home, wanted)
        if not options.only:
            link_checkout(home)
    except SetupError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        print(file=sys.stderr)  # leaves the progress bar's line
        say("stopped; the next run goes on from here")
        return 130
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="example: FACEID_HOME=/srv/faceid scripts/setup.py", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--for", dest="purpose", choices=("run", "test"), default="test", help="tests need the Postgres programs even when DATABASE_URL is set (default: test)")
    parser.add_argument("--only", nargs="+", choices=(*PARTS, *TOOLS), metavar="PART", help=f"fetch just these of {', '.join((*PARTS, *TOOLS))}; no build tools needed, no links made")
    return parser.parse_args()


def check_platform() -> None:
    if sys.version_info < (3, 9):
        raise SetupError(f"needs Python 3.9 or newer; this is {platform.python_version()}")
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise SetupError(f"the pinned libraries are for Linux on x86_64; this is {platform.system()} on {platform.machine()}")
    try:
        libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        libc = ""
    version = re.fullmatch(r"glibc (\d+)\.(\d+).*", libc)
    if not version or tuple(map(int, version.groups())) < OLDEST_GLIBC:
        raise SetupError(f"the pinned libraries need glibc 2.28 or newer (Debian 10, Ubuntu 20.04); this system has {libc or 'another C library'}")


def check_build_tools() -> None:
    missing = {compiler("CC", "cc"): "build-essential", compiler("CXX", "c++"): "build-essential", "make": "make"}
    missing = {tool: package for tool, package in missing.items() if not shutil.which(tool)}
    problems = [name_missing(missing)] if missing else []
    if compiler("CXX", "c++") not in missing and (problem := compiler_problem(compiler("CXX", "c++"))):
        problems.append(problem)
    problems += filter(None, (rust_problem(tool) for tool in ("cargo", "rustc")))
    if problems:
        raise SetupError("\n  ".join(problems))


def compiler(variable: str, usual: str) -> str:
    """What the build will call: the variables are those of the `cc` crate."""
    return os.environ.get(variable) or usual


def compiler_problem(tool: str) -> str | None:
    macros = run_compiler(tool, "-dM", "-E")
    defined = dict(re.findall(r"^#define (__\w+__) (\d+)$", macros.stdout, re.MULTILINE))
    kind, macro = ("Clang", "__clang_major__") if "__clang_major__" in defined else ("GCC", "__GNUC__")
    if macro not in defined:
        return f"{tool} does not say which compiler it is: {first_line(macros.stderr)}; sudo apt-get install build-essential"
    if int(defined[macro]) < OLDEST_COMPILERS[kind]:
        wanted = " or ".join(f"{name} {version}" for name, version in OLDEST_COMPILERS.items())
        return f"{tool} is {kind} {defined[macro]}, too old: install {wanted} or newer (g++-10 of Ubuntu 20.04, clang-13 of Debian 10) and set CXX to it"
    with tempfile.TemporaryDirectory() as folder:
        made = run_compiler(tool, "-std=c++17", "-o", f"{folder}/probe", program=PROBE)
    if made.returncode != 0:
        reason = next((line for line in made.stderr.splitlines() if "error" in line), first_line(made.stderr))
        return f"{tool} ({kind} {defined[macro]}) cannot make a C++17 program: {reason}; is its library or its linker too old? sudo apt-get install build-essential"
    if run_compiler(tool, "-mavx512bf16", "-E").returncode != 0:
        say(f"{tool} is {kind} {defined[macro]}, which lacks the bfloat16 instructions of AVX-512: processors that have them run about half as fast as with GCC 10 or newer")
    return None


def run_compiler(tool: str, *flags: str, program: str = "") -> subprocess.CompletedProcess:
    return subprocess.run([tool, *flags, "-x", "c++", "-"], input=program, capture_output=True, text=True)


def first_line(text: str) -> str:
    return (text.strip().splitlines() or ["it says nothing"])[0]


def rust_problem(tool: str) -> str | None:
    wanted = f"Rust {'.'.join(map(str, OLDEST_RUST))} or newer, by rustup"
    if not shutil.which(tool):
        return f"{tool} is missing: install {wanted}"
    answer = subprocess.run([tool, "--version"], capture_output=True, text=True, cwd=CHECKOUT)
    version = re.match(rf"{tool} (\d+)\.(\d+)", answer.stdout)
    if not version:
        return f"`{tool} --version` failed: {first_line(answer.stderr)}; install {wanted}"
    if tuple(map(int, version.groups())) < OLDEST_RUST:
        return f"{tool} is {answer.stdout.split()[1]}, too old: install {wanted} (`rustup update` if you have it)"
    return None


def check_clients(clients: set[str]) -> None:
    missing = {}
    if "pip" in clients and importlib.util.find_spec("pip") is None:
        missing["pip"] = "python3-pip"
    if "npm" in clients and not shutil.which("npm"):
        missing["npm"] = "npm"
    if missing:
        raise SetupError(name_missing(missing))


def name_missing(packages: dict[str, str]) -> str:
    """Which tools are missing, and the command that installs the Debian packages they are in."""
    tools = " and ".join(packages)
    return f"{tools} {'is' if len(packages) == 1 else 'are'} missing: sudo apt-get install {' '.join(sorted(set(packages.values())))}"


def skipped_parts(home: Path, purpose: str) -> set[str]:
    """The parts that the user brings, or that the purpose does without."""
    skipped = {part for part, variable in (("libtorch", "LIBTORCH"), ("weights", "FACEID_WEIGHTS_DIR")) if own_folder(home, variable)}
    if purpose == "run" and os.environ.get("DATABASE_URL"):
        skipped.add("postgres")
    return skipped


def own_folder(home: Path, variable: str) -> Path | None:
    """The folder that the user set, unless it is the one that set-up makes (perhaps through its link)."""
    value = os.environ.get(variable)
    if not value:
        return None
    folder = Path(value).expanduser().absolute()
    ours = {"LIBTORCH": home / LIBTORCH.name, "FACEID_WEIGHTS_DIR": home / "weights"}[variable]
    if ours in (folder, folder.resolve()) or folder.parent == CHECKOUT / ".deps":
        return None
    if not folder.is_dir():
        raise SetupError(f"{variable} is {value}, and no such folder exists")
    if variable == "LIBTORCH" and not (folder / "lib" / "libtorch_cpu.so").exists():
        raise SetupError(f"LIBTORCH is {value}, which holds no lib/libtorch_cpu.so")
    return folder


def fetch_missing(home: Path, wanted: list[str]) -> None:
    def missing():
        return [item for name in wanted for item in {**PARTS, **TOOLS}[name] if not item.ready(home)]

    if not missing():
        return
    started = time.monotonic()
    downloads = home / "downloads"
    try:
        downloads.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(f"cannot make {downloads}: {error.strerror}; set FACEID_HOME to a folder that you may write to") from error
    with (home / ".setup.lock").open("w") as lock:
        wait_for(lock)
        items = missing()  # the set-up that was waited for may have brought them
        check_clients({archive.client for item in items for archive in item.archives})
        check_space(home, items)
        for item in items:
            fetched = {archive: fetch(archive, downloads, lock.fileno()) for archive in item.archives}
            say(f"making {home / item.name}")
            item.make(home, fetched)
            for path in fetched.values():  # half a gigabyte that is not needed again
                path.unlink()
    if items:
        say(f"{home} is complete after {time.monotonic() - started:.0f} s")


def wait_for(lock) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("another set-up is at work; waiting for it")
        fcntl.flock(lock, fcntl.LOCK_EX)


def check_space(home: Path, items: list) -> None:
    needed = DISK_NEEDED["libtorch" if LIBTORCH in items else "lychee" if LYCHEE_FOLDER in items else "others"]
    if not (home / "target").exists() and LIBTORCH in items:
        needed += DISK_NEEDED["build"]
    free = shutil.disk_usage(home).free
    if free < needed:
        raise SetupError(f"{home} has {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB are needed; free some or set FACEID_HOME to a folder elsewhere")


def link_checkout(home: Path) -> None:
    deps = CHECKOUT / ".deps"
    deps.mkdir(exist_ok=True)
    link(deps / "libtorch", own_folder(home, "LIBTORCH") or home / LIBTORCH.name)
    link(deps / "weights", own_folder(home, "FACEID_WEIGHTS_DIR") or home / "weights")
    if POSTGRES.ready(home):
        link(deps / "postgres", home / POSTGRES.name)
    target = CHECKOUT / "target"
    if not os.environ.get("CARGO_TARGET_DIR") and not target.exists():
        (home / "target").mkdir(parents=True, exist_ok=True)
        link(target, home / "target")
    forget_lost_builds(Path(os.environ.get("CARGO_TARGET_DIR") or target))


def forget_lost_builds(target: Path) -> None:
    """The build script of utoipa-swagger-ui writes down where the checkout is that runs it. Cargo takes its output for that of
    other checkouts as well; once the first is gone, it is of no use to any."""
    for written in target.glob("*/build/utoipa-swagger-ui-*/out/embed.rs"):
        named = re.search(r'include_bytes!\("([^"]+)"', written.read_text(encoding="utf-8"))
        if named and not Path(named[1]).exists():
            folder = written.parent.parent
            for lost in (target / folder.relative_to(target).parts[0] / ".fingerprint" / folder.name, folder):
                shutil.rmtree(lost, ignore_errors=True)


def link(path: Path, to: Path) -> None:
    """Makes or moves a link in one step; a real folder in its place is the user's and stays."""
    if path.is_symlink() and os.readlink(path) == str(to) or path.exists() and not path.is_symlink():
        return
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(to)
    fresh.replace(path)


if __name__ == "__main__":
    sys.exit(main())
