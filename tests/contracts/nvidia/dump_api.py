"""Say as JSON what a module of NVIDIA's has: `python dump_api.py MODULE`. Signatures are read off docstrings."""

from __future__ import annotations

import importlib
import json
import sys

module = importlib.import_module(sys.argv[1])


def members(thing: object) -> dict[str, str]:
    return {name: (getattr(getattr(thing, name), "__doc__", "") or "") for name in dir(thing) if name[:1] != "_"}


classes = {name: members(item) for name, item in vars(module).items() if isinstance(item, type)}
classes |= {"Severity": members(module.ILogger.Severity)}
inits = {name: item.__init__.__doc__ or "" for name, item in vars(module).items() if isinstance(item, type)}
json.dump({"version": module.__version__, "classes": classes, "inits": inits}, sys.stdout)
