"""Prints which libraries an import of each module loads, besides Python's own: a JSON object, by module.

    python -I loaded_libraries.py FOLDER MODULE …

FOLDER is where the modules are. Each is imported in a fork of this process, which has imported nothing of the kind.
"""

import json
import os
import sys


def loaded_by(name: str, own: set[str]) -> list[str]:
    """The libraries that one import loads. `own`: names of packages that are no libraries."""
    before = {*sys.modules}
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        __import__(name)
        loaded = {module.partition(".")[0] for module in {*sys.modules} - before}
        libraries = loaded - own - sys.stdlib_module_names
        os.write(writing, json.dumps(sorted(library for library in libraries if not library.startswith("_"))).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    libraries: list[str] = json.loads(text)
    return libraries


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    own = {name.partition(".")[0] for name in sys.argv[2:]} | {"__main__"}
    print(json.dumps({name: loaded_by(name, own) for name in sys.argv[2:]}))
