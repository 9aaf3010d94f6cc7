"""`rootfs.py WHEELS SOURCE ROOT`: put the image's root file system together, inside the base. Runs in the image's build alone.

Taken are: the interpreter and its library less what no enclave imports, the wheels' packages likewise, `wire` and `enclave`,
and the shared libraries that any of it links to. So there is no shell, no package manager and no tool: nothing is taken
that this file does not name or a taken file does not link to. Modules are compiled here, in one order, without times.
"""

from fnmatch import fnmatch
import importlib.util
import marshal
import os
from pathlib import Path
import re
import shutil
import struct
import subprocess
import sys
import zipfile

VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
LIBRARY = f"usr/lib/{VERSION}"
PACKAGES = "usr/lib/python3/dist-packages"
LOADER = "/usr/lib64/ld-linux-x86-64.so.2"

# Of the standard library: what develops, tests, draws, installs, or talks to a person.
STDLIB_LEFT_OUT = """
    __phello__ _pyrepl ctypes/macholib curses dbm distutils ensurepip idlelib lib2to3 lib-dynload/_curses* lib-dynload/_dbm*
    lib-dynload/_sqlite3* lib-dynload/readline* lib-dynload/_test* lib-dynload/_xx* lib-dynload/xx* pdb.py pydoc.py pydoc_data
    sqlite3 test tkinter turtle.py turtledemo unittest venv webbrowser.py wsgiref xmlrpc EXTERNALLY-MANAGED sitecustomize.py
"""
# Of the wheels: tests, tools for making models, headers. Of botocore's thousand services: KMS.
PACKAGES_LEFT_OUT = """
    */tests bin *.dist-info/RECORD numpy/f2py numpy/_core/include numpy/_core/lib numpy/*/*.pyi numpy/*.pyi numpy/_pyinstaller
    numpy/testing onnxruntime/transformers onnxruntime/tools onnxruntime/quantization onnxruntime/datasets
    onnxruntime/backend onnxruntime/providers boto3/data boto3/examples pycparser cffi
"""
BOTOCORE_DATA = ("_retry.json", "endpoints.json", "partitions.json", "sdk-default-configuration.json", "kms")
USERS = "root:x:0:0::/:/\nserver:x:7001:7001::/:/\nworker:x:7002:7002::/:/\n"
GROUP = "root:x:0:\nserver:x:7001:\nworker:x:7002:\n"
ELF = b"\x7fELF"


def left_out(path: Path, patterns: str) -> bool:
    """Whether a relative path or any folder above it is one of those."""
    return any(fnmatch(part.as_posix(), pattern) for part in (path, *path.parents) for pattern in patterns.split())


def take(source: Path, target: Path, patterns: str) -> None:
    """Copy a tree's files and links, less what is left out, modes reduced to read and execute."""
    for path in sorted(source.rglob("*")):
        relative = path.relative_to(source)
        if left_out(relative, patterns) or "__pycache__" in relative.parts:
            continue
        place = target / relative
        if path.is_symlink() or path.is_file():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)  # a link becomes what it names
            place.chmod(0o755 if path.stat().st_mode & 0o100 and not path.suffix else 0o644)


def take_wheels(wheels: Path, target: Path) -> None:
    """Unpack every wheel, then take what is wanted."""
    unpacked = Path("/unpacked")
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(unpacked)
    for data in unpacked.glob("*.data"):
        for kind in ("purelib", "platlib"):
            if (data / kind).is_dir():
                shutil.copytree(data / kind, unpacked, dirs_exist_ok=True)
        shutil.rmtree(data)
    take(unpacked, target, PACKAGES_LEFT_OUT)
    for path in (target / "botocore/data").iterdir():
        if path.name not in BOTOCORE_DATA:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def libraries(root: Path) -> set[Path]:
    """What the loader finds for every ELF file of the root that is not in it already."""
    wanted: set[Path] = {Path(LOADER)}
    inside = {path.name for path in root.rglob("*.so*")}
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.is_symlink() and path.open("rb").read(4) == ELF:
            listed = subprocess.run([LOADER, "--list", str(path)], capture_output=True, text=True, check=False)
            for line in listed.stdout.splitlines():
                name, _, place = line.strip().partition(" => ")
                if "not found" in place and name not in inside:
                    raise SystemExit(f"{path} links to {name}, which the base has not")
                match = re.fullmatch(r"(/\S+) \(0x[0-9a-f]+\)", place)
                if match and not match[1].startswith(str(root)):
                    wanted.add(Path(match[1]))
    return wanted


def take_libraries(root: Path) -> None:
    """Copy them to where the loader looks, under the names that are linked to."""
    for path in sorted(libraries(root)):
        place = root / ("usr" + str(path) if path.parts[1] != "usr" else str(path)[1:])
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path.resolve(), place)
        place.chmod(0o755)


def compile_all(root: Path) -> None:
    """Unchecked hash-based caches beside every module: no time in them, and none is looked at. Sources stay, to be read."""
    for source in sorted(root.rglob("*.py")):
        data = source.read_bytes()
        name = "/" + source.relative_to(root).as_posix()
        try:
            code = compile(data, name, "exec", dont_inherit=True, optimize=0)
        except (SyntaxError, ValueError):
            continue  # templates and samples
        cache = Path(importlib.util.cache_from_source(str(source)))
        cache.parent.mkdir(exist_ok=True)
        head = importlib.util.MAGIC_NUMBER + struct.pack("<I", 0b01) + importlib.util.source_hash(data)
        cache.write_bytes(head + marshal.dumps(code))
        cache.chmod(0o644)


def main(wheels: Path, source: Path, root: Path) -> None:
    """Everything, in order."""
    take(Path("/") / LIBRARY, root / LIBRARY, STDLIB_LEFT_OUT)
    take_wheels(wheels, root / PACKAGES)
    for package in ("enclave", "wire"):
        take(source / package, root / PACKAGES / package, "")
    (root / "usr/bin").mkdir(parents=True)
    shutil.copyfile(f"/usr/bin/{VERSION}", root / f"usr/bin/{VERSION}")
    (root / f"usr/bin/{VERSION}").chmod(0o755)
    (root / "usr/bin/python3").symlink_to(VERSION)
    take_libraries(root)
    for link in ("bin", "lib", "lib64", "sbin"):
        (root / link).symlink_to(f"usr/{link}")
    (root / "usr/sbin").mkdir()
    (root / "etc").mkdir()
    (root / "etc/passwd").write_text(USERS)
    (root / "etc/group").write_text(GROUP)
    for mount in ("dev", "proc", "run", "sys", "tmp"):
        (root / mount).mkdir()
    compile_all(root)
    for path in (root, *root.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    try_out(root)


def try_out(root: Path) -> None:
    """Import every module of the enclave inside the new root: what was left out must not be missed."""
    names = [f"enclave.{path.stem}" for path in sorted((root / PACKAGES / "enclave").glob("*.py")) if path.stem != "__init__"]
    words = ["/usr/bin/python3", "-I", "-B", "-c", f"import {', '.join(names)}"]
    done = subprocess.run(words, preexec_fn=lambda: os.chroot(root), cwd="/", env={}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"a module of the enclave does not import in the image:\n{done.stderr}")


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
