"""Compares two trees: names, kinds, sizes, contents, times of modification in steps of 100 ns. Prints what differs; ends with 1 if anything does.

usage: compare.py [--names-changed] EXPECTED FOUND     with --names-changed names are those that Windows takes instead
"""
import hashlib
import os
import sys

FORBIDDEN = '\\:*?"<>|'


def windows_name(raw):
    """A name of Linux as a restore on Windows writes it, which Wine writes down as UTF-8."""
    text = raw.decode("utf-8", "surrogateescape")
    mapped = []
    for c in text:
        code = ord(c)
        if 0xDC80 <= code <= 0xDCFF:
            mapped.append(chr(0xF100 + code - 0xDC00))
        elif c in FORBIDDEN or code < 0x20:
            mapped.append(chr(0xF000 + code))
        else:
            mapped.append(c)
    return "".join(mapped).encode()


def facts(top, rename):
    found = {}
    for folder, folders, files in os.walk(os.fsencode(top)):
        for name in folders + files:
            path = os.path.join(folder, name)
            stat = os.lstat(path)
            below = os.path.relpath(path, os.fsencode(top)).split(b"/")
            key = b"/".join(map(windows_name, below)) if rename else b"/".join(below)
            if os.path.islink(path):
                found[key] = ("link",)
            elif os.path.isdir(path):
                found[key] = ("folder", stat.st_mtime_ns // 100)
            elif os.path.isfile(path):
                with open(path, "rb") as file:
                    digest = hashlib.file_digest(file, "md5").hexdigest() if hasattr(hashlib, "file_digest") else hashlib.md5(file.read()).hexdigest()
                found[key] = ("file", stat.st_size, digest, stat.st_mtime_ns // 100)
    return found


def main():
    arguments = sys.argv[1:]
    rename = "--names-changed" in arguments
    expected, found = [argument for argument in arguments if not argument.startswith("--")]
    expected, found = facts(expected, rename), facts(found, False)
    expected = {key: value for key, value in expected.items() if value[0] != "link"}
    differences = 0
    for key in sorted(set(expected) | set(found)):
        if expected.get(key) != found.get(key):
            differences += 1
            if differences <= 20:
                print(f"{key!r}: expected {expected.get(key)}, found {found.get(key)}")
    print(f"{len(expected)} entries, {differences} differences")
    return 1 if differences or not expected else 0


sys.exit(main())
