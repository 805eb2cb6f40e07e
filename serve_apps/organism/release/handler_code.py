"""Digests of the handlers' code. Replicas are replaced when one of them changes."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from organism_flows.serve_apps.organism.config import OrganConfig, OrganismConfig

MAX_FILES = 2_000
"""Most files that are compared."""
MAX_BYTES = 20_000_000
"""Bytes of code after which no further file is compared."""
MAX_ENTRIES = 20_000
"""Most folder entries that are listed to find the files of a package: a folder may hold a data set."""
TRUNCATED = "..."
"""Stands among the files if a limit was reached. Changes in the files after it go unnoticed."""
SKIPPED = {"__pycache__", "node_modules"}
# Finding imports by text takes 50 ms a megabyte, parsing takes 2 s (2 busy cores). A line of a docstring may
# have the form of an import: then one file too many is compared, if there is one of that name.
FROM = re.compile(rb"from[ \t]+(\w+)[\w.]*[ \t]+import\b")
BY_NAME = re.compile(rb"(?:import_module|__import__)\([ \t\n]*[\"'](\w+)")


def code_digests(config: OrganismConfig) -> dict[str, str] | None:
    """Return a digest of each file of handlers' code in the configuration's own folders, by relative path.

    These are the modules and packages there that hold handlers, and those that they import, directly or
    indirectly. A package counts with all its files. Left out are data files, modules whose name is made at
    run time, and installed packages. New versions of installed packages come with a new environment.

    Returns:
        `None` if no handler lies in these folders.
    """
    folders = list(dict.fromkeys(folder.resolve() for folder in config.python_path))
    installed = _Installed(folders)
    waiting = deque(sorted({re.split(r"[.:]", organ.handler)[0] for organ in config.organs}))
    seen = set(waiting)
    digests: dict[str, str] = {}
    size = 0
    while waiting:
        for path, relative in _files_of(waiting.popleft(), folders, installed):
            if relative == TRUNCATED or len(digests) >= MAX_FILES or size >= MAX_BYTES:
                return {**dict(sorted(digests.items())), TRUNCATED: "not compared"}
            try:
                content = path.read_bytes()
            except OSError:
                continue  # it cannot be imported either
            size += len(content)
            digests[relative] = hashlib.sha256(content).hexdigest()[:12]
            new = sorted(imported(content) - seen)
            seen.update(new)
            waiting.extend(new)
    return dict(sorted(digests.items())) or None


def code_version(config: OrganismConfig, organ: OrganConfig) -> str | None:
    """Return what tells the code of an organ's handler from that of another release.

    It is a digest of the files that `code_digests` compares, or the name and version of the installed package
    that the handler is in. `None` means that it is neither.
    """
    if digests := code_digests(config.model_copy(update={"organs": [organ]})):
        text = "".join(f"{name} {digest}\n" for name, digest in digests.items())
        return hashlib.sha256(text.encode()).hexdigest()[:12]
    package = re.split(r"[.:]", organ.handler)[0]
    with suppress(PackageNotFoundError):
        return f"{package} {version(package)}"
    return None


def imported(source: bytes) -> set[str]:
    """Return the names of the top-level modules that a Python source imports, without relative imports."""
    found = BY_NAME.findall(source) if b"import_module(" in source or b"__import__(" in source else []
    for line in source.splitlines():
        text = line.lstrip()
        if text.startswith(b"from") and (match := FROM.match(text)):
            found.append(match[1])
        elif text.startswith((b"import ", b"import\t")):
            modules = re.split(rb"[#;]", text[len(b"import ") :])[0].split(b",")
            found += [part.split()[0].partition(b".")[0] for part in modules if part.strip()]
    names = {name.decode(errors="replace") for name in found}
    return {name for name in names if name.isidentifier()}


class _Installed:
    """The modules outside of the configuration's folders. Python searches these folders last."""

    def __init__(self, folders: Sequence[Path]) -> None:
        skipped = {"", str(Path.cwd()), *map(str, folders)}
        self._path = [entry for entry in sys.path if entry not in skipped]

    def __contains__(self, name: str) -> bool:
        if name in sys.stdlib_module_names:
            return True
        spec = PathFinder.find_spec(name, self._path)
        return spec is not None and spec.origin is not None


def _files_of(name: str, folders: Sequence[Path], installed: _Installed) -> Iterator[tuple[Path, str]]:
    """Yield the files of the module or package ``name``, from the folder that Python would import it from."""
    found = [folder for folder in folders if (folder / name).is_dir() or (folder / f"{name}.py").is_file()]
    if not found or name in installed:
        return
    for folder in found:
        package, module = folder / name, folder / f"{name}.py"
        if (package / "__init__.py").is_file():
            yield from _files_below(package)
            return
        if module.is_file():
            yield module, module.name
            return
    # Folders without an __init__.py are one package together.
    for folder in found:
        yield from _files_below(folder / name)


def _files_below(package: Path) -> Iterator[tuple[Path, str]]:
    entries = 0
    for folder, folders, files in os.walk(package):
        entries += len(folders) + len(files)
        if entries > MAX_ENTRIES:
            yield package, TRUNCATED
            return
        here = Path(folder)
        # Only what can be imported. The name of a hidden folder is no identifier.
        folders[:] = sorted(
            one
            for one in folders
            if one.isidentifier() and one not in SKIPPED and not (here / one / "pyvenv.cfg").exists()
        )
        for file in sorted(files):
            stem, _, ending = file.rpartition(".")
            if ending == "py" and stem.isidentifier():
                yield here / file, (here / file).relative_to(package.parent).as_posix()
