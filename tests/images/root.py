"""Writes a root file system to standard output, as a tar archive: this interpreter, its library, and a shell.

A container engine makes an image of it (`docker import`). So tests have an image with Python and a shell wherever Python
itself is, from no registry. Arguments are programs to add: PATH_IN_THE_IMAGE=FILE.
"""

import io
import os
import re
import subprocess
import sys
import sysconfig
import tarfile

# What a kernel never asks for, and what would double the image.
SKIPPED = {
    "test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "site-packages", "dist-packages",
    "__pycache__",
}
PROGRAMS = [
    "bash", "cat", "chmod", "cp", "dd", "env", "head", "id", "kill", "ls", "mkdir", "mv", "ps", "pwd", "rm", "sh", "sleep",
    "stty", "tail", "touch", "uname", "wc",
]


def libraries(path):
    """The shared libraries of a program, and its loader."""
    listed = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
    return re.findall(r"(/[^\s]+) \(0x", listed)


def main():
    # Where a virtual environment's interpreter comes from: the one that has the library.
    python = os.path.realpath(sys.executable)
    library = sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix, "base": sys.base_prefix})
    files, folders = {python}, [library]
    found = [path for name in PROGRAMS for path in (f"/bin/{name}", f"/usr/bin/{name}") if os.path.exists(path)]
    files.update(found)
    for root, names, leaves in os.walk(library):
        names[:] = [name for name in names if name not in SKIPPED and not name.startswith("config-")]
        files.update(os.path.join(root, leaf) for leaf in leaves if not leaf.endswith((".a", ".pyc")))
    for path in list(files):
        if path.endswith(".so") or os.access(path, os.X_OK):
            files.update(libraries(path))

    archive = tarfile.open(fileobj=sys.stdout.buffer, mode="w|", format=tarfile.GNU_FORMAT)
    written = set()

    def folder(path):
        if path in written or path == "/":
            return
        folder(os.path.dirname(path))
        written.add(path)
        info = tarfile.TarInfo(path.lstrip("/"))
        info.type, info.mode = tarfile.DIRTYPE, 0o1777 if path == "/tmp" else 0o755
        archive.addfile(info)

    def file(path, content, mode):
        if path in written:
            return
        folder(os.path.dirname(path))
        written.add(path)
        info = tarfile.TarInfo(path.lstrip("/"))
        info.size, info.mode = len(content), mode
        archive.addfile(info, io.BytesIO(content))

    def link(path, target):
        if path in written:
            return
        folder(os.path.dirname(path))
        written.add(path)
        info = tarfile.TarInfo(path.lstrip("/"))
        info.type, info.linkname = tarfile.SYMTYPE, target
        archive.addfile(info)

    for argument in sys.argv[1:]:
        path, _, source = argument.partition("=")
        with open(source, "rb") as content:
            file(path, content.read(), 0o755)
    for path in ("/tmp", "/home/work", "/proc", "/sys", "/dev", "/opt"):
        folder(path)
    # Where distributions have merged the two, one is a link to the other; here everything is where it was asked for.
    for path in sorted(files):
        real = os.path.realpath(path)
        try:
            with open(real, "rb") as source:
                file(path, source.read(), os.stat(real).st_mode & 0o755)
        except OSError as error:
            print(f"left out: {error}", file=sys.stderr)
    link("/usr/bin/python3", python)
    file("/etc/passwd", b"root:x:0:0::/root:/bin/sh\n", 0o644)
    file("/etc/group", b"root:x:0:\n", 0o644)
    archive.close()


main()
