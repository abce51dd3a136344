#!/usr/bin/env python3
"""Prints a requirement with the hashes of its wheels, as pip's --require-hashes wants them.

    scripts/pin.py numpy==2.0.2 3.9 3.10

The wheels are those that pip picks on Linux, x86-64 and aarch64, for each of the Python versions.
Needs pip 23 or newer. For whoever raises a version in a file of pins; the set-up never runs it.
"""

import json
import subprocess
import sys

MACHINES = ("x86_64", "aarch64")
# What pip on a system with glibc 2.28 or newer accepts.
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")


def wheel_hash(requirement, python, machine):
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--dry-run",
        "--ignore-installed",
        "--no-deps",
    ]
    command += ["--disable-pip-version-check", "--only-binary=:all:", "--target", "unused", "--report", "-"]
    command += ["--python-version", python, "--implementation", "cp"]
    command += [f"--platform={platform}_{machine}" for platform in PLATFORMS]
    report = subprocess.run([*command, requirement], check=True, stdout=subprocess.PIPE).stdout
    (wheel,) = json.loads(report)["install"]
    return wheel["download_info"]["archive_info"]["hashes"]["sha256"]


def main():
    requirement, *pythons = sys.argv[1:]
    hashes = {wheel_hash(requirement, python, machine) for python in pythons for machine in MACHINES}
    print(" \\\n".join([requirement, *(f"    --hash=sha256:{digest}" for digest in sorted(hashes))]))


if __name__ == "__main__":
    main()
